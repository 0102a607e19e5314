"""The participant level from end to end, as users run it, on small heads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import (
    assert_valid_bids,
    head,
    promised,
    rows_of,
    start,
    write_dataset,
    write_enhancer,
    write_scan,
    written,
)
from scipy.ndimage import binary_erosion

from h2lo_bids import load_model, read_image, synthesize

pytestmark = pytest.mark.slow
WORDS = ["--output-spaces", "model", "--lf-grid", "6x6x10", "--precision", "fp32"]
MASK = binary_erosion(head(1) > 0)
"""Given for the T1w scan of the subject, that of the T2w scan is computed."""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Return a folder with a dataset of one subject and a mask, which no test changes."""
    folder = tmp_path_factory.mktemp("participant")
    sidecar = write_dataset(folder / "bids") / "sub-01/anat/sub-01_T1w.json"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "SliceThickness": 99}))
    mask = MASK.astype(np.uint8)
    write_scan(folder / "masks/sub-01/anat/sub-01_desc-brain_mask.nii.gz", data=mask)
    return folder


@pytest.fixture(scope="module")
def words(root) -> list[str]:
    return [*WORDS, "-d", f"mine={root / 'masks'}"]


@pytest.fixture(scope="module")
def first(root, models, words) -> Path:
    """Return the outputs of a first run."""
    given = [*models, "--skull-strip", "skip", *words, "-w", root / "work"]
    done = start(root / "bids", root / "out", "participant", *given, code=0)
    assert "sub-01: sub-01_T2w: brain mask computed, as there is no " in done.stdout
    return root / "out"


