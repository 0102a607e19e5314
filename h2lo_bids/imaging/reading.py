"""Loading a head scan, or saying in one line why it cannot be used.

Nothing is allocated before the header has been judged, and never more than the
header asks for is decompressed, so that neither a corrupt header nor a gzip bomb
can exhaust the memory.

Which transform says where the voxels are follows nibabel and fMRIPrep: a coded sform first,
then a coded qform, then the voxel size alone. A sform that no scanner could have made (sheared
or singular) gives way to a sound qform. Where a header breaks the standard by
little, it is read as NIfTI's own library does, and with it FSL and ITK: a negative
``qfac`` of any size is -1 and any other 1, a quaternion longer than 1 is divided by
its length, and (as in MRtrix and nibabel) a voxel size counts without its sign.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.io import check_content

MIN_SIDE = 4
"""Fewer voxels along a side make no volume."""
MAX_VOXELS = 2**28
"""645 voxels along each side: beyond any head scan, 1 GB in float32."""
MAX_OFFSET = 2**26
"""Bytes that header extensions may take before the voxels."""
MAX_RATIO = 1032
"""Bytes that one byte of gzip can stand for at most (two bits for a match of 258 bytes)."""

SHEAR_LIMIT = 0.01
"""Largest cosine between two voxel axes: half a degree of shear."""
SPACING_RANGE = (0.05, 30.0)
"""Voxel sizes in mm between which a head scan lies."""
FARTHEST = 1e6
"""Distance in mm from the origin, a kilometre, that no scanner writes; far more is no float32."""
LONGEST_QUATERNION = 1e-3
"""Excess over length 1 that rounding explains; beyond it there is a warning."""
_IN_MM = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}  # by NIfTI's code of the unit
_ALIGNED = 2
_ZOOM_TOLERANCE = 0.01
_DISAGREEMENT_MM = 1.0
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Checked:
    """A scan that is fit for processing."""

    # 3-D, float32, finite, with a rigid affine and positive spacing; it knows its file's name.
    image: nib.Nifti1Image
    warnings: tuple[str, ...] = ()  # one line each, naming the file


def load_checked(path: str | PathLike[str]) -> Checked:
    """Load a 3-D image and check all that later steps rely on.

    Parameters
    ----------
    path
        A ``.nii`` or ``.nii.gz`` file. Four dimensions with one volume are
        accepted and squeezed.

    Raises
    ------
    MissingInputError
        If the file is absent, empty, unreadable, or a dangling link.
    BadDataError
        If its content cannot be used: truncated, not NIfTI, not 3-D, not
        finite, constant, without voxel size, or with a sheared transform.
    """
    file = Path(path)
    if not file.name.endswith((".nii", ".nii.gz")):
        raise BadDataError(f"{file}: is not .nii or .nii.gz; convert it to NIfTI")
    check_content(file)
    if not file.stat().st_size:
        raise MissingInputError(f"{file}: is empty (0 bytes); copy or download it again")
    header, data, noticed = _read_nifti(file)
    data = _checked_volume(file, data)
    affine, code, warnings = _choose_affine(str(file), header)
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    image.header.set_xyzt_units("mm")
    image.set_filename(str(file))
    return Checked(image, (*noticed, *warnings))


def check_voxels(data: np.ndarray, affine: Any, name: str, like: Any = None) -> nib.Nifti1Image:
    """Check an image in memory, `like`, as `load_checked` does a file, and return it in float32."""
    if data.dtype.kind not in "biuf":
        raise BadDataError(f"{name}: has {data.dtype} values; give real numbers")
    data = _checked_volume(name, data.astype(np.float32))
    if fault := "missing" if affine is None else _fault(affine):
        raise BadDataError(f"{name}: its affine is {fault}; read it with read_image, or reslice it")
    checked = nib.Nifti1Image(data, affine)
    if isinstance(like, nib.Nifti1Pair):  # no other format says which space it is in
        checked.header["sform_code"] = like.header["sform_code"] or like.header["qform_code"]
    checked.file_map["image"].filename = name  # of any format
    return checked


def _checked_volume(file: Path | str, data: np.ndarray) -> np.ndarray:
    """Drop trailing axes of one; refuse what is then not a volume, or has no usable values."""
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim > 3:
        raise BadDataError(f"{file}: has {math.prod(data.shape[3:])} volumes; keep one 3-D image")
    if data.ndim < 3 or min(data.shape) < MIN_SIDE:
        sides = " x ".join(str(n) for n in data.shape)
        raise BadDataError(f"{file}: has {sides} voxels, not a 3-D volume; give the whole scan")
    low, high = float(data.min()), float(data.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        count = np.count_nonzero(~np.isfinite(data))
        what = f"has {count} NaN or infinite voxels"
        raise BadDataError(f"{file}: {what}; export it again or set them to 0")
    if low == high:
        what = "is all zero" if low == 0 else f"has the same value ({low:g}) everywhere"
        raise BadDataError(f"{file}: {what}; check how it was exported")
    return np.ascontiguousarray(data)


def farthest_apart(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """Return the largest distance in mm between where two affines put a voxel."""
    corners = np.array(np.meshgrid(*[(0, int(n) - 1) for n in shape])).reshape(3, -1)
    moved = (one - other)[:3, :3] @ corners + (one - other)[:3, 3:]
    return float(np.linalg.norm(moved, axis=0).max())


def name_of(image: Any) -> str:
    """Return the file an image was read from, or a stand-in."""
    return str(image.get_filename() or "the image")


def _read_nifti(path: Path) -> tuple[Any, np.ndarray, tuple[str, ...]]:
    """Read a NIfTI-1 or NIfTI-2 file's raw header and its scaled voxels."""
    header = read_header(path)
    length, most = _checked_length(path, header), path.stat().st_size
    most *= MAX_RATIO if path.name.endswith(".gz") else 1
    if most >= length:  # or else no memory is taken
        with _opened(path) as file:
            raw = file.read(length)
            garbage = _garbage_follows(file)
        most = len(raw)
    if most < length:
        raise BadDataError(
            f"{path}: is truncated (at most {most} of {length} bytes); copy or download it again"
        )
    warning = f"{path}: what follows its gzip stream is no image and is ignored; copy it again"
    return header, _voxels(path, header, raw), (warning,) if garbage else ()


