"""The PF-SR-style enhancer, fitted to patches of low-field and high-field images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from h2lo_bids.models.h2lo import HALO
from h2lo_bids.models.pfsr import Pfsr, PfsrArchitecture
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.patches import PFSR_PATCH, patch_side, predict_pfsr
from h2lo_bids.training.augment import draw_crop, flip_rotate
from h2lo_bids.training.crops import CropSampler, cycled_batch
from h2lo_bids.training.estimators import autocast
from h2lo_bids.training.options import FitOptions, rate_of
from h2lo_bids.training.pairs import Pair
from h2lo_bids.training.validation import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric

RATE, FLOOR = 1e-4, 1e-6
"""Adam's rate at both ends of the cosine; the lower end is our choice."""
BATCH = 4
_CROPS = 8
"""Most crops of a validation: each is a whole patch."""

Patches = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Input, target and brain; each (B, 1, p, p, p)."""


def adapt_pfsr(options: FitOptions) -> FitOptions:
    """Return the options of the enhancer: Adam along a cosine on four patches, L1 alone.

    Steps, seed, augmentation, turns and intervals stay, and the precision, but float16.
    """
    sizes = options.architecture
    return dataclasses.replace(
        options,
        family="pfsr",
        architecture=sizes if isinstance(sizes, PfsrArchitecture) else PfsrArchitecture(),
        learning_rate=RATE, floor=FLOOR, warmup=0, warmup_from=0.0, rate_steps=1,
        scaling="max", sampling="patch", crop=PFSR_PATCH, batch=BATCH, lambda_grad=0.0, average=0.0,
        patience=0, precision="fp32" if options.precision == "fp16" else options.precision,
        validation_crops=min(options.validation_crops, _CROPS),
    )  # fmt: skip


class PfsrTrainer:
    """The network, its optimiser, and one step, on swapped pairs: their input is low-field.

    The prediction is set to 0 outside the brain, as in the product, before it is compared.
    A grid smaller than a patch is padded with zeros. With ``validation="crops"`` each crop
    is enhanced by itself.
    """

    losses = ("loss",)

    def __init__(
        self,
        pairs_train: Sequence[Pair],
        pairs_validation: Sequence[Pair],
        options: FitOptions,
        fabric: Fabric,
        initial: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self._pairs, self._options = pairs_train, options
        self._side = patch_side(pairs_train[0].shape, 1, options.crop)
        self._sampler = CropSampler.build(pairs_train, self._side)
        self.validation = Validation(pairs_validation, options)
        self._device = fabric.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.network = Pfsr(cast("PfsrArchitecture", options.architecture)).to(self._device)
        if initial is not None:
            self.network.load_state_dict(initial)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=options.learning_rate)

    def step(self, step: int, place: int) -> Mapping[str, float]:
        """Update the network."""
        rate = rate_of(step, self._options, place)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        source, target, brain = self.draw(step)
        # The layout in which the product is computed, and convolutions are fast.
        source = source.contiguous(memory_format=torch.channels_last_3d)
        with autocast(self._device, self._options.precision):
            made = self.network(source).float()
        loss = (torch.where(brain, made, 0.0) - target).abs().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return {"rate": rate, "loss": loss.item()}

    def draw(self, step: int) -> Patches:
        """Draw patches: a function of the seed and the step."""
        o = self._options
        rng = np.random.default_rng([o.seed, step])
        drawn = [self._patch(i, rng) for i in cycled_batch(len(self._pairs), o.batch, step, o.seed)]
        source, target, brain = (np.stack(part)[:, None] for part in zip(*drawn, strict=True))
        images = (torch.from_numpy(part).to(self._device) for part in (source, target, brain))
        return tuple(images)  # type: ignore[return-value]

    def _patch(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        corner = self._sampler.draw(rng)
        wide, target, brain = draw_crop(
            self._pairs[index], corner, self._side, self._options.augmentation, rng
        )
        patches: tuple[np.ndarray, ...] = (wide[(slice(HALO, -HALO),) * 3], target, brain)
        if self._options.flip_rotate:
            patches = flip_rotate(patches, int(rng.integers(8)))
        return patches

    def state(self) -> dict[str, Any]:
        """Return network and optimiser."""
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])

    def validate(self) -> float | None:
        """Return the PSNR of the network's own products."""
        precision = "bf16" if self._options.precision == "bf16" else "fp32"
        engine = EngineOptions(device=str(self._device), precision=precision)
        self.network.eval()
        found = self.validation.product(partial(predict_pfsr, self.network, options=engine))
        self.network.train()
        return found

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return the network that a bundle would hold now."""
        return self.network.state_dict()
