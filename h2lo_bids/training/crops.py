"""Crops: where they are drawn, and operators evaluated on them as on the whole volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch.nn import functional

from h2lo_bids.models.h2lo import HALO, Branch, ConditionalInr, H2lo, Operator, SineLayer
from h2lo_bids.training.pairs import Pair, common_shape

ROWS = 8192
"""Trunk rows at a time: small enough for the cache, where sines are three times faster."""

_ORDER = 1
"""Third word of the seeds of epochs, so that no step's draws share one."""

Corner = tuple[int, int, int]


def read_crop(volume: np.ndarray, start: tuple[int, ...], size: int) -> np.ndarray:
    """Copy a cube (S, S, S) out of a volume, with zeros where it reaches over the border."""
    out = np.zeros((size,) * 3, volume.dtype)
    low = [max(0, s) for s in start]
    high = [min(n, s + size) for s, n in zip(start, volume.shape, strict=True)]
    if all(a < b for a, b in zip(low, high, strict=True)):
        source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        place = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        out[place] = volume[source]
    return out


def crop_coordinates(corner: Corner, size: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the trunk's coordinates of a crop's voxels, (size^3, 3) float32."""
    axes = [
        torch.linspace(-1.0, 1.0, n)[torch.arange(c, c + size).clamp(0, n - 1)]
        for c, n in zip(corner, shape, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def encode_crop(
    branch: Branch, crops: torch.Tensor, corner: Corner, shape: tuple[int, ...]
) -> torch.Tensor:
    """Return the branch's features (B, P, S, S, S) of crops that bring their halo of 5.

    Every layer of the whole-volume branch sees zeros outside the volume, not
    what its bias makes of zeros. So where a crop's halo reaches over the border,
    each layer's output is set to 0 there: the result equals the whole-volume
    features everywhere, at the border too.
    """
    size = crops.shape[-1] - 2 * HALO
    inside = all(c >= HALO and c + size + HALO <= n for c, n in zip(corner, shape, strict=True))
    x, last = crops, len(branch.convolutions) - 1
    for i, layer in enumerate(branch.convolutions):
        x = functional.conv3d(x, layer.weight, layer.bias)
        if i < last:
            x = functional.relu(x)
            if not inside:
                x = x * _inside(corner, shape, size, HALO - 1 - i).to(x)
    return x


def _inside(corner: Corner, shape: tuple[int, ...], size: int, halo: int) -> torch.Tensor:
    axes = []
    for c, n in zip(corner, shape, strict=True):
        at = torch.arange(c - halo, c + size + halo)
        axes.append((at >= 0) & (at < n))
    return axes[0][:, None, None] & axes[1][:, None] & axes[2]


def predict_crop(
    model: Operator, crops: torch.Tensor, corner: Corner, shape: tuple[int, ...]
) -> torch.Tensor:
    """Evaluate an operator on crops that lie at one place of the frame.

    H2LO's basis functions depend on the place alone, so its trunk, the dearer
    half, runs once for all crops.

    The crops (B, 1, S + 10, S + 10, S + 10) in [0, 1] have a halo of 5 around what is returned,
    float32 (B, 1, S, S, S), whose first voxel is `corner` in a frame of `shape`.
    """
    size = crops.shape[-1] - 2 * HALO
    crops = crops.to(memory_format=torch.channels_last_3d)
    features = encode_crop(model.encoder, crops, corner, shape)
    coefficients = features.permute(0, 2, 3, 4, 1).reshape(len(crops), size**3, -1)
    coordinates = crop_coordinates(corner, size, shape).to(crops.device)
    parts = []
    for start in range(0, size**3, ROWS):
        rows = slice(start, start + ROWS)
        parts.append(read_features(model, coefficients[:, rows], coordinates[rows], shape))
    return torch.cat(parts, 1).reshape(len(crops), 1, size, size, size)


def read_features(
    model: Operator, features: torch.Tensor, coordinates: torch.Tensor, shape: tuple[int, ...]
) -> torch.Tensor:
    """Evaluate an operator at (N, 3) coordinates with its encoder's features (..., N, P).

    Safe under autocast: returns float32 (..., N).
    """
    if isinstance(model, ConditionalInr):
        return model.decode(features, coordinates, shape)
    basis = _basis_functions(model, coordinates)
    return (features * basis).sum(-1, dtype=torch.float32) + model.bias


def _basis_functions(model: H2lo, coordinates: torch.Tensor) -> torch.Tensor:
    first = model.trunk.net[0]
    if not isinstance(first, SineLayer):
        return model.trunk(coordinates)
    # Its phases reach 50 radians, of which bfloat16 would keep one decimal.
    with torch.autocast(coordinates.device.type, enabled=False):
        x = cast("torch.Tensor", first(coordinates.float()))
    for layer in list(model.trunk.net)[1:]:
        x = layer(x)
    return x


@dataclass(frozen=True)
class CropSampler:
    """Draws cubes centred on brain voxels.

    Nine tenths of a uniform sample are background, which the product sets to 0 whatever the
    model says. A voxel near the brain's surface lies in fewer crops than one inside: weighting
    each voxel by the inverse of its chance to be in a crop makes the expected loss equal to that
    of the whole brain.
    """

    size: int
    centres: np.ndarray = field(repr=False)
    """Flat indices of the voxels that may become a centre."""
    cumulative: np.ndarray = field(repr=False)
    """Running sum of their probabilities, ending at 1."""
    weights: np.ndarray = field(repr=False)
    """float32 (X, Y, Z): the weight of each voxel, about 1 inside the brain."""

    @classmethod
    def build(cls, pairs: Sequence[Pair], size: int) -> CropSampler:
        """Prepare the draws for a set of pairs on one grid."""
        shape = common_shape(pairs)
        counts = np.zeros(shape, np.float64)
        for pair in pairs:
            counts += pair.mask
        brain = counts.sum() / len(pairs)
        centres = np.flatnonzero(counts)
        cumulative = np.cumsum(counts.ravel()[centres])
        inclusion = counts / cumulative[-1]
        for axis in range(3):
            inclusion = _window_sum(inclusion, size, axis)
        # Augmentation shifts brains by a few voxels, so their rims need a weight too.
        near = (counts > 0) | (inclusion > 0.05 * size**3 / brain)
        weights = np.zeros(shape, np.float32)
        weights[near] = size**3 / (brain * inclusion[near])
        return cls(size, centres, cumulative / cumulative[-1], weights)

    def draw(self, rng: np.random.Generator) -> Corner:
        """Draw the first voxel of a crop; it may lie outside the volume."""
        at = int(np.searchsorted(self.cumulative, rng.random(), side="right"))
        centre = np.unravel_index(self.centres[min(at, len(self.centres) - 1)], self.weights.shape)
        x, y, z = (int(c) - self.size // 2 for c in centre)
        return x, y, z

    def weight(self, corner: Corner) -> np.ndarray:
        """Return the weights of a crop's voxels, (S, S, S)."""
        return read_crop(self.weights, corner, self.size)


def _window_sum(values: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Return for each voxel the sum over the centres whose crop holds it, along one axis."""
    n = values.shape[axis]
    running = np.cumsum(values, axis)
    running = np.concatenate([np.zeros_like(running.take([0], axis)), running], axis)
    last = np.arange(n) + size // 2 + 1
    upper = running.take(np.clip(last, 0, n), axis)
    return upper - running.take(np.clip(last - size, 0, n), axis)


def epoch_batch(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Return the pairs of a step, at most `batch`; each epoch takes each pair once, shuffled.

    The order of an epoch is a function of the seed and of the epoch alone; its last step
    may have fewer pairs.
    """
    epoch, at = divmod(step, epoch_steps(count, batch))
    order = np.random.default_rng([seed, epoch, _ORDER]).permutation(count)
    return order[at * batch : (at + 1) * batch]


def cycled_batch(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Return the pairs of a step of a full batch, whatever the number of pairs.

    Shuffled epochs follow each other without a gap: a batch may take the end of one and the
    beginning of the next, and a pair several times if there are few.
    """
    at = range(step * batch, (step + 1) * batch)
    return np.concatenate([epoch_batch(count, 1, place, seed) for place in at])


def epoch_steps(count: int, batch: int) -> int:
    """Return the number of steps in which each of `count` pairs is taken once."""
    return -(-count // batch)
