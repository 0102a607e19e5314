"""Networks that see a patch at a time: Pix2Pix, and the enhancer from low to high field."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from h2lo_bids.models.h2lo import HALO
from h2lo_bids.models.pfsr import Pfsr, PfsrArchitecture
from h2lo_bids.models.pix2pix import Norm, PatchDiscriminator, Pix2Pix, Pix2PixArchitecture
from h2lo_bids.synthesis.patches import PFSR_PATCH, PIX2PIX_PATCH, patch_side
from h2lo_bids.training.crops import CropSampler, cycled_batch, draw_crop, flip_rotate, stack_crops
from h2lo_bids.training.options import FitOptions, linear_rate, rate_of
from h2lo_bids.training.trainer import Trainer, autocast, descend

L1_WEIGHT = 100.0
"""Weight of Pix2Pix's L1 term beside the adversarial one."""
BETAS = (0.5, 0.999)
"""Decays of Pix2Pix's Adam."""
_SETTLE = 16
"""Training patches from which the statistics of normalisations are taken."""
_SETTLING = 2
"""Third word of the seeds of those, so that no step's draws share one."""


def _adapt(options: FitOptions, family: str, kind: type, **changes: Any) -> FitOptions:
    """Return what both have in common; float16 becomes float32, as losses are not scaled here."""
    sizes = options.architecture
    return dataclasses.replace(
        options, family=family, architecture=sizes if isinstance(sizes, kind) else kind(),
        warmup=0, warmup_from=0.0, rate_steps=1, sampling="patch", lambda_grad=0.0, average=0.0,
        patience=0, precision="fp32" if options.precision == "fp16" else options.precision,
        validation_crops=min(options.validation_crops, 8),  # each is a whole patch
        **changes,
    )  # fmt: skip


def adapt_pix2pix(options: FitOptions) -> FitOptions:
    """Return the options of Pix2Pix: one patch per step, the rate constant, then linear to 0."""
    return _adapt(
        options, "pix2pix", Pix2PixArchitecture,
        learning_rate=2e-4, floor=0.0, crop=PIX2PIX_PATCH, batch=1,
    )  # fmt: skip


def adapt_pfsr(options: FitOptions) -> FitOptions:
    """Return the options of the enhancer: Adam along a cosine on four patches, L1 alone."""
    return _adapt(  # the lower end of the cosine is our choice
        options, "pfsr", PfsrArchitecture,
        learning_rate=1e-4, floor=1e-6, crop=PFSR_PATCH, batch=4, scaling="max",
    )  # fmt: skip


class PatchTrainer(Trainer):
    """Draws patches, each of another pair where there are enough; smaller grids are padded."""

    def build(self, initial: Mapping[str, torch.Tensor] | None) -> None:
        """Prepare the draws."""
        multiple = getattr(self.options.architecture, "multiple", 1)
        self.side = patch_side(self.pairs[0].shape, multiple, self.options.crop)
        self.sampler = CropSampler(self.pairs, self.side)

    def draw(self, *words: int) -> tuple[torch.Tensor, ...]:
        """Draw inputs, targets and brains (B, 1, p, p, p) from seed and words, first the step."""
        o = self.options
        rng = np.random.default_rng([o.seed, *words])
        chosen = cycled_batch(len(self.pairs), o.batch, words[0], o.seed)
        drawn = stack_crops([self._patch(i, rng) for i in chosen])
        return tuple(part.to(self.device) for part in drawn)

    def _patch(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        corner = self.sampler.draw(rng)
        wide, target, brain = draw_crop(
            self.pairs[index], corner, self.side, self.options.augmentation, rng
        )
        patches: tuple[np.ndarray, ...] = (wide[(slice(HALO, -HALO),) * 3], target, brain)
        if self.options.flip_rotate:
            patches = flip_rotate(patches, int(rng.integers(8)))
        return patches


class PfsrTrainer(PatchTrainer):
    """The enhancer's network on swapped pairs: their input is low-field."""

    kept = ("network", "optimiser")

    def build(self, initial: Mapping[str, torch.Tensor] | None) -> None:
        """Build the network and its optimiser."""
        super().build(initial)
        self.network = Pfsr(self.options.architecture).to(self.device)
        if initial is not None:
            self.network.load_state_dict(initial)
        rate = self.options.learning_rate
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=rate)

    def step(self, step: int, place: int) -> Mapping[str, float]:
        """Update the network."""
        rate = rate_of(place, self.options)
        source, target, brain = self.draw(step)
        with autocast(self.device, self.options.precision):
            made = self.network(source).float()
        loss = (torch.where(brain, made, 0.0) - target).abs().mean()
        descend(self.optimiser, loss, rate)
        return {"rate": rate, "loss": loss.item()}

    def fitted(self) -> nn.Module:
        """Return the network."""
        return self.network


