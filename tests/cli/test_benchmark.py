"""The benchmark, Tables 1 and 2, from end to end, as users run it, on small heads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from heads import BAD, rows_of, run, write_pairs
from prepared_pairs import write_scan

from h2lo_bids.cli.parser import read_settings
from h2lo_bids.evaluation.benchmark import (
    arms_of,
    benchmark_table,
    budget_notes,
    epochs,
    paper_figures,
    subjects,
)
from h2lo_bids.evaluation.scores import SCORED, Score
from h2lo_bids.evaluation.table import tabulate

# The method whose four numbers are fitted soonest.
FIT = ["--resolution", "8", "--folds", "2"]
FIT += ["--nprocs", "1", "--mem", "8", "--skull-strip", "skip"]
PAPER = {  # arXiv 2603.24968, Table 2
    "pfsr-real": (30.12, 92.93, 29.26, 92.61), "pfsr-flip-rotate": (29.49, 92.06, 28.50, 91.98),
    "pfsr-arnold": (30.37, 93.48, 29.39, 92.75), "pfsr-pix2pix": (30.39, 93.77, 29.59, 93.17),
    "pfsr-diffi2i": (30.27, 93.33, 29.52, 93.01), "pfsr-inr": (30.10, 92.97, 29.34, 92.97),
    "pfsr-h2lo": (30.55, 93.71, 30.02, 93.72),
}  # fmt: skip
METHODS = ["--method", "arnold", "--steps", "4", "--external", "copy=cp {input} {output}"]


def benchmark(bids: Path, out: Path, *words, code: int = 0):
    """Run the benchmark, and check its exit code."""
    return run(bids, out, "benchmark", *FIT, *words, code=code)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    write_pairs(folder / "bids")
    shutil.rmtree(folder / "bids" / f"sub-{BAD}")
    return folder


@pytest.fixture(scope="module")
def first(root) -> Path:
    benchmark(root / "bids", root / "out", *METHODS)
    return root / "out"


@pytest.mark.slow
def test_every_arm_is_in_the_table_and_collecting_again_gives_the_same(first, root):
    rows = {row["method"]: row for row in rows_of(first / "table1.tsv")}
    assert list(rows) == ["identity", "arnold", "copy"]
    assert {row["folds"] for row in rows.values()} == {"2"}
    assert rows["arnold"]["parameters"] == "4"
    assert not (first / "models").exists()
    assert "<img" in (first / "table1.html").read_text()
    shutil.rmtree(first / "folds/T1w/copy/fold-1")
    files = [p for p in first.glob("folds/**/*") if p.is_file()]
    stamps = {p: p.stat().st_mtime_ns for p in files}
    table = (first / "group_T1w_scores.tsv").read_bytes()
    done = benchmark(root / "bids", first, *METHODS, "--collect")  # runs other tools, too
    assert "fitting 1 fold, 3 done already" in done.stdout
    (first / "group.html").unlink()  # which table1.html leads to
    benchmark(root / "bids", first, *METHODS, "--reports-only")
    assert (first / "group.html").is_file()
    assert {p: p.stat().st_mtime_ns for p in files} == stamps
    assert (first / "group_T1w_scores.tsv").read_bytes() == table


def settings(*words: str):
    return read_settings(["/bids", "/out", *words])


def test_arms_are_those_of_the_paper_and_the_user_chooses() -> None:
    every = settings("benchmark", "--task", "enhance", "--arm", "all").arms
    assert set(PAPER) < set(every)
    assert settings("benchmark", "--task", "enhance").arms == every
    some = settings("benchmark", "--task", "enhance", "--arm", "h2lo", "real", "h2lo")
    assert (some.arms, some.methods) == (("pfsr-h2lo", "pfsr-real"), ("pfsr",))
    assert settings("group", "--task", "enhance").arms == ("pfsr",)


def test_the_figures_of_the_paper_are_those_it_prints() -> None:
    found = paper_figures("table2")
    for name, (psnr1, ssim1, psnr2, ssim2) in PAPER.items():
        own = [found[c, name, m][0] for c in ("T1w", "T2w") for m in ("psnr", "ssim")]
        assert own == [psnr1, ssim1, psnr2, ssim2]
    assert len(found) == 28


def record(**options: object) -> dict[str, object]:
    schedule = {"factor": 0.5, "real": 200, "augmented": 400, "pretrain": 150, "finetune": 50}
    whole = {"schedule": schedule, "steps": 40, "max_seconds": 30, **options}
    return {"fold": {"train": [*"abcde"]}, "steps": 40, "options": whole}


def test_subjects_and_epochs_stand_as_in_the_paper() -> None:
    plain, turned = arms_of([record()]), arms_of([record(flip_rotate=True)])
    pretrained = {"cohort": {"subjects": 11}, "pretrain": {"steps": 300, "max_seconds": 90}}
    whole = {**record(**pretrained), "pretrain_steps": 300}
    both = arms_of([whole])
    assert [subjects(v) for v in (plain, turned, both, {})] == ["5", "5 (*8)", "5+11", ""]
    assert [epochs(v) for v in (plain, turned, both, {})] == ["100", "200", "75+25", ""]
    # A fold of more pairs has more steps: what the least has done is no part of the other's.
    larger = {**record(), "steps": 48, "options": {**record()["options"], "steps": 48}}
    assert epochs(arms_of([larger, record()])) == "100"
    # A time budget ends both stages: what was done counts, not what was planned.
    ended = {**whole, "steps": 8, "pretrain_steps": 30, "timed_out": True}
    assert epochs(arms_of([whole, ended])) == "7.5+5"
    assert budget_notes({"Ours": [whole, ended]}) == (
        "Ours: the time budget of 2 min ended 1 of 2 fits after 8 of 40 steps, "
        "and 30 of 300 before.",
    )


def test_table_2_shows_the_papers_figures_and_says_that_it_is_not_for_diagnosis() -> None:
    scores = [
        Score(f"{n:02d}", "pfsr-real", n % 2, region, dict.fromkeys(SCORED, 30 + n / 100))
        for n in range(4)
        for region in ("foreground", "whole")
    ]
    text = benchmark_table("enhance", [tabulate(scores, contrast="T1w")]).to_md()
    assert all(words in text for words in ("Table 2", "not for diagnosis", "| 30.12 | 92.93 |"))


ARMS = ("--task", "enhance", "--arm", "real", "curve", "arnold", "--schedule-factor", "0.002",
        "--features", "2", "--pretrain-derivatives")  # fmt: skip


@pytest.fixture(scope="module")
def cohort(root: Path) -> Path:
    for seed, subject in enumerate(("c6", "c7")):
        write_scan(root / "cohort", subject, seed)
    return root / "cohort"


@pytest.mark.slow
def test_arms_run_on_the_folds_of_the_synthesis_models(first, root, cohort, tmp_path) -> None:
    synthesized = shutil.copytree(first, tmp_path / "arms")
    before = [(synthesized / name).read_bytes() for name in ("group_T1w_table.md", "splits.tsv")]
    benchmark(root / "bids", synthesized, *ARMS, cohort)
    rows = {row["method"]: row for row in rows_of(synthesized / "table2.tsv")}
    assert [*rows] == ["identity", "pfsr-real", "pfsr-curve", "pfsr-arnold"]
    assert {row["folds"] for row in rows.values()} == {"2"}
    assert rows["pfsr-arnold"]["subjects_cohort"] == "1"
    assert {row["detail_2mm"] for row in rows.values()} == {"n/a"}  # of voxels that are too large
    assert "<img" in (synthesized / "table2.html").read_text()
    assert (synthesized / "enhancement.html").is_file()
    # What the synthesis benchmark has written stays.
    after = [(synthesized / name).read_bytes() for name in ("group_T1w_table.md", "splits.tsv")]
    assert after == before
    again = benchmark(root / "bids", synthesized, *ARMS, cohort)
    assert "all 6 folds are done already" in again.stdout
    other = benchmark(root / "bids", synthesized, *ARMS[:4], "--folds", "3", code=64)
    assert "has other folds of T1w" in other.stderr
