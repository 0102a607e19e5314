"""H2LO, its two ablations and the conditional INR: one network, one optimiser, one loss."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from h2lo_bids.models.h2lo import H2loArchitecture, InrArchitecture, Operator
from h2lo_bids.models.registry import make_model
from h2lo_bids.training.crops import Corner
from h2lo_bids.training.estimators import Batch, Estimator, Terms, build_estimator
from h2lo_bids.training.options import FitOptions, rate_of
from h2lo_bids.training.pairs import Pair
from h2lo_bids.training.validation import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def adapt_mlp(options: FitOptions) -> FitOptions:
    """Return the options of the paper's ablation that has ReLU in place of sines."""
    architecture = dataclasses.replace(options.architecture, trunk="mlp")  # type: ignore[type-var]
    return dataclasses.replace(options, architecture=architecture)


def adapt_nograd(options: FitOptions) -> FitOptions:
    """Return the options of the paper's ablation without the gradient term."""
    return dataclasses.replace(options, lambda_grad=0.0)


def adapt_inr(options: FitOptions) -> FitOptions:
    """Return the options of the conditional INR: H2LO's but for the network and the gradient term.

    So the two are compared under one protocol; H2LO's encoder and width are kept.
    """
    sizes = options.architecture
    if isinstance(sizes, H2loArchitecture):
        sizes = InrArchitecture(sizes.channels, sizes.n_basis, sizes.width)
    return dataclasses.replace(options, family="inr", architecture=sizes, lambda_grad=0.0)


class _Loss(nn.Module):
    """Both terms of the loss as one forward pass, for DDP to gather its gradients."""

    def __init__(self, model: Operator, estimator: Estimator) -> None:
        super().__init__()
        self.model, self._estimator = model, estimator

    def forward(self, tensors: dict[str, torch.Tensor], places: tuple[Corner, ...]) -> Terms:
        return self._estimator.terms(cast("Operator", self.model), Batch(tensors, places))


class OperatorTrainer:
    """Equations 2 and 3 of the paper by Adam, and the running average of the weights.

    The average is what is validated and kept. Several processes can share a step.
    """

    losses = ("loss", "l1", "gradient")

    def __init__(
        self,
        pairs_train: Sequence[Pair],
        pairs_validation: Sequence[Pair],
        options: FitOptions,
        fabric: Fabric,
        initial: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self._options, self._fabric = options, fabric
        self._share = fabric.global_rank, fabric.world_size
        self._estimator = build_estimator(pairs_train, options)
        self.validation = Validation(pairs_validation, options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self._model = cast("Operator", make_model(options.family, options.architecture))
        if initial is not None:
            self._model.load_state_dict(initial)
        # Weights in the layout in which the CPU's convolutions are fastest.
        self._model.encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        average = copy.deepcopy(self._model).requires_grad_(False)
        self._average = average.to(fabric.device)
        self._adam = torch.optim.Adam(self._model.parameters(), lr=options.learning_rate)
        self._loss, self._update = fabric.setup(_Loss(self._model, self._estimator), self._adam)

    def step(self, step: int, place: int) -> Mapping[str, float]:
        """Do this process's part of a step; see `h2lo_bids.training.fit.Trainer`."""
        world, rate = self._fabric.world_size, rate_of(step, self._options, place)
        for group in self._adam.param_groups:
            group["lr"] = rate
        batch = self._estimator.draw(step, *self._share).to(self._fabric.device)
        l1, gradient = self._loss(batch.tensors, batch.places)
        loss = l1 + self._options.lambda_grad * gradient
        terms = torch.stack([loss.detach(), l1.detach(), gradient.detach()])
        if world > 1:
            # Scaled so that the mean of the processes is the step's.
            terms = self._fabric.all_reduce(terms * batch.fraction, reduce_op="sum")  # type: ignore[assignment]
            loss = loss * (batch.fraction * world)
        self._adam.zero_grad()
        self._fabric.backward(loss)
        self._update.step()
        advance_average(self._average, self._model, self._options.average, step + 1)
        return {"rate": rate, **dict(zip(self.losses, terms.tolist(), strict=True))}

    def state(self) -> dict[str, Any]:
        """Return the weights, their average, the optimiser and float16's loss scale."""
        return {
            "model": self._model.state_dict(),
            "average": self._average.state_dict(),
            "optimiser": self._adam.state_dict(),
            "precision": self._fabric.strategy.precision.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self._model.load_state_dict(state["model"])
        self._average.load_state_dict(state["average"])
        self._adam.load_state_dict(state["optimiser"])
        self._fabric.strategy.precision.load_state_dict(state["precision"])

    def validate(self) -> float | None:
        """Return the validation PSNR of the averaged weights, in dB."""
        if not self.validation.pairs:
            return None
        parts = torch.tensor(
            self.validation.parts(self._average, *self._share),
            dtype=torch.float64,
            device=self._fabric.device,
        )
        if self._fabric.world_size > 1:
            parts = self._fabric.all_reduce(parts, reduce_op="sum")  # type: ignore[assignment]
        return self.validation.psnr(*parts.tolist())

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return the averaged weights."""
        return self._average.state_dict()


@torch.no_grad()
def advance_average(average: nn.Module, model: nn.Module, decay: float, steps: int) -> None:
    """Update the running average of weights; early on it forgets the random start faster."""
    decay = min(decay, steps / (10 + steps)) if decay else 0.0
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new, 1.0 - decay)