def images(out: Path) -> dict[str, bytes]:
    """Return the bytes of every image and sidecar."""
    files = [*out.glob("sub-*/**/*.nii.gz"), *out.glob("sub-*/**/anat/*.json")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def computed(work: Path) -> dict[str, int]:
    """Return when each node's result was made, for all nodes but the sinks."""
    results = (p for p in work.rglob("result_*.pklz") if not p.name.startswith("result_ds_"))
    return {path.relative_to(work).as_posix(): path.stat().st_mtime_ns for path in results}


def test_values_follow_from_the_operator_evaluated_in_full(first, root, models):
    """The plain operator on the normalised, conformed head, and the functions for notebooks."""
    import torch

    anat = first / "sub-01" / "anat"

    def written(name: str) -> nib.Nifti1Image:
        return nib.load(anat / f"sub-01_{name}.nii.gz")

    data = np.where(MASK, head(1), 0)
    volume, model = data / data.max(), load_model(models[1].removeprefix("T1w="))
    with torch.no_grad():
        plain = model.network(torch.from_numpy(volume)[None, None])[0, 0].numpy()
    # The frame is centred on the brain, which lies in the middle of the scan already.
    expected = np.where(MASK, np.clip(plain, 0, 1), 0)
    for place in ("", "res-model_"):
        low = written(f"{place}desc-lowfield_T1w").get_fdata()
        np.testing.assert_allclose(low, expected, atol=1e-4)
    preproc = written("desc-preproc_T1w").get_fdata()
    np.testing.assert_allclose(preproc, volume, atol=1e-6)
    np.testing.assert_array_equal(written("desc-brain_mask").get_fdata(), MASK)
    scan, how = read_image(root / "bids/sub-01/anat/sub-01_T1w.nii.gz"), {"precision": "fp32"}
    for sides, place in ((None, ""), ((6.0, 6.0, 10.0), "res-6x6x10_")):
        low = written(f"{place}desc-lowfield_T1w")
        made = synthesize(scan, model, mask=MASK, voxel_size=sides, threads=1, **how)
        np.testing.assert_allclose(made.affine, low.affine, atol=1e-5)
        np.testing.assert_array_equal(made.get_fdata(), low.get_fdata())
    sidecar = json.loads((anat / "sub-01_desc-brain_mask.json").read_text())
    assert "given" in sidecar["BrainExtractionMethod"]
    assert "bids:mine:sub-01/anat/sub-01_desc-brain_mask.nii.gz" in sidecar["Sources"]


def test_a_rerun_with_a_moved_work_folder_computes_nothing_again(first, root, words, h2lo):
    before, written = computed(root / "work"), images(first)
    assert len(before) > 10
    shutil.move(root / "work", root / "moved")
    try:
        shutil.rmtree(first / "sub-01" / "anat")
        h2lo(root / "bids", first, *words, "-w", root / "moved")
        assert computed(root / "moved") == before
        assert images(first) == written
    finally:
        shutil.move(root / "moved", root / "work")


def test_reports_only_makes_the_page_again(first, h2lo, root):
    page = first / "sub-01.html"
    before = page.read_text()
    assert before.count("SliceThickness in the sidecar reads 99") == 1
    page.unlink()
    h2lo(root / "bids", first, "--reports-only", "-w", root / "work")
    assert page.read_text() == before
    done = h2lo(root / "bids", root / "empty", "--reports-only", code=18)
    assert "--reports-only" in done.stderr


def test_a_run_again_with_another_participant_at_the_same_time_has_the_same_bytes(
    tmp_path, first, root, words, h2lo
):
    bids = shutil.copytree(root / "bids", tmp_path / "bids")
    write_scan(bids / "sub-02/anat/sub-02_T1w.nii.gz", seed=2)
    several = ["--nprocs", "2", "--omp-nthreads", "1", "--mem", "8", "-v"]
    done = h2lo(bids, tmp_path / "out", *words, *several)
    assert "2 at a time" in done.stdout
    found = images(tmp_path / "out")
    assert {name: found[name] for name in found if "sub-01" in name} == images(first)


def test_a_standard_space_is_reached_through_its_transforms(tmp_path, h2lo):
    """The template is the head moved by 6 mm; what ANTs warps there is the judge."""
    import ants

    bids = write_dataset(tmp_path / "bids", suffixes=("T1w",))
    source = nib.load(bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    moved = source.affine.copy()
    moved[0, 3] += 6.0
    nib.save(nib.Nifti1Image(source.get_fdata(dtype="f4"), moved), tmp_path / "tpl.nii.gz")
    words = ["--output-spaces", "Moved", "--template-file", tmp_path / "tpl.nii.gz", "--sloppy"]
    h2lo(bids, tmp_path / "out", *words)
    anat = tmp_path / "out" / "sub-01" / "anat"
    forward = str(anat / "sub-01_from-T1w_to-Moved_mode-image_xfm.h5")
    inverse = str(anat / "sub-01_from-Moved_to-T1w_mode-image_xfm.h5")
    low = anat / "sub-01_space-Moved_desc-lowfield_T1w.nii.gz"
    there = ants.image_read(str(low)).numpy()
    warped = ants.apply_transforms(
        fixed=ants.image_read(str(low)),
        moving=ants.image_read(str(anat / "sub-01_desc-lowfield_T1w.nii.gz")),
        transformlist=[forward],
    ).numpy()
    mask = nib.load(anat / "sub-01_space-Moved_desc-brain_mask.nii.gz").get_fdata() > 0
    inner = mask & (warped > 0.05)
    assert inner.sum() > 0.8 * mask.sum()
    assert np.median(np.abs(there - warped)[inner]) < 0.02
    assert not there[~mask].any()
    sidecar = json.loads(low.with_name("sub-01_space-Moved_desc-lowfield_T1w.json").read_text())
    assert sidecar["SpatialReference"] == (tmp_path / "tpl.nii.gz").as_uri()
    import pandas as pd

    points = pd.DataFrame({"x": [5.0, -20.0], "y": [0.0, 15.0], "z": [10.0, -8.0]})
    to_scan = ants.apply_transforms_to_points(3, points, [forward], whichtoinvert=[False])
    back = ants.apply_transforms_to_points(3, to_scan, [inverse], whichtoinvert=[False])
    np.testing.assert_allclose(back, points, atol=0.1)
    # LPS: the template lies 6 mm to the right, so its points lie 6 mm to the left in the scan.
    np.testing.assert_allclose(to_scan["x"] - points["x"], 6.0, atol=1.0)


def test_low_field_scans_become_what_the_dry_run_promises(h2lo, tmp_path):
    """Of a dataset with a high-field session, a low-field one, and a damaged low-field scan."""
    bids, out = write_dataset(tmp_path / "bids"), tmp_path / "out"
    for suffix in ("T1w", "T2w"):
        write_enhancer(tmp_path / "models", suffix)
        for label in ("01", "02"):
            name = f"sub-{label}_ses-LF_acq-iso_{suffix}.nii.gz"
            write_scan(bids / f"sub-{label}" / "ses-LF" / "anat" / name, seed=7, tesla=0.064)
    (bids / "sub-02/ses-LF/anat/sub-02_ses-LF_acq-iso_T1w.nii.gz").write_bytes(b"\x1f\x8bnothing")
    words = ("--task", "enhance", "--model", tmp_path / "models", "--nprocs", "1", "--mem", "8")
    code, expected = promised(bids, out, "participant", *words, "--skull-strip", "skip")
    assert code == 0
    h2lo(bids, out, *words, "-w", tmp_path / "work", model=False, code=1)
    name = "sub-01/ses-LF/anat/sub-01_ses-LF_acq-iso_res-model_desc-enhanced_T1w.json"
    side = json.loads((out / name).read_text())
    assert "ot for diagnosis" in side["ModelWarning"]
    assert side["InputMagneticFieldStrength"] == 0.064
    # One bad scan: the others are there, and its own are the only ones that are not.
    lost = {name for name in expected if "sub-02_ses-LF_" in name and "T2w" not in name}
    lost = {name for name in lost if "_desc-report_" not in name}  # which tells of the failure
    assert lost
    made = {name for name in written(out) if "/crash-" not in name}
    assert made == expected - lost | {"logs/<run>/failures.tsv"}
    (table,) = out.glob("logs/*/failures.tsv")
    (row,) = rows_of(table)
    assert row["scan"] == "sub-02/ses-LF/anat/sub-02_ses-LF_acq-iso_T1w.nii.gz"
    page = (out / "sub-01.html").read_text()
    assert "Low-field enhancement of sub-01" in page
    assert "not for diagnosis" in page
    assert_valid_bids(out)
