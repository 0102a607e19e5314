"""Which of a NIfTI header's transforms says where the voxels are.

The rules are those of nibabel and fMRIPrep: a coded sform first, then a coded
qform, then the voxel size alone. A sform that no scanner could have made (sheared
or singular) gives way to a sound qform.
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
_ALIGNED = 2
_ZOOM_TOLERANCE = 0.01
_DISAGREEMENT_MM = 1.0


def choose_affine(name: str, header: Any) -> tuple[np.ndarray, int, tuple[str, ...]]:
    """Return the voxel-to-world transform that a header stands for.

    Parameters
    ----------
    name
        The file, for messages.
    header
        A NIfTI header as written.

    Returns
    -------
    affine : numpy.ndarray
        float64, (4, 4), to RAS mm.
    code : int
        The NIfTI code of the space; 1 when none is given.
    warnings : tuple of str
        One line each, naming the file.

    Raises
    ------
    BadDataError
        If the spacing is not positive, or no coded transform is rigid.
    """
    _check_spacing(name, header)
    sform, qform = _coded(header, "sform"), _coded(header, "qform")
    if sform is None and qform is None:
        return (
            header.get_base_affine(),
            1,
            (
                f"{name}: its header has neither sform nor qform; left and right are assumed"
                " (first axis to the left), check them",
            ),
        )
    if sform is not None and (fault := _fault(sform)):
        if qform is None or _fault(qform):
            raise BadDataError(f"{name}: its sform is {fault}; reslice it or restore its header")
        warning = f"{name}: its sform is {fault}, so its qform is used"
        return qform, _known(header["qform_code"]), (warning,)
    if sform is None:
        assert qform is not None
        if fault := _fault(qform):
            raise BadDataError(f"{name}: its qform is {fault}; restore its header")
        return qform, _known(header["qform_code"]), ()
    return sform, _known(header["sform_code"]), _agreement(name, header, sform, qform)


def _known(code: int) -> int:
    """Read a code that no version of NIfTI knows as "aligned to something"."""
    return int(code) if int(code) in nib.nifti1.xform_codes.value_set("code") else _ALIGNED


def _check_spacing(name: str, header: Any) -> None:
    """Refuse voxel sizes that are not positive or not those of a head."""
    spacing = np.asarray(header["pixdim"][1:4], dtype=float)
    shown = " x ".join(f"{s:g}" for s in spacing)
    if not np.all(spacing > 0):
        raise BadDataError(f"{name}: voxel size {shown} is not positive; restore its header")
    if not np.all((spacing >= SPACING_RANGE[0]) & (spacing <= SPACING_RANGE[1])):
        raise BadDataError(f"{name}: voxel size {shown} mm is not that of a head; check its units")


def _coded(header: Any, which: str) -> np.ndarray | None:
    """Return a transform that has a code, or nothing."""
    if int(header[f"{which}_code"]) <= 0:
        return None
    if which == "qform" and header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1  # the standard reads 0 as 1; nibabel's reader is stricter
    try:
        return np.asarray(getattr(header, f"get_{which}")(), dtype=float)
    except (ValueError, nib.spatialimages.HeaderDataError):  # a qform of no rotation
        return np.full((4, 4), np.nan)


def _fault(affine: np.ndarray) -> str:
    """Say what keeps an affine from being a rotation with a voxel size, if anything."""
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
