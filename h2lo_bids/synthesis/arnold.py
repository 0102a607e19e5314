"""Arnold's simulator: two layers of uniform noise, and a Gaussian blur between them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.models.baselines import Arnold
from h2lo_bids.synthesis.options import DEFAULTS, EngineOptions
from h2lo_bids.synthesis.tiles import Box

GRAIN = 0.5
"""Blur of the first noise, in voxels."""
LEAST = 0.1
"""Least standard deviation of a blur, in voxels."""


def predict_arnold(
    model: Arnold,
    volume: np.ndarray,
    mask: np.ndarray,
    *,
    options: EngineOptions = DEFAULTS,
    seed: int | Sequence[int] = 42,
) -> np.ndarray:
    """Simulate a low-field image, from 0 to exactly 1 at the brightest voxel.

    The fit compares images where both are above 0, since it has both; here, where the
    low-field image is what is wanted, all of the brain is simulated. For brains without
    empty voxels the two are the same. Both noises are drawn for the whole grid.
    """
    out = np.zeros(volume.shape, np.float32)
    if mask.any():
        sigma, c1, c2, c3 = model.numbers
        source = Source(volume, mask, seed, max(sigma, c3))
        blurred = source.inside(source.image + np.float32(c1) * source.grain, sigma)
        out[mask] = finish(blurred, source.inside(source.second, c3), c2)
    return out


class Source:
    """An image over its maximum, with its first noise as grain and its second as drawn.

    All that a blur of up to `widest` can reach from the mask is kept, and no more, so that a
    result is that of the whole volume. The mask must not be empty.
    """

    def __init__(
        self, volume: np.ndarray, mask: np.ndarray, seed: int | Sequence[int], widest: float
    ) -> None:
        drawn = np.random.default_rng(seed).random((2, *volume.shape), np.float32)
        first, second = drawn - np.float32(0.5)
        image, around = scaled(volume, mask), bounding_box(mask, margin=_reach(widest))
        self.grain = blur(first, GRAIN, around) * np.float32(deviation(image))
        self.image, self.second, self._mask = (v[around].copy() for v in (image, second, mask))
        self._box = bounding_box(self._mask)  # no voxel beyond it is asked for

    def inside(self, values: np.ndarray, sigma: float) -> np.ndarray:
        """Blur a volume and return the mask's voxels, (N,)."""
        return blur(values, sigma, self._box)[self._mask[self._box]]


def scaled(volume: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return float32 (X, Y, Z): the volume over its maximum in the mask, 0 outside."""
    image = np.where(mask, volume, 0).astype(np.float32)
    peak = image.max()
    if peak > 0:
        image /= peak
    return image


def deviation(values: np.ndarray) -> float:
    """Return the sample standard deviation of what is not 0, in any shape; 0 of too little."""
    some = values[values != 0]
    return float(some.std(ddof=1, dtype=np.float64)) if some.size > 1 else 0.0


def blur(values: np.ndarray, sigma: float, box: Box) -> np.ndarray:
    """Blur a volume and return the part of it that lies in a box.

    As MATLAB's imgaussfilt3 does by default, in which the simulator was written: the
    kernel reaches ceil(2 sigma) voxels, and border voxels are repeated outward.
    """
    from scipy.ndimage import gaussian_filter

    sigma, reach = max(sigma, LEAST), _reach(sigma)
    around = tuple(slice(max(0, side.start - reach), side.stop + reach) for side in box)
    blurred = gaussian_filter(values[around], sigma, mode="nearest", radius=reach)
    starts = zip(box, (cut.start for cut in around), strict=True)
    return blurred[tuple(slice(side.start - at, side.stop - at) for side, at in starts)]


def _reach(sigma: float) -> int:
    """Return how far a blur looks, in voxels."""
    return math.ceil(2 * max(sigma, LEAST))


def finish(blurred: np.ndarray, smooth: np.ndarray, c2: float) -> np.ndarray:
    """Add the second noise and bring the result to [0, 1].

    The background, which is 0, takes part in the minimum: an image without negative
    voxels is only divided by its maximum.
    """
    out = blurred + np.float32(c2 * deviation(blurred)) * smooth
    out -= min(out.min(), np.float32(0))
    peak = out.max()
    return out / peak if peak > 0 else out
