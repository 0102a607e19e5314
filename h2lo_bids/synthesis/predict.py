"""Making an image with any model: the one door to all methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any, cast

import numpy as np
from nibabel.affines import apply_affine

from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.imaging.resample import spacing_of
from h2lo_bids.imaging.voxels import VoxelResponse, sub_voxels, voxel_means
from h2lo_bids.models.bundle import Bundle, load_model
from h2lo_bids.models.h2lo import Operator
from h2lo_bids.models.registry import FAMILIES, METHODS, Model, family_of
from h2lo_bids.synthesis.arnold import predict_arnold
from h2lo_bids.synthesis.engine import synthesize, synthesize_at
from h2lo_bids.synthesis.options import DEFAULTS, EngineOptions, native_precision
from h2lo_bids.synthesis.patches import predict_diffi2i, predict_patches

FIDELITY = 60.0
"""PSNR in dB against fp32 that another precision must keep to be taken."""
_RIM = 6
"""Voxels around the brain on which the splines lean; further ones count for nothing."""
_SNAP = 1e-3
"""Distance in voxels below which a position counts as a voxel of the frame."""
_PREDICT: dict[str, Callable[..., np.ndarray]] = {
    "arnold": predict_arnold,
    "pix2pix": predict_patches,
    "diffi2i": predict_diffi2i,
    "pfsr": predict_patches,
}
"""What makes an image on the frame, by family."""


@lru_cache(maxsize=8)
def fastest_precision(bundle: Bundle, device: str) -> str:
    """Return ``bf16`` if this processor multiplies in it and a model then stays near fp32.

    Near means `FIDELITY` on a small synthetic image, spread over the middle of the frame. With
    the embedded models that figure was within 3 dB of the one on slices of a simulated head.
    """
    from scipy.ndimage import gaussian_filter

    if native_precision(device) != "bf16" or METHODS.get(bundle.method) in ("identity", "arnold"):
        return "fp32"
    inner = (slice(4, 20),) * 3
    mask, volume = np.zeros((24, 24, 24), dtype=bool), np.zeros((24, 24, 24), dtype=np.float32)
    texture = gaussian_filter(np.random.default_rng(0).standard_normal(mask.shape), 1.5)[inner]
    mask[inner], volume[inner] = True, (texture - texture.min()) / np.ptp(texture)
    model = load_model(bundle)
    exact, fast = (
        np.clip(predict(model, volume, mask, options=EngineOptions(device, kind)), 0, 1)[mask]
        for kind in ("fp32", "bf16")
    )
    error = np.mean((exact - fast) ** 2, dtype=np.float64)
    return "bf16" if error <= 10 ** (-FIDELITY / 10) else "fp32"


def predict(
    model: Model,
    volume: np.ndarray,
    mask: np.ndarray,
    *,
    options: EngineOptions = DEFAULTS,
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
        Settings of the engine.
    seed
        Of the methods that draw at random; see `h2lo_bids.synthesis.noise.scan_seed`.

    Returns
    -------
    numpy.ndarray
        float32 (X, Y, Z), not clipped; exactly 0 outside the mask.
    """
    volume, mask = np.asarray(volume, dtype=np.float32), np.asarray(mask, dtype=bool)
    if volume.ndim != 3 or volume.shape != mask.shape:
        raise ValueError(f"a volume and its mask share a shape: {volume.shape}, {mask.shape}")
    family = family_of(model)
    if FAMILIES[family].continuous:
        return synthesize(cast(Operator, model), volume, mask, options=options)
    if family == "identity":
        return np.where(mask, volume, np.float32(0))
    return _PREDICT[family](model, volume, mask, options=options, seed=seed)


