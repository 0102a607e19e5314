"""Shapes of 3-D binary masks: their box, their parts, and what lies near them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from h2lo_bids.errors import BadDataError

STRAY_SHARE = 0.01
"""Of a mask's largest part: a smaller part is no half of a brain, nor a cerebellum."""
STRAY_MM = 5.0


def bounding_box(mask: np.ndarray, margin: int = 0) -> tuple[slice, ...]:
    """Return the smallest box around a mask's true voxels, grown by a margin within the array."""
    box = []
    for axis, length in enumerate(mask.shape):
        hits = np.flatnonzero(mask.any(axis=tuple({*range(mask.ndim)} - {axis})))
        if not hits.size:
            raise BadDataError("the brain mask is empty; give another one")
        box.append(slice(max(int(hits[0]) - margin, 0), min(int(hits[-1]) + margin + 1, length)))
    return tuple(box)


def within(mask: np.ndarray, radius: float, spacing: Sequence[float]) -> np.ndarray:
    """Mark the voxels whose centre is within a distance (mm) of one of the mask's.

    The same as a threshold on the exact Euclidean distance transform, many times faster
    for distances of some voxels: eight voxels along the last axis take one byte.
    """
    reach = [int(radius / side) for side in spacing]
    grown, lines = mask.copy(), []  # by how many voxels a line has grown
    for half in range(reach[2] + 1):
        if half:
            grown[..., half:] |= mask[..., :-half]
            grown[..., :-half] |= mask[..., half:]
        lines.append(np.packbits(grown, axis=2))
    near = np.zeros_like(lines[0])
    width, height = mask.shape[:2]
    for i in range(-reach[0], reach[0] + 1):
        for j in range(-reach[1], reach[1] + 1):
            rest = radius**2 - (i * spacing[0]) ** 2 - (j * spacing[1]) ** 2
            if rest >= 0 and abs(i) < width and abs(j) < height:
                line = lines[int(np.sqrt(rest) / spacing[2])]
                near[max(i, 0) : width + min(i, 0), max(j, 0) : height + min(j, 0)] |= line[
                    max(-i, 0) : width - max(i, 0), max(-j, 0) : height - max(j, 0)
                ]
    return np.unpackbits(near, axis=2, count=mask.shape[2]).astype(bool)


def volume_ml(mask: np.ndarray, affine: np.ndarray) -> float:
    """Return the volume of a mask's true voxels in ml."""
    return float(np.count_nonzero(mask)) * abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def cut_share(inside: np.ndarray) -> float:
    """Return the largest share of a bounding box's face that an array border cuts."""
    sides = np.array([ends.stop - ends.start for ends in bounding_box(inside)])
    cut = [[np.take(inside, end, axis).sum() for axis in range(3)] for end in (0, -1)]
    return float((cut / (sides.prod() / sides)).max())


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return the overlap of two masks, 0 for empty ones."""
    return float(2 * np.count_nonzero(a & b) / max(1, a.sum() + b.sum()))


def held(a: np.ndarray, b: np.ndarray) -> float:
    """Return how much of the smaller mask lies in the larger, whatever their sizes; 0 if empty."""
    return float(np.count_nonzero(a & b) / max(1, min(a.sum(), b.sum())))


def largest_component(mask: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Keep the largest set of face-connected voxels, and those of at least a share of its size."""
    from scipy.ndimage import label

    labels, _ = label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= max(1, share * sizes.max()))[labels]


def without_strays(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Drop small parts that lie apart, if the mask's box ends more than 5 mm further for them.

    A model's frame is centred on the box: one voxel in the neck would move it by centimetres.
    """
    from scipy.ndimage import label

    parts, count = label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    main = np.isin(parts, 1 + np.flatnonzero(sizes >= STRAY_SHARE * sizes.max(initial=0)))
    ends = zip(bounding_box(mask), bounding_box(main), spacing, strict=True)
    apart = [max(m.start - w.start, w.stop - m.stop) * side for w, m, side in ends]
    return main if max(apart) > STRAY_MM else mask


def cut_bridges(mask: np.ndarray, radius: float, spacing: Sequence[float]) -> np.ndarray:
    """Remove what hangs on the largest component by a narrow bridge, and fill holes.

    The part deeper than `radius` mm falls apart at bridges; its largest component
    is grown back, but only into the mask (and half as far again, so that thin
    true parts next to it survive). A mask with no part that deep comes back as its
    largest component.
    """
    from scipy.ndimage import binary_fill_holes

    if not mask.any():
        return mask
    # A margin of one voxel is outside the mask. There is none where the field of view cuts a brain:
    # that side counts as deep, like the brain beyond it.
    box = bounding_box(mask, margin=1)
    whole = binary_fill_holes(largest_component(mask[box]))
    core = largest_component(~within(~whole, radius, spacing))
    if core.any():
        kept = whole & within(core, 1.5 * radius, spacing)
        whole = binary_fill_holes(largest_component(kept))
    result = np.zeros(mask.shape, dtype=bool)
    result[box] = whole
    return result
