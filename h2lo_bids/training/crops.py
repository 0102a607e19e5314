"""Crops of the training pairs: where they are drawn, and how they are varied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from h2lo_bids.models.h2lo import HALO
from h2lo_bids.synthesis.tiles import read_crop
from h2lo_bids.training.pairs import Pair, common_shape

_ORDER = 1
"""Third word of the seeds of epochs, so that no step's draws share one."""

Corner = tuple[int, int, int]


@dataclass(frozen=True)
class Augmentation:
    """Ranges from which each crop's variation is drawn; zeros leave pairs as they are."""

    flip: float = 0.0  # probability of a left-right mirror image of the pair in the frame
    shift: int = 0  # largest, along each axis, in voxels: no new scan is centred exactly
    scale: float = 0.0  # of the factor from [1 - scale, 1]: a maximum is that of few voxels
    gamma: float = 0.0  # the high-field image's exponent is drawn from exp(+-gamma)
    bias: float = 0.0  # largest relative amplitude of each term of a smooth second-order field
    noise: float = 0.0  # largest standard deviation of Gaussian noise
    outliers: float = 0.0  # largest share of voxels that become 2 to 5 times brighter, as vessels


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
    hf, brain, lf = (read_crop(v, tuple(start), wide) for v in (pair.hf, pair.mask, pair.lf))
    if mirrored:
        hf, brain, lf = hf[::-1], brain[::-1], lf[::-1]
    core = (slice(HALO, HALO + size),) * 3
    mask = np.ascontiguousarray(brain[core])
    hf = vary_intensity(hf, brain, corner, pair.shape, a, rng)
    return hf, np.where(mask, lf[core].astype(np.float32), np.float32(0)), mask


def stack_crops(crops: Sequence[Sequence[np.ndarray]]) -> tuple[torch.Tensor, ...]:
    """Make batches (B, 1, ...) of the images of some crops, such as `draw_crop` returns."""
    parts = (np.stack(part)[:, None] for part in zip(*crops, strict=True))
    return tuple(torch.from_numpy(part) for part in parts)


def flip_rotate(volumes: Sequence[np.ndarray], variant: int) -> tuple[np.ndarray, ...]:
    """Return one of the eight axial mirror images and quarter turns of cubes in RAS order."""
    mirrored, turns = divmod(variant, 4)
    seen = (volume[::-1] if mirrored else volume for volume in volumes)
    return tuple(np.ascontiguousarray(np.rot90(each, turns, axes=(0, 1))) for each in seen)


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


class CropSampler:
    """Draws cubes centred on brain voxels, whose weighted loss is that of the whole brain."""

    def __init__(self, pairs: Sequence[Pair], size: int) -> None:
        counts = np.zeros(common_shape(pairs), np.float64)
        for pair in pairs:
            counts += pair.mask
        brain = counts.sum() / len(pairs)
        self.size, self.centres = size, np.flatnonzero(counts)
        cumulative = np.cumsum(counts.ravel()[self.centres])
        self.cumulative = cumulative / cumulative[-1]
        # Fewer crops hold a voxel near the surface, which the inverse of its chance makes up for.
        inclusion = counts / cumulative[-1]
        for axis in range(3):
            inclusion = _window_sum(inclusion, size, axis)
        # Augmentation shifts brains by a few voxels, so their rims need a weight too.
        near = (counts > 0) | (inclusion > 0.05 * size**3 / brain)
        self.weights = np.zeros(counts.shape, np.float32)  # about 1 inside the brain
        self.weights[near] = size**3 / (brain * inclusion[near])

    def draw(self, rng: np.random.Generator) -> Corner:
        """Draw the first voxel of a crop; it may lie outside the volume."""
        at = int(np.searchsorted(self.cumulative, rng.random(), side="right"))
        centre = np.unravel_index(self.centres[min(at, len(self.centres) - 1)], self.weights.shape)
        x, y, z = (int(c) - self.size // 2 for c in centre)
        return x, y, z


def _window_sum(values: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Return for each voxel the sum over the centres whose crop holds it, along one axis."""
    n = values.shape[axis]
    running = np.cumsum(values, axis)
    running = np.concatenate([np.zeros_like(running.take([0], axis)), running], axis)
    last = np.arange(n) + size // 2 + 1
    upper = running.take(np.clip(last, 0, n), axis)
    return upper - running.take(np.clip(last - size, 0, n), axis)


def epoch_batch(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Return the pairs of a step, at most `batch`; each epoch takes each pair once, shuffled."""
    epoch, at = divmod(step, -(-count // batch))
    order = np.random.default_rng([seed, epoch, _ORDER]).permutation(count)
    return order[at * batch : (at + 1) * batch]


def cycled_batch(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Return the pairs of a step of a full batch: shuffled epochs follow without a gap."""
    at = range(step * batch, (step + 1) * batch)
    return np.concatenate([epoch_batch(count, 1, place, seed) for place in at])
