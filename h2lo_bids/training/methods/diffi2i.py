"""DiffI2I, fitted to axial slices in two stages; the second begins with the prior alone."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.models.diffi2i import STRIDE, DiffI2I, DiffI2IArchitecture, diffuse
from h2lo_bids.models.h2lo import HALO
from h2lo_bids.synthesis.tiles import read_crop
from h2lo_bids.training.crops import stack_crops, vary_intensity
from h2lo_bids.training.options import FitOptions, cosine_part
from h2lo_bids.training.pairs import Pair
from h2lo_bids.training.trainer import (
    Predict,
    Trainer,
    Validation,
    advance_average,
    autocast,
    descend,
)

STARTS = (0.0, 3 / 7, 4 / 7)
"""Where each stage begins, as a part of the fit. The shares are our choice: those of
DiffIR's published deblurring options, 300, 100 and 300 thousand iterations."""
PRETRAINING, PRIOR, JOINT = range(3)
_NOISE = 1
"""Third word of the seeds of z_T, so that it shares none with the crops."""


def adapt_diffi2i(options: FitOptions) -> FitOptions:
    """Return the options of DiffI2I, once: Adam at 2e-4 and the running average are DiffIR's.

    Our choices: within each stage the rate falls along a cosine; with ``sampling="patch"`` a
    step takes two crops of 64 x 64, with ``"volume"`` four whole slices; a validation on
    ``"crops"`` takes eight slices. float16 needs the loss to be scaled, so bfloat16 takes its
    place.
    """
    if options.family == "diffi2i":
        return options
    return dataclasses.replace(
        options,
        family="diffi2i",
        architecture=DiffI2IArchitecture(),
        learning_rate=2e-4,
        warmup=0,
        rate_steps=1,
        crop=64,
        batch=4 if options.sampling == "volume" else 2,
        lambda_grad=0.0,
        precision="bf16" if options.precision == "fp16" else options.precision,
        average=0.999,
        patience=0,
        validation_crops=min(8, options.validation_crops),
    )


