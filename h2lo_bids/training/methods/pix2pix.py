"""Pix2Pix: generator and discriminator take turns (Isola et al. 2017, CVPR)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.nn import functional

from h2lo_bids.errors import UsageError
from h2lo_bids.models.h2lo import HALO
from h2lo_bids.models.pix2pix import Norm, PatchDiscriminator, Pix2Pix, Pix2PixArchitecture
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.patches import PIX2PIX_PATCH, patch_side, predict_pix2pix
from h2lo_bids.training.augment import draw_crop
from h2lo_bids.training.crops import CropSampler, epoch_batch
from h2lo_bids.training.estimators import autocast
from h2lo_bids.training.options import FitOptions, linear_rate
from h2lo_bids.training.pairs import Pair
from h2lo_bids.training.validation import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric

L1_WEIGHT = 100.0
"""Weight of the L1 term beside the adversarial one."""
BETAS = (0.5, 0.999)
"""Adam's decays."""
RATE = 2e-4
_CROPS = 8
"""Most crops of a validation: each is a whole patch."""
_SETTLE = 16
"""Training patches from which the statistics of normalisations are taken."""
_SETTLING = 2
"""Third word of the seeds of those, so that no step's draws share one."""

Patches = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Source and target in [-1, 1], and the brain; each (B, 1, p, p, p)."""


def adapt_pix2pix(options: FitOptions) -> FitOptions:
    """Return the options of Pix2Pix: Adam, constant for half the steps and then linear to 0.

    One patch per step, no gradient term, no average of the weights. Steps, seed, augmentation
    and intervals stay, and the precision, but float16, for which two losses would need a scale
    each.
    """
    sizes = options.architecture
    return dataclasses.replace(
        options,
        family="pix2pix",
        architecture=sizes if isinstance(sizes, Pix2PixArchitecture) else Pix2PixArchitecture(),
        learning_rate=RATE, floor=0.0, warmup=0, rate_steps=1, sampling="patch", crop=PIX2PIX_PATCH,
        batch=1, lambda_grad=0.0, average=0.0, patience=0,
        precision="fp32" if options.precision == "fp16" else options.precision,
        validation_crops=min(options.validation_crops, _CROPS),
    )  # fmt: skip


class Pix2PixTrainer:
    """Generator and discriminator, their optimisers, and one step of each.

    The prediction is set to background outside the brain, as in the product, before it is
    compared and judged. A grid smaller than a patch is padded with zeros, up to the next
    multiple of 32 only. With ``validation="crops"`` each crop is translated as one patch.
    """

    losses = ("loss", "l1", "adversarial", "discriminator")

    def __init__(
        self,
        pairs_train: Sequence[Pair],
        pairs_validation: Sequence[Pair],
        options: FitOptions,
        fabric: Fabric,
    ) -> None:
        sizes = cast("Pix2PixArchitecture", options.architecture)
        if options.crop % sizes.multiple:
            raise UsageError(
                f"a crop of {options.crop} voxels does not divide by {sizes.multiple}, "
                "as the generator's halvings need; choose another crop"
            )
        self._pairs, self._options = pairs_train, options
        self._side = patch_side(pairs_train[0].shape, sizes.multiple, options.crop)
        self._sampler = CropSampler.build(pairs_train, self._side)
        self.validation = Validation(pairs_validation, options)
        self._device = fabric.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.generator = Pix2Pix(sizes).to(self._device)
            self.discriminator = PatchDiscriminator(sizes).to(self._device)
        self.optimisers = [
            torch.optim.Adam(n.parameters(), lr=options.learning_rate, betas=BETAS)
            for n in (self.generator, self.discriminator)
        ]
        self._done, self._settled = 0, (-1, self.generator)

    def step(self, step: int, place: int) -> Mapping[str, float]:
        """Update the discriminator, then the generator."""
        o, (update_g, update_d) = self._options, self.optimisers
        rate = linear_rate(place, o.steps, o.learning_rate)
        for group in (*update_g.param_groups, *update_d.param_groups):
            group["lr"] = rate
        source, target, brain = self.draw(step)
        made = torch.where(brain, self._generate(source), -1.0)

        self.discriminator.requires_grad_(True)
        judged = [self._judge(source, image) for image in (made.detach(), target)]
        d_loss = 0.5 * (
            adversarial_loss(judged[0], real=False) + adversarial_loss(judged[1], real=True)
        )
        update_d.zero_grad()
        d_loss.backward()
        update_d.step()

        self.discriminator.requires_grad_(False)
        fooled = adversarial_loss(self._judge(source, made), real=True)
        l1 = (made - target).abs().mean()
        g_loss = fooled + L1_WEIGHT * l1
        update_g.zero_grad()
        g_loss.backward()
        update_g.step()
        self._done = step + 1
        found = torch.stack([g_loss, l1, fooled, d_loss]).tolist()
        return {"rate": rate, **dict(zip(self.losses, found, strict=True))}

    def draw(self, *words: int) -> Patches:
        """Draw patches: a function of the seed and of `words`, first of which is the step."""
        o, step = self._options, words[0]
        rng = np.random.default_rng([o.seed, *words])
        corner = self._sampler.draw(rng)
        chosen = epoch_batch(len(self._pairs), o.batch, step, o.seed)
        drawn = [draw_crop(self._pairs[i], corner, self._side, o.augmentation, rng) for i in chosen]
        hf, lf, mask = (np.stack(part)[:, None] for part in zip(*drawn, strict=True))
        core = (..., *(slice(HALO, -HALO),) * 3)
        images = (torch.from_numpy(2 * image - 1).to(self._device) for image in (hf[core], lf))
        source, target = images
        return source, target, torch.from_numpy(mask).to(self._device)

    def state(self) -> dict[str, Any]:
        """Return both networks and both optimisers."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "done": self._done,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        self._done = state["done"]

    def validate(self) -> float | None:
        """Return the PSNR of the generator's own products."""
        o = self._options
        engine = EngineOptions(
            device=str(self._device), precision="bf16" if o.precision == "bf16" else "fp32"
        )
        predict = partial(predict_pix2pix, self.settled(), options=engine)
        return self.validation.product(predict)

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return the generator that a bundle would hold now."""
        return self.settled().state_dict()

    @torch.no_grad()
    def settled(self) -> Pix2Pix:
        """Return a copy of the generator, normalised by the mean over some training patches.

        In training each patch is normalised by its own statistics, and their running average
        lags behind the weights and follows the last few patches.
        """
        if self._settled[0] != self._done:
            generator = copy.deepcopy(self.generator)
            norms = [m for m in generator.modules() if isinstance(m, Norm)]
            for count in range(_SETTLE):
                for norm in norms:
                    norm.momentum = 1.0 / (count + 1)
                source, _, _ = self.draw(count, _SETTLING)
                with autocast(self._device, self._options.precision):
                    generator(source)
            self._settled = self._done, generator.eval()
        return self._settled[1]

    def _generate(self, source: torch.Tensor) -> torch.Tensor:
        with autocast(self._device, self._options.precision):
            return self.generator(source).float()

    def _judge(self, source: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        with autocast(self._device, self._options.precision):
            return self.discriminator(source, image).float()


def adversarial_loss(logits: torch.Tensor, *, real: bool) -> torch.Tensor:
    """Return the mean binary cross-entropy of logits that ought to say `real`."""
    wanted = torch.full_like(logits, float(real))
    return functional.binary_cross_entropy_with_logits(logits, wanted)
