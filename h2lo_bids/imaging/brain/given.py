"""Masks that come from elsewhere: a file, or the other scan of a session."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.brain.extract import BrainMask, make_result
from h2lo_bids.imaging.masks import dice
from h2lo_bids.imaging.reading import name_of
from h2lo_bids.imaging.resample import block_means, placed, resample_mask, spacing_of

SHARE_DICE = 0.90
SHARE_DISTANCE_MM = 4.0
MASK_RANGE_ML = (50.0, 3000.0)
"""Volumes that a given mask may have: from a slab or an unborn child to a large hydrocephalus."""
MIN_IN_HEAD = 0.75
"""Share of a given mask that must not lie in the background: 0.95 on real and simulated heads."""
EXPECTED_DICE = 0.8
"""Overlap with the brain that extraction finds, below which a given mask is doubtful."""
MIN_DICE = 0.5
"""Below it the mask is refused, if what extraction finds has a brain's shape."""
_GRID_TOLERANCE_MM = 0.1
_BLOCK_MM = 4.0


def use_given_mask(mask: Any, image: Any) -> BrainMask:
    """Use a precomputed mask, resampled where its grid is not the scan's.

    Every voxel above 0.5 is brain; where the values are fractions of a larger one (100 per
    cent, say), above half of the largest. A mask that was cut or resampled has a note.

    Raises
    ------
    BadDataError
        If the mask is empty, inverted, larger or smaller than any brain, or lies outside
        the scan or in its background.
    """
    name, label = name_of(mask), name_of(image)
    inside, cut = _binary(mask)
    notes = [f"{name}: this brain mask {_SOFT}; it is cut at {cut:g}"] if cut is not None else []
    if not inside.any():
        raise BadDataError(f"{name}: this brain mask is empty (nothing above 0.5); {_REMEDY}")
    if not _same_grid(mask, image):
        inside = _on_grid_of(image, placed(inside.astype(np.uint8), mask.affine, mask))
        notes.append(f"{name}: this brain mask was resampled to the grid of {label}")
    if fault := _fault(inside, image):
        soft = "" if cut is None else f"{_SOFT}, and cut at {cut:g} it "
        raise BadDataError(f"{name}: this brain mask {soft}{fault}; {_REMEDY}")
    return make_result(inside, image, "given", name, tuple(notes))


_REMEDY = "check which scan it is of, and give another one, or none and it is computed"
_SOFT = "has values between 0 and 1"


def _binary(mask: Any) -> tuple[np.ndarray, float | None]:
    """Cut a mask's values, and return where, if they are more than two."""
    values = np.asarray(mask.dataobj, dtype=np.float32)
    between = np.abs(values - np.rint(values)) > 0.01
    if not between.any():
        return values > 0.5, None
    largest = float(values.max())
    limit = 0.5 if largest < 2 else largest / 2  # splines overshoot 1
    return values > limit, limit


def _fault(inside: np.ndarray, image: Any) -> str:
    """Name what keeps a mask from being that of the scan's brain, if anything."""
    label = name_of(image)
    if not inside.any():
        return f"lies outside {label}"
    if inside[np.ix_(*[(0, -1)] * 3)].mean() > 0.5:
        return f"is inverted, or not one: it holds the corners of {label}"
    volume = inside.sum() * abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000
    low, high = MASK_RANGE_ML
    if not low <= volume <= high:
        return f"takes {volume:.0f} ml of {label}, unlike any brain ({low:g} to {high:g} ml)"
    share = _share_in_head(inside, image)
    if share < MIN_IN_HEAD:
        return f"lies by {100 * (1 - share):.0f} % in the background of {label}"
    return ""


def _share_in_head(inside: np.ndarray, image: Any) -> float:
    """Return how much of a mask is brighter than an eighth of what is bright in the scan."""
    step = np.maximum(1, _BLOCK_MM // spacing_of(image.affine)).astype(int)
    data = block_means(np.asarray(image.dataobj, dtype=np.float32), step)
    low, high = np.percentile(data, (1, 99.5))
    data = np.clip(data, low, high) - low
    bright = data[data > data.mean()]
    counted = block_means(inside.astype(np.float32), step) > 0.5
    if not bright.size or not counted.any():
        return 1.0
    return float(np.mean(data[counted] > bright.mean() / 8))


def compare_masks(given: BrainMask, found: BrainMask, name: str, image: Any) -> BrainMask:
    """Note on a given mask that it differs from what extraction finds, or refuse it.

    It is refused if it lies mostly elsewhere, and extraction found what has the shape of a
    brain. `name` is the mask's file, `image` the scan.
    """
    from h2lo_bids.imaging.orientation import MIN_FIT, orientation_fits

    mine, other = (np.asarray(mask.image.dataobj) > 0 for mask in (given, found))
    overlap = dice(mine, other)
    if overlap >= EXPECTED_DICE:
        return given
    text = (
        f"{name}: this brain mask and the brain that {found.method} finds in {name_of(image)} "
        f"overlap by a Dice of {overlap:.2f} only"
    )
    if overlap < MIN_DICE and max(orientation_fits(image, found.image).values()) >= MIN_FIT:
        raise BadDataError(f"{text}; {_REMEDY}")
    return replace(given, notes=(*given.notes, f"{text}; check that it is of this scan"))


def share_mask(own: BrainMask, donor: BrainMask, image: Any) -> BrainMask:
    """Use the mask of a session's T1w for its T2w where the head did not move.

    The extraction networks know T1w best, and both contrasts then keep the same
    tissue. The donor's mask is taken when, on the scan's grid, both masks have
    a Dice overlap of at least 0.90 and their centres lie within 4 mm: then their
    differences are those of contrast, not of position. Otherwise the scan
    keeps its own mask.
    """
    moved = _on_grid_of(image, donor.image)
    mine = np.asarray(own.image.dataobj) > 0
    if not moved.any() or not mine.any():
        return own
    overlap = dice(moved, mine)
    offset = (np.argwhere(moved).mean(0) - np.argwhere(mine).mean(0)) * spacing_of(image.affine)
    if overlap < SHARE_DICE or np.linalg.norm(offset) > SHARE_DISTANCE_MM:
        return own
    name, text = name_of(image), "uses the brain mask of the session's other contrast"
    return make_result(moved, image, "shared", name, (f"{name}: {text} (Dice {overlap:.3f})",))


def _on_grid_of(image: Any, mask: Any) -> np.ndarray:
    return np.asarray(resample_mask(mask, image.shape, image.affine).dataobj) > 0


def _same_grid(a: Any, b: Any) -> bool:
    """Check that two images have the same voxels, to a tenth of a millimetre."""
    if a.shape != b.shape:
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in a.shape])).reshape(3, -1).T
    apart = nib.affines.apply_affine(a.affine, corners) - nib.affines.apply_affine(
        b.affine, corners
    )
    return bool(np.abs(apart).max() < _GRID_TOLERANCE_MM)
