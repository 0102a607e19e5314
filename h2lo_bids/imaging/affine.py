"""Which of a NIfTI header's transforms says where the voxels are.

The rules are those of nibabel and fMRIPrep: a coded sform first, then a coded
qform, then the voxel size alone. A sform that no scanner could have made (sheared
or singular) gives way to a sound qform. Where a header breaks the standard by
little, it is read as NIfTI's own library does, and with it FSL and ITK: a negative
``qfac`` of any size is -1 and any other 1, a quaternion longer than 1 is divided by
its length, and (as in MRtrix and nibabel) a voxel size counts without its sign.
"""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.errors import BadDataError

SHEAR_LIMIT = 0.01
"""Largest cosine between two voxel axes: half a degree of shear."""
SPACING_RANGE = (0.05, 30.0)
"""Voxel sizes in mm between which a head scan lies."""
FARTHEST = 1e6
"""Distance in mm from the origin, a kilometre, that no scanner writes; far more is no float32."""
LONGEST_QUATERNION = 1e-3
"""Excess over length 1 that rounding explains; beyond it there is a warning."""
_ALIGNED = 2
_ZOOM_TOLERANCE = 0.01
_DISAGREEMENT_MM = 1.0


def choose_affine(name: str, header: Any) -> tuple[np.ndarray, int, tuple[str, ...]]:
    """Return the voxel-to-world transform that a header stands for."""
    signs = _check_spacing(name, header)
    affine, code, warnings = _choose(name, header)
    return affine, code, (*signs, *warnings)


def _choose(name: str, header: Any) -> tuple[np.ndarray, int, tuple[str, ...]]:
    sform, qform = _coded(header, "sform"), _coded(header, "qform")
    if sform is None and qform is None:
        text = "left and right are assumed (first axis to the left), check them"
        warning = f"{name}: its header has neither sform nor qform; {text}"
        return header.get_base_affine(), 1, (warning,)
    if sform is not None and (fault := _fault(sform)):
        if qform is None or _fault(qform):
            raise BadDataError(f"{name}: its sform is {fault}; reslice it or restore its header")
        warning = f"{name}: its sform is {fault}, so its qform is used"
        return qform, _known(header["qform_code"]), (warning, *_excess(name, header))
    if sform is None:
        assert qform is not None
        if fault := _fault(qform):
            raise BadDataError(f"{name}: its qform is {fault}; restore its header")
        return qform, _known(header["qform_code"]), _excess(name, header)
    return sform, _known(header["sform_code"]), _agreement(name, header, sform, qform)


def _known(code: int) -> int:
    """Read a code that no version of NIfTI knows as "aligned to something"."""
    return int(code) if int(code) in nib.nifti1.xform_codes.value_set("code") else _ALIGNED


def _check_spacing(name: str, header: Any) -> tuple[str, ...]:
    """Refuse voxel sizes that are none of a head's; take the sign off negative ones."""
    spacing = np.asarray(header["pixdim"][1:4], dtype=float)
    shown = " x ".join(f"{s:g}" for s in spacing)
    if not np.all(np.abs(spacing) > 0):
        raise BadDataError(f"{name}: voxel size {shown} is not positive; restore its header")
    low, high = SPACING_RANGE
    if not np.all((np.abs(spacing) >= low) & (np.abs(spacing) <= high)):
        raise BadDataError(f"{name}: voxel size {shown} mm is not that of a head; check its units")
    header["pixdim"][1:4] = np.abs(spacing)
    return () if np.all(spacing > 0) else (f"{name}: voxel size {shown} is read without its sign",)


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


def _excess(name: str, header: Any) -> tuple[str, ...]:
    """Warn of a quaternion that is longer than rounding makes it."""
    length = _quaternion(header)[1]
    if length <= 1 + LONGEST_QUATERNION:
        return ()
    text = f"its qform's quaternion has length {length:.3g}, not 1; it is read as FSL and ITK do"
    return (f"{name}: {text}, check left and right",)


def _fault(affine: np.ndarray) -> str:
    """Name what keeps an affine from being a rotation with a voxel size, if anything."""
    linear = affine[:3, :3]
    if not np.all(np.isfinite(affine)):
        return "not finite"
    if np.abs(affine[:3, 3]).max() > FARTHEST:
        return "of an impossible position"
    zooms = np.linalg.norm(linear, axis=0)
    low, high = SPACING_RANGE
    if not np.all((zooms >= low) & (zooms <= high)):
        return "singular or of an impossible voxel size"
    cosines = (linear / zooms).T @ (linear / zooms)
    if np.abs(cosines - np.eye(3)).max() > SHEAR_LIMIT:
        return "sheared"
    return ""


def _agreement(
    name: str, header: Any, sform: np.ndarray, qform: np.ndarray | None
) -> tuple[str, ...]:
    """Warn where the header contradicts itself; the sform stands."""
    warnings = []
    zooms = np.linalg.norm(sform[:3, :3], axis=0)
    spacing = np.asarray(header["pixdim"][1:4], dtype=float)
    if np.any(np.abs(zooms / spacing - 1) > _ZOOM_TOLERANCE):
        warnings.append(f"{name}: its sform and its voxel size disagree; the sform is used")
    if qform is not None and not _fault(qform):
        ends = np.asarray(header["dim"][1:4], dtype=float) - 1
        corners = np.array(np.meshgrid(*[(0, n) for n in ends])).reshape(3, -1)
        moved = (sform - qform)[:3, :3] @ corners + (sform - qform)[:3, 3:]
        if np.linalg.norm(moved, axis=0).max() > _DISAGREEMENT_MM:
            warnings.append(f"{name}: its sform and its qform disagree; the sform is used")
    return tuple(warnings)