class Pix2PixTrainer(PatchTrainer):
    """Generator and discriminator take turns (Isola et al. 2017, CVPR)."""

    losses = ("loss", "l1", "adversarial", "discriminator")
    kept = ("generator", "discriminator")

    def build(self, initial: Mapping[str, torch.Tensor] | None) -> None:
        """Build both networks and their optimisers."""
        o = self.options
        super().build(initial)
        self.generator = Pix2Pix(o.architecture).to(self.device)
        self.discriminator = PatchDiscriminator(o.architecture).to(self.device)
        self.optimisers = [
            torch.optim.Adam(n.parameters(), lr=o.learning_rate, betas=BETAS)
            for n in (self.generator, self.discriminator)
        ]
        self._settled: Pix2Pix | None = None

    def step(self, step: int, place: int) -> Mapping[str, float]:
        """Update the discriminator, then the generator."""
        rate = linear_rate(place, self.options.steps, self.options.learning_rate)
        source, target, brain = self.draw(step)
        made = torch.where(brain, self._compute(self.generator, source), -1.0)

        self.discriminator.requires_grad_(True)
        fake, true = (
            self._compute(self.discriminator, source, image) for image in (made.detach(), target)
        )
        d_loss = 0.5 * (adversarial_loss(fake, real=False) + adversarial_loss(true, real=True))
        descend(self.optimisers[1], d_loss, rate)

        self.discriminator.requires_grad_(False)
        judged = self._compute(self.discriminator, source, made)
        fooled = adversarial_loss(judged, real=True)
        l1 = (made - target).abs().mean()
        g_loss = fooled + L1_WEIGHT * l1
        descend(self.optimisers[0], g_loss, rate)
        self._settled = None
        found = torch.stack([g_loss, l1, fooled, d_loss]).tolist()
        return {"rate": rate, **dict(zip(self.losses, found, strict=True))}

    def draw(self, *words: int) -> tuple[torch.Tensor, ...]:
        """Draw patches with input and target in [-1, 1]."""
        source, target, brain = super().draw(*words)
        return 2 * source - 1, 2 * target - 1, brain

    def state(self) -> dict[str, Any]:
        """Return both networks and both optimisers."""
        optimisers = [optimiser.state_dict() for optimiser in self.optimisers]
        return {**super().state(), "optimisers": optimisers}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        super().load(state)
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)

    @torch.no_grad()
    def fitted(self) -> Pix2Pix:
        """Return a copy of the generator, normalised by the mean over some training patches.

        In training each patch is normalised by its own statistics, and their running average
        lags behind the weights and follows the last few patches.
        """
        if self._settled is None:
            generator = copy.deepcopy(self.generator)
            norms = [m for m in generator.modules() if isinstance(m, Norm)]
            for count in range(_SETTLE):
                for norm in norms:
                    norm.momentum = 1.0 / (count + 1)
                self._compute(generator, self.draw(count, _SETTLING)[0])
            self._settled = generator.eval()
        return self._settled

    def _compute(self, network: nn.Module, *images: torch.Tensor) -> torch.Tensor:
        with autocast(self.device, self.options.precision):
            made: torch.Tensor = network(*images).float()
        return made


def adversarial_loss(logits: torch.Tensor, *, real: bool) -> torch.Tensor:
    """Return the mean binary cross-entropy of logits that ought to say `real`."""
    wanted = torch.full_like(logits, float(real))
    return functional.binary_cross_entropy_with_logits(logits, wanted)
