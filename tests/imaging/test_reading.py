"""Bad files, each made by hand, and what is said of them; headers and the place they stand for."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.imaging.reading import load_checked

RNG = np.random.default_rng(7)
DATA = RNG.uniform(0, 100, (12, 14, 16)).astype(np.float32)
OBLIQUE = from_matvec(
    nib.eulerangles.euler2mat(0.1, -0.2, 0.3) @ np.diag([1.0, 1.5, 3.0]), [-7, 8, 9]
)


def write(path: Path, data: np.ndarray = DATA, affine: np.ndarray = OBLIQUE) -> Path:
    nib.Nifti1Image(data, affine).to_filename(path)
    return path


def patched(path: Path, **fields: object) -> Path:
    """Overwrite header fields of a plain .nii past nibabel's checks, as corrupt files have them."""
    raw = bytearray(path.read_bytes())
    header = np.frombuffer(raw, nib.Nifti1Header.template_dtype, count=1)
    for key, value in fields.items():
        header[key] = value
    path.write_bytes(raw)
    return path


def packed(path: Path, *streams: bytes) -> Path:
    """Write content as gzip streams, one after the other."""
    path.write_bytes(b"".join(map(gzip.compress, streams)))
    return path


def complaint(path: Path, kind=BadDataError, most: int = 2**27) -> str:
    """Return the one line that refuses a file, which takes no more memory than this to find."""
    tracemalloc.start()
    with pytest.raises(kind) as caught:
        load_checked(path)
    assert tracemalloc.get_traced_memory()[1] < most
    tracemalloc.stop()
    message = str(caught.value)
    assert message.count("\n") == 0
    assert str(path) in message
    assert ";" in message or "run: " in message  # the remedy
    assert len(message) < 300 + len(str(path))
    return message


def test_good_files_equal_nibabels_reading(tmp_path: Path) -> None:
    scaled = nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), OBLIQUE)
    scaled.header.set_slope_inter(0.5, -3)
    swapped = nib.Nifti1Header(endianness=">")
    swapped.set_data_dtype(np.float32)
    for name, image in {
        "int.nii": nib.Nifti1Image(DATA.astype(np.int16), OBLIQUE),
        "double.nii.gz": nib.Nifti1Image(DATA.astype(np.float64), OBLIQUE),
        "scaled.nii.gz": scaled,
        "big-endian.nii": nib.Nifti1Image(DATA, OBLIQUE, swapped),
        "nifti2.nii.gz": nib.Nifti2Image(DATA, OBLIQUE),
        "one-volume.nii.gz": nib.Nifti1Image(DATA[..., None], OBLIQUE),
    }.items():
        image.to_filename(path := tmp_path / name)
        checked, truth = load_checked(path), nib.load(path).get_fdata(dtype=np.float32)
        assert checked.warnings == ()
        assert checked.image.get_data_dtype() == np.float32
        assert checked.image.get_filename() == str(path)
        np.testing.assert_array_equal(checked.image.get_fdata(), truth.reshape(truth.shape[:3]))
        np.testing.assert_allclose(checked.image.affine, OBLIQUE, atol=1e-6)
    assert (tmp_path / "big-endian.nii").read_bytes()[:4] == struct.pack(">i", 348)
    path = patched(write(tmp_path / "axis-of-0.nii"), dim=(4, *DATA.shape, 0, 0, 0, 0))
    np.testing.assert_array_equal(load_checked(path).image.get_fdata(), DATA)