def read_header(path: Path) -> Any:
    """Read a NIfTI header alone: no repair, and no extensions, which lie about their size."""
    with _opened(path) as file:
        # No further than needed: the smallest image ends within a NIfTI-2 header's length.
        start = file.read(348)
        size = min(int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))
        start += file.read(540 - 348 if size == 540 else 0)
    kinds, header = {348: nib.Nifti1Header, 540: nib.Nifti2Header}, None
    with suppress(nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError, ValueError):
        header = kinds[size](start, check=False) if size in kinds else None
    if header is None or bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
        raise BadDataError(f"{path}: is not a NIfTI image; convert it, for example with dcm2niix")
    return header


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open plain or compressed, by what the file is; translate what may go wrong."""
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            if is_gzip != path.name.endswith(".gz"):
                wanted = "a gzip file" if not is_gzip else "an uncompressed image"
                raise BadDataError(
                    f"{path}: is not {wanted}, as its name says; export or rename it again"
                )
            opened: Any = gzip.GzipFile(fileobj=file) if is_gzip else file
            with opened:
                yield opened
    except (EOFError, zlib.error, gzip.BadGzipFile) as err:
        raise BadDataError(
            f"{path}: is a truncated or damaged gzip file; copy or download it again"
        ) from err
    except OSError as err:
        raise MissingInputError(f"{path}: cannot be read ({err}); check the disk") from err


def _garbage_follows(file: IO[bytes]) -> bool:
    """Read on by a byte, which makes gzip verify its checksum and look for a further stream."""
    try:
        file.read(1)
    except gzip.BadGzipFile as err:
        if not str(err).startswith("Not a gzipped file"):  # a wrong checksum has another text
            raise
        return True
    return False


def _checked_length(path: Path, header: Any) -> int:
    """Return how many bytes the header claims, after bounding them."""
    # Axes beyond the third may be written with 0, which NIfTI's library reads as 1.
    header["dim"][4:] = np.where(header["dim"][4:] == 0, 1, header["dim"][4:])
    axes, *sides = (int(n) for n in header["dim"])
    if not 1 <= axes <= 7 or min(sides[:axes]) < 1:
        raise BadDataError(f"{path}: its header has impossible dimensions; convert it again")
    voxels = math.prod(sides[:axes])
    if voxels > MAX_VOXELS:
        raise BadDataError(
            f"{path}: its header claims {' x '.join(map(str, sides[:axes]))} voxels, more than the "
            f"{MAX_VOXELS} of the largest head scan; convert it again"
        )
    try:
        kind = header.get_data_dtype()
    except (nib.spatialimages.HeaderDataError, KeyError, ValueError):
        kind = np.dtype("V")
    if kind.kind not in "iuf":
        what = "complex" if kind.kind == "c" else "colour or unknown"
        raise BadDataError(f"{path}: has {what} values; give one magnitude image of real numbers")
    offset = float(header["vox_offset"])
    if not 0 <= offset <= MAX_OFFSET:
        raise BadDataError(f"{path}: its header points outside the file; convert it again")
    header["vox_offset"] = max(offset, header.single_vox_offset)
    return int(header["vox_offset"]) + voxels * kind.itemsize


def _voxels(path: Path, header: Any, raw: bytes) -> np.ndarray:
    """Apply the header's scaling to the stored numbers."""
    shape, offset = header.get_data_shape(), int(header["vox_offset"])
    stored = np.frombuffer(raw, header.get_data_dtype(), int(np.prod(shape)), offset)
    stored = stored.reshape(shape, order="F")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    scaled = slope != 0 and np.isfinite(slope)
    if scaled and not np.isfinite(intercept):
        raise BadDataError(f"{path}: its header has no finite intercept; convert it again")
    data = np.empty(shape, np.float32, order="F")
    with np.errstate(over="ignore", invalid="ignore"):
        for n in range(shape[-1]):  # slice by slice: float64 of all would be twice the image
            part = stored[..., n]
            data[..., n] = part.astype(np.float64) * slope + intercept if scaled else part
    return data


