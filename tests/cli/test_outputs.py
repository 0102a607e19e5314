"""What a dry run lists is what the run then writes, file for file."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import (
    SPACING,
    assert_whole_derivative,
    call,
    promised,
    rows_of,
    run,
    write_dataset,
    write_masks,
    write_pairs,
    write_scan,
    write_whole_bundle,
    written,
)
from prepared_pairs import write_pair
from skeletons import annex

from h2lo_bids.bids.derivatives import result_path
from h2lo_bids.bids.pairs import discover_pairs
from h2lo_bids.cli.pairs import find_missing
from h2lo_bids.cli.parser import read_settings
from h2lo_bids.errors import MissingInputError

PAIRS = ["--resolution", "8", "--skull-strip", "skip", "--nprocs", "1", "--mem", "8"]


def agree(bids: Path, out: Path, level: str, *words) -> set[str]:
    """Check that a run does what its dry run said, and return the files."""
    code, expected = promised(bids, out, level, *words)
    assert not out.exists()
    run(bids, out, level, *words, code=code)
    assert written(out) == expected
    return expected


@pytest.mark.slow
def test_participant(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    for cohort in (1, 2):  # templates of two ages
        name = f"tpl-Kids/cohort-{cohort}/tpl-Kids_cohort-{cohort}_res-01_T1w.nii.gz"
        write_scan(tmp_path / name, seed=cohort)
    bids = write_dataset(tmp_path / "bids")
    annex(bids / "sub-bad" / "anat" / "sub-bad_T1w.nii.gz")  # known to be unusable beforehand
    good = bids / "sub-01/anat/sub-01_T1w.nii.gz"  # and misnamed, which costs no other image
    (bids / "sub-02/anat").mkdir(parents=True)
    for name in ("01/sub-01_T1w", "01/anat/sub-01_T1W", "02/anat/sub-02_t1w"):
        shutil.copy(good, bids / f"sub-{name}.nii.gz")
    models = [f"{c}={write_whole_bundle(tmp_path / c, c)}" for c in ("T1w", "T2w")]
    words = ["--model", *models, "--skull-strip", "skip", "--sloppy"]
    words += ["--output-spaces", "model", "Kids:cohort-1", "Kids:cohort-2"]
    words += ["--noise", "calibrated", "--realisations", "2", "--uncertainty"]
    words += ["--lf-grid", "8x8x10", "6x6x6", "--slice-profile", "gauss", "--noise-scale", "2"]
    words += ["-w", tmp_path / "work"]
    files = agree(bids, tmp_path / "out", "participant", *words)
    assert "sub-01/anat/sub-01_res-8x8x10_desc-lowfieldnoise02_T2w.nii.gz" in files
    assert "sub-01/anat/sub-01_res-6x6x6_desc-lowfieldstd_T1w.nii.gz" in files
    assert "sub-01/figures/sub-01_space-Kids+2_desc-registered_T1w.svg" in files
    assert_whole_derivative(tmp_path / "out")
    sidecar = tmp_path / "out" / "sub-01/anat/sub-01_res-8x8x10_desc-lowfieldnoise01_T1w.json"
    content = json.loads(sidecar.read_text())
    assert (content["SimulatedSliceProfile"], content["NoiseScale"]) == ("gauss", 2.0)
    assert set(content["TissueSignalToNoiseRatio"]) == set(content["TissueSignal"])
    page = (tmp_path / "out" / "sub-01.html").read_text()
    assert "sub-01_T1W.nii.gz" in page
    assert page.count('data-figure="template"') == 4
    ended = {row["scan"]: row["status"] for row in rows_of(tmp_path / "out" / "scans.tsv")}
    done = {"sub-01_T1w": "done", "sub-01_T2w": "done"}
    assert ended == done | {"sub-bad_T1w": "failed", "n/a": "failed"}  # the latter of a participant


@pytest.mark.slow
def test_a_trial_carries_labels_to_every_grid_and_a_second_run_does_nothing_again(
    tmp_path, monkeypatch
):
    home = write_scan(tmp_path / "templateflow/tpl-TplOne/tpl-TplOne_res-01_T1w.nii.gz").parents[1]
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(home))
    bids = write_dataset(tmp_path / "bids", 3, suffixes=("T1w",))
    masks = write_masks(tmp_path / "masks", bids)
    words = ["--model", write_whole_bundle(tmp_path / "model", "T1w"), "--skull-strip", "skip"]
    words += ["--labels", f"lesion={masks}", "--reader-set", "3", "--sloppy"]
    words += ["-w", tmp_path / "work", "--output-spaces", "TplOne:res-1", "model", "--nprocs", "1"]
    words += ["--condition", "thick", "lf-grid=4x4x8", "realisations=3"]
    words += ["noisy", "lf-grid=4x4x8", "noise-scale=3", "realisations=2"]
    out = tmp_path / "out"
    files = agree(bids, out, "trial", *words)
    volume = float((nib.load(next(masks.rglob("*.nii.gz"))).get_fdata() > 0).sum()) * SPACING**3
    for where in ("", "space-TplOne_res-1_", "res-model_", "res-4x4x8_"):
        name = f"sub-01/anat/sub-01_{where}desc-lesion_probseg.nii.gz"
        assert name in files
        image, lowfield = nib.load(out / name), f"sub-01_{where}desc-lowfield_T1w.nii.gz"
        share = image.get_fdata()
        assert 0.5 < share.max() <= 1
        if where != "space-TplOne_res-1_":  # which is larger or smaller than the head
            assert share.sum() * np.prod(image.header.get_zooms()) == pytest.approx(
                volume, rel=0.03
            )
        if where != "res-4x4x8_":
            assert nib.load(out / "sub-01/anat" / lowfield).shape == image.shape
    lesion = nib.load(masks / "sub-01/anat/sub-01_label-lesion_mask.nii.gz").get_fdata() > 0
    table = rows_of(out / "sub-01/anat/sub-01_desc-regions_stats.tsv")
    rows = {row["image"]: row for row in table if row["lesion"] == "n/a"}
    assert set(rows) == {"lowfield", "thick", "noisy"}
    for column, image in (("hf_mean", "preproc"), ("mean", "lowfield")):
        data = nib.load(out / f"sub-01/anat/sub-01_desc-{image}_T1w.nii.gz").get_fdata()
        assert float(rows["lowfield"][column]) == pytest.approx(data[lesion].mean(), rel=1e-4)
    assert float(rows["lowfield"]["volume"]) == pytest.approx(volume)
    page = (out / "trial.html").read_text()
    assert all(word in page for word in ("thick", "noisy", "3 participants"))

    made = {p: p.stat().st_mtime_ns for p in out.rglob("*_desc-*.nii.gz")}
    rated = {p: p.read_bytes() for p in out.glob("trial/ratings/*.tsv")}
    times = {p: p.stat().st_mtime_ns for p in rated}
    kept, lost, changed = (out / f"trial/ratings/sub-0{n}_T1w_lesion.tsv" for n in (1, 2, 3))
    lost.unlink()
    (mask,) = masks.glob("sub-03/anat/*.nii.gz")
    write_scan(mask, data=np.roll(nib.load(mask).get_fdata(), 1, axis=1))
    run(bids, out, "trial", *words, code=0)
    assert [p for p in rated if p.read_bytes() != rated[p]] == [changed]
    assert {p for p, t in times.items() if p.stat().st_mtime_ns == t} == {kept}
    low = [p.name for p, t in made.items() if "lowfield" in p.name and p.stat().st_mtime_ns != t]
    assert low == []
    (out / "trial.html").unlink()
    run(bids, out, "trial", *words, "--collect", code=0)  # as the last task of a job array
    assert "3 participants" in (out / "trial.html").read_text()


@pytest.fixture
def both(tmp_path) -> Path:
    """A dataset of pairs of both contrasts."""
    bids = write_pairs(tmp_path / "bids")
    for path in [*bids.rglob("*_T1w.*")]:
        shutil.copy(path, path.with_name(path.name.replace("T1w", "T2w")))
    return bids


def test_weights_that_are_missing_stop_a_run_on_pairs_before_it_begins(both, monkeypatch, refused):
    monkeypatch.delenv("FREESURFER_HOME", raising=False)
    words = ("--skull-strip", "synthstrip", "--skip-bids-validation")
    asked = read_settings([str(both), "/out", "group", *words])
    told = refused(MissingInputError, find_missing, asked, discover_pairs(asked).pairs, print)
    assert "SynthStrip needs FreeSurfer's synthstrip.1.pt" in told


def test_a_dry_run_knows_pairs_that_are_still_to_be_prepared(tmp_path, both):
    out = tmp_path / "out"
    high = "bids:raw:sub-01/ses-HF/anat/sub-01_ses-HF_T1w.nii.gz"
    write_pair(out, "01", 1, SourceScans=[high])
    models = [write_whole_bundle(tmp_path / c, c) for c in ("T1w", "T2w")]
    asked = ["evaluate", *PAIRS, "--dry-run", "--skip-bids-validation", "--model"]
    code, told, err = call(both, out, *asked, *models)
    assert (code, err) == (0, ""), told
    assert "sub-02_ses-HF_res-model_desc-pairHF_T2w.nii.gz" in told
    # What could be meant in two ways is no matter where no model is for it.
    for path in both.glob("sub-02/ses-LF/anat/*_T2w.*"):
        shutil.copy(path, path.with_name(path.name.replace("_T2w", "_acq-other_T2w")))
    assert call(both, out, *asked, *models)[0] == 64
    code, told, err = call(both, out, *asked, models[0])
    assert (code, err) == (0, ""), told
    assert "pair  " in told
    assert "T2w" not in told


def test_a_dry_run_goes_on_where_every_pair_of_the_other_contrast_is_doubtful(
    tmp_path, both, monkeypatch
):
    monkeypatch.setattr("h2lo_bids.cli.outputs.unprepared", lambda settings, pairs: ())
    out = tmp_path / "out"
    check = {"Flagged": True, "Reasons": ["the overlap is 0.31"], "Figures": {}}
    for n, contrast in product(range(1, 5), ("T1w", "T2w")):
        high = f"bids:raw:sub-0{n}/ses-HF/anat/sub-0{n}_ses-HF_{contrast}.nii.gz"
        flag = {"RegistrationCheck": check} if contrast == "T2w" else {}
        write_pair(out, f"0{n}", n, contrast=contrast, SourceScans=[high], **flag)
    words = [both, out, "group", *PAIRS, "--participant-label", "01", "02", "03", "04"]
    words += ["--folds", "2", "--dry-run", "--skip-bids-validation"]
    code, told, err = call(*words)
    assert (code, err) == (1, ""), told
    assert "T1w fold 1: " in told
    assert "T2w fold" not in told
    assert "\nT2w: the registration check flagged every" in told
    assert "/logs/<run>/failures.tsv\n" in told
    code, _, err = call(*words, "--contrast", "T2w")
    assert (code, len(err.splitlines())) == (65, 1)


def test_a_run_that_cannot_begin_is_one_line_and_its_code(tmp_path, models, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "none"))
    bids, out = write_dataset(tmp_path / "bids", suffixes=("T1w",)), tmp_path / "out"
    (tmp_path / "m.pth").write_bytes(b"nothing of the kind")
    (tmp_path / "bare/sub-01").mkdir(parents=True)
    (tmp_path / "foreign").mkdir()
    told = {"Name": "x", "BIDSVersion": "1.8.0", "GeneratedBy": [{"Name": "fMRIPrep"}]}
    (tmp_path / "foreign/dataset_description.json").write_text(json.dumps(told))
    t2w = models[2].removeprefix("T2w=")
    dry = "--dry-run"
    cases = [
        (bids, out, (dry, "--model", f"T1w={t2w}"), 64, "trained for T2w"),
        (bids, out, (dry, "--model", t2w), 64, "T2w"),
        (bids, out, (dry, "--model", f"T1w={tmp_path / 'm.pth'}"), 65, "m.pth"),
        (bids, out, (dry, "--output-spaces", "MNI152NLin2009cAsym"), 66, "MNI152NLin2009cAsym"),
        (bids, out, (dry, "--noise", "calibrated", "--method", "identity"), 64, "no noise model"),
        (bids, out, (dry, "--uncertainty"), 64, "no models of folds"),
        (bids, out, (dry, "--reports-only"), 64, "leave --dry-run out"),
        (tmp_path / "bare", out, (dry,), 16, "dataset_description.json"),
        (bids, tmp_path / "foreign", (), 73, "fMRIPrep"),
        (bids, tmp_path / "m.pth/out", (), 73, "cannot create out_dir"),
    ]
    for root, place, words, code, text in cases:
        found, _, err = call(root, place, "participant", *words)
        (line,) = err.splitlines()
        assert (found, text in line) == (code, True), err
    assert not out.exists()
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["dataset_description.json"]


def test_results_cannot_leave_the_output_folder(tmp_path):
    for name in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(ValueError, match="cannot stand"):
            result_path(tmp_path, "evaluated", contrast="T1w", model=name)
