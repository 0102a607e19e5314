"""The arms of Table 2 from the command line: the plan, the table, and leaks that are refused."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from heads import importable
from pairsets import BAD, write_pairs

from h2lo_bids.cli.parser import read_settings
from h2lo_bids.errors import UsageError
from h2lo_bids.evaluation.benchmark import arms_of, benchmark_table, epochs, subjects
from h2lo_bids.evaluation.scores import SCORED, Score
from h2lo_bids.evaluation.statistics import summarise
from h2lo_bids.evaluation.table import Block, Row, paper_figures
from h2lo_bids.settings import Settings

PAPER = {  # arXiv 2603.24968, Table 2
    "pfsr-real": (30.12, 92.93, 29.26, 92.61), "pfsr-flip-rotate": (29.49, 92.06, 28.50, 91.98),
    "pfsr-arnold": (30.37, 93.48, 29.39, 92.75), "pfsr-pix2pix": (30.39, 93.77, 29.59, 93.17),
    "pfsr-diffi2i": (30.27, 93.33, 29.52, 93.01), "pfsr-inr": (30.10, 92.97, 29.34, 92.97),
    "pfsr-h2lo": (30.55, 93.71, 30.02, 93.72),
}  # fmt: skip
FIT = ["--resolution", "8", "--folds", "2", "--nprocs", "1", "--mem", "8", "--skull-strip", "skip"]


def settings(*words: str) -> Settings:
    return read_settings(["/bids", "/out", *words])


def test_arms_are_those_of_the_paper_and_the_user_chooses() -> None:
    every = settings("benchmark", "--task", "enhance", "--arm", "all").arms
    assert set(PAPER) < set(every)
    assert settings("benchmark", "--task", "enhance").arms == every
    some = settings("benchmark", "--task", "enhance", "--arm", "h2lo", "real", "h2lo")
    assert (some.arms, some.methods) == (("pfsr-h2lo", "pfsr-real"), ("pfsr",))
    assert settings("group", "--task", "enhance").arms == ("pfsr",)


@pytest.mark.parametrize(
    "words",
    [
        ("group", "--task", "enhance", "--steps", "3"),
        ("group", "--task", "enhance", "--arm", "real"),
        ("group", "--schedule-factor", "2"),
        ("benchmark", "--arm", "real"),
        ("benchmark", "--task", "enhance", "--pretrain-derivatives", "/x"),
        ("participant", "--cohort", "/x"),
    ],
)
def test_options_of_another_level_or_task_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="is an option of"):
        settings(*words)


def test_the_figures_of_the_paper_are_those_it_prints() -> None:
    found = paper_figures("table2")
    for name, (psnr1, ssim1, psnr2, ssim2) in PAPER.items():
        own = [found[c, name, m][0] for c in ("T1w", "T2w") for m in ("psnr", "ssim")]
        assert own == [psnr1, ssim1, psnr2, ssim2]
    assert len(found) == 28


def record(**options: object) -> dict[str, object]:
    schedule = {"factor": 0.5, "real": 200, "augmented": 400, "pretrain": 150, "finetune": 50}
    return {"fold": {"train": [*"abcde"]}, "options": {"schedule": schedule, **options}}


def test_subjects_and_epochs_stand_as_in_the_paper() -> None:
    plain, turned = arms_of([record()]), arms_of([record(flip_rotate=True)])
    both = arms_of([record(cohort={"subjects": 11})])
    assert [subjects(v) for v in (plain, turned, both, {})] == ["5", "5 (*8)", "5+11", ""]
    assert [epochs(v) for v in (plain, turned, both, {})] == ["100", "200", "75+25", ""]
    assert arms_of([]) == {}


def test_the_table_ranks_arms_and_shows_the_papers_figures_apart() -> None:
    psnr = {"identity": 20.0, "pfsr-real": 30.0, "pfsr-arnold": 31.0}
    scores = [
        Score(f"{n:02d}", name, n % 2, region, dict.fromkeys(SCORED, value + n / 100))
        for name, value in psnr.items()
        for n in range(4)
        for region in ("foreground", "whole")
    ]
    rows = tuple(
        Row(name, name, {s.metric: s for s in summarise(scores) if s.method == name},
            {"subjects_real": 2, "epochs_real": 10})
        for name in psnr
    )  # fmt: skip
    table = benchmark_table("enhance", [Block("T1w", rows)])
    heads, laid = (lambda p: (p.heads, dict(p.rows)))(table.lay_out(table.blocks[0]))
    assert [c.place for c in (laid[n][0] for n in psnr)] == [0, 2, 1]
    at = [k for k, head in enumerate(heads) if head.group]
    assert [laid["pfsr-real"][k].text for k in at] == ["30.12", "92.93"]
    assert [laid["pfsr-real"][k].std for k in at] == ["", ""]
    text = table.to_md()
    assert "Table 2" in text
    assert "not for diagnosis" in text
    assert "paper (ds006557): PSNR" in text


def enhance(bids: Path, out: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "h2lo_bids.cli.run", str(bids), str(out), "benchmark"]
    return subprocess.run(
        [*command, *FIT, *map(str, words)], env={**os.environ, **importable()}, text=True,
        capture_output=True, check=False, timeout=600,
    )  # fmt: skip


def write_cohort(root: Path, out: Path, labels: dict[str, str]) -> Path:
    """Write what the participant level would of high-field scans, under other labels."""
    for old, new in labels.items():
        raw = root / f"sub-{old}/ses-HF/anat/sub-{old}_ses-HF_T1w.nii.gz"
        folder = out / f"sub-{new}/anat"
        folder.mkdir(parents=True)
        import nibabel as nib
        import numpy as np

        image = nib.load(raw)
        data = np.asarray(image.dataobj)
        stem = folder / f"sub-{new}"
        nib.save(
            nib.Nifti1Image(data / data.max(), image.affine), f"{stem}_desc-preproc_T1w.nii.gz"
        )
        mask = nib.Nifti1Image((data > 0).astype(np.uint8), image.affine)
        nib.save(mask, f"{stem}_desc-brain_mask.nii.gz")
        name = f"sub-{new}/anat/sub-{new}"
        told = {"Sources": [f"bids:raw:{name}_T1w.nii.gz", f"bids::{name}_desc-brain_mask.nii.gz"]}
        Path(f"{stem}_desc-preproc_T1w.json").write_text(json.dumps(told))
    return out


ARMS = ("--task", "enhance", "--arm", "real", "arnold", "--schedule-factor", "0.002",
        "--features", "2")  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arms")
    write_pairs(folder / "bids")
    shutil.rmtree(folder / "bids" / f"sub-{BAD}")
    write_pairs(folder / "more", 8)
    write_cohort(folder / "more", folder / "cohort", {"06": "c6", "07": "c7"})
    write_cohort(folder / "bids", folder / "same", {"01": "01", "02": "c2"})
    write_cohort(folder / "bids", folder / "renamed", {f"0{n}": f"c{n}" for n in range(1, 5)})
    return folder


@pytest.fixture(scope="module")
def synthesized(root: Path) -> Path:
    done = enhance(root / "bids", root / "out", *ARMS, "--cohort", root / "cohort")
    assert done.returncode != 0
    assert "benchmark --method arnold --folds 2" in done.stderr
    done = enhance(root / "bids", root / "out", "--method", "arnold", "--steps", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "out"


@pytest.mark.slow
def test_leaks_are_refused_before_anything_is_fitted(root: Path, synthesized: Path) -> None:
    done = enhance(root / "bids", synthesized, *ARMS, "--cohort", root / "same")
    assert done.returncode == 64, done.stdout + done.stderr
    assert "sub-01 is a test subject, too" in done.stderr
    assert not [*synthesized.glob("folds/T1w/pfsr-*")]
    record = synthesized / "folds/T1w/arnold/fold-0/bundle/metadata.json"
    kept = record.read_text()
    told = json.loads(kept)
    parts = told["training_data"]["subjects"]
    parts["train"] = [*parts["train"], *parts["test"]]
    record.write_text(json.dumps(told))
    done = enhance(root / "bids", synthesized, *ARMS, "--cohort", root / "cohort")
    record.write_text(kept)
    assert done.returncode == 64, done.stdout + done.stderr
    assert "a test subject" in done.stderr
    done = enhance(root / "bids", synthesized, *ARMS, "--cohort", root / "renamed")
    assert done.returncode != 0
    assert "have the same high-field image" in done.stdout + done.stderr
    assert not [*synthesized.glob("folds/T1w/pfsr-arnold/*/record.json")]


@pytest.mark.slow
def test_arms_run_on_the_folds_of_the_synthesis_models(root: Path, synthesized: Path) -> None:
    before = (synthesized / "group_T1w_table.md").read_bytes()
    splits = (synthesized / "splits.tsv").read_bytes()
    done = enhance(root / "bids", synthesized, *ARMS, "--cohort", root / "cohort")
    assert done.returncode == 0, done.stdout + done.stderr
    with (synthesized / "table2.tsv").open() as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream, delimiter="\t")}
    assert [*rows] == ["identity", "pfsr-real", "pfsr-arnold"]
    assert {row["folds"] for row in rows.values()} == {"2"}
    assert rows["pfsr-arnold"]["subjects_cohort"] == "1"
    assert "<img" in (synthesized / "table2.html").read_text()
    assert (synthesized / "enhancement.html").is_file()
    # What the synthesis benchmark has written stays.
    assert (synthesized / "group_T1w_table.md").read_bytes() == before
    assert (synthesized / "splits.tsv").read_bytes() == splits
    again = enhance(root / "bids", synthesized, *ARMS, "--cohort", root / "cohort")
    assert again.returncode == 0, again.stderr
    assert "all 4 folds are done already" in again.stdout
    other = enhance(root / "bids", synthesized, *ARMS[:4], "--folds", "3")
    assert other.returncode == 64
    assert "has other folds of T1w" in other.stderr