def test_missing_files_and_links(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    for make, said in (
        (lambda: None, "no such file"),
        (path.touch, "empty"),
        (lambda: path.write_text("/annex/objects/MD5E-s1--abc.nii.gz\n"), f"datalad get {path}"),
        (lambda: path.symlink_to("/store/scan.nii.gz"), "leads to /store/scan.nii.gz, which does"),
        (
            lambda: path.symlink_to(".git/annex/objects/xx/MD5E-s1--abc.nii.gz"),
            f"run: datalad get {path} (it links into {tmp_path}/.git, which is not here: bind",
        ),
    ):
        path.unlink(missing_ok=True)
        make()
        assert said in complaint(path, MissingInputError)
    (tmp_path / ".git").mkdir()
    assert complaint(path, MissingInputError).endswith(f"run: datalad get {path}")
    (folder := tmp_path / "folder.nii.gz").mkdir()
    assert "is a folder" in complaint(folder, MissingInputError)


@pytest.mark.parametrize("side", [4, 24])  # 416 bytes: less than a NIfTI-2 header
def test_bytes_after_the_gzip_stream(tmp_path: Path, side: int) -> None:
    data = RNG.integers(0, 255, (side, 4, 4), dtype=np.uint8)
    path = write(tmp_path / "a.nii.gz", data)
    whole = path.read_bytes()
    raw = gzip.decompress(whole)
    for content, warned in (
        (whole + bytes(3000), 0),
        (gzip.compress(raw[:400]) + bytes(5) + gzip.compress(raw[400:]), 0),
        (whole + b"garbage", 1),
        (whole + bytes(9) + b"\x1f?", 1),
    ):
        path.write_bytes(content)
        checked = load_checked(path)
        np.testing.assert_array_equal(checked.image.get_fdata(), data)
        assert [str(path) in line for line in checked.warnings] == [True] * warned
    path.write_bytes(whole[:-6] + bytes([whole[-6] ^ 0xFF]) + whole[-5:] + b"garbage")
    assert "damaged" in complaint(path)  # as its checksum tells


def test_what_is_truncated_or_no_nifti(tmp_path: Path) -> None:
    whole, path = write(tmp_path / "a.nii"), tmp_path / "a.nii.gz"
    whole.write_bytes(whole.read_bytes()[:-10])
    assert "truncated" in complaint(whole)
    raw = packed(path, whole.read_bytes()).read_bytes()
    for share in (0.001, 0.5, 0.999, 1):
        path.write_bytes(raw[: max(2, int(share * len(raw)))])
        assert "truncated" in complaint(path)
    for content in (b"hi", b"this is text, not an image\n" * 50, bytes(4000)):
        path.write_bytes(content)
        assert "is not a gzip file" in complaint(path)
        assert "is not a NIfTI image" in complaint(packed(path, content))
    assert "is not an uncompressed image" in complaint(path.rename(whole))
    assert "convert" in complaint(whole.rename(tmp_path / "a.mgz"))


def test_voxels_that_are_no_scan(tmp_path: Path) -> None:
    first, wide = DATA[0, 0, 0] == DATA, DATA.astype(float)
    for data, said in (
        *((np.where(first, v, wide), "has 1 NaN or inf") for v in (np.nan, -np.inf, 1e300)),
        (0 * DATA, "all zero"),
        (0 * DATA + 5, "(5)"),
        *((DATA[:4].reshape(shape), "3-D") for shape in ((28, 32), (28, 32, 1), (896,))),
        (DATA[:4].reshape(28, 8, 1, 4), "4 volumes"),
        (np.ones((8, 8, 8), np.complex64), "complex"),
        (np.ones((8, 8, 8), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colour"),
    ):
        assert said in complaint(write(tmp_path / "a.nii.gz", data))


def test_headers_that_are_damaged_or_gigantic(tmp_path: Path) -> None:
    for field, said, values in (
        ("pixdim", "voxel size", [(1, 1, z, 3, *[0] * 4) for z in (-1e3, np.nan, 1e3, 1e-6)]),
        ("dim", "dimensions", [(n, 4, 4, 4, *[1] * 4) for n in (0, 9)]),
        ("dim", "dimensions", [(3, side, 4, 4, *[1] * 4) for side in (0, -4)]),
        ("dim", "header claims", [(3, *[32767] * 3, *[1] * 4), (4, *[4000] * 3, 2, 1, 1, 1)]),
        ("dim", "is truncated (at most", [(3, *[645] * 3, *[1] * 4)]),  # just within a head's
        ("vox_offset", "outside the file", [-8.0, 1e20, np.nan]),
    ):
        for value in values:
            path = patched(write(tmp_path / "h.nii"), **{field: value})
            assert said in complaint(path, most=2**22)
            assert said in complaint(packed(tmp_path / "h.nii.gz", path.read_bytes()), most=2**22)


def test_gzip_bomb_is_bounded_by_the_header(tmp_path: Path) -> None:
    plain, bomb = write(tmp_path / "a.nii"), tmp_path / "bomb.nii.gz"
    zeros = gzip.compress(bytes(2**20)) * 256
    bomb.write_bytes(gzip.compress(plain.read_bytes()) + zeros)
    tracemalloc.start()
    np.testing.assert_array_equal(load_checked(bomb).image.get_fdata(), DATA)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
    start = patched(plain, vox_offset=2**25).read_bytes()[:348]
    for length in (2**31 - 16, -16):  # of an extension; the voxels lie among the zeros
        header = start + b"\x01\0\0\0" + struct.pack("<ii", length, 6)
        bomb.write_bytes(gzip.compress(header) + zeros)
        assert "all zero" in complaint(bomb)


# Which transform of a header counts.

ONE = from_matvec(nib.eulerangles.euler2mat(0.2, 0.1, 0) * 2, [1, 2, 3])
OTHER = from_matvec(nib.eulerangles.euler2mat(0, 0, 0.5) * 2, [-9, 0, 4])
SHEARED = ONE @ from_matvec(np.eye(3) + 0.3 * np.eye(3, k=1))
SINGULAR = np.diag([2.0, 0, 2, 1])
ROUNDED = np.round(OTHER, 5) + 1e-4 * np.eye(4, k=1)
WIDER = ONE @ np.diag([1.5, 1.5, 1.5, 1])
IMPOSSIBLE = ((SHEARED, "sheared"), (SINGULAR, "singular"), (ONE * np.nan, "finite"))


def save(folder: Path, sform, sform_code: int, qform, qform_code: int) -> Path:
    """Write an image whose header has these transforms, also such as nibabel would not write."""
    path = write(folder / "a.nii", affine=qform)
    rows = dict(zip(("srow_x", "srow_y", "srow_z"), sform, strict=False))
    return patched(path, sform_code=sform_code, qform_code=qform_code, **rows)


def test_a_coded_and_sound_sform_comes_first_and_then_such_a_qform(tmp_path: Path) -> None:
    for header, expected, said in (
        ((ONE, 4, ONE, 1), ONE, ""),
        ((ONE, 0, OTHER, 1), OTHER, ""),
        ((ONE, 4, OTHER, 0), ONE, ""),
        ((ROUNDED, 1, OTHER, 1), ROUNDED, ""),  # as float32, or text of five digits, leave it
        ((ONE, 1, OTHER, 1), ONE, "qform disagree"),
        ((WIDER, 1, OTHER, 0), WIDER, "voxel size disagree"),
        ((ONE, 0, OTHER, 0), None, "neither sform nor qform"),  # as nibabel reads it
        *(((bad, 1, OTHER, 1), OTHER, said) for bad, said in IMPOSSIBLE),
    ):
        path = save(tmp_path, *header)
        checked, truth = load_checked(path), nib.load(path).affine if expected is None else expected
        np.testing.assert_allclose(checked.image.affine, truth, atol=1e-5)
        assert [said in line for line in checked.warnings] == [True] * bool(said)
        code = 1 if expected is None else header[1 if expected is header[0] else 3]
        assert int(checked.image.header["sform_code"]) == code
    for bad, said in IMPOSSIBLE:
        assert said in complaint(save(tmp_path, bad, 1, OTHER, 0))


def test_a_quaternion_too_long_is_a_half_turn(tmp_path) -> None:
    """What nifti1_io, and so FSL and ITK, make of it: 180 degrees about the axis."""
    axis = np.array([0.6, 0.0, 0.8])
    turn, lengths = 2 * np.outer(axis, axis) - np.eye(3), (1, 1 + 4e-7, 1 + 1e-5, 1.5, 1.5)
    for length, qfac in zip(lengths, (-1.0, 0.0, 1.0, -0.99999, np.nan), strict=True):
        vector = {f"quatern_{key}": part * length for key, part in zip("bcd", axis, strict=True)}
        path = save(tmp_path, ONE, 0, OTHER, 1)
        checked = load_checked(patched(path, pixdim=(qfac, 2, 2, 2, *[0] * 4), **vector))
        expected = from_matvec(turn @ np.diag([2, 2, -2 if qfac < 0 else 2]), OTHER[:3, 3])
        np.testing.assert_allclose(checked.image.affine, expected, atol=2e-3)
        assert ["length" in line for line in checked.warnings] == [True] * (length > 1.1)


def test_voxel_sizes_count_without_their_sign_and_in_mm(tmp_path: Path) -> None:
    path = patched(save(tmp_path, ONE, 0, OTHER, 1), pixdim=(1, 2, -2, 2, *[0] * 4))
    checked = load_checked(path)
    np.testing.assert_allclose(checked.image.affine, OTHER, atol=1e-5)
    assert ["without its sign" in line for line in checked.warnings] == [True]
    assert "qform is not finite" in complaint(patched(path, quatern_b=np.nan))
    # Lengths are converted only where they are a head's then.
    for unit, factor in (("meter", 1e-3), ("micron", 1e3)):
        for scale, told in ((1, []), (factor, [True])):
            affine = OTHER * [[scale], [scale], [scale], [1]]
            image = nib.Nifti1Image(DATA, affine)
            image.set_qform(affine, 1)
            image.header.set_xyzt_units(unit)
            image.to_filename(path)
            checked = load_checked(path)
            np.testing.assert_allclose(checked.image.affine, OTHER, rtol=1e-5, atol=1e-5)
            assert ["converted to mm" in line for line in checked.warnings] == told
        image.header.set_xyzt_units("mm")
        image.to_filename(path)
        assert "is not a head's; convert it again" in complaint(path)


def test_real_scans_are_read_as_nibabel_reads_them(shared_data: Path) -> None:
    for path in sorted(shared_data.glob("[hl]f/*.nii.gz")):
        checked, truth = load_checked(path), nib.load(path)
        np.testing.assert_allclose(checked.image.affine, truth.affine, atol=1e-3)
        np.testing.assert_array_equal(checked.image.get_fdata(), truth.get_fdata(dtype=np.float32))
        assert not [w for w in checked.warnings if "disagree" not in w]