def slice_sampler(
    pairs: Sequence[Pair], options: FitOptions
) -> Callable[[int], tuple[torch.Tensor, ...]]:
    """Return what draws a step's sources, targets and masks, (batch, 1, H, W), by its number.

    They are crops of axial slices, each slice as often as it has brain voxels; pairs are taken in
    random order, none twice before all were taken. A crop is centred on a brain voxel of its
    slice and then moved into the box around all brains. Its sides are multiples of the
    transformer's stride; where the box is smaller than a crop, or ``options.sampling`` is
    ``"volume"``, it is the whole box.
    """
    a, every = options.augmentation, [pair.mask.sum((0, 1)) for pair in pairs]
    box = bounding_box(np.any([pair.mask.any(2) for pair in pairs], 0))
    lengths = [side.stop - side.start for side in box]
    if options.sampling != "volume":
        lengths = [min(n, options.crop) for n in lengths]
    sides = tuple(-(-n // STRIDE) * STRIDE for n in lengths)

    def crop(index: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        pair, areas = pairs[index], every[index]
        z = int(rng.choice(len(areas), p=areas / areas.sum()))
        inside = np.argwhere(pair.mask[:, :, z])
        centre = inside[rng.integers(len(inside))]
        x, y = (
            int(np.clip(c - side // 2, s.start, max(s.start, s.stop - side)))
            for c, side, s in zip(centre, sides, box, strict=True)
        )
        hf, lf, brain = (
            read_crop(v[:, :, z], (x, y), sides) for v in (pair.hf, pair.lf, pair.mask)
        )
        if rng.random() < a.flip:
            hf, lf, brain = hf[::-1], lf[::-1], brain[::-1]
        # Varied as a slab of one slice; the corner is that of a crop behind its halo.
        corner = (x + HALO, y + HALO, z + HALO)
        hf = vary_intensity(hf[..., None], brain[..., None], corner, pair.shape, a, rng)[..., 0]
        return hf, np.where(brain, lf.astype(np.float32), np.float32(0)), brain

    def draw(step: int) -> tuple[torch.Tensor, ...]:
        rng = np.random.default_rng([options.seed, step])
        chosen = np.resize(rng.permutation(len(pairs)), options.batch)
        return stack_crops([crop(int(index), rng) for index in chosen])

    return draw


class SliceValidation(Validation):
    """The figure of a slice-wise method, with ``validation="crops"`` in some axial slices."""

    @cached_property
    def slices(self) -> list[Pair]:
        """The pairs, cut to those slices, evenly spread over those with brain."""
        held = np.argwhere([pair.mask.any((0, 1)) for pair in self.pairs])  # pair and slice
        count = min(self.options.validation_crops, len(held))
        chosen = held[np.linspace(0, len(held) - 1, count).round().astype(int)]
        kept = []
        for index, pair in enumerate(self.pairs):
            if len(at := chosen[chosen[:, 0] == index, 1]):
                hf, lf, mask = (volume[:, :, at] for volume in (pair.hf, pair.lf, pair.mask))
                kept.append(Pair(pair.name, hf, lf, mask))
        return kept

    def figure(self, predict: Predict) -> float:
        """Return the figure of a method; NaN without validation pairs."""
        if self.options.validation == "volume" or not self.slices:
            return super().figure(predict)
        made = [predict(p.hf, p.mask).clip(0, 1)[p.mask].astype(np.float64) for p in self.slices]
        errors = [m - p.lf[p.mask] for m, p in zip(made, self.slices, strict=True)]
        return self.psnr(float((np.concatenate(errors) ** 2).mean()), 1.0)


class DiffI2ITrainer(Trainer):
    """The networks of both stages, and the running averages of their weights.

    Stage 1 trains the transformer together with an extractor that sees source and target, on the
    L1 distance over the brain; it is not validated, as its model sees the target. In stage 2 this
    extractor is frozen and the chain learns to estimate its z from the source: first condition
    extractor and denoiser alone on L1(z, z_hat), then with the transformer on the sum of both.
    In training the chain starts from the z of stage 1, diffused to z_T; in synthesis from noise.
    Every stage starts from the averages of the one before, with a new optimiser.
    """

    losses = ("loss", "pixel", "prior")
    kept = ("networks", "averages", "optimiser")
    validation_class = SliceValidation

    def build(self, initial: Mapping[str, torch.Tensor] | None) -> None:
        """Build the networks of both stages, and begin with the first."""
        sizes = self.options.architecture
        self.draw = slice_sampler(self.pairs, self.options)
        self.model = DiffI2I(sizes)  # of stage 2, as it is trained
        networks = {"model": self.model, "extractor": sizes.extractor(2)}
        self.networks = nn.ModuleDict(networks).to(self.device)
        self.averages = copy.deepcopy(self.networks).requires_grad_(False)
        self.stage, self.first = PRETRAINING, 0
        self.optimiser = self._enter(PRETRAINING)

    def step(self, step: int, place: int) -> dict[str, float]:
        """Do a step of the stage that it belongs to."""
        done = place / self.options.steps
        wanted = max(i for i, start in enumerate(STARTS) if start <= done)
        while self.stage < wanted:
            self.networks.load_state_dict(self.averages.state_dict())
            self.first = step
            self.optimiser = self._enter(self.stage + 1)
        end = [*STARTS[1:], 1.0][self.stage]
        part = (done - STARTS[self.stage]) / (end - STARTS[self.stage])
        rate = cosine_part(part, self.options.learning_rate, self.options.floor)
        losses = self._losses(step)
        loss = torch.stack([*losses.values()]).sum()
        descend(self.optimiser, loss, rate)
        advance_average(self.averages, self.networks, self.options.average, step - self.first + 1)
        found = {name: float(value.detach()) for name, value in losses.items()}
        return {"loss": float(loss.detach()), "rate": rate, **found}

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        return {**super().state(), "stage": self.stage, "first": self.first}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self.first = state["first"]
        self.optimiser = self._enter(state["stage"])
        super().load(state)

    def validate(self) -> float:
        """Return the PSNR of the product in some slices, in stage 2 only."""
        return math.nan if self.stage == PRETRAINING else super().validate()

    def fitted(self) -> nn.Module:
        """Return stage 2's networks with the averaged weights."""
        return self.averages["model"]

    def _enter(self, stage: int) -> torch.optim.Adam:
        """Begin a stage: say what is trained, and return a new optimiser for it."""
        self.stage = stage
        self.networks.requires_grad_(False)
        trained: dict[int, list[nn.Module]] = {
            PRETRAINING: [self.model.transformer, self.networks["extractor"]],
            PRIOR: [self.model.condition, self.model.denoiser],
            JOINT: [self.model],
        }
        parameters = [p for network in trained[stage] for p in network.parameters()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        return torch.optim.Adam(parameters, lr=self.options.learning_rate)

    def _losses(self, step: int) -> dict[str, torch.Tensor]:
        """Return the terms of the stage's loss: ``pixel``, ``prior``, or both."""
        source, target, mask = (t.to(self.device) for t in self.draw(step))
        with autocast(self.device, self.options.precision):
            prior = self.networks["extractor"](torch.cat([source, target], 1))
            if self.stage == PRETRAINING:
                return {"pixel": _over_brain(self.model.transformer(source, prior), target, mask)}
            drawn = np.random.default_rng([self.options.seed, step, _NOISE])
            noise = torch.from_numpy(drawn.standard_normal(prior.shape, np.float32)).to(prior)
            noisy = diffuse(prior, noise, self.model.denoiser.steps)
            estimate = self.model.estimate_prior(source, noisy)
            losses = {"prior": nn.functional.l1_loss(estimate.float(), prior.float())}
            if self.stage == JOINT:
                made = self.model.transformer(source, estimate)
                losses["pixel"] = _over_brain(made, target, mask)
            return losses


def _over_brain(made: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference over the mask; outside, the product is 0 anyway."""
    return ((made.float() - target).abs() * mask).sum() / mask.sum()
