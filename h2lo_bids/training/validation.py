"""The figure by which the best weights of a fit are chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from h2lo_bids.evaluation.metrics import psnr
from h2lo_bids.models.h2lo import HALO, Operator
from h2lo_bids.synthesis.engine import synthesize
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.training.augment import NONE, draw_crop
from h2lo_bids.training.crops import Corner, predict_crop
from h2lo_bids.training.estimators import autocast
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps a volume in [0, 1] and a mask, both (X, Y, Z), to the product there."""


@dataclass(frozen=True)
class Validation:
    """The figure by which weights are compared, PSNR in dB with data range 1.

    Products are clipped to [0, 1]. The crops of ``validation="crops"`` are spread evenly
    over the brains, so that all steps see the same ones.
    """

    pairs: Sequence[Pair]
    options: FitOptions
    places: Sequence[tuple[int, Corner]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        o = self.options
        places = _places(self.pairs, o.crop, o.validation_crops) if o.validation == "crops" else []
        object.__setattr__(self, "places", places)

    def parts(self, model: Operator | None, rank: int = 0, world: int = 1) -> tuple[float, float]:
        """Return a process's part of an operator's figure, to be added to the others' for `psnr`.

        Without a model: of the input image itself.
        """
        mine = slice(rank, None, world)
        if self.options.validation == "volume":
            found = [self._volume_psnr(model, pair) for pair in self.pairs[mine]]
            return math.fsum(found), float(len(found))
        total, voxels = 0.0, 0
        for index, corner in self.places[mine]:
            error = self._crop_error(model, self.pairs[index], corner)
            total, voxels = total + float((error**2).sum()), voxels + len(error)
        return total, float(voxels)

    def psnr(self, total: float, count: float) -> float:
        """Return the figure from the sums of `parts`; NaN without validation pairs."""
        if not count:
            return math.nan
        if self.options.validation == "volume":
            return total / count
        return math.inf if total == 0 else -10.0 * math.log10(total / count)

    def baseline(self) -> float:
        """Return the figure of the input images themselves."""
        return self.psnr(*self.parts(None))

    def product(self, predict: Predict) -> float | None:
        """Return the figure of a method that is no operator, from its products; None without pairs.

        With ``"crops"``, the cheap way, the method is asked for the brain voxels of one crop
        at a time, so that it need not compute the rest; where its result depends on what else
        is asked for (blended patches), the figure is that of these products.
        """
        if not self.pairs:
            return None
        if self.options.validation == "volume":
            found = [
                psnr(predict(_float(p.hf), p.mask).clip(0, 1), _float(p.lf)) for p in self.pairs
            ]
            return math.fsum(found) / len(found)
        total, voxels = 0.0, 0
        for index, corner in self.places:
            pair, wanted = self.pairs[index], np.zeros(self.pairs[index].shape, bool)
            box = tuple(slice(max(0, c), c + self.options.crop) for c in corner)
            wanted[box] = pair.mask[box]
            made = predict(_float(pair.hf), wanted)[wanted]
            error = made.clip(0, 1).astype(np.float64) - pair.lf[wanted]
            total, voxels = total + float((error**2).sum()), voxels + len(error)
        return self.psnr(total, voxels)

    def _volume_psnr(self, model: Operator | None, pair: Pair) -> float:
        predicted = _float(pair.hf)
        if model is not None:
            precision = "bf16" if self.options.precision == "bf16" else "fp32"
            device = str(next(model.parameters()).device)
            engine = EngineOptions(device=device, precision=precision)
            with torch.inference_mode():
                predicted = synthesize(model, predicted, pair.mask, options=engine).clip(0, 1)
        return psnr(predicted, _float(pair.lf))

    def _crop_error(self, model: Operator | None, pair: Pair, corner: Corner) -> np.ndarray:
        """Return the errors of a crop's brain voxels, (N,)."""
        rng = np.random.default_rng(0)
        hf, lf, mask = draw_crop(pair, corner, self.options.crop, NONE, rng)
        predicted = hf[(slice(HALO, -HALO),) * 3]
        if model is not None:
            device = next(model.parameters()).device
            crop = torch.from_numpy(np.ascontiguousarray(hf))[None, None].to(device)
            with torch.inference_mode(), autocast(device, self.options.precision):
                found = predict_crop(model, crop, corner, pair.shape)
            predicted = found[0, 0].cpu().numpy()
        return predicted.clip(0, 1)[mask].astype(np.float64) - lf[mask]


def _float(volume: np.ndarray) -> np.ndarray:
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