def _choose_affine(name: str, header: Any) -> tuple[np.ndarray, int, list[str]]:
    """Return the voxel-to-world transform that a header stands for, its code, and warnings."""
    warnings = _check_spacing(name, header)
    coded = {which: _coded(header, which) for which in ("sform", "qform")}
    forms = {which: form for which, form in coded.items() if form is not None}
    faults = {which: _fault(form) for which, form in forms.items()}
    if not forms:
        text = "left and right are assumed (first axis to the left), check them"
        warnings.append(f"{name}: its header has neither sform nor qform; {text}")
        return header.get_base_affine(), 1, warnings
    chosen = min(forms, key=lambda which: faults[which] != "")  # the first that is sound
    form, fault = forms[chosen], faults[chosen]
    if fault:
        raise BadDataError(f"{name}: its {chosen} is {fault}; reslice it or restore its header")
    if chosen == "sform":
        ratios = np.linalg.norm(form[:3, :3], axis=0) / header["pixdim"][1:4].astype(float)
        if np.any(np.abs(ratios - 1) > _ZOOM_TOLERANCE):
            warnings.append(f"{name}: its sform and its voxel size disagree; the sform is used")
        other = forms["qform"] if faults.get("qform") == "" else form
        if farthest_apart(form, other, header["dim"][1:4]) > _DISAGREEMENT_MM:
            warnings.append(f"{name}: its sform and its qform disagree; the sform is used")
    elif "sform" in faults:
        warnings.append(f"{name}: its sform is {faults['sform']}, so its qform is used")
    length = _quaternion(header)[1]
    if chosen == "qform" and length > 1 + LONGEST_QUATERNION:
        warnings.append(
            f"{name}: its qform's quaternion has length {length:.3g}, not 1; it is read as FSL "
            "and ITK do, check left and right"
        )
    code = int(header[f"{chosen}_code"])
    known = code in nib.nifti1.xform_codes.value_set("code")  # to some version of NIfTI
    return form, code if known else _ALIGNED, warnings


