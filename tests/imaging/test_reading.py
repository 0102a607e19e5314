"""Bad files, each made by hand, and what is said of them."""

from __future__ import annotations

import gzip
import struct
import zlib
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


def patched(path: Path, offset: int, fmt: str, *values: float) -> Path:
    """Overwrite header bytes of a plain .nii, as a corrupt file has them."""
    raw = bytearray(path.read_bytes())
    struct.pack_into("<" + fmt, raw, offset, *values)
    path.write_bytes(raw)
    return path


def complaint(path: Path, kind: type[H2loError]) -> str:
    with pytest.raises(kind) as caught:
        load_checked(path)
    message = str(caught.value)
    assert message.count("\n") == 0
    assert str(path) in message
    assert len(message) < 300 + len(str(path))
    return message


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [np.int16, np.float64])
def test_good_files_equal_nibabels_reading(tmp_path: Path, name: str, kind: type) -> None:
    path = write(tmp_path / name, DATA.astype(kind))
    checked = load_checked(path)
    assert checked.warnings == ()
    assert checked.image.get_data_dtype() == np.float32
    assert checked.image.get_filename() == str(path)
    np.testing.assert_array_equal(
        checked.image.get_fdata(), nib.load(path).get_fdata(dtype=np.float32)
    )
    np.testing.assert_allclose(checked.image.affine, OBLIQUE, atol=1e-6)


def test_scaling_big_endian_and_nifti2(tmp_path: Path) -> None:
    scaled = nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    scaled.header.set_slope_inter(0.5, -3)
    scaled.to_filename(tmp_path / "s.nii.gz")
    truth = nib.load(tmp_path / "s.nii.gz").get_fdata()
    np.testing.assert_allclose(load_checked(tmp_path / "s.nii.gz").image.get_fdata(), truth)

    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.float32)
    nib.Nifti1Image(DATA, OBLIQUE, header).to_filename(tmp_path / "b.nii")
    assert (tmp_path / "b.nii").read_bytes()[:4] == struct.pack(">i", 348)
    np.testing.assert_array_equal(load_checked(tmp_path / "b.nii").image.get_fdata(), DATA)

    nib.Nifti2Image(DATA, OBLIQUE).to_filename(tmp_path / "n2.nii.gz")
    np.testing.assert_array_equal(load_checked(tmp_path / "n2.nii.gz").image.get_fdata(), DATA)


def test_missing_unreadable_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such file" in complaint(tmp_path / "none.nii.gz", MissingInputError)
    (tmp_path / "folder.nii.gz").mkdir()
    complaint(tmp_path / "folder.nii.gz", MissingInputError)
    (tmp_path / "empty.nii.gz").touch()
    assert "empty" in complaint(tmp_path / "empty.nii.gz", MissingInputError)
    link = tmp_path / "annexed.nii.gz"
    link.symlink_to(".git/annex/objects/xx/MD5E-s1--abc.nii.gz")
    assert f"run: datalad get {link}" in complaint(link, MissingInputError)
    pointer = tmp_path / "pointer.nii.gz"
    pointer.write_text("/annex/objects/MD5E-s1--abc.nii.gz\n")
    assert f"run: datalad get {pointer}" in complaint(pointer, MissingInputError)
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in complaint(pointer, MissingInputError)

    locked = write(tmp_path / "locked.nii.gz")
    original = Path.open

    def refuse(self: Path, *args: object, **kwargs: object) -> object:
        if self == locked:
            raise PermissionError(13, "Permission denied")
        return original(self, *args, **kwargs)  # type: ignore[call-overload]

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
    assert "damaged" in complaint(path, BadDataError)


def test_a_fourth_axis_of_length_0_is_one_volume(tmp_path: Path) -> None:
    path = patched(write(tmp_path / "d.nii"), 40, "8h", 4, *DATA.shape, 0, 0, 0, 0)
    np.testing.assert_array_equal(load_checked(path).image.get_fdata(), DATA)
    one = load_checked(write(tmp_path / "one.nii.gz", DATA[..., None])).image
    np.testing.assert_array_equal(one.get_fdata(), DATA)
    more = write(tmp_path / "more.nii.gz", np.stack([DATA, DATA], -1))
    assert "2 volumes" in complaint(more, BadDataError)


