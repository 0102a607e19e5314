"""Making an image with any model: the one door to all methods."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import cast

import numpy as np

from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.models.inr import Operator
from h2lo_bids.models.registry import FAMILIES, Model, family_of
from h2lo_bids.synthesis.engine import synthesize
from h2lo_bids.synthesis.grids import (
    brain_of,
    checked_mask,
    nodes_of,
    positions_in_frame,
    snapped,
    synthesize_on_grid,
    voxel_means,
)
from h2lo_bids.synthesis.options import EngineOptions

_RIM = 6
"""Voxels around the brain on which the splines lean; further ones count for nothing."""


def predict(
    model: Model,
    volume: np.ndarray,
    mask: np.ndarray,
    *,
    options: EngineOptions | None = None,
    seed: int = 42,
) -> np.ndarray:
    """Synthesize a volume on the model's own frame.

    Parameters
    ----------
    model
        Of any family of `h2lo_bids.models.registry.FAMILIES`.
    volume
        (X, Y, Z), the high-field image in [0, 1], 0 outside the brain.
    mask
        (X, Y, Z), true in the brain.
    options
        Settings of the engine; None takes the defaults.
    seed
        Of the methods that draw at random; see `h2lo_bids.synthesis.noise.scan_seed`.

    Returns
    -------
    numpy.ndarray
        float32 (X, Y, Z), not clipped; exactly 0 outside the mask.

    Raises
    ------
    ValueError
        If volume and mask differ in shape.
    UsageError
        If the device is not there.
    """
    volume, mask = np.asarray(volume, dtype=np.float32), np.asarray(mask, dtype=bool)
    if volume.ndim != 3 or volume.shape != mask.shape:
        raise ValueError(f"a volume and its mask share a shape: {volume.shape}, {mask.shape}")
    options = options or EngineOptions()
    family = family_of(model)
    if FAMILIES[family].continuous:
        return synthesize(cast(Operator, model), volume, mask, options=options)
    if family == "identity":
        return np.where(mask, volume, np.float32(0))
    # Each method's file is imported when it is needed.
    file = "patches" if family in ("pix2pix", "pfsr") else family
    predict_family = getattr(
        importlib.import_module(f"h2lo_bids.synthesis.{file}"), f"predict_{family}"
    )
    made: np.ndarray = predict_family(model, volume, mask, options=options, seed=seed)
    return made


def predict_on_grid(
    model: Model,
    volume: np.ndarray,
    volume_affine: np.ndarray,
    target_shape: Sequence[int],
    target_affine: np.ndarray,
    target_mask: np.ndarray,
    *,
    options: EngineOptions | None = None,
    world_transform: Callable[[np.ndarray], np.ndarray] | None = None,
    seed: int = 42,
    response: VoxelResponse | None = None,
) -> np.ndarray:
    """Synthesize at the voxels of any grid.

    A continuous model (the operator, the INR) is asked for the positions of the
    voxels. The others know only their frame: the image is made there and brought
    to the grid by cubic splines, unless the grid's voxels are voxels of the frame.
    Beyond the brain's border the splines see the nearest brain voxel, so that the
    border is not darkened.

    Parameters
    ----------
    model
        Of any family.
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
    seed
        As for `predict`.
    response
        What a voxel averages over, see `h2lo_bids.synthesis.grids.voxel_means`; None takes
        the value at its centre.

    Returns
    -------
    numpy.ndarray
        float32 of `target_shape`; exactly 0 outside the mask.

    Raises
    ------
    ValueError
        If the mask is not on the wanted grid.
    """
    if FAMILIES[family_of(model)].continuous:
        return synthesize_on_grid(
            cast(Operator, model), volume, volume_affine, target_shape, target_affine,
            target_mask, options=options, world_transform=world_transform, response=response,
        )  # fmt: skip
    wanted = checked_mask(target_mask, target_shape)
    out = np.zeros(wanted.shape, dtype=np.float32)
    if not wanted.any():
        return out
    own = response is None and world_transform is None and wanted.shape == volume.shape
    if own and np.allclose(target_affine, volume_affine):
        return predict(model, volume, wanted, options=options, seed=seed)
    place = positions_in_frame(target_affine, volume_affine, world_transform)
    brain = brain_of(volume)
    image = predict(model, volume, brain, options=options, seed=seed)
    if response is not None:
        nodes = nodes_of(target_affine, volume_affine, response)
        out[wanted] = voxel_means(
            partial(_read, image, brain, order=3), wanted, nodes, place, brain
        )
        return out
    points, whole = snapped(place(np.argwhere(wanted)))
    out[wanted] = _read(image, brain, points, order=0 if whole else 3)
    return out


def deviation_on_grid(
    models: Iterable[Model],
    volume: np.ndarray,
    volume_affine: np.ndarray,
    target_shape: Sequence[int],
    target_affine: np.ndarray,
    target_mask: np.ndarray,
    *,
    options: EngineOptions | None = None,
    world_transform: Callable[[np.ndarray], np.ndarray] | None = None,
    seed: int = 42,
    response: VoxelResponse | None = None,
) -> np.ndarray:
    """Evaluate several models and return the standard deviation of their images.

    It says how far the outcome depends on which people the model was fitted to,
    not how noisy a scan is. Running moments are kept, never the images.

    Parameters
    ----------
    models
        At least two models of one frame; taken one at a time.
    volume, volume_affine, target_shape, target_affine, target_mask, options, world_transform
        As for `predict_on_grid`.
    seed, response
        As for `predict_on_grid`; methods that draw at random draw the same for all models.

    Returns
    -------
    numpy.ndarray
        float32 of `target_shape`, in units of the image, with n - 1 in the
        denominator; images are cut to [0, 1] first. Exactly 0 outside the mask.

    Raises
    ------
    ValueError
        If there are fewer than two models, or the mask is not on the wanted grid.
    """
    mask = np.asarray(target_mask, dtype=bool)
    number, mean, square = 0, np.zeros(np.count_nonzero(mask)), np.zeros(np.count_nonzero(mask))
    for number, model in enumerate(models, start=1):
        image = predict_on_grid(
            model, volume, volume_affine, target_shape, target_affine, mask, options=options,
            world_transform=world_transform, seed=seed, response=response,
        )  # fmt: skip
        values = np.clip(image[mask], 0.0, 1.0)
        # Welford's update does not subtract two large sums.
        step = values - mean
        mean += step / number
        square += step * (values - mean)
    if number < 2:
        raise ValueError(f"a standard deviation needs two models or more, not {number}")
    out = np.zeros(mask.shape, dtype=np.float32)
    out[mask] = np.sqrt(square / (number - 1))
    return out


def _read(image: np.ndarray, brain: np.ndarray, points: np.ndarray, *, order: int) -> np.ndarray:
    """Read an image at points (N, 3), its brain continued outwards by the nearest voxel."""
    from scipy.ndimage import distance_transform_edt, map_coordinates

    if not brain.any():
        return np.zeros(len(points), dtype=np.float32)
    at = np.argwhere(brain)
    low = np.maximum(at.min(0) - _RIM, 0)
    box = tuple(slice(a, b + _RIM + 1) for a, b in zip(low, at.max(0), strict=True))
    nearest = distance_transform_edt(~brain[box], return_distances=False, return_indices=True)
    continued = image[box][tuple(nearest)]
    read: np.ndarray = map_coordinates(
        continued, (points - low).T, order=order, mode="nearest", output=np.float32
    )
    return read
