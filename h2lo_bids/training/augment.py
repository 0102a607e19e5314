"""Variation of the training pairs, so that scans of other scanners work too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from h2lo_bids.models.h2lo import HALO
from h2lo_bids.training.crops import Corner, read_crop
from h2lo_bids.training.pairs import Pair


@dataclass(frozen=True)
class Augmentation:
    """Ranges from which each crop's variation is drawn; zeros leave pairs as they are.

    Parameters
    ----------
    flip
        Probability of a left-right mirror image of the pair in the frame.
    shift
        Largest shift of the pair in the frame along each axis, in voxels: the
        centring of a new scan is never exact.
    scale
        The high-field image is multiplied by a factor from ``[1 - scale, 1]``:
        its maximum depends on a few bright voxels.
    gamma
        Its exponent is drawn from ``exp(+-gamma)``.
    bias
        Largest relative amplitude of each term of a smooth second-order field.
    noise
        Largest standard deviation of Gaussian noise.
    outliers
        Largest share of voxels that become two to five times brighter, as vessels, spikes
        and the overshoot of filters are.
    """

    flip: float = 0.0
    shift: int = 0
    scale: float = 0.0
    gamma: float = 0.0
    bias: float = 0.0
    noise: float = 0.0
    outliers: float = 0.0


NONE = Augmentation()
_KEPT = (0.2, 0.775)
"""Levels that a change of the exponent leaves: robust scaling brings fluid and white matter,
of either contrast, near them again."""


def draw_crop(
    pair: Pair, corner: Corner, size: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read a crop of a pair that was first varied as a whole."""
    a = augmentation
    mirrored = rng.random() < a.flip
    shift = rng.integers(-a.shift, a.shift + 1, 3)
    wide = size + 2 * HALO
    start = [int(c) - HALO - int(d) for c, d in zip(corner, shift, strict=True)]
    if mirrored:
        start[0] = pair.shape[0] - start[0] - wide
    place = (start[0], start[1], start[2])
    core_place = (start[0] + HALO, start[1] + HALO, start[2] + HALO)
    hf = read_crop(pair.hf, place, wide)
    brain = read_crop(pair.mask, place, wide)
    lf = read_crop(pair.lf, core_place, size)
    if mirrored:
        hf, brain, lf = hf[::-1], brain[::-1], lf[::-1]
    core = (slice(HALO, HALO + size),) * 3
    mask = np.ascontiguousarray(brain[core])
    hf = vary_intensity(hf, brain, corner, pair.shape, a, rng)
    return hf, np.where(mask, lf.astype(np.float32), np.float32(0)), mask


def stack_crops(crops: Sequence[Sequence[np.ndarray]]) -> tuple[torch.Tensor, ...]:
    """Make batches (B, 1, ...) of the images of some crops, such as `draw_crop` returns."""
    parts = (np.stack(part)[:, None] for part in zip(*crops, strict=True))
    return tuple(torch.from_numpy(part) for part in parts)


def flip_rotate(volumes: Sequence[np.ndarray], variant: int) -> tuple[np.ndarray, ...]:
    """Return one of the eight axial mirror images and quarter turns of cubes.

    The third axis, the depth of axial slices in RAS order, stays as it is.
    """
    mirrored, turns = divmod(variant, 4)

    def turn(volume: np.ndarray) -> np.ndarray:
        seen = volume[::-1] if mirrored else volume
        return np.ascontiguousarray(np.rot90(seen, turns, axes=(0, 1)))

    return tuple(turn(volume) for volume in volumes)


def vary_intensity(
    hf: np.ndarray,
    brain: np.ndarray,
    corner: Corner,
    shape: tuple[int, ...],
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> np.ndarray:
    """Vary a high-field crop's intensities, within [0, 1] and 0 outside the brain."""
    a = augmentation
    out = np.array(hf, np.float32)
    if a.gamma:
        power = np.exp(rng.uniform(-a.gamma, a.gamma))
        low, high = (level**power for level in _KEPT)
        gain = (_KEPT[1] - _KEPT[0]) / (high - low)
        out = np.float32(_KEPT[0]) + (out ** np.float32(power) - np.float32(low)) * np.float32(gain)
    if a.bias:
        out *= _bias_field(hf.shape, corner, shape, a.bias, rng)
    if a.noise:
        sigma = rng.uniform(0, a.noise)
        out += rng.standard_normal(hf.shape, np.float32) * np.float32(sigma)
    if a.scale:
        out *= np.float32(rng.uniform(1 - a.scale, 1))
    if a.outliers:
        hit = rng.random(hf.shape, np.float32) < rng.uniform(0, a.outliers)
        out[hit] *= rng.uniform(2, 5, np.count_nonzero(hit)).astype(np.float32)
    if a.gamma or a.bias or a.noise or a.scale or a.outliers:
        np.clip(out, 0, 1, out=out)
        out[~brain] = 0
    return out


def _bias_field(
    size: tuple[int, ...],
    corner: Corner,
    shape: tuple[int, ...],
    amplitude: float,
    rng: np.random.Generator,
) -> np.ndarray:
    # Positions in the frame, so that the field is one of the whole head.
    at = [
        (2 * (np.arange(m) + c - HALO) / (n - 1) - 1).astype(np.float32)
        for m, c, n in zip(size, corner, shape, strict=True)
    ]
    x, y, z = at[0][:, None, None], at[1][:, None], at[2]
    c = rng.uniform(-amplitude, amplitude, 9).astype(np.float32)
    linear = c[0] * x + c[1] * y + c[2] * z
    square = c[3] * x * x + c[4] * y * y + c[5] * z * z + c[6] * x * y + c[7] * y * z + c[8] * x * z
    return np.exp(linear + square)
