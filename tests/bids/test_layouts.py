"""The layouts with images are what discovery makes of them, down to the voxels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import layouts
import nibabel as nib
import numpy as np
import pytest

from h2lo_bids.bids.pairs import discover_pairs
from h2lo_bids.bids.query import Query
from h2lo_bids.bids.scan import orientation
from h2lo_bids.bids.validate import find_validator

pytestmark = pytest.mark.slow


def correlation(one: Path, other: Path) -> float:
    images = [nib.load(path).get_fdata().ravel() for path in (one, other)]
    return float(np.corrcoef(images)[0, 1])


@pytest.fixture(scope="module")
def hype(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts") / "ds006557"
    return layouts.make_ds006557(folder, with_images=("HYPE06",), resolution=4.0)


def test_ds006557(hype: Path) -> None:
    found = discover_pairs(Query(hype, lf=("ses-HFC",), suffixes=("T2w",)))
    (pair,) = found.pairs
    assert (pair.name, pair.fusion) == ("sub-HYPE06_ses-GE_T2w", "mrr")
    assert [orientation(scan) for scan in pair.lf] == ["axi", "cor", "sag"]
    assert [max(nib.load(scan.path).header.get_zooms()) for scan in pair.lf] == [5.0] * 3
    assert pair.hf.field_strength == pytest.approx(3.0, abs=0.01)
    assert {scan.field_strength for scan in pair.lf} == {0.0635}
    assert len(found.problems) == 22 * 4
    found = discover_pairs(Query(hype, lf=("ses-HFC",), participant_labels=("HYPE06",)))
    assert found.skipped[0].reason.startswith("sub-HYPE06: no sagittal T1w")


def test_ants_mrr_lies_on_the_high_field_grid(hype: Path) -> None:
    derivatives = (("mrr", hype / "derivatives" / "ants-mrr"),)
    (pair,) = discover_pairs(Query(hype, derivatives=derivatives)).pairs
    high, low = nib.load(pair.hf.path), nib.load(pair.lf[0].path)
    assert high.shape == low.shape == (52, 64, 64)
    assert np.allclose(high.affine, low.affine)
    assert correlation(pair.hf.path, pair.lf[0].path) > 0.7
    shifted = np.roll(low.get_fdata(), 3, axis=1)
    assert np.corrcoef(high.get_fdata().ravel(), shifted.ravel())[0, 1] < 0.6


@pytest.mark.skipif(find_validator() is None, reason="the validator is not installed")
def test_lumc_is_valid_and_pairs(tmp_path: Path) -> None:
    high, low = layouts.make_lumc(tmp_path / "hf", tmp_path / "lf", with_images=("01",))
    found = discover_pairs(Query(high, lf_dir=low))
    assert [pair.name for pair in found.pairs] == ["sub-01_T1w", "sub-01_T2w"]
    assert not found.problems
    assert not low.joinpath("sub-01/ses-1/anat/sub-01_ses-1_T1w.json").exists()


def test_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, layouts.__file__, "ds005752", str(tmp_path / "ds")]
    subprocess.run(command, check=True, timeout=60)
    assert len(list((tmp_path / "ds").rglob("*.nii.gz"))) == 6
