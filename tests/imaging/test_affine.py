"""Headers with one, both, neither and contradictory transforms."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.reading import load_checked

DATA = np.random.default_rng(3).uniform(0, 1, (8, 9, 10)).astype(np.float32)
ONE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, 0.1, 0) * 2, [1, 2, 3])
OTHER = nib.affines.from_matvec(nib.eulerangles.euler2mat(0, 0, 0.5) * 2, [-9, 0, 4])
SHEARED = ONE @ np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
SINGULAR = np.diag([2.0, 0, 2, 1])


def save(
    folder: Path,
    sform: np.ndarray | None,
    sform_code: int,
    qform: np.ndarray | None,
    qform_code: int,
) -> Path:
    image = nib.Nifti1Image(DATA, None)
    image.header.set_zooms((2, 2, 2))
    if qform is not None:
        image.header.set_qform(qform, qform_code)
    if sform is not None:
        image.header.set_sform(sform, sform_code)
    image.header["sform_code"], image.header["qform_code"] = sform_code, qform_code
    path = folder / "a.nii.gz"
    # nibabel's own saving would restore the codes, hence the bytes by hand.
    import gzip

    header = image.header
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + DATA.tobytes(order="F")))
    return path


@pytest.mark.parametrize("code", [1, 4])
def test_sform_comes_first(tmp_path: Path, code: int) -> None:
    checked = load_checked(save(tmp_path, ONE, code, ONE, 1))
    np.testing.assert_allclose(checked.image.affine, ONE, atol=1e-5)
    assert checked.warnings == ()
    assert int(checked.image.header["sform_code"]) == code


def test_a_transform_without_code_does_not_count(tmp_path: Path) -> None:
    for sform_code, qform, qform_code, expected in ((0, OTHER, 1, OTHER), (4, None, 0, ONE)):
        checked = load_checked(save(tmp_path, ONE, sform_code, qform, qform_code))
        np.testing.assert_allclose(checked.image.affine, expected, atol=1e-5)
        assert checked.warnings == ()


def test_no_code_at_all_warns_and_follows_nibabel(tmp_path: Path) -> None:
    path = save(tmp_path, ONE, 0, OTHER, 0)
    checked = load_checked(path)
    np.testing.assert_allclose(checked.image.affine, nib.load(path).affine)
    assert len(checked.warnings) == 1
    assert str(path) in checked.warnings[0]


@pytest.mark.parametrize(
    ("bad", "said"), [(SHEARED, "sheared"), (SINGULAR, "singular"), (ONE * np.nan, "finite")]
)
def test_impossible_sform(tmp_path: Path, bad: np.ndarray, said: str) -> None:
    checked = load_checked(save(tmp_path, bad, 1, OTHER, 1))
    np.testing.assert_allclose(checked.image.affine, OTHER, atol=1e-5)
    assert said in checked.warnings[0]
    path = save(tmp_path, bad, 1, None, 0)
    with pytest.raises(BadDataError, match=said) as caught:
        load_checked(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("length", "warned"), [(1, 0), (1.0000004, 0), (1 + 1e-5, 0), (1.5, 1)])
@pytest.mark.parametrize("qfac", [-1.0, 0.0, 1.0, -0.99999, 1.00001, np.nan])
def test_a_quaternion_too_long_is_a_half_turn(
    tmp_path: Path, length: float, warned: int, qfac: float
) -> None:
    """What nifti1_io, and so FSL and ITK, make of it: 180 degrees about the axis."""
    axis = np.array([0.6, 0.0, 0.8])
    path = save(tmp_path, None, 0, OTHER, 1)
    header = {"quatern_b": 0.6, "quatern_c": 0.0, "quatern_d": 0.8}
    rewrite(path, qfac, **{key: part * length for key, part in header.items()})
    checked = load_checked(path)
    turn = 2 * np.outer(axis, axis) - np.eye(3)
    sides = np.diag([2, 2, -2 if qfac < 0 else 2])
    np.testing.assert_allclose(checked.image.affine[:3, :3], turn @ sides, atol=2e-3)
    np.testing.assert_allclose(checked.image.affine[:3, 3], OTHER[:3, 3], atol=1e-5)
    assert ["length" in line for line in checked.warnings] == [True] * warned


def rewrite(path: Path, qfac: float, **fields: float) -> None:
    """Write header fields past nibabel's checks."""
    import gzip

    raw = bytearray(gzip.decompress(path.read_bytes()))
    header = np.frombuffer(raw[:348], nib.Nifti1Header.template_dtype).copy()
    header["pixdim"][0][0] = qfac
    for key, value in fields.items():
        header[key] = value
    path.write_bytes(gzip.compress(header.tobytes() + bytes(raw[348:])))


def test_voxel_sizes_count_without_their_sign(tmp_path: Path) -> None:
    path = save(tmp_path, None, 0, OTHER, 1)
    rewrite(path, 1.0, pixdim=[[1, 2, -2, 2, 0, 0, 0, 0]])
    checked = load_checked(path)
    np.testing.assert_allclose(checked.image.affine, OTHER, atol=1e-5)
    assert ["without its sign" in line for line in checked.warnings] == [True]
    rewrite(path, 1.0, quatern_b=np.nan)
    with pytest.raises(BadDataError, match="qform is not finite"):
        load_checked(path)


def test_rounding_is_no_fault(tmp_path: Path) -> None:
    """Shear and disagreement as float32, or text of five digits, leave them."""
    rounded = np.round(OTHER, 5) + np.array([[0, 1e-4, 0, 0], [0] * 4, [0] * 4, [0] * 4])
    checked = load_checked(save(tmp_path, rounded, 1, OTHER, 1))
    np.testing.assert_allclose(checked.image.affine, rounded, atol=1e-5)
    assert checked.warnings == ()


def test_contradictions_warn(tmp_path: Path) -> None:
    checked = load_checked(save(tmp_path, ONE, 1, OTHER, 1))
    np.testing.assert_allclose(checked.image.affine, ONE, atol=1e-5)
    assert "qform disagree" in checked.warnings[0]
    wider = ONE @ np.diag([1.5, 1.5, 1.5, 1])
    checked = load_checked(save(tmp_path, wider, 1, None, 0))
    assert "voxel size disagree" in checked.warnings[0]
    np.testing.assert_allclose(checked.image.header.get_zooms(), (3, 3, 3), atol=1e-5)


def test_real_scans_pass(shared_data: Path) -> None:
    for path in sorted(shared_data.glob("[hl]f/*.nii.gz")):
        checked = load_checked(path)
        truth = nib.load(path)
        np.testing.assert_allclose(checked.image.affine, truth.affine, atol=1e-3)
        np.testing.assert_array_equal(checked.image.get_fdata(), truth.get_fdata(dtype=np.float32))
        assert not [w for w in checked.warnings if "disagree" not in w]
