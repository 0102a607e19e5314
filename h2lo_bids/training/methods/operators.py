"""H2LO, its two ablations and the conditional INR: Equations 2 and 3 of the paper, and Adam."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from h2lo_bids.models.h2lo import HALO, Branch, H2loArchitecture, InrArchitecture, Operator
from h2lo_bids.models.registry import make_model
from h2lo_bids.synthesis.tiles import read_crop
from h2lo_bids.training.crops import NONE, Corner, CropSampler, draw_crop, epoch_batch, stack_crops
from h2lo_bids.training.options import FitOptions, rate_of
from h2lo_bids.training.pairs import Pair, common_shape
from h2lo_bids.training.trainer import Trainer, advance_average, autocast

Terms = tuple[torch.Tensor, torch.Tensor]
ROWS = 8192
"""Trunk rows at a time: small enough for the cache, where sines are three times faster."""


def adapt_inr(options: FitOptions) -> FitOptions:
    """Return the options of the conditional INR: H2LO's but for network and gradient term."""
    sizes = options.architecture
    if isinstance(sizes, H2loArchitecture):
        sizes = InrArchitecture(sizes.channels, sizes.n_basis, sizes.width)
    return dataclasses.replace(options, family="inr", architecture=sizes, lambda_grad=0.0)


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
    sides = (torch.arange(c - HALO, c - HALO + crops.shape[-1]) for c in corner)
    x, y, z = ((at >= 0) & (at < n) for at, n in zip(sides, shape, strict=True))
    inside = x[:, None, None] & y[:, None] & z
    whole, features, last = bool(inside.all()), crops, len(branch.convolutions) - 1
    for i, layer in enumerate(branch.convolutions):
        features = functional.conv3d(features, layer.weight, layer.bias)
        if i < last:
            features = functional.relu(features)
        if i < last and not whole:
            left = (slice(i + 1, -i - 1),) * 3  # each layer takes a voxel of the halo away
            features = features * inside[left].to(features)
    return features


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
    if model.encoder.convolutions[1].weight.is_contiguous(memory_format=torch.channels_last_3d):
        crops = crops.to(memory_format=torch.channels_last_3d)
    features = encode_crop(model.encoder, crops, corner, shape)
    coefficients = features.permute(0, 2, 3, 4, 1).reshape(len(crops), size**3, -1)
    coordinates = crop_coordinates(corner, size, shape).to(crops.device)
    parts = []
    for start in range(0, size**3, ROWS):
        rows = slice(start, start + ROWS)
        parts.append(model.decode(coefficients[:, rows], coordinates[rows], shape))
    return torch.cat(parts, 1).reshape(len(crops), 1, size, size, size)


