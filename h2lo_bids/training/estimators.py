"""The losses of Equations 2 and 3 of the paper, and one step's estimate of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from h2lo_bids.models.frame import normalised_coordinates
from h2lo_bids.models.h2lo import Operator
from h2lo_bids.training.augment import draw_crop
from h2lo_bids.training.crops import (
    Corner,
    CropSampler,
    epoch_batch,
    predict_crop,
    read_features,
)
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair, common_shape

Terms = tuple[torch.Tensor, torch.Tensor]
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def gaussian_derivative_kernels(sigma: float = 1.0, size: int = 5) -> torch.Tensor:
    """Return the filters k_d(r) = -r_d / sigma^2 G_sigma(r) of Equation 3.

    float32 (3, 1, size, size, size): one kernel per axis, ready for
    `torch.nn.functional.conv3d`, which correlates. `sigma` is in voxels, `size` odd.
    """
    r = torch.arange(size, dtype=torch.float64) - size // 2
    offsets = torch.stack(torch.meshgrid(r, r, r, indexing="ij"))
    density = torch.exp(-(offsets**2).sum(0) / (2 * sigma**2)) / (2 * torch.pi * sigma**2) ** 1.5
    return (-offsets / sigma**2 * density).float()[:, None]


def gradient_loss(
    predicted: torch.Tensor,
    target: torch.Tensor,
    kernels: torch.Tensor,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compare the Gaussian derivatives of two sub-volumes (B, 1, X, Y, Z) (Equation 3).

    The mean over voxels, of weights `weight`, takes the place of the squared Frobenius norm's
    sum, as in the authors' release, so that the weight does not depend on the size. Zeros are
    put around the sub-volume, which keeps its size.
    """
    difference = (predicted - target).float()
    responses = functional.conv3d(
        difference, kernels.to(difference.device), padding=kernels.shape[-1] // 2
    )
    squares = responses.square()
    if weight is not None:
        squares = squares * weight
    return squares.mean(dim=(0, 2, 3, 4)).sum()


