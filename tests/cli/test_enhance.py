"""``participant --task enhance`` from end to end, as users run it, on small heads."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import (
    assert_valid_bids,
    call,
    promised,
    rows_of,
    write_dataset,
    write_enhancer,
    write_scan,
)

from h2lo_bids.cli.outputs import RUN

ENHANCE = ("--task", "enhance")


@pytest.fixture(scope="module")
def enhancers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("enhancers")
    for contrast in ("T1w", "T2w"):
        write_enhancer(folder, contrast)
    return folder


@pytest.fixture(scope="module")
def bids(tmp_path_factory) -> Path:
    """Return a dataset of a high-field session, a low-field one, and a damaged low-field scan."""
    root = write_dataset(tmp_path_factory.mktemp("enhance") / "bids")  # at 3 T
    for label in ("01", "02"):
        for suffix in ("T1w", "T2w"):
            name = f"sub-{label}_ses-LF_acq-iso_{suffix}.nii.gz"
            write_scan(root / f"sub-{label}" / "ses-LF" / "anat" / name, seed=7, tesla=0.064)
    (root / "sub-02/ses-LF/anat/sub-02_ses-LF_acq-iso_T1w.nii.gz").write_bytes(b"\x1f\x8bnothing")
    return root


@pytest.mark.slow
def test_low_field_scans_become_what_the_dry_run_promises(bids, enhancers, h2lo, tmp_path):
    out = tmp_path / "out"
    words = (*ENHANCE, "--model", str(enhancers), "--nprocs", "1", "--mem", "8")
    code, expected = promised(bids, out, "participant", *words, "--skull-strip", "skip")
    assert code == 0
    h2lo(bids, out, *words, "-w", tmp_path / "work", model=False, code=1)
    anat = out / "sub-01" / "ses-LF" / "anat"
    for suffix in ("T1w", "T2w"):
        images = [
            nib.load(anat / f"sub-01_ses-LF_acq-iso_res-model_desc-{desc}_{suffix}.nii.gz")
            for desc in ("preproc", "enhanced")
        ]
        low, high = (image.get_fdata() for image in images)
        np.testing.assert_array_equal(low, high)
        assert low.max() == 1
    side = json.loads((anat / "sub-01_ses-LF_acq-iso_res-model_desc-enhanced_T1w.json").read_text())
    assert "ot for diagnosis" in side["ModelWarning"]
    assert side["InputMagneticFieldStrength"] == 0.064
    # One bad scan: the others are there, and its own are the only ones that are not.
    kept = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    missing = {name for name in expected if RUN not in name} - kept
    assert missing
    assert all("/sub-02_ses-LF_acq-iso_" in name for name in missing)
    assert not any("T2w" in name for name in missing)
    extra = {name for name in kept - expected if not name.startswith(("logs/", ".h2lo"))}
    assert not extra
    (table,) = out.glob("logs/*/failures.tsv")
    (row,) = rows_of(table)
    assert row["scan"] == "sub-02/ses-LF/anat/sub-02_ses-LF_acq-iso_T1w.nii.gz"
    page = (out / "sub-01.html").read_text()
    assert "Low-field enhancement of sub-01" in page
    assert "not for diagnosis" in page
    assert_valid_bids(out)


def test_a_site_with_one_enhancer_leaves_the_other_contrast_out(bids, enhancers, tmp_path):
    own = ("--model", str(enhancers / "pfsr_T1w"), "--skull-strip", "skip", "--dry-run")
    own += ("--participant-label", "01", "--skip-bids-validation")
    begin = [bids, tmp_path / "out", "participant", *ENHANCE, *own]
    code, _, err = call(*begin)
    assert (code, "choose other scans with --contrast" in err) == (64, True)
    code, told, _ = call(*begin, "--contrast", "T1w")
    assert (code, "desc-enhanced_T1w" in told, "_T2w" in told) == (0, True, False)
