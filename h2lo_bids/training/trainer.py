"""What the trainers of all methods have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair
from h2lo_bids.training.validation import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """What a method does in a step, and all that it must keep between two.

    Its class is called with the training pairs, the validation pairs, the options and
    `lightning_fabric.Fabric`, and with weights to start from where the fit has them. Random
    weights and every draw are functions of the seed.
    """

    losses: Sequence[str] = ("loss",)
    """Names of the losses that its steps report: columns of ``history.csv``."""
    kept: Sequence[str] = ()
    """Names of the attributes whose state dicts a checkpoint holds."""
    predict: Callable[..., Any]
    """Applies a model to a volume and a mask, as synthesis does."""
    validation_class: type[Validation] = Validation
    shares: bool = False
    """Whether several processes can share a step."""
    starts: bool = False
    """Whether a fit can start from given weights."""

    def __init__(
        self,
        pairs_train: Sequence[Pair],
        pairs_validation: Sequence[Pair],
        options: FitOptions,
        fabric: Fabric,
        initial: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.pairs, self.options = pairs_train, options
        self.fabric, self.device = fabric, fabric.device
        self.validation = self.validation_class(pairs_validation, options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.build(initial)

    def build(self, initial: Mapping[str, torch.Tensor] | None) -> None:
        """Build the networks, from given weights if there are any, and their optimisers."""
        raise NotImplementedError

    def step(self, step: int, place: int) -> Mapping[str, float]:
        """Do one optimiser step, counted from 0, and return ``"loss"``, ``"rate"`` and others.

        Every draw is a function of the seed and `step`. `place` is the step of the schedule that
        decides stages and learning rates: `step`, or a later one where time runs out first.
        """
        raise NotImplementedError

    def fitted(self) -> nn.Module:
        """Return the model that a bundle would hold now."""
        raise NotImplementedError

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return the state dict of the model that a bundle would hold now."""
        return self.fitted().state_dict()

    def state(self) -> dict[str, Any]:
        """Return networks and optimisers as tensors and plain values."""
        return {name: getattr(self, name).state_dict() for name in self.kept}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned; its tensors are on the CPU."""
        for name in self.kept:
            getattr(self, name).load_state_dict(state[name])

    def product(self) -> Callable[..., Any]:
        """Return what applies the fitted model to a volume and a mask."""
        # The engine has no float16.
        precision = "bf16" if self.options.precision == "bf16" else "fp32"
        engine = EngineOptions(device=str(self.device), precision=precision)
        return partial(type(self).predict, self.fitted(), options=engine)

    def validate(self) -> float:
        """Return the validation PSNR in dB; NaN where there is none (yet)."""
        return self.validation.figure(self.product())


def descend(optimiser: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
    """Do an optimiser's step with the gradients of a loss."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


@torch.no_grad()
def advance_average(average: nn.Module, model: nn.Module, decay: float, steps: int) -> None:
    """Update the running average of weights; early on it forgets the random start faster."""
    decay = min(decay, steps / (10 + steps)) if decay else 0.0
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new, 1.0 - decay)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a network computes."""
    kind = _TYPES.get(precision)
    return torch.autocast(device.type, kind or torch.bfloat16, enabled=kind is not None)