def l1_loss(
    predicted: torch.Tensor, target: torch.Tensor, *, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the (weighted) mean absolute difference over the sampled voxels."""
    difference = (predicted.float() - target.float()).abs()
    return (difference if weight is None else difference * weight).mean()


@dataclass(frozen=True)
class Batch:
    """What one process computes in one step."""

    tensors: dict[str, torch.Tensor] = field(repr=False)
    places: tuple[Corner, ...]  # first voxels of the crops, or of the sub-volumes
    fraction: float = 1.0  # of the step's samples

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        if device.type == "cpu":
            return self
        moved = {k: t.to(device, non_blocking=True) for k, t in self.tensors.items()}
        return dataclasses.replace(self, tensors=moved)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which the operator computes."""
    kind = _TYPES.get(precision)
    return torch.autocast(device.type, kind or torch.bfloat16, enabled=kind is not None)


@dataclass(frozen=True)
class PatchEstimator:
    """Estimates both terms over the brain from crops of several pairs at one place.

    The prediction is set to 0 outside the brain, as in the product. All voxels
    of a crop serve both terms. Without the background both terms grow by the same
    factor (grid over brain, about nine), so their balance stays the paper's.
    """

    pairs: Sequence[Pair]
    options: FitOptions
    sampler: CropSampler
    kernels: torch.Tensor = field(default_factory=gaussian_derivative_kernels, repr=False)

    def draw(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Draw a process's part of a step, counted from 0: a function of seed and step."""
        o = self.options
        rng = np.random.default_rng([o.seed, step])
        chosen = rng.permutation(len(self.pairs))[: o.batch]
        corner = self.sampler.draw(rng)
        # Every process makes all the draws, so that they are those of one process.
        crops = [draw_crop(self.pairs[i], corner, o.crop, o.augmentation, rng) for i in chosen]
        mine = crops[rank::world]
        hf, lf, mask = (torch.from_numpy(np.stack(p))[:, None] for p in zip(*mine, strict=True))
        weight = torch.from_numpy(self.sampler.weight(corner))
        tensors = {"hf": hf, "lf": lf, "mask": mask, "weight": weight}
        return Batch(tensors, (corner,), len(mine) / len(crops))

    def terms(self, model: Operator, batch: Batch) -> Terms:
        """Return the L1 term and the gradient term, means over the batch."""
        t = batch.tensors
        with autocast(t["hf"].device, self.options.precision):
            predicted = predict_crop(model, t["hf"], batch.places[0], self.pairs[0].shape)
            predicted = predicted * t["mask"]
        with torch.autocast(predicted.device.type, enabled=False):
            l1 = l1_loss(predicted, t["lf"], weight=t["weight"])
            if not self.options.lambda_grad:
                return l1, l1.new_zeros(())
            return l1, gradient_loss(predicted, t["lf"], self.kernels, weight=t["weight"])


@dataclass(frozen=True)
class VolumeEstimator:
    """Estimates both terms as the paper does: one encoder pass over a whole volume.

    Voxels drawn from the whole grid, background included, and one random sub-volume. Each epoch
    takes each pair once. Needs about 2 kB per voxel of the grid.
    """

    pairs: Sequence[Pair]
    options: FitOptions
    kernels: torch.Tensor = field(default_factory=gaussian_derivative_kernels, repr=False)

    def draw(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Draw a process's part of a step, as `PatchEstimator.draw` does."""
        o, shape = self.options, common_shape(self.pairs)
        rng = np.random.default_rng([o.seed, step])
        chosen = epoch_batch(len(self.pairs), o.batch, step, o.seed)
        points = [rng.integers(0, shape, (o.points, 3)) for _ in chosen]
        corners: list[Corner] = [
            tuple(int(rng.integers(0, n - min(o.crop, n) + 1)) for n in shape)  # type: ignore[misc]
            for _ in chosen
        ]
        mine = range(len(chosen))[rank::world]
        pairs = [self.pairs[chosen[i]] for i in mine]
        at = np.stack([points[i] for i in mine])
        inner = np.stack([np.mgrid[self._box(corners[i])].reshape(3, -1).T for i in mine])
        volumes = {
            name: torch.from_numpy(np.stack([getattr(p, name) for p in pairs]).astype(np.float32))
            for name in ("hf", "lf")
        }
        voxels = {"points": at, "inner": inner}
        where = {
            f"{k}_at": torch.from_numpy(normalised_coordinates(v, shape)).float()
            for k, v in voxels.items()
        }
        tensors = {**volumes, **{k: torch.from_numpy(v) for k, v in voxels.items()}, **where}
        return Batch(tensors, tuple(corners[i] for i in mine), len(mine) / len(chosen))

    def _box(self, corner: Corner) -> tuple[slice, ...]:
        shape = self.pairs[0].shape
        return tuple(
            slice(c, c + min(self.options.crop, n)) for c, n in zip(corner, shape, strict=True)
        )

    def terms(self, model: Operator, batch: Batch) -> Terms:
        """Return the L1 term and the gradient term, means over the batch."""
        found = [self._terms(model, batch, i) for i in range(len(batch.places))]
        l1, gradient = (torch.stack(term).mean() for term in zip(*found, strict=True))
        return l1, gradient

    def _terms(self, model: Operator, batch: Batch, index: int) -> Terms:
        t = {k: v[index] for k, v in batch.tensors.items()}
        device = t["hf"].device
        with autocast(device, self.options.precision):
            features = model.encoder(t["hf"][None, None])[0]
            points = _at_voxels(model, features, t["points"], t["points_at"])
            x, y, z = t["points"].unbind(1)
            l1 = l1_loss(points, t["lf"][x, y, z])
            if not self.options.lambda_grad:
                return l1, l1.new_zeros(())
            block = _at_voxels(model, features, t["inner"], t["inner_at"])
        target = t["lf"][self._box(batch.places[index])][None, None]
        with torch.autocast(device.type, enabled=False):
            return l1, gradient_loss(block.reshape(target.shape), target, self.kernels)


def _at_voxels(
    model: Operator, features: torch.Tensor, voxels: torch.Tensor, coordinates: torch.Tensor
) -> torch.Tensor:
    coefficients = features[:, voxels[:, 0], voxels[:, 1], voxels[:, 2]].T
    return read_features(model, coefficients, coordinates, features.shape[1:])


Estimator = PatchEstimator | VolumeEstimator


def build_estimator(pairs: Sequence[Pair], options: FitOptions) -> Estimator:
    """Return the estimator that `options.sampling` names."""
    if options.sampling == "volume":
        return VolumeEstimator(pairs, options)
    return PatchEstimator(pairs, options, CropSampler.build(pairs, options.crop))
