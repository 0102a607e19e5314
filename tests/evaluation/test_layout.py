"""Tables in the paper's layout: values, places, gaps and the paper's own figures."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from h2lo_bids.evaluation.coverage import coverage_notes, incomplete
from h2lo_bids.evaluation.layout import Block, Row, Shown, Table, Value, lay_out
from h2lo_bids.evaluation.layout_text import markdown, write_layout
from h2lo_bids.evaluation.paper import GROUP, paper_figures
from h2lo_bids.evaluation.places import places
from h2lo_bids.evaluation.scores import CONVENTIONS, SCORED, Score
from h2lo_bids.evaluation.statistics import summarise
from h2lo_bids.evaluation.tables import write_tables

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
        values=(Value("seconds", "Time", "s"),),
        shown=(Shown("Time (s)", lambda values: str(values.get("seconds") or "")),),
        printed={("T1w", "h2lo", "psnr"): (28.98, 0.27)},
    )


def test_means_and_population_deviations_are_those_counted_by_hand():
    rows = dict(lay_out(table_of(), table_of().blocks[0]).rows)
    # Fold means 28 and 31: mean 29.5; both lie 1.5 from it, so the population deviation is 1.5.
    assert (rows["H2LO"][0].text, rows["H2LO"][0].std) == ("29.50", "1.50")
    assert (rows["IDENTITY"][0].text, rows["IDENTITY"][0].std) == ("21.00", "1.00")


def test_best_second_and_what_ties_in_every_format(tmp_path):
    text = markdown(table_of())
    assert "| **29.50 ± 1.50** |" in text
    assert "| <u>27.00 ± 0.00</u> |" in text
    write_layout(tmp_path, table_of())
    with (tmp_path / "table1_T1w.tsv").open() as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream, delimiter="\t")}
    assert {name: row["psnr_place"] for name, row in rows.items()} == {
        "identity": "n/a", "h2lo": "1", "inr": "2", "arnold": "n/a"
    }  # fmt: skip
    assert float(rows["h2lo"]["psnr_std"]) == 1.5
    tied = places({"a": 3.0, "b": 3.0, "c": 2.0, "d": 1.0, "e": float("nan")}, higher=True)
    assert tied == {"a": 1, "b": 1, "c": 2}
    assert places({"a": 3.0, "b": 3.0}, higher=True) == {}
    assert places({"a": 3.0, "b": 1.0, "c": 2.0}, higher=False) == {"b": 1, "c": 2}


def test_a_row_that_lacks_folds_is_marked_and_takes_no_place():
    table = table_of(("h2lo",))
    rows = dict(lay_out(table, table.blocks[0]).rows)
    assert rows["H2LO †"][0].place == 0
    assert (rows["INR"][0].place, rows["ARNOLD"][0].place) == (1, 0)  # 27 above twice 21


def test_every_column_is_described_and_one_table_holds_all_contrasts(tmp_path):
    write_layout(tmp_path, table_of(seconds=1.5))
    for name, contrasts in (("table1", {"T1w", "T2w"}), ("table1_T2w", {"T2w"})):
        with (tmp_path / f"{name}.tsv").open() as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        told = json.loads((tmp_path / f"{name}.json").read_text())
        assert list(told) == list(rows[0])
        assert all(told[key]["Description"] for key in told)
        assert {row["contrast"] for row in rows} == contrasts
        assert {row["seconds"] for row in rows} == {"1.5"}
    assert "- a note" in (tmp_path / "table1_T2w.md").read_text()


def test_figures_of_the_paper_stand_in_their_own_columns_only():
    laid = lay_out(table_of(), table_of().blocks[0])
    assert [head.group for head in laid.heads] == ["", "", GROUP]
    cells = {title: [cell.text for cell in row] for title, row in laid.rows}
    assert cells["H2LO"][-1] == "28.98"
    assert cells["INR"][-1] == "\N{EN DASH}"
    assert all("28.98" not in row[:-1] for row in cells.values())
    assert "28.98" not in markdown(table_of(), table_of().blocks[1:])


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
    assert incomplete(scores) == ("inr", "arnold")
    wanted = ("h2lo", "inr", "arnold", "pix2pix")
    notes = coverage_notes(scores, {"inr": "INR"}, (0, 1, 2, 3), wanted)
    assert notes == (
        "h2lo †: 3 of 4 folds; fold 3 is not finished.",
        "INR †: 1 of 4 folds; folds 1, 2, 3 are not finished.",
        "arnold †: 3 of 4 folds; fold 3 is not finished.",
        "arnold †: sub-0-1 of fold 0 not scored.",
        "pix2pix: no fold is finished; it is not in the table.",
    )
    write_tables(tmp_path / "group_T1w", scores, folds=(0, 1, 2), wanted=wanted)
    text = (tmp_path / "group_T1w_table.md").read_text()
    assert "| inr † | 27.00" in text
    assert "inr †: 1 of 3 folds" in text
    assert "| h2lo | **29.67" in text
    assert "h2lo †" not in text


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_layout_says_its_convention(tmp_path, convention: str) -> None:
    write_layout(tmp_path, replace(table_of(), convention=convention))
    assert CONVENTIONS[convention] in (tmp_path / "table1.md").read_text()
    told = json.loads((tmp_path / "table1.json").read_text())
    assert told["psnr_mean"]["MetricsConvention"] == convention
