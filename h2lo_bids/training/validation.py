"""The figure by which the best weights of a fit are chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch

from h2lo_bids.models.branch import HALO
from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.training.augment import NONE, draw_crop
from h2lo_bids.training.crops import Corner, predict_crop
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


def brain_psnr(
    model: H2lo | None,
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
    total, voxels = 0.0, 0
    rng = np.random.default_rng(0)
    for index, corner in places:
        pair = pairs[index]
        hf, lf, mask = draw_crop(pair, corner, size, NONE, rng)
        if model is None:
            predicted = hf[(slice(HALO, -HALO),) * 3]
        else:
            crop = torch.from_numpy(np.ascontiguousarray(hf))[None, None]
            with (
                torch.inference_mode(),
                torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
            ):
                predicted = predict_crop(model, crop, corner, pair.shape)[0, 0].numpy()
        error = predicted.clip(0, 1)[mask].astype(np.float64) - lf[mask]
        total += float((error**2).sum())
        voxels += int(mask.sum())
    if not voxels:
        return math.nan
    return math.inf if total == 0 else -10.0 * math.log10(total / voxels)
