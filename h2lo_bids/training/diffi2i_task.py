"""DiffI2I's two stages, of which the second begins with the prior alone."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from h2lo_bids.errors import UsageError
from h2lo_bids.models.diffi2i import DiffI2I, DiffI2IArchitecture
from h2lo_bids.models.prior import diffuse
from h2lo_bids.models.restormer import STRIDE
from h2lo_bids.synthesis.diffi2i import predict_diffi2i
from h2lo_bids.synthesis.options import EngineOptions, resolve_device
from h2lo_bids.training.estimators import autocast
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair
from h2lo_bids.training.schedule import cosine_part
from h2lo_bids.training.slices import SliceSampler, SliceValidation

STARTS = (0.0, 3 / 7, 4 / 7)
"""Where each stage begins, as a part of the fit. The shares are our choice: those of
DiffIR's published deblurring options, 300, 100 and 300 thousand iterations."""
PRETRAINING, PRIOR, JOINT = range(3)
_NOISE = 1
"""Third word of the seeds of z_T, so that it shares none with the crops."""


class DiffI2ITask:
    """The networks of both stages, and the running averages of their weights.

    Stage 1 trains the transformer together with an extractor that sees source and
    target, on the L1 distance over the brain. In stage 2 this extractor is frozen
    and the chain learns to estimate its z from the source: first condition
    extractor and denoiser alone on L1(z, z_hat), then with the transformer on the
    sum of both distances. In training the chain starts from the z of stage 1,
    diffused to z_T; in synthesis from noise. Every stage starts from the averages
    of the one before, with a new optimiser.

    Parameters
    ----------
    pairs_train, pairs_validation
        Pairs on one common grid.
    options
        From `adapt_diffi2i`.
    """

    losses: Sequence[str] = ("loss", "pixel", "prior")

    def __init__(
        self, pairs_train: Sequence[Pair], pairs_validation: Sequence[Pair], options: FitOptions
    ) -> None:
        architecture = options.architecture
        if not isinstance(architecture, DiffI2IArchitecture):
            raise UsageError("the options of a DiffI2I fit come from adapt_diffi2i")
        self.options, self.device = options, resolve_device(options.device)
        self.sampler = SliceSampler(pairs_train, options, STRIDE)
        self.validation = SliceValidation(pairs_validation, options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            networks = {"model": DiffI2I(architecture), "extractor": architecture.extractor(2)}
        self.networks = nn.ModuleDict(networks).to(self.device)
        self.averages = copy.deepcopy(self.networks).requires_grad_(False)
        self.stage, self.first = PRETRAINING, 0
        self.optimiser = self._enter(PRETRAINING)
        self._before, self._mark = 0.0, time.perf_counter()

    @property
    def model(self) -> DiffI2I:
        """The networks of stage 2, as they are trained."""
        return self.networks["model"]  # type: ignore[return-value]

    def step(self, step: int) -> dict[str, float]:
        """Do a step of the stage that it belongs to; see `Task.step`."""
        done = self._done(step)
        wanted = max(i for i, start in enumerate(STARTS) if start <= done)
        while self.stage < wanted:
            self.networks.load_state_dict(self.averages.state_dict())
            self.first = step
            self.optimiser = self._enter(self.stage + 1)
        end = [*STARTS[1:], 1.0][self.stage]
        part = (done - STARTS[self.stage]) / (end - STARTS[self.stage])
        rate = cosine_part(part, self.options.learning_rate, self.options.floor)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        losses = self._losses(step)
        loss = torch.stack([*losses.values()]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self._average(step - self.first + 1)
        found = {name: float(value.detach()) for name, value in losses.items()}
        return {"loss": float(loss.detach()), "rate": rate, **found}

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on; see `Task.state`."""
        return {
            "stage": self.stage,
            "first": self.first,
            "seconds": self._seconds(),
            "networks": self.networks.state_dict(),
            "averages": self.averages.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a state back; see `Task.load`."""
        self.networks.load_state_dict(state["networks"])
        self.averages.load_state_dict(state["averages"])
        self.first, self._before = state["first"], state["seconds"]
        self.optimiser = self._enter(state["stage"])
        self.optimiser.load_state_dict(state["optimiser"])

    def validate(self) -> float | None:
        """Return the PSNR of the product in some slices, in stage 2 only."""
        if self.stage == PRETRAINING:
            return None
        engine = EngineOptions(device=str(self.device), precision=self.options.precision)
        model = self.averages["model"]
        return self.validation.psnr(
            lambda volume, mask: predict_diffi2i(model, volume, mask, options=engine)  # type: ignore[arg-type]
        )

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return the averaged weights of stage 2's networks."""
        return self.averages["model"].state_dict()

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
        source, target, mask = (t.to(self.device) for t in self.sampler.draw(step))
        with autocast(self.device, self.options.precision):
            prior = self.networks["extractor"](torch.cat([source, target], 1))
            if self.stage == PRETRAINING:
                return {"pixel": _over_brain(self.model.transformer(source, prior), target, mask)}
            noisy = diffuse(prior, self._noise(prior, step), self.model.denoiser.steps)
            estimate = self.model.estimate_prior(source, noisy)
            losses = {"prior": nn.functional.l1_loss(estimate.float(), prior.float())}
            if self.stage == JOINT:
                made = self.model.transformer(source, estimate)
                losses["pixel"] = _over_brain(made, target, mask)
            return losses

    def _noise(self, like: torch.Tensor, step: int) -> torch.Tensor:
        rng = np.random.default_rng([self.options.seed, step, _NOISE])
        return torch.from_numpy(rng.standard_normal(like.shape, np.float32)).to(like)

    @torch.no_grad()
    def _average(self, steps: int) -> None:
        # Early in a stage the average forgets faster, so that short fits learn, too.
        decay = min(self.options.average, steps / (10 + steps)) if self.options.average else 0.0
        for kept, new in zip(self.averages.parameters(), self.networks.parameters(), strict=True):
            kept.lerp_(new, 1.0 - decay)

    def _done(self, step: int) -> float:
        """Return how much of the fit lies behind: of its steps or, if more, of its time."""
        budget = self.options.max_seconds
        spent = 0.0 if budget is None else min(self._seconds() / budget, 1.0)
        return max(step / self.options.steps, spent)

    def _seconds(self) -> float:
        return self._before + time.perf_counter() - self._mark


def _over_brain(made: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference over the mask; outside, the product is 0 anyway."""
    return ((made.float() - target).abs() * mask).sum() / mask.sum()
