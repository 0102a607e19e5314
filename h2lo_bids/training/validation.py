"""The figure by which the best weights of a fit are chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from h2lo_bids.evaluation.metrics import psnr
from h2lo_bids.models.branch import HALO
from h2lo_bids.models.operators import Operator
from h2lo_bids.synthesis.engine import synthesize
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.training.augment import NONE, draw_crop
from h2lo_bids.training.crops import Corner, predict_crop
from h2lo_bids.training.estimators import ALONE, Share, autocast
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair


def validation_places(pairs: Sequence[Pair], size: int, count: int) -> list[tuple[int, Corner]]:
    """Choose crops that are spread evenly over the brains: (pair, corner).

    The brains are tiled without overlap; of the tiles that are at least an
    eighth brain, every n-th is taken, so that all steps see the same ones.
    """
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


@dataclass(frozen=True)
class Validation:
    """The figure by which weights are compared, PSNR in dB with data range 1.

    Parameters
    ----------
    pairs
        The validation pairs.
    options
        Which figure, on which crops, in which precision.
    """

    pairs: Sequence[Pair]
    options: FitOptions
    places: Sequence[tuple[int, Corner]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        o = self.options
        places = validation_places(self.pairs, o.crop, o.validation_crops)
        object.__setattr__(self, "places", places if o.validation == "crops" else [])

    def baseline(self) -> float:
        """Return the figure of the input images themselves, in dB."""
        return self.psnr(*self.parts(None))

    def parts(self, model: Operator | None, share: Share = ALONE) -> tuple[float, float]:
        """Return a process's part of the figure, to be added to the others' for `psnr`."""
        o, mine = self.options, slice(share.rank, None, share.world)
        if o.validation == "crops":
            return squared_errors(model, self.pairs, self.places[mine], o.crop, o.precision)
        found = [volume_psnr(model, pair, precision=o.precision) for pair in self.pairs[mine]]
        return math.fsum(found), float(len(found))

    def psnr(self, total: float, count: float) -> float:
        """Return the figure from the sums of `parts`; NaN without validation pairs."""
        if self.options.validation == "crops":
            return _decibels(total, count)
        return total / count if count else math.nan


def product_psnr(
    validation: Validation, predict: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> float | None:
    """Return the validation's figure for a method that is no operator, from its own products.

    With ``"volume"`` each pair is synthesized as a whole. With ``"crops"``, the
    cheap way, the method is asked for the brain voxels of one crop at a time, so
    that it need not compute the rest; where its result depends on what else is
    asked for (blended patches), the figure is that of these products.

    Parameters
    ----------
    validation
        The pairs, the figure and the crops.
    predict
        Maps a volume in [0, 1] and a mask, both (X, Y, Z), to the product there.

    Returns
    -------
    float or None
        In dB, data range 1, the products clipped to [0, 1]; None without pairs.
    """
    pairs = validation.pairs
    if not pairs:
        return None
    if validation.options.validation == "volume":
        volumes = [predict(np.asarray(p.hf, np.float32), p.mask).clip(0, 1) for p in pairs]
        found = [psnr(v, np.asarray(p.lf, np.float32)) for v, p in zip(volumes, pairs, strict=True)]
        return math.fsum(found) / len(found)
    total, voxels = 0.0, 0
    for index, corner in validation.places:
        pair, wanted = pairs[index], np.zeros(pairs[index].shape, bool)
        box = tuple(slice(max(0, c), c + validation.options.crop) for c in corner)
        wanted[box] = pair.mask[box]
        made = predict(np.asarray(pair.hf, np.float32), wanted)[wanted]
        error = made.clip(0, 1).astype(np.float64) - pair.lf[wanted]
        total, voxels = total + float((error**2).sum()), voxels + len(error)
    return validation.psnr(total, voxels)


def volume_psnr(model: Operator | None, pair: Pair, *, precision: str = "fp32") -> float:
    """Return the whole-volume PSNR of the product in dB, data range 1.

    The product is clipped to [0, 1] and 0 outside the brain. Without a model:
    of the high-field image itself.
    """
    predicted = np.asarray(pair.hf, np.float32)
    if model is not None:
        device = next(model.parameters()).device
        options = EngineOptions(
            device="cpu" if device.type == "cpu" else str(device),
            precision="bf16" if precision == "bf16" else "fp32",
        )
        with torch.inference_mode():
            predicted = synthesize(model, predicted, pair.mask, options=options).clip(0, 1)
    return psnr(predicted, np.asarray(pair.lf, np.float32))


def brain_psnr(
    model: Operator | None,
    pairs: Sequence[Pair],
    places: Sequence[tuple[int, Corner]],
    size: int,
    *,
    precision: str = "fp32",
) -> float:
    """Return the PSNR in dB over the brain voxels of the chosen crops.

    Data range 1, prediction clipped to [0, 1]. Without a model: of the
    high-field image itself, the identity baseline.
    """
    return _decibels(*squared_errors(model, pairs, places, size, precision))


def squared_errors(
    model: Operator | None,
    pairs: Sequence[Pair],
    places: Sequence[tuple[int, Corner]],
    size: int,
    precision: str = "fp32",
) -> tuple[float, float]:
    """Return the sum of squared errors over the brain voxels of crops, and their number."""
    total, voxels = 0.0, 0
    rng = np.random.default_rng(0)
    for index, corner in places:
        pair = pairs[index]
        hf, lf, mask = draw_crop(pair, corner, size, NONE, rng)
        if model is None:
            predicted = hf[(slice(HALO, -HALO),) * 3]
        else:
            device = next(model.parameters()).device
            crop = torch.from_numpy(np.ascontiguousarray(hf))[None, None].to(device)
            with torch.inference_mode(), autocast(device, precision):
                found = predict_crop(model, crop, corner, pair.shape)
            predicted = found[0, 0].cpu().numpy()
        error = predicted.clip(0, 1)[mask].astype(np.float64) - lf[mask]
        total += float((error**2).sum())
        voxels += int(mask.sum())
    return total, float(voxels)


def _decibels(total: float, voxels: float) -> float:
    if not voxels:
        return math.nan
    return math.inf if total == 0 else -10.0 * math.log10(total / voxels)
