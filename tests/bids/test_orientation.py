"""What headers tell, and what in sidecars and names contradicts them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from skeletons import HIGH, LOW, anat, put, write

from h2lo_bids.bids.discover import LowFieldQuery, discover, discover_lowfield
from h2lo_bids.bids.query import Query

pytestmark = pytest.mark.usefixtures("no_validator")


def save(path: Path, shape: tuple[int, ...], sides: tuple[float, float, float]) -> None:
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.diag([*sides, 1.0])), path)


@pytest.mark.parametrize(
    ("sidecar", "quoted"),
    [
        ({"SpacingBetweenSlices": 5}, ["SpacingBetweenSlices", "reads 5", "2 x 2 x 2.5 mm"]),
        ({"SliceThickness": 6}, ["SliceThickness", "reads 6", "2 x 2 x 2.5 mm"]),
        ({"PixelSpacing": [2, 1]}, ["PixelSpacing", "reads [2, 1]", "2 x 2 x 2.5 mm"]),
        # Slices of 3 mm that overlap, or have gaps, or were interpolated to half of 5 mm.
        ({"SliceThickness": 3, "SpacingBetweenSlices": 2.5}, []),
        ({"SliceThickness": 5}, []),
        ({"SliceThickness": 9, "SpacingBetweenSlices": 2.5}, []),
        ({"PixelSpacing": [2, 2.04]}, []),
        ({"SliceThickness": "thin", "PixelSpacing": {}}, []),
    ],
)
def test_voxels_against_the_sidecar(tmp_path: Path, sidecar: dict, quoted: list[str]) -> None:
    root = write(tmp_path / "ds", {anat("01", None, "T1w"): HIGH | sidecar})
    save(root / anat("01", None, "T1w"), (60, 60, 60), (2.0, 2.0, 2.5))
    warnings = discover(Query(root)).warnings
    assert len(warnings) == bool(quoted)
    for word in quoted:
        assert word in warnings[0]


def test_a_slab_alone_is_taken_with_a_warning(tmp_path: Path) -> None:
    root = write(tmp_path / "ds", {anat("01", None, f"acq-{a}_T2w"): HIGH for a in ("x", "y")})
    save(root / anat("01", None, "acq-x_T2w"), (60, 60, 8), (4.0, 4.0, 4.0))
    save(root / anat("01", None, "acq-y_T2w"), (60, 60, 40), (4.0, 4.0, 4.0))
    found = discover(Query(root))
    assert [scan.stem for scan in found.scans] == ["sub-01_acq-y_T2w"]
    assert not found.warnings
    (warning,) = discover(Query(root, inline=("acq=x",))).warnings
    assert "240 x 240 x 32 mm" in warning


def test_a_whole_head_of_low_field_is_preferred_too(tmp_path: Path) -> None:
    root = write(tmp_path / "ds", {anat("01", None, f"acq-{a}_T1w"): LOW for a in ("iso", "z")})
    save(root / anat("01", None, "acq-iso_T1w"), (60, 60, 8), (4.0, 4.0, 4.0))
    save(root / anat("01", None, "acq-z_T1w"), (60, 60, 40), (4.0, 4.0, 4.0))
    found = discover_lowfield(LowFieldQuery(root))
    assert [scan.stem for scan in found.scans] == ["sub-01_acq-z_T1w"]


def test_the_way_of_slices_against_the_label(tmp_path: Path) -> None:
    root = write(tmp_path / "ds", {anat("01", None, "acq-axi_T1w"): None})
    put(root / "T1w.json", LOW)
    save(root / anat("01", None, "acq-axi_T1w"), (120, 40, 120), (1.6, 5.0, 1.6))
    (warning,) = discover_lowfield(LowFieldQuery(root)).warnings
    assert "acq-axi means axial slices" in warning
    assert "coronal" in warning
    save(root / anat("01", None, "acq-axi_T1w"), (120, 120, 40), (1.6, 1.6, 5.0))
    assert not discover_lowfield(LowFieldQuery(root)).warnings
