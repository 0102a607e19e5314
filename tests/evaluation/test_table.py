"""Tables in the paper's layout: values, places, gaps, the paper's own figures, files."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from heads import rows_of as lines_of
from samples import cohort, made_up

from h2lo_bids.evaluation.benchmark import paper_figures, parameters
from h2lo_bids.evaluation.catalogue import CONVENTIONS, chance
from h2lo_bids.evaluation.scores import SCORED, Score, read_scores
from h2lo_bids.evaluation.statistics import floor_of, summarise
from h2lo_bids.evaluation.table import Block, Column, Table, rows_of, tabulate, write_tables

PSNR = {"identity": (20.0, 22.0), "h2lo": (28.0, 31.0), "inr": (27.0, 27.0), "arnold": (21.0, 21.0)}
"""The mean of each fold."""


def scores_of(method: str, folds: tuple[float, ...]) -> list[Score]:
    """Give two subjects per fold, half a dB to either side of its mean."""
    values = [(fold, side, mean + side / 2) for fold, mean in enumerate(folds) for side in (-1, 1)]
    return [s for k, n, v in values for s in made_up(f"{k}{n:+d}", method, k, v, psnr=v)]


def table_of(partial: tuple[str, ...] = (), **more: object) -> Table:
    summary = [row for name, means in PSNR.items() for row in summarise(scores_of(name, means))]
    rows = [
        replace(row, values={"seconds": 1.5 if row.name == "h2lo" else None})
        for row in rows_of(summary, {name: name.upper() for name in PSNR}, partial)
    ]
    return Table(
        name="table1",
        metrics=("psnr",),
        blocks=(Block("T1w", tuple(rows)), Block("T2w", tuple(rows[:1]), ("a note",))),
        values={"seconds": {"Description": "Time", "Units": "s"}},
        shown=(Column("Time (s)", write=lambda values: str(values.get("seconds") or "")),),
        printed={("T1w", "h2lo", "psnr"): (28.98, 0.27)},
        **more,
    )


def test_best_second_and_what_ties_in_every_format(tmp_path):
    text = (table := table_of(title="T")).to_md().replace("\N{EN DASH}", "-")
    head, rule, *lines = text.splitlines()[4:10]
    assert (head.split(" | ")[3], rule) == ("paper (ds006557): PSNR (dB) ↑ |", "|---|---|---|---|")
    # Fold means 28 and 31: mean 29.5; both lie 1.5 from it, so the population deviation is 1.5.
    assert lines == [
        "| IDENTITY | 21.00 ± 1.00 | - | - |",
        "| H2LO | **29.50 ± 1.50** | 1.5 | 28.98 ± 0.27 |",
        "| INR | <u>27.00 ± 0.00</u> | - | - |",
        "| ARNOLD | 21.00 ± 0.00 | - | - |",
    ]
    table.save(tmp_path)
    rows = {row["method"]: row for row in lines_of(tmp_path / "table1_T1w.tsv")}
    assert {name: row["psnr_place"] for name, row in rows.items()} == {
        "identity": "n/a", "h2lo": "1", "inr": "2", "arnold": "n/a"
    }  # fmt: skip
    assert (float(rows["h2lo"]["psnr_mean"]), float(rows["h2lo"]["psnr_std"])) == (29.5, 1.5)
    plain = table_of(("h2lo",))  # which lacks folds, and takes no place
    plain = replace(plain, blocks=(replace(plain.blocks[0], notes=("a note",)),))
    assert plain.to_md().splitlines()[3:] == [
        "| H2LO † | 29.50 ± 1.50 | 1.5 | 28.98 ± 0.27 |",
        "| INR | **27.00 ± 0.00** | n/a | n/a |",
        "| ARNOLD | 21.00 ± 0.00 | n/a | n/a |",  # as twice
        "",
        "a note",
    ]


def test_what_is_printed_alike_shares_its_place():
    levels = {"identity": 20.0, "h2lo": 27.0011, "inr": 27.0049, "arnold": 26.9}
    block = tabulate([s for name, x in levels.items() for s in scores_of(name, (x, x))])
    assert block.places("psnr") == {"h2lo": 1, "inr": 1, "arnold": 2}
    assert block.places("ncc") == {"inr": 1, "h2lo": 2}


def test_the_papers_table_is_copied_digit_by_digit():
    paper = Path(__file__).resolve().parents[2].parent / "shared" / "paper" / "h2lo.txt"
    if not paper.is_file():
        pytest.skip("the paper's text is not here")
    table = [
        line for line in paper.read_text(encoding="utf-8").splitlines() if line.count("±") == 7
    ]
    methods = ("identity", "arnold", "pix2pix", "diffi2i", "inr", "h2lo")
    for line, (contrast, method) in zip(table, product(("T1w", "T2w"), methods), strict=True):
        printed = [tuple(map(float, w.split("±"))) for w in line.split() if "±" in w]
        assert [paper_figures()[contrast, method, m] for m in SCORED[:7]] == printed


def test_what_a_method_lacks_costs_its_place_and_is_told_below_the_table(tmp_path):
    scores = scores_of("identity", (20.0, 22.0, 21.0)) + scores_of("h2lo", (25.0, 25.0, 25.0))
    scores += scores_of("inr", (27.0,)) + scores_of("arnold", (28.0, 28.0, 28.0))[2:]
    # A fit that collapsed in one fold would have the better mean without it.
    scores += scores_of("pix2pix", (27.0, 26.0, 26.0))
    for s in scores:
        if (s.method, s.fold) == ("pix2pix", 1):
            s.values.update(ncc=math.nan, bhat=math.inf)
    wanted = ("h2lo", "inr", "arnold", "diffi2i")
    block = tabulate(scores, {"inr": "INR"}, folds=(0, 1, 2), wanted=wanted)
    assert block.notes == (
        "INR †: 1 of 3 folds; folds 1, 2 are not finished.",
        "arnold †: sub-0-1 of fold 0 was not scored.",
        "pix2pix †: no finite NCC, BHAT for sub-1-1 of fold 1, sub-1+1 of fold 1.",
        "diffi2i: not in the table, as no fold with these pairs and options is finished.",
    )
    assert block.places("ncc") == {"h2lo": 1}  # of two the second is not singled out
    text = write_tables(tmp_path / "group_T1w", scores, block).to_md()
    assert all(words in text for words in ("| INR † | 27.00", "INR †: 1", "| h2lo | **25.00"))


def test_a_p_value_is_never_written_as_0():
    assert [chance(p) for p in (2 * 2 / 2**20, 0.0123)] == ["< 0.001", "= 0.012"]
    text = Table((tabulate(cohort()),), title="T").to_md()  # of twelve who all differ to one side
    assert re.search(r"\| h2lo minus HF image \|( \S+ \(p < 0\.001\) \|){7}", text)


def test_every_column_of_every_file_is_described_in_order(tmp_path: Path) -> None:
    table_of(title="T").save(tmp_path)
    write_tables(tmp_path / "group_T1w", cohort(), tabulate(cohort(), {"h2lo": "H2LO"}))
    tables = {"table1", "table1_T1w", "table1_T2w"}
    stems = {*tables, *(f"group_T1w_{kind}" for kind in ("scores", "summary", "comparisons"))}
    files = {f"{stem}.{ending}" for stem in stems for ending in ("tsv", "json")}
    texts = {*(f"{stem}.md" for stem in tables), "group_T1w_table.md"}
    assert {path.name for path in tmp_path.iterdir()} == files | texts
    for stem in stems:
        rows = lines_of(tmp_path / f"{stem}.tsv")
        columns = json.loads((tmp_path / f"{stem}.json").read_text())
        assert list(columns) == list(rows[0])
        assert all(column["Description"] for column in columns.values())
        levels = columns["method"]["Levels"]
        if stem in tables:
            assert levels.keys() == {row["method"] for row in rows}
            named = stem.partition("_")[2]
            assert {row["contrast"] for row in rows} == ({named} if named else {"T1w", "T2w"})
        else:
            levels |= columns.get("versus", {}).get("Levels", {})
            assert (levels["h2lo"], levels["identity"]) == ("H2LO", "HF image")
    assert "- a note" in (tmp_path / "table1_T2w.md").read_text()


@pytest.mark.parametrize(("convention", "psnr"), [("clipped", 20.0), ("release", 17.0)])
def test_every_table_says_its_convention(tmp_path: Path, convention: str, psnr: float) -> None:
    raw = {"psnr": 17.0, "ssim": 60.0, "ncc": 0.5}
    scores = [replace(s, unclipped=raw) for s in scores_of("h2lo", (20.0, 20.0))]
    block = tabulate(scores, convention=convention)
    write_tables(tmp_path / "g", scores, block)
    assert block.rows[0].summary["psnr"].mean == psnr
    # The scores hold both, so that the choice can be made again.
    assert list(read_scores(tmp_path / "g_scores.tsv")) == scores
    Table((block,), name="table1", title="T").save(tmp_path)
    of = {"g_summary": "metric", "g_comparisons": "metric", "table1": "psnr_mean"}
    for name, column in of.items():
        sidecar = json.loads((tmp_path / f"{name}.json").read_text())[column]
        assert sidecar["MetricsConvention"] == convention
    for name in ("g_table", "table1"):
        assert (tmp_path / f"{name}.md").read_text().endswith(f"{CONVENTIONS[convention]}\n")


def test_too_few_people_for_any_test_are_told() -> None:
    # Six people are enough for one method; one that shares nobody with h2lo is not tested.
    tests = [SimpleNamespace(n=n, versus="h2lo", metric="psnr") for n in (6, 0)]
    assert (floor_of(tests), floor_of(())) == ("", "")
    # Of two methods the smallest p is 2 * 2 / 2**6.
    assert "With 6 participants no corrected p can be below 0.062" in floor_of([*tests, tests[0]])


def test_numbers_of_parameters_are_written_as_in_the_paper() -> None:
    sizes = (4, 581_409, 16_389_619, 0, None)
    written = [parameters({"parameters": size}) for size in sizes]
    assert written == ["4", "0.58M", "16.39M", "", ""]
    both = {"parameters": 4_165_537, "parameters_trained": 4_864_370}
    assert parameters(both) == "4.17M (4.86M trained)"
