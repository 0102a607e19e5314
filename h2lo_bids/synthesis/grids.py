"""Voxel grids other than the frame: native scan, low-field, template."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from h2lo_bids.imaging.voxels import SubVoxels, VoxelResponse, sub_voxels

_SNAP = 1e-3
"""Distance in voxels below which a position counts as a voxel of the frame."""
_LEAST = 0.25
"""Share of a voxel's response in the brain below which its neighbours are not used."""
_POINTS = 4_000_000
"""Positions evaluated at once: 100 MB."""


def voxel_means(
    evaluate: Callable[[np.ndarray], np.ndarray],
    mask: np.ndarray,
    nodes: SubVoxels,
    place: Callable[[np.ndarray], np.ndarray],
    brain: np.ndarray,
) -> np.ndarray:
    """Integrate over the voxels of a grid, as far as they lie in the brain.

    What surrounds the brain is neither 0 nor known: of a scan whose skull is removed
    afterwards, a voxel of the rim holds brain and what lies beside it. Here it holds
    the mean of its brain alone, so that the rim is not darkened. A voxel without a
    point in the brain holds the mean of all its points.
    """
    axis, reach, count = nodes.axis, len(nodes.weights) // 2, len(nodes.offsets)
    padded = np.pad(mask, [(reach, reach) if a == axis else (0, 0) for a in range(3)])
    needed = np.any([np.roll(padded, step, axis) for step in range(-reach, reach + 1)], axis=0)
    rows = np.cumsum(needed).reshape(needed.shape) - 1
    voxels = np.argwhere(needed)
    start = np.zeros(3, dtype=int)
    start[axis] = reach
    values, inside = np.zeros((2, len(voxels), count), dtype=np.float32)
    for first in range(0, len(voxels), max(_POINTS // count, 1)):
        block = slice(first, first + max(_POINTS // count, 1))
        points = place((voxels[block, None] - start + nodes.offsets).reshape(-1, 3))
        shown = _holds(brain, points).reshape(-1, count)
        inside[block] = shown
        # Of the wanted voxels also those that have no point in the brain.
        shown |= (~shown.any(axis=1) & padded[needed][block])[:, None]
        values[block][shown] = evaluate(points[shown.ravel()])
    sums, share = np.zeros((2, np.count_nonzero(mask)))
    for step, weights in enumerate(nodes.weights, start=-reach):
        row = np.roll(rows, -step, axis)[padded]
        sums += (values[row] * inside[row]) @ weights
        share += inside[row] @ weights
    own = rows[padded]
    held = inside[own].sum(axis=1)
    alone = values[own].sum(axis=1) / np.where(held > 0, held, count)
    enough = (held > 0) & (share > _LEAST)
    return np.where(enough, sums / np.where(enough, share, 1.0), alone)


def nodes_of(
    target_affine: np.ndarray, volume_affine: np.ndarray, response: VoxelResponse
) -> SubVoxels:
    """Return the points of a grid's voxels that suit a frame of this spacing."""
    sides, pitch = (np.linalg.norm(a[:3, :3], axis=0) for a in (target_affine, volume_affine))
    return sub_voxels(sides.tolist(), response, float(pitch.min()))


def brain_of(volume: np.ndarray) -> np.ndarray:
    """Return the brain of a volume that is 0 outside, holes of value 0 filled."""
    from scipy.ndimage import binary_fill_holes

    filled: np.ndarray = binary_fill_holes(volume != 0)
    return filled


def _holds(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return which points (N, 3) have a nearest voxel that is in the mask, (N,)."""
    nearest = np.rint(points).astype(np.int64)
    there = ((nearest >= 0) & (nearest < mask.shape)).all(axis=1)
    found = np.zeros(len(points), dtype=bool)
    found[there] = mask[tuple(nearest[there].T)]
    return found


def lf_grid(
    image_affine: np.ndarray, shape: Sequence[int], zooms: Sequence[float]
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Lay a grid of other voxel sizes in mm over an image's field of view.

    Returns its shape, just enough voxels to cover the field of view, and its affine (4, 4):
    same axes and same centre as the image.
    """
    sizes = np.asarray(zooms, dtype=np.float64)
    if sizes.shape != (3,) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError(f"a grid needs three positive voxel sizes in mm, not {tuple(zooms)}")
    affine = np.asarray(image_affine, dtype=np.float64)
    old = np.linalg.norm(affine[:3, :3], axis=0)
    # A thousandth of a voxel forgives the rounding of affines.
    counts = np.maximum(np.ceil(np.asarray(shape[:3]) * old / sizes - 1e-3), 1).astype(int)
    new = np.eye(4)
    new[:3, :3] = affine[:3, :3] / old * sizes
    centre = affine[:3, :3] @ ((np.asarray(shape[:3]) - 1) / 2) + affine[:3, 3]
    new[:3, 3] = centre - new[:3, :3] @ ((counts - 1) / 2)
    return (int(counts[0]), int(counts[1]), int(counts[2])), new


def lf_mask(
    mask: np.ndarray, affine: np.ndarray, zooms: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Bring a mask to the grid of other voxels over its field of view."""
    shape, new = lf_grid(affine, mask.shape, zooms)
    share = np.asarray(mask, dtype=np.float32)
    for axis, old in enumerate(np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)):
        # Both grids have one centre.
        ours, theirs = (
            (np.arange(n + 1) - n / 2) * side
            for n, side in ((shape[axis], zooms[axis]), (mask.shape[axis], old))
        )
        ends, starts = np.minimum.outer(ours[1:], theirs[1:]), np.maximum.outer(ours, theirs)
        weights = np.maximum(ends - starts[:-1, :-1], 0) / zooms[axis]
        share = np.moveaxis(np.tensordot(weights.astype(np.float32), share, (1, axis)), 0, axis)
    return share > 0.5 + 1e-5, new


def positions_in_frame(
    target_affine: np.ndarray,
    volume_affine: np.ndarray,
    world_transform: Callable[[np.ndarray], np.ndarray] | None,
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from voxels (N, 3) of a grid to those of the frame; see `predict`."""
    inverse, target = np.linalg.inv(volume_affine), np.asarray(target_affine, dtype=np.float64)
    both = inverse @ target

    def place(voxels: np.ndarray) -> np.ndarray:
        if world_transform is None:
            return voxels @ both[:3, :3].T + both[:3, 3]
        world = np.asarray(world_transform(voxels @ target[:3, :3].T + target[:3, 3]), np.float64)
        return world @ inverse[:3, :3].T + inverse[:3, 3]

    return place


def snapped(points: np.ndarray) -> tuple[np.ndarray, bool]:
    """Round positions (N, 3) in the frame if all are its voxels, and return whether they are."""
    nearest = np.rint(points)
    whole = bool(np.abs(points - nearest).max() < _SNAP)
    return (nearest if whole else points), whole
