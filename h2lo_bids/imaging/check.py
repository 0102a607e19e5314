"""Loading a head scan, or saying in one line why it cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import nibabel as nib
import numpy as np

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.affine import choose_affine
from h2lo_bids.imaging.reading import check_present, read_nifti

MIN_SIDE = 4
"""Fewer voxels along a side make no volume."""


@dataclass(frozen=True)
class Checked:
    """A scan that is fit for processing.

    Parameters
    ----------
    image
        3-D, float32, finite, with a rigid affine and positive spacing; it
        remembers its file (``image.get_filename()``).
    warnings
        One line each, naming the file.
    """

    image: nib.Nifti1Image
    warnings: tuple[str, ...] = ()


def load_checked(path: str | PathLike[str]) -> Checked:
    """Load a 3-D image and check all that later steps rely on.

    Parameters
    ----------
    path
        A ``.nii`` or ``.nii.gz`` file. Four dimensions with one volume are
        accepted and squeezed.

    Returns
    -------
    Checked
        The image and what was noticed.

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
    check_present(file)
    header, data, noticed = read_nifti(file)
    data = _three_dimensional(file, data)
    affine, code, warnings = choose_affine(str(file), header)
    _check_values(file, data)
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    image.header.set_xyzt_units("mm")
    image.set_filename(str(file))
    return Checked(image, (*noticed, *warnings))


def _three_dimensional(file: Path, data: np.ndarray) -> np.ndarray:
    """Drop trailing axes of one; refuse what is then not a volume."""
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim > 3:
        volumes = int(np.prod(data.shape[3:]))
        raise BadDataError(f"{file}: has {volumes} volumes; keep one 3-D image")
    if data.ndim < 3 or min(data.shape) < MIN_SIDE:
        sides = " x ".join(str(n) for n in data.shape)
        raise BadDataError(f"{file}: has {sides} voxels, not a 3-D volume; give the whole scan")
    return np.ascontiguousarray(data)


def _check_values(file: Path, data: np.ndarray) -> None:
    """Refuse values from which nothing can be made."""
    low, high = float(data.min()), float(data.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int(np.count_nonzero(~np.isfinite(data)))
        raise BadDataError(
            f"{file}: has {count} NaN or infinite voxels; export it again or set them to 0"
        )
    if low == high:
        what = "is all zero" if low == 0 else f"has the same value ({low:g}) everywhere"
        raise BadDataError(f"{file}: {what}; check how it was exported")
