"""Finding how a low-field scan lies in the world of its high-field partner."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.brain.extract import VOLUME_RANGE_ML
from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.imaging.reading import name_of
from h2lo_bids.imaging.registration import points_before, register
from h2lo_bids.imaging.resample import placed, resample, resample_mask, spacing_of

FIXED_MM = 1.5
"""Voxels of the high-field brain during registration, unless the scan's are coarser.

On phantoms as exact as 1 mm (0.36 and 0.37 mm mean error over the brain), at a seventh of the
time: the low-field scan has nothing finer to say.
"""
MARGIN_MM = 6.0
"""Kept around the high-field brain, so that its edge takes part."""
VOLUME_RATIO = (0.6, 1.5)
"""Low- to high-field brain volume between which the low-field mask is believed."""

MIN_OVERLAP = 0.5
"""Share of the smaller brain below which two scans are not on each other at all."""


@dataclass(frozen=True)
class Alignment:
    """A rigid motion between two scanners' worlds.

    Parameters
    ----------
    matrix
        (4, 4): RAS mm of the high-field scan to RAS mm of the low-field one.
    by
        What was registered: ``"brain"`` or ``"head"``.
    notes
        One line each: what a user should look at.
    """

    matrix: np.ndarray
    by: str = "brain"
    notes: tuple[str, ...] = ()


def align(
    low: Any,
    low_mask: Any,
    high: Any,
    high_mask: Any,
    folder: str | os.PathLike[str],
    *,
    seed: int,
) -> Alignment:
    """Register a low-field scan rigidly to a high-field one of the same person.

    Brains are registered by mutual information, from where their centres of
    mass coincide. Where the low-field mask has a volume that this brain cannot
    have, heads are registered instead. Uses one ITK thread, as the seed counts
    on no more; run one registration per process.

    Parameters
    ----------
    low, low_mask
        nibabel images: the scan and its brain mask, on one grid.
    high, high_mask
        The same of the high-field scan.
    folder
        Existing folder for ANTs' files.
    seed
        Makes the result the same each time.

    Returns
    -------
    Alignment
        With a note if heads were registered.

    Raises
    ------
    BadDataError
        If ANTs cannot align the images.
    """
    notes: tuple[str, ...] = ()
    by = "brain" if _plausible(low_mask, high_mask) else "head"
    if by == "brain":
        fixed, moving = _fixed(_masked(high, high_mask), high_mask), _masked(low, low_mask)
    else:
        fixed, moving = _fixed(high, None), low
        notes = (f"{name_of(low)}: registered by the head, as its brain mask is doubtful",)
    moving.set_filename(name_of(low))
    fixed.set_filename(name_of(high))
    found = register(moving, fixed, folder, transform="rigid", seed=seed, threads=1)
    return Alignment(rigid_matrix(found.forward), by, notes)


def check_overlap(low_mask: Any, high_mask: Any, name: str, high_name: str) -> None:
    """Make sure that a scan which is said to be registered lies on its partner at all."""
    mine = np.asarray(low_mask.dataobj) > 0
    there = np.asarray(resample_mask(high_mask, mine.shape, low_mask.affine).dataobj) > 0
    sizes = [_volume(mask) for mask in (low_mask, high_mask)]
    voxel = _volume(low_mask) / max(1, mine.sum())
    share = np.count_nonzero(mine & there) * voxel / max(min(sizes), 1e-6)
    if share < MIN_OVERLAP:
        raise BadDataError(
            f"{name}: was given as registered to {high_name}, but {share:.0%} of its brain lies "
            "there; check whose scan it is, or leave its dataset out and take the raw scans"
        )


def rigid_matrix(transform: str | os.PathLike[str]) -> np.ndarray:
    """Return the matrix of a transform that `register` found, (4, 4), RAS mm."""
    reach = 100.0
    points = np.vstack([np.zeros(3), reach * np.eye(3)])
    moved = points_before(points, transform)
    return nib.affines.from_matvec((moved[1:] - moved[0]).T / reach, moved[0])


def motion_of(matrix: np.ndarray, centre: np.ndarray) -> tuple[float, float]:
    """Return how far a rigid motion moves a point, in mm, and how far it turns, in degrees."""
    shift = np.linalg.norm(apply_affine(matrix, centre) - centre)
    cosine = (np.trace(matrix[:3, :3]) - 1) / 2
    return float(shift), float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _plausible(low_mask: Any, high_mask: Any) -> bool:
    """Tell whether the low-field mask can be of the brain that the high-field mask shows."""
    low, high = _volume(low_mask), _volume(high_mask)
    least, most = VOLUME_RANGE_ML
    return least <= low <= most and VOLUME_RATIO[0] <= low / max(high, 1e-6) <= VOLUME_RATIO[1]


def _volume(mask: Any) -> float:
    voxel = abs(float(np.linalg.det(mask.affine[:3, :3])))
    return float(np.count_nonzero(np.asarray(mask.dataobj) > 0)) * voxel / 1000


def _masked(image: Any, mask: Any) -> nib.Nifti1Image:
    inside = np.asarray(mask.dataobj) > 0
    return placed(
        np.where(inside, np.asarray(image.dataobj, dtype=np.float32), 0), image.affine, image
    )


def _fixed(image: Any, mask: Any) -> nib.Nifti1Image:
    """Cut an image to its brain and thin its voxels to what registration needs."""
    spacing = spacing_of(image.affine)
    first, last = np.zeros(3), np.asarray(image.shape) - 1.0
    if mask is not None:
        box = bounding_box(np.asarray(mask.dataobj) > 0)
        first = np.array([ends.start for ends in box]) - MARGIN_MM / spacing
        last = np.array([ends.stop - 1 for ends in box]) + MARGIN_MM / spacing
    step = np.maximum(1.0, FIXED_MM / spacing)
    shape = np.ceil((last - first) / step).astype(int) + 1
    affine = image.affine @ nib.affines.from_matvec(np.diag(step), first)
    return resample(image, tuple(int(n) for n in shape), affine)
