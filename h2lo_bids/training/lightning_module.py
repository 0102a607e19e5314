"""The operator as Lightning trains it. Imports Lightning: import this module late."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from h2lo_bids.errors import H2loError
from h2lo_bids.models.registry import make_model
from h2lo_bids.training.estimators import Batch, Estimator, Share
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.schedule import has_stalled, rate_of

KEPT = ("step", "seconds", "best_step", "best_psnr", "best_weights", "timed_out", "validations")


class Steps:
    """The data source: the batch of each step, a function of seed and step alone."""

    def __init__(self, estimator: Estimator, module: FitModule, steps: int, share: Share) -> None:
        self._estimator, self._module, self._steps = estimator, module, steps
        self._share = share

    def __iter__(self) -> Iterator[Batch]:
        # Lightning restores the module before it asks for batches.
        for step in range(self._module.step, self._steps):
            yield self._estimator.draw(step, self._share)

    def __len__(self) -> int:
        """Return the steps of the whole schedule, those already done included."""
        return self._steps

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the step says it all. Lightning asks those who can resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


class FitModule(LightningModule):
    """The operator, the running average of its weights, and how far the fit is.

    Parameters
    ----------
    options
        What the fit depends on.
    estimator
        Computes the loss.
    identity
        Options and pairs, written into each checkpoint.
    folder
        Named in errors.
    initial
        Weights to start from; None draws them from the seed.
    """

    def __init__(
        self,
        options: FitOptions,
        estimator: Estimator,
        identity: dict[str, str],
        folder: Path,
        initial: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.model = make_model(options.family, options.architecture)
        if initial is not None:
            self.model.load_state_dict(initial)
        # Weights in the layout in which the CPU's convolutions are fastest.
        self.model.encoder.to(memory_format=torch.channels_last_3d)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.options, self.estimator = options, estimator
        self.identity, self.folder = identity, folder
        self.step, self.seconds = 0, 0.0
        self.best_step, self.best_psnr = 0, -math.inf
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.timed_out = False
        self.validations: list[tuple[int, float]] = []
        self.last = torch.zeros(3)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam, as in the paper; `on_train_batch_start` sets its rate."""
        return torch.optim.Adam(self.model.parameters(), lr=self.options.learning_rate)

    @property
    def stalled(self) -> bool:
        """Whether the fit ends early, as its validation no longer rises."""
        o = self.options
        return self.step < o.steps and has_stalled(self.validations, o.patience)

    @property
    def rate(self) -> float:
        """The learning rate of the step that comes next."""
        return rate_of(self.step, self.options)

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a batch as a whole, without Lightning's walk through its fields."""
        return batch.to(device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the rate: a function of the step, so that it needs no state of its own."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.rate

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return this process's loss, scaled so that the processes' mean is the step's."""
        l1, gradient = self.estimator.terms(self.model, batch)
        loss = l1 + self.options.lambda_grad * gradient
        terms = torch.stack([loss.detach(), l1.detach(), gradient.detach()])
        if self.trainer.world_size > 1:
            terms = self.trainer.strategy.reduce(terms * batch.fraction, reduce_op="sum")
            loss = loss * (batch.fraction * self.trainer.world_size)
        self.last = terms
        if not torch.isfinite(terms[0]):
            raise H2loError(
                f"{self.folder}: the loss became {terms[0].item()} at step {self.step + 1}; "
                "start anew with a lower learning rate or another precision"
            )
        return loss

    @torch.no_grad()
    def advance(self) -> None:
        """Count a step and update the running average; the recorder calls it."""
        self.step += 1
        # Early on the average forgets faster, so that it does not keep the random start.
        decay = self.options.average
        decay = min(decay, self.step / (10 + self.step)) if decay else 0.0
        for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
            kept.lerp_(new, 1.0 - decay)

    def keep_if_best(self, psnr: float) -> None:
        """Note a validation, and keep the averaged weights if they are the best so far."""
        self.validations.append((self.step, psnr))
        if psnr > self.best_psnr:
            self.best_step, self.best_psnr = self.step, psnr
            weights = self.average.state_dict().items()
            self.best_weights = {k: v.detach().cpu().clone() for k, v in weights}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know."""
        checkpoint.update({k: getattr(self, k) for k in KEPT}, **self.identity)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        for key in KEPT:
            if key in checkpoint:  # fits of earlier versions had no time budget
                setattr(self, key, checkpoint[key])

    def fitted(self) -> Any:
        """Return the best weights, or without a validation the averaged ones."""
        model = make_model(self.options.family, self.options.architecture)
        model.load_state_dict(self.best_weights or self.average.state_dict())
        return model.eval()
