"""What Arnold's simulator is fitted to: how like the low-field image its image is."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from h2lo_bids.errors import BadDataError
from h2lo_bids.synthesis.arnold import Source, draw_noise, finish, scaled
from h2lo_bids.training.pairs import Pair

Values = tuple[float, float, float, float]
"""sigma, c1, c2, c3: see `h2lo_bids.models.arnold.Arnold`."""
BOUNDS = ((0.1, 5.0), (0.0, 20.0), (0.0, 20.0), (0.1, 8.0))
"""Where the four are looked for: blurs in voxels, noises in standard deviations."""
_WIDTHS = 5
"""Blurs of the second noise that are kept: as many as the grid has."""


class Objective:
    """The mean objective over some pairs, both noises of each drawn once from the seed.

    Blurring is linear, so an image and its noise are blurred apart, once for each
    width. A point of the grid then costs sums over brain voxels, no filter: the 750
    points need 18 filters per pair, and no voxel has to be left out.

    Parameters
    ----------
    pairs
        One or more.
    seed
        Of the noises.

    Raises
    ------
    BadDataError
        If the images of a pair have no voxel in common.
    """

    def __init__(self, pairs: Sequence[Pair], seed: int) -> None:
        self._terms = [Terms(pair, [seed, n]) for n, pair in enumerate(pairs)]

    def __call__(self, values: Values) -> float:
        """Return the objective at sigma, c1, c2, c3; the lower the better, and below 0 at best."""
        return float(np.mean([terms(values) for terms in self._terms]))


class Terms:
    """One pair's part of the objective.

    Parameters
    ----------
    pair
        The pair; its voxels where HF x LF is above 0 are compared, each image over
        its maximum there.
    seed
        Of the noises.
    """

    def __init__(self, pair: Pair, seed: int | Sequence[int]) -> None:
        hf, lf = (np.asarray(v, np.float32) for v in (pair.hf, pair.lf))
        mask = hf * lf > 0
        if not mask.any():
            raise BadDataError(
                f"pair {pair.name}: no voxel is above 0 in both images; prepare the pair again"
            )
        widest = max(BOUNDS[0][1], BOUNDS[3][1])
        self._source = Source.build(hf, mask, *draw_noise(pair.shape, seed), widest)
        self._target = scaled(lf, mask)[mask]
        self._wanted = moments(self._target)
        self._likeness = correlation(scaled(hf, mask)[mask], self._target)
        self._first = functools.lru_cache(1)(self._blur_first)
        self._second = functools.lru_cache(_WIDTHS)(self._blur_second)

    def _blur_first(self, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        source = self._source
        return source.inside(source.image, sigma), source.inside(source.grain, sigma)

    def _blur_second(self, sigma: float) -> np.ndarray:
        return self._source.inside(self._source.second, sigma)

    def simulate(self, values: Values) -> np.ndarray:
        """Return the simulated image's voxels in the mask, (N,)."""
        sigma, c1, c2, c3 = values
        image, grain = self._first(sigma)
        return finish(image + np.float32(c1) * grain, self._second(c3), c2)

    def __call__(self, values: Values) -> float:
        """Compare the simulated image with the low-field one by four figures."""
        simulated = self.simulate(values)
        mean, spread, skew = (
            abs(a - b) for a, b in zip(moments(simulated), self._wanted, strict=True)
        )
        loss = self._likeness - correlation(simulated, self._target)
        return mean / 2 + spread / 2 + skew / 10 + loss


def moments(values: np.ndarray) -> tuple[float, float, float]:
    """Return mean, sample standard deviation and skewness (biased) of (N,) values."""
    mean = float(values.mean(dtype=np.float64))
    apart = values - np.float32(mean)
    square = apart * apart
    second = float(square.mean(dtype=np.float64))
    third = float((square * apart).mean(dtype=np.float64))
    n = len(values)
    skew = third / second**1.5 if second > 0 else 0.0
    return mean, (second * n / max(n - 1, 1)) ** 0.5, skew


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation of two (N,) arrays; 0 where one does not vary."""
    x, y = (v - np.float32(v.mean(dtype=np.float64)) for v in (a, b))
    scale = float(np.dot(x, x)) * float(np.dot(y, y))
    return float(np.dot(x, y)) / scale**0.5 if scale > 0 else 0.0
