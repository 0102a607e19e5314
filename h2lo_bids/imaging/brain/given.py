"""Masks that come from elsewhere: a file, or the other scan of a session."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.brain.result import BrainMask, make_result
from h2lo_bids.imaging.naming import name_of
from h2lo_bids.imaging.resample import resample_mask, spacing_of

SHARE_DICE = 0.90
SHARE_DISTANCE_MM = 4.0
_GRID_TOLERANCE_MM = 0.1


def use_given_mask(mask: Any, image: Any) -> BrainMask:
    """Use a precomputed mask, resampled where its grid is not the scan's.

    Parameters
    ----------
    mask
        nibabel image; every voxel above 0 is brain.
    image
        The scan.

    Returns
    -------
    BrainMask
        Method ``"given"``, with a note where the mask was resampled.

    Raises
    ------
    BadDataError
        If the mask is empty, or does not cover any of the scan.
    """
    name, label = name_of(mask), name_of(image)
    if not np.any(np.asarray(mask.dataobj) > 0):
        raise BadDataError(f"{name}: this brain mask is empty; give another one")
    if _same_grid(mask, image):
        return make_result(np.asarray(mask.dataobj) > 0, image, "given", label)
    moved = _on_grid_of(image, mask)
    if not moved.any():
        raise BadDataError(
            f"{name}: this brain mask lies outside {label}; check which scan it is of"
        )
    note = f"{name}: this brain mask was resampled to the grid of {label}"
    return make_result(moved, image, "given", label, (note,))


def share_mask(own: BrainMask, donor: BrainMask, image: Any) -> BrainMask:
    """Use the mask of a session's T1w for its T2w where the head did not move.

    The extraction networks know T1w best, and both contrasts then keep the same
    tissue. The donor's mask is taken when, on the scan's grid, both masks have
    a Dice overlap of at least 0.90 and their centres lie within 4 mm: then their
    differences are those of contrast, not of position. Otherwise the scan
    keeps its own mask.

    Parameters
    ----------
    own
        The scan's own mask.
    donor
        The mask of the session's other scan, on that scan's grid.
    image
        The scan.

    Returns
    -------
    BrainMask
        Method ``"shared"``, or `own`.
    """
    moved = _on_grid_of(image, donor.image)
    mine = np.asarray(own.image.dataobj) > 0
    if not moved.any() or not mine.any():
        return own
    dice = 2 * np.count_nonzero(moved & mine) / (moved.sum() + mine.sum())
    offset = (np.argwhere(moved).mean(0) - np.argwhere(mine).mean(0)) * spacing_of(image.affine)
    if dice < SHARE_DICE or np.linalg.norm(offset) > SHARE_DISTANCE_MM:
        return own
    note = (
        f"{name_of(image)}: uses the brain mask of the session's other contrast (Dice {dice:.3f})"
    )
    return make_result(moved, image, "shared", name_of(image), (note,))


def _on_grid_of(image: Any, mask: Any) -> np.ndarray:
    return np.asarray(resample_mask(mask, image.shape, image.affine).dataobj) > 0


def _same_grid(a: Any, b: Any) -> bool:
    """Tell whether two images have the same voxels, to a tenth of a millimetre."""
    if a.shape != b.shape:
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in a.shape])).reshape(3, -1).T
    apart = nib.affines.apply_affine(a.affine, corners) - nib.affines.apply_affine(
        b.affine, corners
    )
    return bool(np.abs(apart).max() < _GRID_TOLERANCE_MM)