def gradient_loss(
    predicted: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Compare the Gaussian derivatives of two sub-volumes (B, 1, X, Y, Z) (Equation 3).

    The mean over voxels, of weights `weight`, takes the place of the squared Frobenius norm's
    sum, as in the authors' release, so that the weight does not depend on the size. Zeros are
    put around the sub-volume, which keeps its size.
    """
    # One kernel of 5 x 5 x 5 per axis, k_d(r) = -r_d G(r), G of standard deviation 1 voxel.
    r = torch.arange(-2.0, 3.0, dtype=torch.float64)
    offsets = torch.stack(torch.meshgrid(r, r, r, indexing="ij"))
    density = torch.exp(-(offsets**2).sum(0) / 2) / (2 * torch.pi) ** 1.5
    difference = (predicted - target).float()
    kernels = (-offsets * density).float()[:, None].to(difference.device)
    squares = functional.conv3d(difference, kernels, padding=2).square()
    if weight is not None:
        squares = squares * weight
    return squares.mean(dim=(0, 2, 3, 4)).sum()


class Batch(NamedTuple):
    """What one process computes in one step."""

    tensors: dict[str, torch.Tensor]
    places: tuple[Corner, ...]  # first voxels of the crops, or of the sub-volumes
    fraction: float  # of the step's samples


class PatchLoss(nn.Module):
    """Estimates both terms over the brain from crops of several pairs at one place.

    The prediction is set to 0 outside the brain, as in the product. All voxels
    of a crop serve both terms. Without the background both terms grow by the same
    factor (grid over brain, about nine), so their balance stays the paper's.
    """

    def __init__(self, model: Operator, pairs: Sequence[Pair], options: FitOptions) -> None:
        super().__init__()
        self.model, self._pairs, self._options = model, pairs, options
        self._sampler = CropSampler(pairs, options.crop)

    def draw(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Draw a process's part of a step, counted from 0: a function of seed and step."""
        o = self._options
        rng = np.random.default_rng([o.seed, step])
        chosen = rng.permutation(len(self._pairs))[: o.batch]
        corner = self._sampler.draw(rng)
        # Every process makes all the draws, so that they are those of one process.
        crops = [draw_crop(self._pairs[i], corner, o.crop, o.augmentation, rng) for i in chosen]
        mine = crops[rank::world]
        tensors = dict(zip(("hf", "lf", "mask"), stack_crops(mine), strict=True))
        weight = read_crop(self._sampler.weights, corner, o.crop)
        tensors["weight"] = torch.from_numpy(weight)
        return Batch(tensors, (corner,), len(mine) / len(crops))

    def forward(self, t: dict[str, torch.Tensor], places: tuple[Corner, ...]) -> Terms:
        """Return the L1 term and the gradient term, means over the batch."""
        with autocast(t["hf"].device, self._options.precision):
            predicted = predict_crop(self.model, t["hf"], places[0], self._pairs[0].shape)
            predicted = predicted * t["mask"]
        with torch.autocast(predicted.device.type, enabled=False):
            l1 = ((predicted - t["lf"]).abs() * t["weight"]).mean()
            if not self._options.lambda_grad:
                return l1, l1.new_zeros(())
            return l1, gradient_loss(predicted, t["lf"], t["weight"])


class VolumeLoss(nn.Module):
    """Estimates both terms as the paper does: one encoder pass over a whole volume.

    Voxels drawn from the whole grid, background included, and one random sub-volume. Each epoch
    takes each pair once. Needs about 2 kB per voxel of the grid.
    """

    def __init__(self, model: Operator, pairs: Sequence[Pair], options: FitOptions) -> None:
        super().__init__()
        self.model, self._pairs, self._options = model, pairs, options
        self._shape = common_shape(pairs)
        self._sides = tuple(min(options.crop, n) for n in self._shape)

    def draw(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Draw a process's part of a step, as `PatchLoss.draw` does."""
        o, shape = self._options, self._shape
        rng = np.random.default_rng([o.seed, step])
        chosen = epoch_batch(len(self._pairs), o.batch, step, o.seed)
        points = [rng.integers(0, shape, (o.points, 3)) for _ in chosen]
        highest = np.subtract(shape, self._sides)
        corners: list[Corner] = [
            tuple(int(rng.integers(0, n + 1)) for n in highest)  # type: ignore[misc]
            for _ in chosen
        ]
        mine = slice(rank, None, world)
        pairs = [self._pairs[i] for i in chosen[mine]]
        tensors = {
            name: torch.from_numpy(np.stack([getattr(p, name) for p in pairs]).astype(np.float32))
            for name in ("hf", "lf")
        }
        tensors["points"] = torch.from_numpy(np.stack(points[mine]))
        return Batch(tensors, tuple(corners[mine]), len(pairs) / len(chosen))

    def forward(self, tensors: dict[str, torch.Tensor], places: tuple[Corner, ...]) -> Terms:
        """Return the L1 term and the gradient term, means over the batch."""
        found = [
            self._terms({k: v[i] for k, v in tensors.items()}, corner)
            for i, corner in enumerate(places)
        ]
        l1, gradient = (torch.stack(term).mean() for term in zip(*found, strict=True))
        return l1, gradient

    def _terms(self, t: dict[str, torch.Tensor], corner: Corner) -> Terms:
        device = t["hf"].device
        with autocast(device, self._options.precision):
            features = self.model.encoder(t["hf"][None, None])[0]
            x, y, z = t["points"].unbind(1)
            l1 = (self._at(features, t["points"]) - t["lf"][x, y, z]).abs().mean()
            if not self._options.lambda_grad:
                return l1, l1.new_zeros(())
            box = tuple(slice(c, c + side) for c, side in zip(corner, self._sides, strict=True))
            inner = torch.from_numpy(np.mgrid[box].reshape(3, -1).T).to(device)
            block = self._at(features, inner)
        target = t["lf"][box][None, None]
        with torch.autocast(device.type, enabled=False):
            return l1, gradient_loss(block.reshape(target.shape), target)

    def _at(self, features: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
        """Evaluate the operator at voxels (N, 3), with its encoder's features (P, X, Y, Z)."""
        last = voxels.new_tensor(self._shape).double() - 1
        coordinates = (2.0 * voxels.double() / last - 1.0).float()
        x, y, z = voxels.unbind(1)
        return self.model.decode(features[:, x, y, z].T, coordinates, self._shape)


class OperatorTrainer(Trainer):
    """Equations 2 and 3 of the paper by Adam; the running average of the weights is kept."""

    losses = ("loss", "l1", "gradient")
    kept = ("model", "average", "optimiser", "precision")

    def build(self, initial: Mapping[str, torch.Tensor] | None) -> None:
        """Build the operator, and the loss that the processes share by DDP."""
        o, fabric = self.options, self.fabric
        self.share = fabric.global_rank, fabric.world_size
        self.model = cast("Operator", make_model(o.family, o.architecture))
        if initial is not None:
            self.model.load_state_dict(initial)
        # The fastest layout, but for a CPU's gradients in float32: those take half as long again.
        if o.precision != "fp32" or self.device.type != "cpu":
            self.model.encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        average = copy.deepcopy(self.model).requires_grad_(False)
        self.average = average.to(self.device)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=o.learning_rate)
        self.precision = fabric.strategy.precision  # with float16's loss scale
        kind = VolumeLoss if o.sampling == "volume" else PatchLoss
        self.estimator = kind(self.model, self.pairs, o)
        self._loss, self._update = fabric.setup(self.estimator, self.optimiser)

    def step(self, step: int, place: int) -> Mapping[str, float]:
        """Do this process's part of a step."""
        fabric, rate = self.fabric, rate_of(place, self.options)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        batch = self.estimator.draw(step, *self.share)
        l1, gradient = self._loss(fabric.to_device(batch.tensors), batch.places)
        loss = l1 + self.options.lambda_grad * gradient
        terms = torch.stack([loss.detach(), l1.detach(), gradient.detach()])
        terms = fabric.all_reduce(terms * batch.fraction, reduce_op="sum")  # type: ignore[assignment]
        self.optimiser.zero_grad()
        # Scaled so that the mean of the processes is the step's.
        fabric.backward(loss * (batch.fraction * fabric.world_size))
        self._update.step()
        advance_average(self.average, self.model, self.options.average, step + 1)
        return {"rate": rate, **dict(zip(self.losses, terms.tolist(), strict=True))}

    def fitted(self) -> nn.Module:
        """Return the operator with the averaged weights."""
        return self.average

    def validate(self) -> float:
        """Return the validation PSNR of the averaged weights, in dB."""
        sums = self.validation.sums(self.product(), self._predict_crop, *self.share)
        parts = torch.tensor(sums, dtype=torch.float64, device=self.device)
        return self.validation.psnr(*self.fabric.all_reduce(parts, reduce_op="sum").tolist())  # type: ignore[union-attr]

    def _predict_crop(self, pair: Pair, corner: Corner) -> np.ndarray:
        rng = np.random.default_rng(0)
        hf, _, mask = draw_crop(pair, corner, self.options.crop, NONE, rng)
        crop = torch.from_numpy(np.ascontiguousarray(hf))[None, None].to(self.device)
        with torch.inference_mode(), autocast(self.device, self.options.precision):
            made = predict_crop(self.average, crop, corner, pair.shape)
        found: np.ndarray = made[0, 0].cpu().numpy()[mask]
        return found