def predict_on_grid(
    model: Model,
    volume: np.ndarray,
    volume_affine: np.ndarray,
    target_affine: np.ndarray,
    target_mask: np.ndarray,
    *,
    options: EngineOptions = DEFAULTS,
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
    model, options, seed
        As for `predict`.
    volume
        (X, Y, Z), in [0, 1], on the model's frame.
    volume_affine
        (4, 4), frame voxels to the scan's world, in mm.
    target_affine
        (4, 4), wanted voxels to world, in mm.
    target_mask
        Where the result is wanted, on the wanted grid.
    world_transform
        Maps (N, 3) positions in mm from the target's world to the scan's, as for
        a template; None where both share a world.
    response
        What a voxel averages over, see `h2lo_bids.imaging.voxels.voxel_means`; None takes
        the value at its centre.

    Returns
    -------
    numpy.ndarray
        float32 of the mask's shape; exactly 0 outside the mask.
    """
    wanted = np.asarray(target_mask, dtype=bool)
    out = np.zeros(wanted.shape, dtype=np.float32)
    if not wanted.any():
        return out
    continuous = FAMILIES[family_of(model)].continuous
    own = response is None and world_transform is None and wanted.shape == volume.shape
    if own and not continuous and np.allclose(target_affine, volume_affine):
        return predict(model, volume, wanted, options=options, seed=seed)
    inverse = np.linalg.inv(volume_affine)

    def place(voxels: np.ndarray) -> np.ndarray:
        """Return where voxels (N, 3) of the grid lie, in those of the frame."""
        if world_transform is None:
            return apply_affine(inverse @ target_affine, voxels)
        return apply_affine(inverse, world_transform(apply_affine(target_affine, voxels)))

    if continuous:
        evaluate = partial(_query, cast(Operator, model), volume, options)
    else:
        brain = _brain_of(volume)
        image = predict(model, volume, brain, options=options, seed=seed)
        evaluate = partial(_read, image, brain)
    if response is None:
        out[wanted] = evaluate(place(np.argwhere(wanted)))
    else:
        sides, pitch = spacing_of(target_affine).tolist(), float(spacing_of(volume_affine).min())
        nodes = sub_voxels(sides, response, pitch)
        out[wanted] = voxel_means(evaluate, wanted, nodes, place, _brain_of(volume))
    return out


def deviation_on_grid(models: Iterable[Model], *where: np.ndarray, **how: Any) -> np.ndarray:
    """Return the standard deviation, with n - 1, of the images of two or more models.

    It says how far the outcome depends on which people the model was fitted to,
    not how noisy a scan is. Running moments are kept, never the images, which are cut to
    [0, 1] first. All but the models are as for `predict_on_grid`, the mask last in `where`;
    methods that draw at random draw the same for all models.
    """
    mask = np.asarray(where[-1], dtype=bool)
    mean, square = np.zeros((2, np.count_nonzero(mask)))
    for number, model in enumerate(models, start=1):
        values = np.clip(predict_on_grid(model, *where, **how)[mask], 0.0, 1.0)
        # Welford's update does not subtract two large sums.
        step = values - mean
        mean += step / number
        square += step * (values - mean)
    out = np.zeros(mask.shape, dtype=np.float32)
    out[mask] = np.sqrt(square / (number - 1))
    return out


def _query(
    model: Operator, volume: np.ndarray, options: EngineOptions, points: np.ndarray
) -> np.ndarray:
    """Evaluate an operator at points (N, 3); voxels of the frame need no interpolation."""
    points, whole = _snapped(points)
    if not whole or (points < 0).any() or (points >= volume.shape).any():
        return synthesize_at(model, volume, points, options=options)
    at = tuple(points.astype(np.int64).T)
    wanted = np.zeros(volume.shape, dtype=bool)
    wanted[at] = True
    return synthesize(model, volume, wanted, options=options)[at]


def _read(image: np.ndarray, brain: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Read an image at points (N, 3), its brain continued outwards by the nearest voxel."""
    from scipy.ndimage import distance_transform_edt, map_coordinates

    if not brain.any():
        return np.zeros(len(points), dtype=np.float32)
    points, whole = _snapped(points)
    box = bounding_box(brain, margin=_RIM)
    nearest = distance_transform_edt(~brain[box], return_distances=False, return_indices=True)
    continued, at = image[box][tuple(nearest)], points.T - [[side.start] for side in box]
    order = 0 if whole else 3
    return map_coordinates(continued, at, order=order, mode="nearest", output=np.float32)


def _brain_of(volume: np.ndarray) -> np.ndarray:
    """Return the brain of a volume that is 0 outside, holes of value 0 filled."""
    from scipy.ndimage import binary_fill_holes

    return binary_fill_holes(volume != 0)


def _snapped(points: np.ndarray) -> tuple[np.ndarray, bool]:
    """Round positions (N, 3) in the frame if all are its voxels, and return whether they are."""
    nearest = np.rint(points)
    whole = bool(np.abs(points - nearest).max() < _SNAP)
    return (nearest if whole else points), whole
