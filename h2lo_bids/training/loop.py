"""A plain resumable loop, for methods of several networks or optimisers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from h2lo_bids.errors import H2loError
from h2lo_bids.models.registry import make_model
from h2lo_bids.training.checkpoint import save_checkpoint
from h2lo_bids.training.fit import FitResult, Progress, check_fit, identity_psnr, start_fit
from h2lo_bids.training.history import History
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair
from h2lo_bids.training.stopping import Signals, stopped

_KEPT = ("step", "seconds", "best_step", "best_psnr", "best_weights", "timed_out")


class Task(Protocol):
    """What a method does in a step, and all that it must remember between two."""

    @property
    def losses(self) -> Sequence[str]:
        """Names of the losses that its steps report: columns of ``history.csv``."""

    def step(self, step: int) -> Mapping[str, float]:
        """Do one optimiser step, counted from 0, and return its losses.

        Every draw, and the learning rates, are functions of the seed and `step`;
        the returned dict has ``"loss"`` and ``"rate"``, and may lack other names.
        """

    def state(self) -> dict[str, Any]:
        """Return networks and optimisers as tensors and plain values."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave; its tensors are on the CPU."""

    def validate(self) -> float | None:
        """Return the validation PSNR in dB; None, or NaN, where there is none (yet)."""

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return the state dict of the model that a bundle would hold now."""


@dataclass
class Record:
    """How far a fit is."""

    step: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_psnr: float = -math.inf
    best_weights: dict[str, torch.Tensor] | None = field(default=None, repr=False)
    timed_out: bool = False


def run_loop(
    build: Callable[[], Task],
    pairs_train: Sequence[Pair],
    pairs_validation: Sequence[Pair],
    options: FitOptions,
    folder: Path,
    progress: Progress | None = None,
    *,
    stop_at: int | None = None,
    baseline: Callable[[], float] | None = None,
) -> FitResult:
    """Do the steps of a method, or go on with the fit that `folder` holds.

    As `h2lo_bids.training.fit.fit`: the same checkpoints, the same answer to
    signals, and bit for bit the same weights however often the fit was killed.
    It knows nothing of Lightning and runs in one process.

    Parameters
    ----------
    build
        Makes the task, its weights drawn from ``options.seed``. Called after the
        pairs and options were found to be fit for use.
    pairs_train, pairs_validation
        Pairs on one common grid; with no validation pair the last weights win.
    options
        What the fit depends on; ``options.family`` and ``options.architecture``
        say of which model the task's weights are.
    folder
        Work folder: checkpoints and ``history.csv``.
    progress
        Called with one line of text now and then.
    stop_at
        Stop after this many steps, with a checkpoint.
    baseline
        Returns the validation PSNR of the high-field images themselves, for a task
        whose validation is not that of `h2lo_bids.training.validation`.

    Returns
    -------
    FitResult
        The best weights so far.

    Raises
    ------
    H2loError
        If a loss is not finite: the last checkpoint from before it remains.
    UsageError
        If `folder` holds a fit of other options or other pairs.
    TemporaryError
        If SIGTERM, or under Slurm SIGUSR1, ended the fit early, with a checkpoint.
    """
    identity = check_fit(pairs_train, pairs_validation, options)
    saved = start_fit(folder, identity)
    say = progress or (lambda line: None)
    identity_figure = baseline() if baseline else identity_psnr(pairs_validation, options)
    say(f"identity baseline: validation PSNR {identity_figure:.2f} dB")
    task, record = build(), Record()
    if saved is not None:
        record = Record(**{name: saved[name] for name in _KEPT})
        task.load(saved["task"])
        say(f"going on from step {record.step} of {folder}")
    end = min(options.steps, stop_at or options.steps)
    if record.step < end and not record.timed_out:
        _Runner(task, record, options, folder, identity, end, say).run()
    model = make_model(options.family, options.architecture)
    model.load_state_dict(_copied(record.best_weights or task.weights()))
    return FitResult(
        model.eval(), record.step, record.best_step, record.best_psnr, identity_figure,
        record.seconds, record.timed_out,
    )  # fmt: skip


@dataclass
class _Runner:
    """Does the steps that are left."""

    task: Task
    record: Record
    options: FitOptions
    folder: Path
    identity: Mapping[str, str]
    end: int
    say: Progress

    def run(self) -> None:
        """Step, validate, log and save, up to the end or a signal."""
        columns = ("step", "rate", *self.task.losses, "psnr", "seconds")
        history = History(self.folder / "history.csv", self.record.step, columns)
        mark, last = time.perf_counter(), False
        with Signals() as signals:
            while not last:
                losses = self._step()
                record = self.record
                late = self._late(record.seconds + time.perf_counter() - mark)
                last = late or record.step == self.end
                # Not at `stop_at` as such: a fit in parts keeps the weights of a whole one.
                whole = late or record.step == self.options.steps
                psnr = self._validate() if whole or self._due() else None
                now = time.perf_counter()
                record.seconds, mark = record.seconds + now - mark, now
                record.timed_out = late and record.step < self.options.steps
                seconds = round(record.seconds, 3)
                row = {"step": record.step, **losses, "psnr": psnr, "seconds": seconds}
                history.add(row)
                self._tell(row, spoken=last or self._due())
                reason = signals.reason
                if last or reason or record.step % self.options.checkpoint_every == 0:
                    history.flush()
                    self._save()
                if reason and not last:
                    raise stopped(self.folder, record.step, reason)

    def _step(self) -> Mapping[str, float]:
        record = self.record
        losses = self.task.step(record.step)
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise H2loError(
                f"{self.folder}: the {bad[0]} became {losses[bad[0]]} at step {record.step + 1}; "
                "start anew with a lower learning rate or another precision"
            )
        record.step += 1
        return losses

    def _late(self, seconds: float) -> bool:
        budget = self.options.max_seconds
        return budget is not None and seconds >= budget

    def _due(self) -> bool:
        o, step = self.options, self.record.step
        return step == o.validate_first or step % o.validate_every == 0

    def _validate(self) -> float | None:
        record, psnr = self.record, self.task.validate()
        if psnr is None or math.isnan(psnr):
            return None
        if psnr > record.best_psnr:
            record.best_step, record.best_psnr = record.step, psnr
            record.best_weights = _copied(self.task.weights())
        return psnr

    def _tell(self, row: Mapping[str, Any], *, spoken: bool) -> None:
        if not spoken:
            return
        o, record = self.options, self.record
        losses = ", ".join(f"{k} {row[k]:.4f}" for k in self.task.losses if k in row)
        psnr = "" if row["psnr"] is None else f", validation PSNR {row['psnr']:.2f} dB"
        self.say(f"step {record.step}/{o.steps}: {losses}{psnr}, {record.seconds:.0f} s")
        if record.timed_out:
            self.say(f"the time budget of {o.max_seconds:g} s ended the fit at step {record.step}")

    def _save(self) -> None:
        kept = {name: getattr(self.record, name) for name in _KEPT}
        save_checkpoint(self.folder, {**kept, **self.identity, "task": self.task.state()})


def _copied(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in weights.items()}
