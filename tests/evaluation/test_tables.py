"""Tables on disk and in Markdown."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
from samples import cohort, made_up

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.evaluation import tables
from h2lo_bids.evaluation.scores import CONVENTIONS, REGIONS, SCORED, Score
from h2lo_bids.evaluation.statistics import Summary, compare, summarise


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_scores_come_back_digit_by_digit(tmp_path: Path) -> None:
    scores = [*cohort(), *made_up("3_GE", "h2lo", None, 1 / 3)]
    path = tables.write_scores(tmp_path / "x_scores.tsv", scores)
    assert tables.read_scores(path) == tuple(scores)
    last = rows_of(path)[-1]
    assert (last["participant_id"], last["session_id"], last["fold"]) == ("sub-3", "ses-GE", "n/a")


def test_undefined_and_infinite_values_are_not_applicable(tmp_path: Path) -> None:
    scores = made_up("1", "h2lo", 0, 1.0, psnr=math.inf, ncc=math.nan)
    path = tables.write_scores(tmp_path / "s.tsv", scores)
    assert {row["psnr"] + row["ncc"] for row in rows_of(path)} == {"n/an/a"}
    assert math.isnan(tables.read_scores(path)[0].values["psnr"])


def test_every_column_is_described_in_order(tmp_path: Path) -> None:
    tables.write_tables(tmp_path / "group_T1w", cohort(), {"h2lo": "H2LO"})
    names = {path.name for path in tmp_path.iterdir()}
    kinds = ("scores", "summary", "comparisons")
    files = {f"group_T1w_{kind}.{ending}" for kind in kinds for ending in ("tsv", "json")}
    assert names == {*files, "group_T1w_table.md"}
    for kind in kinds:
        path = tmp_path / f"group_T1w_{kind}.tsv"
        columns = json.loads(path.with_suffix(".json").read_text())
        assert list(columns) == path.read_text().splitlines()[0].split("\t")
        assert all(column["Description"] for column in columns.values())
        assert columns["method"]["Levels"]["h2lo"] == "H2LO"
        assert columns["method"]["Levels"].get("identity", "HF image") == "HF image"
    assert columns["versus"]["Levels"]["identity"] == "HF image"


def test_files_hold_what_was_computed_and_the_same_bytes_again(tmp_path: Path) -> None:
    scores = cohort()
    for folder in ("a", "b"):
        tables.write_tables(tmp_path / folder / "g", scores)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    summary, compared = summarise(scores), compare(scores)
    for line, row in zip(rows_of(tmp_path / "a/g_summary.tsv"), summary, strict=True):
        assert (line["method"], line["metric"], int(line["n"])) == (row.method, row.metric, row.n)
        assert (float(line["mean"]), float(line["std"])) == (row.mean, row.std)
        assert [(k, float(line[f"fold_{k}"])) for k in range(3)] == list(row.fold_means)
    for line, test in zip(rows_of(tmp_path / "a/g_comparisons.tsv"), compared, strict=True):
        assert (line["versus"], float(line["p_holm"])) == (test.versus, test.p_holm)


def summary_of(method: str, psnr: float, js: float, std: float = 0.1234) -> list[Summary]:
    shared = {"region": "paper", "n": 5, "std": std, "over": "folds", "low": 0, "high": 1}
    return [
        Summary(method, metric, mean=mean, fold_means=(), **shared)  # type: ignore[arg-type]
        for metric, mean in (("psnr", psnr), ("js", js))
    ]


def test_markdown_is_laid_out_as_table_1() -> None:
    # Of two numbers in a column the second is not singled out.
    rows = [*summary_of("h2lo", 28.984, 0.0186), *summary_of("h2lo-mlp", 27.0, math.nan)]
    rows += summary_of("identity", 23.5, 0.1495, std=math.nan)
    text = tables.markdown_table(rows, {"h2lo": "H2LO"}, metrics=("psnr", "js"))
    assert text.splitlines() == [
        "| Method | PSNR (dB) ↑ | JS ↓ |",
        "|---|---|---|",
        "| HF image | 23.50 | 0.1495 |",
        "| H2LO | **28.98 ± 0.12** | **0.0186 ± 0.1234** |",
        "| h2lo-mlp | <u>27.00 ± 0.12</u> | n/a |",
    ]


def test_seven_columns_and_no_second_among_two() -> None:
    scores = [s for s in cohort() if s.method != "h2lo-mlp"]
    head, _, first, second = tables.markdown_table(summarise(scores)).splitlines()
    columns = ("PSNR (dB) ↑", "SSIM (%) ↑", "NCC ↑", "WASS ↓", "HNCC ↑", "BHAT ↓", "JS ↓")
    assert head == "| Method | " + " | ".join(columns) + " |"
    assert "<u>" not in first + second
    assert second.split("|")[2].startswith(" **")
    assert first.split("|")[8].startswith(" **")


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t.replace("foreground", "brain", 1),
        lambda t: t.replace("psnr", "snr", 1),
        lambda t: t[: len(t) // 2].rsplit("\t", 2)[0],
        lambda t: t.replace("\t0\t", "\tzero\t", 1),
    ],
)
def test_damaged_scores_are_one_line(tmp_path: Path, damage) -> None:
    path = tables.write_scores(tmp_path / "s.tsv", cohort())
    path.write_text(damage(path.read_text()))
    with pytest.raises(BadDataError, match=r"s\.tsv: line \d+ is not") as caught:
        tables.read_scores(path)
    assert "\n" not in str(caught.value)


def test_absent_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"no\.tsv: cannot read"):
        tables.read_scores(tmp_path / "no.tsv")
    (tmp_path / "x.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadDataError, match=r"x\.tsv: not a table"):
        tables.read_scores(tmp_path / "x.tsv")


@pytest.mark.parametrize(("convention", "psnr"), [("clipped", 20.0), ("release", 17.0)])
def test_every_table_says_its_convention(tmp_path, convention: str, psnr: float) -> None:
    raw = {"psnr": 17.0, "ssim": 60.0, "ncc": 0.5}
    scores = [
        Score(f"{n}", "h2lo", 0, region, dict.fromkeys(SCORED, 20.0), raw)
        for n in range(3)
        for region in REGIONS
    ]
    (first, *_) = tables.write_tables(tmp_path / "g", scores, convention=convention)
    assert (first.metric, first.mean) == ("psnr", psnr)
    # The scores hold both, so that the choice can be made again.
    assert list(tables.read_scores(tmp_path / "g_scores.tsv")) == scores
    for kind in ("summary", "comparisons"):
        told = json.loads((tmp_path / f"g_{kind}.json").read_text())["metric"]
        assert told["MetricsConvention"] == convention
        assert CONVENTIONS[convention] in told["Description"]
    assert (tmp_path / "g_table.md").read_text().endswith(f"\n{CONVENTIONS[convention]}\n")