def test_truncated_and_damaged_content(tmp_path: Path) -> None:
    plain = write(tmp_path / "cut.nii")
    plain.write_bytes(plain.read_bytes()[:-10])
    assert "truncated" in complaint(plain, BadDataError)
    packed = tmp_path / "short.nii.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert "truncated" in complaint(packed, BadDataError)
    raw = packed.read_bytes()
    for share in (0.001, 0.5, 0.999):
        packed.write_bytes(raw[: max(2, int(share * len(raw)))])
        assert "truncated" in complaint(packed, BadDataError)
    flipped = write(tmp_path / "flipped.nii.gz")
    raw = bytearray(flipped.read_bytes())
    raw[-6] ^= 0xFF  # in the checksum
    flipped.write_bytes(raw)
    assert "damaged" in complaint(flipped, BadDataError)


@pytest.mark.parametrize("content", [b"hi", b"this is text, not an image\n" * 50, b"\x00" * 4000])
@pytest.mark.parametrize("packed", [False, True])
def test_text_named_nifti(tmp_path: Path, content: bytes, packed: bool) -> None:
    path = tmp_path / "text.nii.gz"
    path.write_bytes(gzip.compress(content) if packed else content)
    complaint(path, BadDataError)
    plain = tmp_path / "text.nii"
    plain.write_bytes(gzip.compress(content) if packed else content)
    complaint(plain, BadDataError)
    nib.MGHImage(DATA, OBLIQUE).to_filename(tmp_path / "a.mgz")
    assert "convert" in complaint(tmp_path / "a.mgz", BadDataError)


@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "NaN"), (-np.inf, "infinite"), (1e300, "infinite")]
)
def test_non_finite_voxels(tmp_path: Path, value: float, said: str) -> None:
    data = DATA.astype(np.float64)
    data[1, 2, 3] = value
    message = complaint(write(tmp_path / "n.nii.gz", data), BadDataError)
    assert said in message
    assert "has 1 " in message


def test_constant_images(tmp_path: Path) -> None:
    assert "all zero" in complaint(write(tmp_path / "z.nii", 0 * DATA), BadDataError)
    assert "(5)" in complaint(write(tmp_path / "c.nii", 0 * DATA + 5), BadDataError)


@pytest.mark.parametrize("shape", [(40, 40), (40, 40, 1), (1, 40, 40), (40,), (40, 40, 1, 30)])
def test_no_volume(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write(tmp_path / "flat.nii.gz", RNG.uniform(0, 1, shape).astype(np.float32))
    message = complaint(path, BadDataError)
    assert "3-D" in message


@pytest.mark.parametrize("value", [0.0, -1000.0, np.nan, 1000.0, 1e-6])
def test_spacing(tmp_path: Path, value: float) -> None:
    path = patched(write(tmp_path / "s.nii"), 76 + 4 * 2, "f", value)
    assert "voxel size" in complaint(path, BadDataError)


@pytest.mark.parametrize(
    ("kind", "said"),
    [(np.complex64, "complex"), ([("R", "u1"), ("G", "u1"), ("B", "u1")], "colour")],
)
def test_unusable_types(tmp_path: Path, kind: object, said: str) -> None:
    path = write(tmp_path / "t.nii.gz", np.ones((8, 8, 8), kind))  # type: ignore[call-overload]
    assert said in complaint(path, BadDataError)


@pytest.mark.parametrize("dims", [(3, 32767, 32767, 32767), (4, 4000, 4000, 4000, 2)])
def test_gigantic_headers_are_refused_before_allocation(
    tmp_path: Path, dims: tuple[int, ...]
) -> None:
    import tracemalloc

    path = patched(write(tmp_path / "g.nii"), 40, f"{len(dims)}h", *dims)
    tracemalloc.start()
    assert "header claims" in complaint(path, BadDataError)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize("dims", [(0, 1, 1, 1), (3, -4, 4, 4), (9, 4, 4, 4), (3, 0, 4, 4)])
def test_impossible_dimensions(tmp_path: Path, dims: tuple[int, ...]) -> None:
    complaint(patched(write(tmp_path / "d.nii"), 40, f"{len(dims)}h", *dims), BadDataError)
    for offset in (-8.0, 1e20, np.nan):
        complaint(patched(write(tmp_path / "o.nii"), 108, "f", offset), BadDataError)


def test_gzip_bomb_is_bounded_by_the_header(tmp_path: Path) -> None:
    import tracemalloc

    plain = write(tmp_path / "a.nii").read_bytes()
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = tmp_path / "bomb.nii.gz"
    with bomb.open("wb") as file:
        file.write(packer.compress(plain))
        for _ in range(256):
            file.write(packer.compress(bytes(2**20)))
        file.write(packer.flush())
    tracemalloc.start()
    np.testing.assert_array_equal(load_checked(bomb).image.get_fdata(), DATA)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
