"""Querying an operator on any voxel grid: native scan, low-field, template."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from h2lo_bids.models.operators import Operator
from h2lo_bids.synthesis.engine import synthesize, synthesize_at
from h2lo_bids.synthesis.options import EngineOptions

_SNAP = 1e-3
"""Distance in voxels below which a position counts as a voxel of the frame."""


def synthesize_on_grid(
    model: Operator,
    volume: np.ndarray,
    volume_affine: np.ndarray,
    target_shape: Sequence[int],
    target_affine: np.ndarray,
    target_mask: np.ndarray,
    *,
    options: EngineOptions | None = None,
    world_transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Evaluate the operator at the voxels of another grid, without resampling.

    Parameters
    ----------
    model
        The operator.
    volume
        (X, Y, Z), in [0, 1], on the model's frame.
    volume_affine
        (4, 4), frame voxels to the scan's world, in mm.
    target_shape
        Voxels along each axis of the wanted grid.
    target_affine
        (4, 4), wanted voxels to world, in mm.
    target_mask
        Where the result is wanted, on the wanted grid.
    options
        Settings of the engine; None takes the defaults.
    world_transform
        Maps (N, 3) positions in mm from the target's world to the scan's, as for
        a template; None where both share a world.

    Returns
    -------
    numpy.ndarray
        float32 of `target_shape`; exactly 0 outside the mask.

    Raises
    ------
    ValueError
        If the mask is not on the wanted grid.
    """
    mask = checked_mask(target_mask, target_shape)
    out = np.zeros(mask.shape, dtype=np.float32)
    if not mask.any():
        return out
    points, whole = frame_positions(mask, target_affine, volume_affine, world_transform)
    at = _at_voxels if whole else synthesize_at
    out[mask] = at(model, volume, points, options=options)
    return out


def checked_mask(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return a mask as booleans, or raise `ValueError` if it is not on a grid of this shape."""
    inside = np.asarray(mask, dtype=bool)
    if inside.shape != tuple(shape) or inside.ndim != 3:
        raise ValueError(f"the mask has shape {inside.shape}, the grid {tuple(shape)}")
    return inside


def lf_grid(
    image_affine: np.ndarray, shape: Sequence[int], zooms: Sequence[float]
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Lay a grid of other voxel sizes over an image's field of view.

    Parameters
    ----------
    image_affine
        (4, 4), voxels of the image to world, in mm.
    shape
        Voxels of the image along each axis.
    zooms
        Wanted voxel sizes in mm along the same axes, for example 1.6, 1.6 and 5.

    Returns
    -------
    shape : tuple of int
        Just enough voxels to cover the field of view.
    affine : numpy.ndarray
        (4, 4); same axes and same centre as the image.

    Raises
    ------
    ValueError
        If the voxel sizes are not three positive numbers.
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


def frame_positions(
    mask: np.ndarray,
    target_affine: np.ndarray,
    volume_affine: np.ndarray,
    world_transform: Callable[[np.ndarray], np.ndarray] | None,
) -> tuple[np.ndarray, bool]:
    """Find where a grid's voxels lie in the frame.

    Parameters
    ----------
    mask
        The voxels that are wanted; at least one.
    target_affine, volume_affine, world_transform
        As for `synthesize_on_grid`.

    Returns
    -------
    points : numpy.ndarray
        (N, 3), in voxel indices of the frame.
    whole : bool
        Whether all of them are voxels of the frame's lattice; they are rounded then.
    """
    voxels = np.argwhere(mask)
    inverse = np.linalg.inv(volume_affine)
    if world_transform is None:
        both = inverse @ np.asarray(target_affine, dtype=np.float64)
        points = voxels @ both[:3, :3].T + both[:3, 3]
    else:
        world = voxels @ np.asarray(target_affine)[:3, :3].T + np.asarray(target_affine)[:3, 3]
        world = np.asarray(world_transform(world), dtype=np.float64)
        points = world @ inverse[:3, :3].T + inverse[:3, 3]
    nearest = np.rint(points)
    whole = bool(np.abs(points - nearest).max() < _SNAP)
    return (nearest if whole else points), whole


def _at_voxels(
    model: Operator, volume: np.ndarray, voxels: np.ndarray, *, options: EngineOptions | None
) -> np.ndarray:
    """Evaluate at whole voxels, which needs no interpolation if all are in the frame."""
    if (voxels < 0).any() or (voxels >= volume.shape).any():
        return synthesize_at(model, volume, voxels, options=options)
    at = tuple(voxels.astype(np.int64).T)
    wanted = np.zeros(volume.shape, dtype=bool)
    wanted[at] = True
    return synthesize(model, volume, wanted, options=options)[at]
