"""Tables in the paper's layout: values, places, gaps, the paper's own figures, files."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from heads import rows_of as lines_of
from samples import cohort

from h2lo_bids.evaluation.benchmark import paper_figures, parameters
from h2lo_bids.evaluation.catalogue import CONVENTIONS
from h2lo_bids.evaluation.scores import REGIONS, SCORED, Score, read_scores
from h2lo_bids.evaluation.statistics import Summary, floor_of, summarise
from h2lo_bids.evaluation.table import (
    Block,
    Column,
    Row,
    Table,
    rows_of,
    tabulate,
    write_tables,
)

PSNR = {"identity": (20.0, 22.0), "h2lo": (28.0, 31.0), "inr": (27.0, 27.0), "arnold": (21.0, 21.0)}
"""The mean of each fold."""


def scores_of(method: str, folds: tuple[float, ...]) -> list[Score]:
    """Give two subjects per fold, half a dB to either side of its mean."""
    return [
        Score(f"{fold}{side:+d}", method, fold, region, dict.fromkeys(SCORED, mean + side / 2))
        for fold, mean in enumerate(folds)
        for side in (-1, 1)
        for region in ("foreground", "whole")
    ]


def table_of(partial: tuple[str, ...] = (), **values: object) -> Table:
    rows = []
    for name, means in PSNR.items():
        summary = {row.metric: row for row in summarise(scores_of(name, means))}
        rows.append(Row(name, name.upper(), summary, values, name in partial))
    return Table(
        name="table1",
        title="T",
        metrics=("psnr",),
        blocks=(Block("T1w", tuple(rows)), Block("T2w", tuple(rows[:1]), ("a note",))),
        values={"seconds": {"Description": "Time", "Units": "s"}},
        shown=(Column("Time (s)", write=lambda values: str(values.get("seconds") or "")),),
        printed={("T1w", "h2lo", "psnr"): (28.98, 0.27)},
    )


def test_best_second_and_what_ties_in_every_format(tmp_path):
    text = table_of().to_md()
    assert "| **29.50 ± 1.50** |" in text
    assert "| <u>27.00 ± 0.00</u> |" in text
    assert text.count("28.98") == 1  # of the paper, for H2LO's row of T1w
    table_of().save(tmp_path)
    rows = {row["method"]: row for row in lines_of(tmp_path / "table1_T1w.tsv")}
    assert {name: row["psnr_place"] for name, row in rows.items()} == {
        "identity": "n/a", "h2lo": "1", "inr": "2", "arnold": "n/a"
    }  # fmt: skip
    # Fold means 28 and 31: mean 29.5; both lie 1.5 from it, so the population deviation is 1.5.
    assert (float(rows["h2lo"]["psnr_mean"]), float(rows["h2lo"]["psnr_std"])) == (29.5, 1.5)
    table = table_of(("h2lo",))
    rows = dict(table.lay_out(table.blocks[0]).rows)
    assert rows["H2LO †"][0].place == 0  # it lacks folds
    assert (rows["INR"][0].place, rows["ARNOLD"][0].place) == (1, 0)  # 27 above twice 21


def test_what_is_printed_alike_shares_its_place():
    levels = {"identity": 20.0, "h2lo": 27.0011, "inr": 27.0049, "arnold": 26.9}
    rows = tabulate([s for name, x in levels.items() for s in scores_of(name, (x, x))]).rows
    table = Table((Block("T1w", rows),), metrics=("psnr", "ncc"))
    cells = dict(table.lay_out(table.blocks[0]).rows)
    places = {name: tuple(cell.place for cell in row) for name, row in cells.items()}
    assert places == {"HF image": (0, 0), "h2lo": (1, 2), "inr": (1, 1), "arnold": (2, 0)}


PAPER = Path(__file__).resolve().parents[2].parent / "shared" / "paper" / "h2lo.txt"


def test_the_papers_table_is_copied_digit_by_digit():
    if not PAPER.is_file():
        pytest.skip("the paper's text is not here")
    lines = PAPER.read_text(encoding="utf-8").splitlines()
    heads = {"HF Image": "identity", "Arnold": "arnold", "Pix2Pix": "pix2pix", "DiffI2I": "diffi2i",
             "Conditional INR": "inr", "Ours": "h2lo"}  # fmt: skip
    table = [line for line in lines if line.count("±") == 7]
    assert len(table) == 12
    for number, line in enumerate(table):
        method = next(name for head, name in heads.items() if line.startswith(head))
        printed = [tuple(map(float, w.split("±"))) for w in line.split() if "±" in w]
        contrast = "T1w" if number < 6 else "T2w"
        ours = [paper_figures()[contrast, method, metric] for metric in SCORED[:7]]
        assert ours == printed


def test_missing_folds_and_subjects_are_told_below_the_table(tmp_path):
    scores = scores_of("identity", (20.0, 22.0, 21.0)) + scores_of("h2lo", (28.0, 31.0, 30.0))
    scores += scores_of("inr", (27.0,)) + scores_of("arnold", (21.0, 21.0, 21.0))[2:]
    wanted = ("h2lo", "inr", "arnold", "pix2pix")
    block = tabulate(scores, {"inr": "INR"}, folds=(0, 1, 2), wanted=wanted)
    assert block.notes == (
        "INR †: 1 of 3 folds; folds 1, 2 are not finished.",
        "arnold †: sub-0-1 of fold 0 was not scored.",
        "pix2pix: not in the table, as no fold with these pairs and options is finished.",
    )
    write_tables(tmp_path / "group_T1w", scores, block)
    text = (tmp_path / "group_T1w_table.md").read_text()
    assert "| INR † | 27.00" in text
    assert "INR †: 1 of 3 folds" in text
    assert "| h2lo | **29.67" in text


def test_a_figure_that_is_undefined_for_some_costs_the_place_and_is_told():
    """A fit that collapsed in one fold would have the better mean without it."""
    scores = scores_of("identity", (20.0, 22.0)) + scores_of("pix2pix", (27.0, 26.0))
    scores += scores_of("h2lo", (25.0, 25.0))
    for s in scores:
        if (s.method, s.fold) == ("pix2pix", 1):
            s.values.update(ncc=math.nan, bhat=math.inf)
    block = tabulate(scores)
    assert block.notes == (
        "pix2pix †: no finite NCC, BHAT for sub-1-1 of fold 1, sub-1+1 of fold 1.",
    )
    rows = dict(Table((block,), metrics=("ncc",)).lay_out(block).rows)
    assert {name: row[0].place for name, row in rows.items()} == {
        "HF image": 0, "pix2pix †": 0, "h2lo": 1
    }  # fmt: skip


def test_a_p_value_is_never_written_as_0():
    # Exact p of 20 participants who all differ to one side, times two methods: 2 * 2 / 2**20.
    block = tabulate(cohort(folds=5, each=4), contrast="T1w")
    text = Table((block,), title="T").to_md()
    assert re.search(r"\| h2lo minus HF image \|( \S+ \(p < 0\.001\) \|){7}", text)
    assert "0.000)" not in text


def test_every_column_of_every_file_is_described_in_order(tmp_path: Path) -> None:
    table_of(seconds=1.5).save(tmp_path)
    write_tables(tmp_path / "group_T1w", cohort(), tabulate(cohort(), {"h2lo": "H2LO"}))
    kinds = ("scores", "summary", "comparisons")
    tables = {"table1", "table1_T1w", "table1_T2w"}
    stems = {*tables, *(f"group_T1w_{kind}" for kind in kinds)}
    files = {f"{stem}.{ending}" for stem in stems for ending in ("tsv", "json")}
    texts = {*(f"{stem}.md" for stem in tables), "group_T1w_table.md"}
    assert {path.name for path in tmp_path.iterdir()} == files | texts
    for stem in stems:
        rows = lines_of(tmp_path / f"{stem}.tsv")
        columns = json.loads((tmp_path / f"{stem}.json").read_text())
        assert list(columns) == list(rows[0])
        assert all(column["Description"] for column in columns.values())
        if stem in tables:
            assert columns["method"]["Levels"].keys() == {row["method"] for row in rows}
            named = stem.partition("_")[2]
            assert {row["contrast"] for row in rows} == ({named} if named else {"T1w", "T2w"})
            assert {row["seconds"] for row in rows} == {"1.5"}
        else:
            levels = columns["method"]["Levels"]
            assert (levels["h2lo"], levels.get("identity", "HF image")) == ("H2LO", "HF image")
    versus = json.loads((tmp_path / "group_T1w_comparisons.json").read_text())["versus"]
    assert versus["Levels"]["identity"] == "HF image"
    assert "- a note" in (tmp_path / "table1_T2w.md").read_text()


def summary_of(method: str, psnr: float, js: float, std: float = 0.1234) -> list[Summary]:
    return [
        Summary(method, metric, {}, mean, std, "folds", 0, 1)
        for metric, mean in (("psnr", psnr), ("js", js))
    ]


def test_markdown_is_laid_out_as_table_1() -> None:
    # Of two numbers in a column the second is not singled out.
    rows = [*summary_of("h2lo", 28.984, 0.0186), *summary_of("h2lo-mlp", 27.0, math.nan)]
    rows += summary_of("identity", 23.5, 0.1495, std=math.nan)
    text = Table((Block("T1w", rows_of(rows, {"h2lo": "H2LO"})),), metrics=("psnr", "js")).to_md()
    assert text.splitlines() == [
        "| Method | PSNR (dB) ↑ | JS ↓ |",
        "|---|---|---|",
        "| HF image | 23.50 | 0.1495 |",
        "| H2LO | **28.98 ± 0.12** | **0.0186 ± 0.1234** |",
        "| h2lo-mlp | <u>27.00 ± 0.12</u> | n/a |",
    ]


@pytest.mark.parametrize(("convention", "psnr"), [("clipped", 20.0), ("release", 17.0)])
def test_every_table_says_its_convention(tmp_path: Path, convention: str, psnr: float) -> None:
    raw = {"psnr": 17.0, "ssim": 60.0, "ncc": 0.5}
    scores = [
        Score(f"{n}", "h2lo", 0, region, dict.fromkeys(SCORED, 20.0), raw)
        for n in range(3)
        for region in REGIONS
    ]
    block = tabulate(scores, convention=convention)
    table = write_tables(tmp_path / "g", scores, block)
    assert table.blocks[0].rows[0].summary["psnr"].mean == psnr
    # The scores hold both, so that the choice can be made again.
    assert list(read_scores(tmp_path / "g_scores.tsv")) == scores
    for kind in ("summary", "comparisons"):
        sidecar = json.loads((tmp_path / f"g_{kind}.json").read_text())["metric"]
        assert sidecar["MetricsConvention"] == convention
        assert CONVENTIONS[convention] in sidecar["Description"]
    assert (tmp_path / "g_table.md").read_text().endswith(f"\n{CONVENTIONS[convention]}\n")
    blocks = tuple(replace(b, convention=convention) for b in table_of().blocks)
    replace(table_of(), blocks=blocks).save(tmp_path)
    assert CONVENTIONS[convention] in (tmp_path / "table1.md").read_text()
    sidecar = json.loads((tmp_path / "table1.json").read_text())
    assert sidecar["psnr_mean"]["MetricsConvention"] == convention


def test_too_few_people_for_any_test_are_told() -> None:
    rows = [SimpleNamespace(n=5, versus="h2lo", metric=m) for m in ("psnr", "ssim")]
    # One method against h2lo: the smallest p of five people is 2 / 2**5.
    assert "With 5 participants no corrected p can be below 0.062" in floor_of(rows)
    assert floor_of(()) == ""
    # Six people are enough for one method; one that shares nobody with h2lo is not tested.
    tests = [SimpleNamespace(n=n, versus="h2lo", metric="psnr") for n in (6, 0)]
    assert floor_of(tests) == ""
    assert "below 0.062" in floor_of([*tests, tests[0]])


def test_numbers_of_parameters_are_written_as_in_the_paper() -> None:
    sizes = (4, 581_409, 16_389_619, 0, None)
    written = [parameters({"parameters": size}) for size in sizes]
    assert written == ["4", "0.58M", "16.39M", "", ""]
    both = {"parameters": 4_165_537, "parameters_trained": 4_864_370}
    assert parameters(both) == "4.17M (4.86M trained)"
