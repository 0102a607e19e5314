"""One step's estimate of the training loss (Equations 2 and 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from h2lo_bids.models.frame import normalised_coordinates
from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.training.augment import draw_crop
from h2lo_bids.training.crops import basis_functions, predict_crop
from h2lo_bids.training.losses import gaussian_derivative_kernels, gradient_loss, l1_loss
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair, common_shape
from h2lo_bids.training.sampling import CropSampler, draw_points, draw_subvolume

Terms = tuple[torch.Tensor, torch.Tensor]
Estimator = Callable[[H2lo, np.random.Generator], Terms]
"""Maps a model and a source of draws to the L1 term and the gradient term."""


def build_estimator(pairs: Sequence[Pair], options: FitOptions) -> Estimator:
    """Return the estimator that `options.sampling` names."""
    kernels = gaussian_derivative_kernels()
    if options.sampling == "volume":
        return lambda model, rng: volume_terms(model, pairs, kernels, options, rng)
    sampler = CropSampler.build(pairs, options.crop)
    return lambda model, rng: patch_terms(model, pairs, sampler, kernels, options, rng)


def patch_terms(
    model: H2lo,
    pairs: Sequence[Pair],
    sampler: CropSampler,
    kernels: torch.Tensor,
    options: FitOptions,
    rng: np.random.Generator,
) -> Terms:
    """Estimate both terms over the brain from crops of several pairs at one place.

    The prediction is set to 0 outside the brain, as in the product. All voxels
    of a crop serve both terms. Background left out, both terms grow by the same
    factor (grid over brain, about nine), so their balance stays the paper's.
    """
    chosen = rng.permutation(len(pairs))[: options.batch]
    corner = sampler.draw(rng)
    crops = [draw_crop(pairs[i], corner, options.crop, options.augmentation, rng) for i in chosen]
    hf, lf, mask = (torch.from_numpy(np.stack(p))[:, None] for p in zip(*crops, strict=True))
    weight = torch.from_numpy(sampler.weight(corner))
    with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
        predicted = predict_crop(model, hf, corner, pairs[0].shape) * mask
    l1 = l1_loss(predicted, lf, weight=weight)
    return l1, gradient_loss(predicted, lf, kernels, weight=weight)


def volume_terms(
    model: H2lo,
    pairs: Sequence[Pair],
    kernels: torch.Tensor,
    options: FitOptions,
    rng: np.random.Generator,
) -> Terms:
    """Estimate both terms as the paper does: one encoder pass over a whole volume.

    8000 voxels drawn from the whole grid, background included, and one random
    sub-volume. Needs about 2 kB per voxel of the grid.
    """
    pair = pairs[int(rng.integers(len(pairs)))]
    shape = common_shape([pair])
    at = torch.from_numpy(draw_points(shape, options.points, rng))
    corner = draw_subvolume(shape, options.crop, rng)
    sides = [min(options.crop, n) for n in shape]
    box = tuple(slice(c, c + side) for c, side in zip(corner, sides, strict=True))
    inner = torch.from_numpy(np.mgrid[box].reshape(3, -1).T.copy())
    lf = torch.from_numpy(np.ascontiguousarray(pair.lf, np.float32))
    with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
        features = model.encoder(
            torch.from_numpy(np.ascontiguousarray(pair.hf, np.float32))[None, None]
        )[0]
        points = _at_voxels(model, features, at, shape)
        block = _at_voxels(model, features, inner, shape)
    l1 = l1_loss(points, lf[at[:, 0], at[:, 1], at[:, 2]])
    return l1, gradient_loss(block.reshape(1, 1, *sides), lf[box][None, None], kernels)


def _at_voxels(
    model: H2lo, features: torch.Tensor, voxels: torch.Tensor, shape: tuple[int, int, int]
) -> torch.Tensor:
    coefficients = features[:, voxels[:, 0], voxels[:, 1], voxels[:, 2]].T
    coordinates = torch.from_numpy(normalised_coordinates(voxels.numpy(), shape)).float()
    basis = basis_functions(model, coordinates)
    return (coefficients * basis).sum(-1, dtype=torch.float32) + model.bias
