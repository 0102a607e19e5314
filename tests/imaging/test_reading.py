"""Bad files, each made by hand, and what is said of them; headers and the place they stand for."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from h2lo_bids.errors import BadDataError, H2loError, MissingInputError
from h2lo_bids.imaging.reading import load_checked

RNG = np.random.default_rng(7)
DATA = RNG.uniform(0, 100, (12, 14, 16)).astype(np.float32)
OBLIQUE = nib.affines.from_matvec(
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


def complaint(path: Path, kind: type[H2loError] = BadDataError) -> str:
    with pytest.raises(kind) as caught:
        load_checked(path)
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


def test_missing_unreadable_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such file" in complaint(tmp_path / "none.nii.gz", MissingInputError)
    (tmp_path / "folder.nii.gz").mkdir()
    complaint(tmp_path / "folder.nii.gz", MissingInputError)
    (tmp_path / "empty.nii.gz").touch()
    assert "empty" in complaint(tmp_path / "empty.nii.gz", MissingInputError)
    link = tmp_path / "annexed.nii.gz"
    link.symlink_to(".git/annex/objects/xx/MD5E-s1--abc.nii.gz")
    line = complaint(link, MissingInputError)
    assert (
        f"run: datalad get {link} (it links into {tmp_path}/.git, which is not here: bind" in line
    )
    (tmp_path / ".git").mkdir()
    assert complaint(link, MissingInputError).endswith(f"run: datalad get {link}")
    elsewhere = tmp_path / "elsewhere.nii.gz"
    elsewhere.symlink_to("/store/scan.nii.gz")
    text = complaint(elsewhere, MissingInputError)
    assert "leads to /store/scan.nii.gz, which does not exist" in text
    assert "container" in text
    pointer = tmp_path / "pointer.nii.gz"
    pointer.write_text("/annex/objects/MD5E-s1--abc.nii.gz\n")
    assert f"run: datalad get {pointer}" in complaint(pointer, MissingInputError)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    locked = write(tmp_path / "locked.nii.gz")
    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in complaint(locked, MissingInputError)


@pytest.mark.parametrize("side", [4, 24])  # 416 bytes: less than a NIfTI-2 header
@pytest.mark.parametrize(
    ("tail", "warned"),
    [(bytes(3000), False), (b"\0\0", False), (b"garbage", True), (bytes(9) + b"\x1f?", True)],
)
def test_bytes_after_the_gzip_stream(tmp_path: Path, side: int, tail: bytes, warned: bool) -> None:
    data = RNG.integers(0, 255, (side, 4, 4), dtype=np.uint8)
    path = write(tmp_path / "tail.nii.gz", data)
    path.write_bytes(path.read_bytes() + tail)
    checked = load_checked(path)
    np.testing.assert_array_equal(checked.image.get_fdata(), data)
    assert [str(path) in line for line in checked.warnings] == [True] * warned
    # The image may come in two streams, and a damaged checksum stays an error.
    raw = gzip.decompress(path.read_bytes()[: -len(tail)])
    two = tmp_path / "two.nii.gz"
    two.write_bytes(gzip.compress(raw[:400]) + bytes(5) + gzip.compress(raw[400:]))
    np.testing.assert_array_equal(load_checked(two).image.get_fdata(), data)
    raw = bytearray(path.read_bytes())
    raw[-len(tail) - 6] ^= 0xFF
    path.write_bytes(raw)
    assert "damaged" in complaint(path)


def test_truncated_content(tmp_path: Path) -> None:
    plain = write(tmp_path / "cut.nii")
    plain.write_bytes(plain.read_bytes()[:-10])
    assert "truncated" in complaint(plain)
    packed = tmp_path / "short.nii.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert "truncated" in complaint(packed)
    raw = packed.read_bytes()
    for share in (0.001, 0.5, 0.999):
        packed.write_bytes(raw[: max(2, int(share * len(raw)))])
        assert "truncated" in complaint(packed)


def test_what_is_no_nifti(tmp_path: Path) -> None:
    for content in (b"hi", b"this is text, not an image\n" * 50, b"\x00" * 4000):
        for name in ("text.nii", "text.nii.gz"):
            for own in (content, gzip.compress(content)):
                (tmp_path / name).write_bytes(own)
                complaint(tmp_path / name)
    nib.MGHImage(DATA, OBLIQUE).to_filename(tmp_path / "a.mgz")
    assert "convert" in complaint(tmp_path / "a.mgz")


def spoiled(value: float) -> np.ndarray:
    data = DATA.astype(np.float64)
    data[1, 2, 3] = value
    return data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        *((spoiled(value), "has 1 NaN or infinite") for value in (np.nan, -np.inf, 1e300)),
        (0 * DATA, "all zero"),
        (0 * DATA + 5, "(5)"),
        *((DATA[:4].reshape(shape), "3-D") for shape in ((28, 32), (28, 32, 1), (896,))),
        (DATA[:4].reshape(28, 8, 1, 4), "4 volumes"),
        (np.ones((8, 8, 8), np.complex64), "complex"),
        (np.ones((8, 8, 8), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colour"),
    ],
)
def test_voxels_that_are_no_scan(tmp_path: Path, data: np.ndarray, said: str) -> None:
    assert said in complaint(write(tmp_path / "a.nii.gz", data))


def test_headers_that_are_damaged(tmp_path: Path) -> None:
    for field, said, values in (
        ("pixdim", "voxel size", [(1, 1, z, 3, *[0] * 4) for z in (-1e3, np.nan, 1e3, 1e-6)]),
        ("dim", "dimensions", [(n, 4, 4, 4, *[1] * 4) for n in (0, 9)]),
        ("dim", "dimensions", [(3, side, 4, 4, *[1] * 4) for side in (0, -4)]),
        ("vox_offset", "outside the file", [-8.0, 1e20, np.nan]),
    ):
        for value in values:
            assert said in complaint(patched(write(tmp_path / "h.nii"), **{field: value}))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("dims", "said"),
    [
        ((3, 32767, 32767, 32767, 1), "header claims"),
        ((4, 4000, 4000, 4000, 2), "header claims"),
        ((3, 645, 645, 645, 1), "is truncated (at most"),  # just within what a head may have
    ],
)
def test_gigantic_headers_are_refused_before_allocation(tmp_path, dims, said, packed) -> None:
    path = patched(write(tmp_path / "g.nii"), dim=(*dims, 1, 1, 1))
    if packed:
        (tmp_path / "g.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "g.nii.gz"
    tracemalloc.start()
    assert said in complaint(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize("extension", [None, 2**31 - 16, -16])
def test_gzip_bomb_is_bounded_by_the_header(tmp_path: Path, extension: int | None) -> None:
    plain, bomb = write(tmp_path / "a.nii"), tmp_path / "bomb.nii.gz"
    if extension:  # of an impossible length; the voxels lie among the zeros
        start = patched(plain, vox_offset=2**25).read_bytes()[:348]
        plain.write_bytes(start + b"\x01\0\0\0" + struct.pack("<ii", extension, 6))
    bomb.write_bytes(gzip.compress(plain.read_bytes()) + gzip.compress(bytes(2**20)) * 256)
    tracemalloc.start()
    if extension:
        assert "all zero" in complaint(bomb)
    else:
        np.testing.assert_array_equal(load_checked(bomb).image.get_fdata(), DATA)
    assert tracemalloc.get_traced_memory()[1] < (2**27 if extension else 2**23)
    tracemalloc.stop()


# Which transform of a header counts.

ONE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, 0.1, 0) * 2, [1, 2, 3])
OTHER = nib.affines.from_matvec(nib.eulerangles.euler2mat(0, 0, 0.5) * 2, [-9, 0, 4])
SHEARED = ONE @ np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
SINGULAR = np.diag([2.0, 0, 2, 1])
ROUNDED = np.round(OTHER, 5) + np.array([[0, 1e-4, 0, 0], [0] * 4, [0] * 4, [0] * 4])
WIDER = ONE @ np.diag([1.5, 1.5, 1.5, 1])
IMPOSSIBLE = ((SHEARED, "sheared"), (SINGULAR, "singular"), (ONE * np.nan, "finite"))


def save(folder: Path, sform, sform_code: int, qform, qform_code: int) -> Path:
    """Write an image whose header has these transforms, also such as nibabel would not write."""
    path = write(folder / "a.nii", affine=qform)
    rows = dict(zip(("srow_x", "srow_y", "srow_z"), sform, strict=False))
    return patched(path, sform_code=sform_code, qform_code=qform_code, **rows)


@pytest.mark.parametrize(
    ("header", "expected", "said"),
    [
        ((ONE, 4, ONE, 1), ONE, ""),
        ((ONE, 0, OTHER, 1), OTHER, ""),
        ((ONE, 4, OTHER, 0), ONE, ""),
        ((ROUNDED, 1, OTHER, 1), ROUNDED, ""),  # as float32, or text of five digits, leave it
        ((ONE, 1, OTHER, 1), ONE, "qform disagree"),
        ((WIDER, 1, OTHER, 0), WIDER, "voxel size disagree"),
        *(((bad, 1, OTHER, 1), OTHER, said) for bad, said in IMPOSSIBLE),
    ],
)
def test_a_coded_and_sound_sform_comes_first(tmp_path, header, expected, said) -> None:
    checked = load_checked(save(tmp_path, *header))
    np.testing.assert_allclose(checked.image.affine, expected, atol=1e-5)
    assert [said in line for line in checked.warnings] == [True] * bool(said)
    sform, sform_code, _, qform_code = header
    code = sform_code if expected is sform else qform_code
    assert int(checked.image.header["sform_code"]) == code


def test_without_a_sound_transform_a_header_is_followed_or_refused(tmp_path: Path) -> None:
    path = save(tmp_path, ONE, 0, OTHER, 0)
    checked = load_checked(path)
    np.testing.assert_allclose(checked.image.affine, nib.load(path).affine)
    assert [str(path) in line for line in checked.warnings] == [True]
    for bad, said in IMPOSSIBLE:
        assert said in complaint(save(tmp_path, bad, 1, OTHER, 0))


@pytest.mark.parametrize(("length", "warned"), [(1, 0), (1.0000004, 0), (1 + 1e-5, 0), (1.5, 1)])
@pytest.mark.parametrize("qfac", [-1.0, 0.0, 1.0, -0.99999, np.nan])
def test_a_quaternion_too_long_is_a_half_turn(tmp_path, length, warned, qfac) -> None:
    """What nifti1_io, and so FSL and ITK, make of it: 180 degrees about the axis."""
    axis = np.array([0.6, 0.0, 0.8])
    path = save(tmp_path, ONE, 0, OTHER, 1)
    vector = {f"quatern_{key}": part * length for key, part in zip("bcd", axis, strict=True)}
    checked = load_checked(patched(path, pixdim=(qfac, 2, 2, 2, *[0] * 4), **vector))
    turn = 2 * np.outer(axis, axis) - np.eye(3)
    sides = np.diag([2, 2, -2 if qfac < 0 else 2])
    np.testing.assert_allclose(checked.image.affine[:3, :3], turn @ sides, atol=2e-3)
    np.testing.assert_allclose(checked.image.affine[:3, 3], OTHER[:3, 3], atol=1e-5)
    assert ["length" in line for line in checked.warnings] == [True] * warned


def test_voxel_sizes_count_without_their_sign(tmp_path: Path) -> None:
    path = patched(save(tmp_path, ONE, 0, OTHER, 1), pixdim=(1, 2, -2, 2, *[0] * 4))
    checked = load_checked(path)
    np.testing.assert_allclose(checked.image.affine, OTHER, atol=1e-5)
    assert ["without its sign" in line for line in checked.warnings] == [True]
    assert "qform is not finite" in complaint(patched(path, quatern_b=np.nan))


@pytest.mark.parametrize(("unit", "sides"), [("meter", 1e-3), ("micron", 1e3)])
def test_lengths_are_converted_only_where_they_are_a_heads_then(tmp_path, unit, sides) -> None:
    path = tmp_path / "a.nii.gz"
    for affine, told in ((OTHER, []), (OTHER * [[sides], [sides], [sides], [1]], [True])):
        image = nib.Nifti1Image(DATA, affine)
        image.set_qform(affine, 1)
        image.header.set_xyzt_units(unit)
        nib.save(image, path)
        checked = load_checked(path)
        np.testing.assert_allclose(checked.image.affine, OTHER, rtol=1e-5, atol=1e-5)
        assert ["converted to mm" in line for line in checked.warnings] == told
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    assert "is not a head's; convert it again" in complaint(path)


def test_real_scans_pass(shared_data: Path) -> None:
    for path in sorted(shared_data.glob("[hl]f/*.nii.gz")):
        checked = load_checked(path)
        truth = nib.load(path)
        np.testing.assert_allclose(checked.image.affine, truth.affine, atol=1e-3)
        np.testing.assert_array_equal(checked.image.get_fdata(), truth.get_fdata(dtype=np.float32))
        assert not [w for w in checked.warnings if "disagree" not in w]
