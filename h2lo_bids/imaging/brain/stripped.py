"""Noticing a scan that has no skull any more."""

from __future__ import annotations

from typing import Any

import numpy as np

from h2lo_bids.imaging.brain.clean import largest_component
from h2lo_bids.imaging.resample import spacing_of

MIN_ZERO_SHARE = 0.25
"""A brain fills about half of its own box; a raw scan's background is noise, not 0."""
VOLUME_RANGE_ML = (300.0, 2300.0)
"""An adult's head with a zeroed background has 3 litres or more."""
MAX_CUT_SHARE = 0.15
"""Share of the box's face that may be cut: the brain stem's, not the neck's (a third)."""
_CLOSE_MM = 3.0


def looks_stripped(image: Any) -> bool:
    """Tell whether a scan is a brain on an exactly zero background.

    All three must hold: at least a quarter of the voxels are exactly 0; the
    rest have a brain's volume (0.3 to 2.3 litres); and no border of the array
    cuts the rest over more than 15 % of the face of its bounding box, as a neck
    does in a small head. Defaced heads and heads whose background was zeroed
    fail the second, small ones the third.

    Parameters
    ----------
    image
        nibabel image, 3-D.

    Returns
    -------
    bool
        True for a stripped brain.
    """
    nonzero = np.asarray(image.dataobj) != 0
    if 1 - nonzero.mean() < MIN_ZERO_SHARE or not nonzero.any():
        return False
    volume = nonzero.sum() * abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000
    return (
        VOLUME_RANGE_ML[0] <= volume <= VOLUME_RANGE_ML[1] and cut_share(nonzero) <= MAX_CUT_SHARE
    )


def stripped_mask(image: Any) -> np.ndarray:
    """Return the brain of a stripped scan: what is not 0, closed by 3 mm and filled.

    Parameters
    ----------
    image
        nibabel image, 3-D.

    Returns
    -------
    numpy.ndarray
        Boolean; zeros within the brain (dark CSF, clipped values) belong to it.
    """
    from scipy.ndimage import binary_fill_holes, distance_transform_edt

    nonzero = largest_component(np.asarray(image.dataobj) != 0)
    spacing = spacing_of(image.affine)
    margin = [int(np.ceil(_CLOSE_MM / s)) + 1 for s in spacing]
    padded = np.pad(nonzero, [(m, m) for m in margin])
    grown = distance_transform_edt(~padded, sampling=spacing) <= _CLOSE_MM
    closed = distance_transform_edt(grown, sampling=spacing) > _CLOSE_MM
    inner = tuple(slice(m, -m) for m in margin)
    return binary_fill_holes(closed[inner] | nonzero)


def cut_share(inside: np.ndarray) -> float:
    """Return the largest share of a bounding box's face that an array border cuts.

    Parameters
    ----------
    inside
        Boolean, 3-D, not empty.
    """
    seen = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    sides = [int(ends[-1] - ends[0] + 1) for ends in seen]
    shares = []
    for axis in range(3):
        face = np.prod([side for other, side in enumerate(sides) if other != axis])
        shares += [np.take(inside, end, axis).sum() / face for end in (0, -1)]
    return float(max(shares))
