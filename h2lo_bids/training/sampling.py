"""Where training crops are drawn, and the weights that keep their losses unbiased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from h2lo_bids.training.crops import Corner, read_crop
from h2lo_bids.training.pairs import Pair, common_shape

_ORDER = 1
"""Third word of the seeds of epochs, so that no step's draws share one."""


@dataclass(frozen=True)
class CropSampler:
    """Draws cubes centred on brain voxels.

    Nine tenths of a uniform sample are background, which the product sets to 0
    whatever the model says, so no step is spent there: crops are centred on a
    brain voxel, drawn from the mean of all masks. A voxel near the brain's
    surface then lies in fewer crops than one inside. Weighting each voxel by
    the inverse of its chance to be in a crop makes the expected loss equal to
    that of the whole brain.

    Parameters
    ----------
    size
        Side of a crop, in voxels.
    centres
        Flat indices of the voxels that may become a centre.
    cumulative
        Running sum of their probabilities, ending at 1.
    weights
        float32 (X, Y, Z): the weight of each voxel, about 1 inside the brain.
    """

    size: int
    centres: np.ndarray = field(repr=False)
    cumulative: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)

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
        reached = counts > 0
        weights = np.zeros(shape, np.float32)
        weights[reached] = size**3 / (brain * inclusion[reached])
        # Augmentation shifts brains by a few voxels, so their rims need a weight too.
        rim = ~reached & (inclusion > 0.05 * size**3 / brain)
        weights[rim] = size**3 / (brain * inclusion[rim])
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
    """Sum over the centres whose crop holds a voxel, along one axis."""
    n = values.shape[axis]
    running = np.cumsum(values, axis)
    running = np.concatenate([np.zeros_like(running.take([0], axis)), running], axis)
    last = np.arange(n) + size // 2 + 1
    upper = running.take(np.clip(last, 0, n), axis)
    return upper - running.take(np.clip(last - size, 0, n), axis)


def draw_points(shape: tuple[int, int, int], count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw voxels uniformly from a whole grid, background included: (count, 3)."""
    return rng.integers(0, shape, (count, 3))


def draw_subvolume(shape: tuple[int, int, int], size: int, rng: np.random.Generator) -> Corner:
    """Draw the first voxel of a sub-volume that lies inside a grid."""
    x, y, z = (int(rng.integers(0, n - min(size, n) + 1)) for n in shape)
    return x, y, z


def epoch_batch(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Return the pairs of a step, so that each epoch takes each pair once, shuffled.

    Parameters
    ----------
    count, batch
        Pairs in all, and at most per step; the last step of an epoch may have fewer.
    step
        Counted from 0.
    seed
        The order of an epoch is a function of it and of the epoch alone.
    """
    epoch, at = divmod(step, epoch_steps(count, batch))
    order = np.random.default_rng([seed, epoch, _ORDER]).permutation(count)
    return order[at * batch : (at + 1) * batch]


def cycled_batch(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Return the pairs of a step of full batches, whatever the number of pairs.

    Pairs follow each other as shuffled epochs do, and a batch may take the end of
    one and the beginning of the next, and a pair several times if there are few.

    Parameters
    ----------
    count, batch, step, seed
        As for `epoch_batch`.
    """
    at = range(step * batch, (step + 1) * batch)
    return np.concatenate([epoch_batch(count, 1, place, seed) for place in at])


def epoch_steps(count: int, batch: int) -> int:
    """Return the number of steps in which each of `count` pairs is taken once."""
    return -(-count // batch)
