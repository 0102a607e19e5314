"""The figure by which the best weights of a fit are chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from h2lo_bids.evaluation.metrics import psnr
from h2lo_bids.training.crops import Corner
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps a volume in [0, 1] and a mask, both (X, Y, Z), to the product there."""
PredictCrop = Callable[[Pair, Corner], np.ndarray]
"""Maps a crop of a pair to the product at its brain voxels, (N,)."""


@dataclass(frozen=True)
class Validation:
    """The figure by which weights are compared, PSNR in dB with data range 1.

    Products are clipped to [0, 1]. The crops of ``validation="crops"`` are spread evenly
    over the brains, so that all steps see the same ones.
    """

    pairs: Sequence[Pair]
    options: FitOptions

    @cached_property
    def places(self) -> list[tuple[int, Corner]]:
        """The crops: a pair's index and the first voxel."""
        return _places(self.pairs, self.options.crop, self.options.validation_crops)

    def sums(
        self,
        predict: Predict,
        predict_crop: PredictCrop | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> tuple[float, float]:
        """Return a process's part of a method's figure, to be added to the others' for `psnr`.

        With ``"crops"``, the cheap way, `predict` is asked for the brain voxels of one crop
        at a time, so that it need not compute the rest; where its result depends on what else
        is asked for (blended patches), the figure is that of these products.
        """
        mine = slice(rank, None, world)
        if self.options.validation == "volume":
            found = [
                psnr(predict(as_float(p.hf), p.mask).clip(0, 1), as_float(p.lf))
                for p in self.pairs[mine]
            ]
            return math.fsum(found), float(len(found))
        total, voxels = 0.0, 0
        for index, corner in self.places[mine]:
            pair = self.pairs[index]
            box = self._box(corner)
            if predict_crop is not None:
                made = predict_crop(pair, corner)
            else:
                wanted = np.zeros(pair.shape, bool)
                wanted[box] = pair.mask[box]
                made = predict(as_float(pair.hf), wanted)[wanted]
            error = made.clip(0, 1).astype(np.float64) - pair.lf[box][pair.mask[box]]
            total, voxels = total + float((error**2).sum()), voxels + len(error)
        return total, float(voxels)

    def psnr(self, total: float, count: float) -> float:
        """Return the figure from the sums of `sums`; NaN without validation pairs."""
        if not count:
            return math.nan
        if self.options.validation == "volume":
            return total / count
        return math.inf if total == 0 else -10.0 * math.log10(total / count)

    def figure(self, predict: Predict, predict_crop: PredictCrop | None = None) -> float:
        """Return the figure of a method; NaN without validation pairs."""
        return self.psnr(*self.sums(predict, predict_crop))

    def baseline(self) -> float:
        """Return the figure of the input images themselves."""

        def crop(pair: Pair, corner: Corner) -> np.ndarray:
            box = self._box(corner)
            return as_float(pair.hf[box][pair.mask[box]])

        return self.figure(lambda volume, mask: volume, crop)

    def _box(self, corner: Corner) -> tuple[slice, ...]:
        return tuple(slice(max(0, c), c + self.options.crop) for c in corner)


def as_float(volume: np.ndarray) -> np.ndarray:
    """Return an image in float32."""
    return np.asarray(volume, np.float32)


def _places(pairs: Sequence[Pair], size: int, count: int) -> list[tuple[int, Corner]]:
    """Tile the brains; of the tiles that are at least an eighth brain take every n-th."""
    places: list[tuple[int, Corner]] = []
    for index, pair in enumerate(pairs):
        at = np.argwhere(pair.mask)
        low, high = at.min(0), at.max(0) + 1
        starts = [range(int(a), int(b), size) for a, b in zip(low, high, strict=True)]
        for x, y, z in itertools.product(*starts):
            corner = (x, y, z)
            tile = tuple(slice(c, c + size) for c in corner)
            if pair.mask[tile].sum() * 8 >= size**3:
                places.append((index, corner))
    if not places:
        return [(i, _centre(pair, size)) for i, pair in enumerate(pairs)]
    chosen = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
    return [places[i] for i in chosen]


def _centre(pair: Pair, size: int) -> Corner:
    x, y, z = (round(c) - size // 2 for c in np.argwhere(pair.mask).mean(0))
    return x, y, z
