"""Training and evaluation from end to end, as users run them, on small heads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import (
    BAD,
    add_subject,
    assert_valid_bids,
    promised,
    results,
    rows_of,
    run,
    write_pairs,
    written,
)

from h2lo_bids.cli.group import clean_workdir
from h2lo_bids.settings import Settings

pytestmark = pytest.mark.slow

FIT = ["--resolution", "8", "--steps", "8", "--crop", "12", "--validate-every", "4"]
FIT += ["--folds", "2", "--nprocs", "1", "--mem", "8"]
PEOPLE = ["--participant-label", "01", "02", "03", "04"]  # whose images are sound
BARE = ["--skull-strip", "skip"]


def h2lo(bids: Path, out: Path, level: str, *words, code: int = 0):
    """Run the program on heads that have no skull, and check its exit code."""
    return run(bids, out, level, *BARE, *words, code=code)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("group")
    write_pairs(folder / "bids")
    return folder


@pytest.fixture(scope="module")
def first(root) -> Path:
    """Return the outputs of a plain run, in which one of five subjects is damaged."""
    before = {p: p.stat().st_mtime_ns for p in (root / "bids").rglob("*")}
    done = h2lo(root / "bids", root / "out", "group", *FIT, code=1)
    assert f"sub-{BAD}" in done.stdout
    assert "to use it: h2lo" in done.stdout
    assert {p: p.stat().st_mtime_ns for p in (root / "bids").rglob("*")} == before
    return root / "out"


def stamps(out: Path) -> dict[str, int]:
    """Return when each result was written."""
    files = [*out.glob("sub-*/**/*"), *out.glob("folds/**/*"), *out.glob("models/**/*")]
    return {str(p): p.stat().st_mtime_ns for p in files if p.is_file()}


def prepared_elsewhere(first: Path, out: Path) -> Path:
    """Return an output folder that holds the prepared pairs alone."""
    for folder in first.glob("sub-*"):
        shutil.copytree(folder, out / folder.name)
    return out


def assert_as_promised(out: Path, expected: set[str]) -> None:
    """Compare a run with its dry run, which takes the damaged image for whole."""
    lost = {name for name in expected if f"sub-{BAD}_ses-HF_" in name}
    made = {name for name in written(out) if "/crash-" not in name}
    assert made == expected - lost | {"logs/<run>/failures.tsv"}


def test_a_run_makes_what_it_promises_in_valid_bids_and_a_rerun_nothing(first, root):
    asked = [root / "bids", root / "dry", "group", *BARE, *FIT]
    code, expected = promised(*asked)
    assert code == 0
    assert_as_promised(first, expected)
    assert "models/h2lo_T1w/members/1.safetensors" in expected
    assert "models/h2lo_T1w/weights.safetensors" in promised(*asked, "--folds", "0")[1]
    assert_valid_bids(first)
    rows = rows_of(first / "group_T1w_scores.tsv")
    tested = {(row["participant_id"], row["method"]) for row in rows}
    assert tested == {(f"sub-0{n}", m) for n in range(1, 5) for m in ("identity", "h2lo")}
    (table,) = first.glob("logs/*/failures.tsv")
    assert f"sub-{BAD}" in table.read_text()
    before, written = stamps(first), results(first)
    done = h2lo(root / "bids", first, "train", *FIT, code=1)
    assert "all 2 folds are done already" in done.stdout
    assert stamps(first) == before
    assert results(first) == written


def test_a_fold_that_fails_does_not_stop_the_others(first, root, tmp_path):
    out = prepared_elsewhere(first, tmp_path / "out")
    shutil.copytree(first / "folds/T1w/h2lo/fold-0", out / "folds/T1w/h2lo/fold-0")
    h2lo(root / "bids", out, "group", *FIT, *PEOPLE, "--fold", "0")
    assert not any(out.glob("group*"))  # a fold alone collects nothing
    (out / "folds/T1w/h2lo/fold-1").touch()  # where a folder is needed
    done = h2lo(root / "bids", out, "group", *FIT, *PEOPLE, code=73)
    assert "no final model, as fold 1 of h2lo is missing" in done.stdout
    assert {row["fold"] for row in rows_of(out / "group_T1w_scores.tsv")} == {"0"}
    assert (out / "group.html").exists()


def test_models_are_evaluated_on_those_whom_they_have_not_seen(first, root, tmp_path):
    rows = [row for row in rows_of(first / "splits.tsv") if row["fold"] == "0"]
    tested = {row["participant_id"] for row in rows if row["part"] == "test"}
    out = prepared_elsewhere(first, tmp_path / "out")
    words = ["--model", first / "folds/T1w/h2lo/fold-0/bundle", *PEOPLE]
    code, expected = promised(root / "bids", out, "evaluate", *BARE, *words)
    assert code == 0
    done = h2lo(root / "bids", out, "evaluate", *words, code=1)
    assert_as_promised(out, expected)
    scores = rows_of(out / "evaluation_T1w_scores.tsv")
    assert {row["method"] for row in scores} == {"identity", "h2lo_T1w_fold-0"}
    assert {row["participant_id"] for row in scores} == tested
    assert done.stdout.count("is a training subject of model h2lo_T1w_fold-0; not scored") == 1


def test_pairs_alone_write_nothing_else(root, tmp_path):
    words = ["--pairs", "--resolution", "8", "--clean-workdir", "--participant-label", "01", BAD]
    expected = promised(root / "bids", tmp_path, "participant", *BARE, *words)[1]
    done = h2lo(root / "bids", tmp_path, "participant", *words, code=1)
    assert_as_promised(tmp_path, expected)
    # What was noticed of a pair's scans is told here, too: of an ellipsoid, that it is no head.
    (record,) = tmp_path.glob("sub-01/**/*_desc-pairLF_T1w.json")
    noticed = json.loads(record.read_text())["Warnings"]
    assert noticed
    assert all(f"warning: sub-01: {line}\n" in done.stdout for line in noticed)
    # What one participant still needs to go on is kept, the other's intermediate results are not.
    assert [p.name for p in tmp_path.glob(".h2lo-work/sub_*")] == [f"sub_{BAD}_pairs_wf"]
    assert done.stdout.count("error: ") == 1  # each failure is told once
    assert "1 failed, 1 pair done; table of failures" in done.stdout
    # A pair that is prepared already is flagged all the same.
    _flag(tmp_path, "01")
    done = h2lo(root / "bids", tmp_path, "participant", *words[:-1])
    assert "warning: T1w: sub-01 is flagged, its registration is doubtful: the overlap is 0.31" in (
        done.stdout
    )
    assert "1 pair prepared; 1 flagged" in done.stdout


def test_one_person_under_two_names_is_found_and_kept_together(first, root, tmp_path):
    bids, out = tmp_path / "bids", prepared_elsewhere(first, tmp_path / "out")
    shutil.copytree(root / "bids", bids, ignore=shutil.ignore_patterns(f"sub-{BAD}"))
    for path in add_subject(bids, "09").rglob("*.nii.gz"):  # mirrored, of another type and scale
        image = nib.load(path)
        data = np.rint(7 * np.asarray(image.dataobj)[::-1]).astype(np.int16)
        nib.save(nib.Nifti1Image(data, image.affine), path)
    divided = tmp_path / "folds.tsv"
    divided.write_text("fold\tpart\tparticipant_id\n0\tvalidation\t02\n0\ttest\t09\n")
    words = [*FIT, "--skip-bids-validation", "--folds"]
    done = h2lo(bids, out, "group", *words, divided, code=64)
    assert "fold 0: sub-01 (train) and sub-09 (test) have the same high-field image" in done.stderr
    done = h2lo(bids, out, "group", *words, "3", "--collect", code=75)  # fits nothing
    assert "warning: T1w: sub-01 and sub-09 have the same high-field image" in done.stdout
    rows = rows_of(out / "splits.tsv")
    parts = {label: [r["part"] for r in rows if r["participant_id"] == label] for label in
             ("sub-01", "sub-02", "sub-09")}  # fmt: skip
    assert parts["sub-01"] == parts["sub-09"] != parts["sub-02"]
    _agrees(h2lo(bids, out, "group", *words, "3", "--dry-run").stdout, out)
    # Without a pair whose registration is doubtful.
    _flag(out, "02")
    h2lo(bids, out, "group", *words, "3", "--collect", code=75)
    rehearsed = h2lo(bids, out, "group", *words, "3", "--dry-run").stdout
    _agrees(rehearsed, out)
    assert "T1w: sub-02 is flagged" in rehearsed


def _flag(out: Path, subject: str) -> None:
    for record in out.glob(f"sub-{subject}/*/anat/*_desc-pairLF_T1w.json"):
        told = json.loads(record.read_text())
        told["RegistrationCheck"] |= {"Flagged": True, "Reasons": ["the overlap is 0.31"]}
        record.write_text(json.dumps(told))


def _agrees(rehearsed: str, out: Path) -> None:
    """Check that a dry run divides as the run did, and says why."""
    assert "T1w: sub-01 and sub-09 have the same high-field image" in rehearsed
    assert "to prepare" not in rehearsed
    for fold in "012":
        rows = [row for row in rows_of(out / "splits.tsv") if row["fold"] == fold]
        tested = [row["participant_id"][4:] for row in rows if row["part"] == "test"]
        (line,) = [line for line in rehearsed.splitlines() if f"T1w fold {fold}:" in line]
        assert line.endswith(f"; test on {', '.join(tested)}")


@pytest.mark.parametrize("level", ["group", "evaluate"])
def test_cleaning_spares_the_fits_of_other_runs(tmp_path, level):
    own, other = (tmp_path / "training" / c / "h2lo" / "fold-0_x" for c in ("T1w", "T2w"))
    for folder in (own, other, tmp_path / "training" / "pairs", tmp_path / "sub_01_pairs_wf"):
        folder.mkdir(parents=True)
    settings = Settings(
        bids_dir=tmp_path, out_dir=tmp_path, level=level, work_dir=tmp_path, contrast=("T1w",)
    )
    clean_workdir(settings)
    assert own.exists() == (level == "evaluate")
    assert other.exists()
    assert not (tmp_path / "sub_01_pairs_wf").exists()