def _check_spacing(name: str, header: Any) -> list[str]:
    """Refuse voxel sizes that are none of a head's; take the sign off negative ones."""
    unit = to_mm(header)
    warnings = [f"{name}: its lengths are in {unit}, and were converted to mm"] if unit else []
    spacing, sform = np.asarray(header["pixdim"][1:4], dtype=float), _coded(header, "sform")
    shown = " x ".join(f"{s:g}" for s in spacing)
    if not spacing.all() and sform is not None and not _fault(sform):
        warnings.append(f"{name}: voxel size {shown} is impossible; that of its sform is used")
        spacing = np.linalg.norm(sform[:3, :3], axis=0)
    if not _of_a_head(np.abs(spacing)):
        raise BadDataError(
            f"{name}: voxel size {shown} mm is not a head's; convert it again or correct its header"
        )
    header["pixdim"][1:4] = np.abs(spacing)
    if not np.all(spacing > 0):
        warnings.append(f"{name}: voxel size {shown} is read without its sign")
    return warnings


def to_mm(header: Any) -> str:
    """Convert a header's lengths to mm where they are a head's only then; return their unit."""
    # The code alone decides nothing: many programs ignore it, and write a wrong one.
    unit, factor = _IN_MM.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    if not (unit and _of_a_head(np.abs(header["pixdim"][1:4]) * factor)):
        return ""
    header["pixdim"][1:4] *= factor
    for field in ("srow_x", "srow_y", "srow_z", "qoffset_x", "qoffset_y", "qoffset_z"):
        header[field] = header[field] * factor
    return unit


def _of_a_head(sizes: np.ndarray) -> bool:
    return bool(np.all((sizes >= SPACING_RANGE[0]) & (sizes <= SPACING_RANGE[1])))


def _coded(header: Any, which: str) -> np.ndarray | None:
    """Return a transform that has a code, or nothing."""
    if int(header[f"{which}_code"]) <= 0:
        return None
    if which == "sform":
        return np.asarray(header.get_sform(), dtype=float)
    vector, length = _quaternion(header)
    if not np.isfinite(length):
        return np.full((4, 4), np.nan)
    vector /= max(1.0, length)
    whole = np.array([np.sqrt(max(0.0, 1 - vector @ vector)), *vector])
    spacing = np.asarray(header["pixdim"][1:4], dtype=float)
    spacing[2] *= -1 if header["pixdim"][0] < 0 else 1
    origin = [float(header[f"qoffset_{axis}"]) for axis in "xyz"]
    return nib.affines.from_matvec(nib.quaternions.quat2mat(whole) * spacing, origin)


def _quaternion(header: Any) -> tuple[np.ndarray, float]:
    """Return the quaternion's vector part as written, and its length."""
    vector = np.array([float(header[f"quatern_{part}"]) for part in "bcd"])
    return vector, float(np.linalg.norm(vector))


def _fault(affine: Any) -> str:
    """Name what keeps an affine from being a rotation with a voxel size, if anything."""
    linear = affine[:3, :3]
    if not np.all(np.isfinite(affine)):
        return "not finite"
    if np.abs(affine[:3, 3]).max() > FARTHEST:
        return "of an impossible position"
    zooms = np.linalg.norm(linear, axis=0)
    if not _of_a_head(zooms):
        return "singular or of an impossible voxel size"
    cosines = (linear / zooms).T @ (linear / zooms)
    if np.abs(cosines - np.eye(3)).max() > SHEAR_LIMIT:
        return "sheared"
    return ""
