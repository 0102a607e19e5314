"""Tidying a binary mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Keep the largest set of face-connected voxels.

    Parameters
    ----------
    mask
        Boolean, 3-D.

    Returns
    -------
    numpy.ndarray
        Boolean; all False where the mask is empty.
    """
    from scipy.ndimage import label

    labels, count = label(mask)
    if count == 0:
        return np.zeros(mask.shape, dtype=bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()


def cut_bridges(mask: np.ndarray, radius: float, spacing: Sequence[float]) -> np.ndarray:
    """Remove what hangs on the largest component by a narrow bridge, and fill holes.

    The part deeper than `radius` falls apart at bridges; its largest component
    is grown back, but only into the mask (and half as far again, so that thin
    true parts beside it survive).

    Parameters
    ----------
    mask
        Boolean, 3-D.
    radius
        Half the width of the widest bridge, mm.
    spacing
        Voxel size in mm.

    Returns
    -------
    numpy.ndarray
        Boolean. A mask with no part that deep comes back as its largest component.
    """
    from scipy.ndimage import binary_fill_holes, distance_transform_edt

    if not mask.any():
        return np.zeros(mask.shape, dtype=bool)
    box = _bounding_box(mask)
    whole = binary_fill_holes(largest_component(mask[box]))
    # Outside the box is outside the mask, except where the field of view cuts a brain: that
    # counts as deep, like the rest of the brain beyond it.
    margin = [
        (int(ends.start > 0), int(ends.stop < n)) for ends, n in zip(box, mask.shape, strict=True)
    ]
    inner = tuple(
        slice(before, before + n) for (before, _), n in zip(margin, whole.shape, strict=True)
    )
    depth = distance_transform_edt(np.pad(whole, margin), sampling=spacing)[inner]
    core = largest_component(depth > radius)
    if core.any():
        reach = distance_transform_edt(~core, sampling=spacing) <= 1.5 * radius
        whole = binary_fill_holes(largest_component(whole & reach))
    result = np.zeros(mask.shape, dtype=bool)
    result[box] = whole
    return result


def _bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice]:
    """Return the smallest box around a mask's true voxels."""
    ends = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    x, y, z = (slice(int(seen[0]), int(seen[-1]) + 1) for seen in ends)
    return x, y, z
