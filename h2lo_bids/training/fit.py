"""The training loop of every method; a killed fit continues where it was, bit for bit."""

from __future__ import annotations

import csv
import io
import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from h2lo_bids.errors import (
    BadDataError,
    CannotCreateError,
    H2loError,
    InputOutputError,
    TemporaryError,
    UsageError,
    of_the_machine,
)
from h2lo_bids.io import atomic_path, atomic_write_text
from h2lo_bids.models.registry import Model, make_model
from h2lo_bids.training.devices import make_fabric, termination
from h2lo_bids.training.options import GAIN, FitOptions, has_stalled
from h2lo_bids.training.pairs import Pair, common_shape, fingerprint
from h2lo_bids.training.trainer import Trainer, Validation
from h2lo_bids.vocabulary import Say, Step

FORMAT = "h2lo-bids fit 3"
LAST, PREVIOUS = "last.pt", "previous.pt"
HISTORY = "history.csv"
SILENCE = 10.0
"""Seconds after which a step is reported between validations; the first one always is."""


@dataclass(frozen=True)
class FitResult:
    """A fitted model, in evaluation mode, and how the fit went, over all resumed runs."""

    model: Model  # with the weights of the best validation
    steps: int
    best_step: int
    best_psnr: float  # of that validation, in dB
    identity_psnr: float  # the same figure of the input image itself
    seconds: float  # of the steps
    timed_out: bool = False  # whether the time budget ended the fit
    stalled: bool = False  # whether a validation that no longer rose did
    pretrain_steps: int = 0  # of the stage before


def fit(
    pairs_train: Sequence[Pair],
    pairs_validation: Sequence[Pair],
    options: FitOptions,
    folder: Path,
    say: Say = lambda line: None,
    *,
    stop_at: int | None = None,  # a step of the schedule, which stays that of the options
    world: int = 1,  # processes that `launch` has started, which share the steps
    initial: Mapping[str, torch.Tensor] | None = None,  # of the digest `options.starts_from`
) -> FitResult:
    """Fit a model to pairs, or continue the fit that `folder` holds.

    Every draw is a function of the seed and the step alone, so that a resumed fit needs no
    generator's state and gives the weights of an undisturbed one; the number of threads decides
    the last bits.
    """
    from h2lo_bids.training.methods import TRAINERS

    if (initial is None) != (options.starts_from is None):
        raise UsageError("starts_from names weights: give both, or neither")
    common_shape([*pairs_train, *pairs_validation])
    identity = {
        "options": json.dumps(options.identity(), sort_keys=True),
        "pairs": fingerprint([*pairs_train, *pairs_validation]),
    }
    saved = _open(folder, identity)
    if options.family == "identity":
        return _identity(pairs_validation, options, folder, say)
    with warnings.catch_warnings():
        # Such as that of an unused srun.
        warnings.filterwarnings("ignore", module=r"lightning_fabric\.|torch\.distributed\.")
        fabric = make_fabric(options, world)
        say = say if fabric.is_global_zero else (lambda line: None)
        trainer = TRAINERS[options.family](pairs_train, pairs_validation, options, fabric, initial)
        baseline = trainer.validation.baseline()
        if pairs_validation:
            say(f"identity baseline: validation PSNR {baseline:.2f} dB")
        record = Record()
        if saved is not None:
            record = Record(**saved["record"])
            trainer.load(saved["trainer"])
            say(f"going on from step {record.step} of {folder}")
        end = min(options.steps, stop_at or options.steps)
        loop = _Loop(trainer, record, folder, identity, end, say)
        if not loop.ended:
            loop.run()
    model = make_model(options.family, options.architecture)
    model.load_state_dict(record.best_weights or _weights(trainer))
    return FitResult(
        model.eval(), record.step, record.best_step, record.best_psnr, baseline,
        record.seconds, record.timed_out, loop.stalled,
    )  # fmt: skip


def _open(folder: Path, identity: Mapping[str, str]) -> dict[str, Any] | None:
    """Make a fit's work folder, and return the newest checkpoint in it, if any."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise CannotCreateError(f"{folder}: cannot make the work folder: {err.strerror}") from err
    saved = load_checkpoint(folder)
    for key, what in (("options", "other options"), ("pairs", "other pairs")):
        if saved is not None and saved[key] != identity[key]:
            raise UsageError(
                f"{folder}: holds a fit with {what}; give another work folder or remove it"
            )
    return saved


def _identity(pairs: Sequence[Pair], options: FitOptions, folder: Path, say: Say) -> FitResult:
    """Return the identity, of which no step is done, and its validation figure."""
    write_history(folder, ("step", "rate", "loss", "l1", "gradient", "psnr", "seconds"))
    baseline = Validation(pairs, options).baseline()
    say(f"nothing to fit: validation PSNR {baseline:.2f} dB")
    model = make_model(options.family, options.architecture)
    return FitResult(model.eval(), 0, 0, baseline, baseline, 0.0)


@dataclass
class Record:
    """How far a fit is: what a checkpoint keeps beside the method's own state."""

    step: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_psnr: float = -math.inf
    best_weights: dict[str, torch.Tensor] | None = field(default=None, repr=False)
    timed_out: bool = False
    validations: list[tuple[int, float]] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list, repr=False)  # of the history


@dataclass
class _Loop:
    """Does the steps that are left."""

    trainer: Trainer
    record: Record
    folder: Path
    identity: Mapping[str, str]
    end: int
    say: Say
    told: float = 0.0  # when a step was last reported

    def __post_init__(self) -> None:
        self.options, self.fabric = self.trainer.options, self.trainer.fabric

    @property
    def stalled(self) -> bool:
        """Whether the fit ends early, as its validation no longer rises."""
        o, record = self.options, self.record
        return record.step < o.steps and has_stalled(record.validations, o.patience)

    @property
    def ended(self) -> bool:
        """Whether no step is left: of a fit that time will end, by the time spent."""
        return self.record.timed_out or self.stalled or self._place() >= self.end

    def run(self) -> None:
        """Step, validate, log and save, up to the end or a signal."""
        record, budget, mark = self.record, self.options.max_seconds, time.perf_counter()
        columns = ("step", "rate", *self.trainer.losses, "psnr", "seconds")
        with termination() as asked:
            last = False
            while not last:
                losses = self._step()
                spent = record.seconds + time.perf_counter() - mark
                # Process 0 has the clock.
                late = budget is not None and self.fabric.broadcast(spent >= budget)
                # Not at `stop_at` as such: a fit in parts keeps the weights of a whole one.
                whole = late or record.step == self.options.steps
                psnr = self._validate() if whole or self._due() else None
                now = time.perf_counter()
                record.seconds, mark = record.seconds + now - mark, now
                record.timed_out = late and record.step < self.options.steps
                last = self.ended
                seconds = round(record.seconds, 3)
                row = {"step": record.step, **losses, "psnr": psnr, "seconds": seconds}
                record.rows.append([row.get(name) for name in columns])
                self._report(row, last=last)
                # The signal may reach the processes in different steps.
                wish = torch.tensor(int(asked.is_set()))
                ends = bool(self.fabric.all_reduce(wish, reduce_op="max"))
                due = last or ends or record.step % self.options.checkpoint_every == 0
                if due and self.fabric.is_global_zero:
                    write_history(self.folder, columns, record.rows)
                    state = {"record": dict(vars(record)), "trainer": self.trainer.state()}
                    save_checkpoint(self.folder, {**self.identity, **state})
                if ends and not last:
                    raise TemporaryError(
                        f"{self.folder}: stopped by a signal after step {record.step}; run again "
                        "to go on from there"
                    )

    def _step(self) -> Mapping[str, float]:
        record = self.record
        losses = self.trainer.step(record.step, self._place())
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise H2loError(
                f"{self.folder}: the {bad[0]} became {losses[bad[0]]} at step {record.step + 1}; "
                "start anew with a lower learning rate or another precision"
            )
        record.step += 1
        return losses

    def _place(self) -> int:
        """Return the step of the schedule: of a fit that time will end, by the time spent."""
        o, step = self.options, self.record.step
        if o.max_seconds is None:
            return step
        spent = min(self.record.seconds / o.max_seconds, 1.0)
        return max(step, self.fabric.broadcast(int(spent * (o.steps - 1))))

    def _due(self) -> bool:
        o, step = self.options, self.record.step
        return step == o.validate_first or step % o.validate_every == 0

    def _validate(self) -> float | None:
        record, psnr = self.record, self.trainer.validate()
        if math.isnan(psnr):
            return None
        record.validations.append((record.step, psnr))
        if psnr > record.best_psnr:
            record.best_step, record.best_psnr = record.step, psnr
            record.best_weights = _weights(self.trainer)
        return psnr

    def _report(self, row: Mapping[str, Any], *, last: bool) -> None:
        o, record, now = self.options, self.record, time.monotonic()
        if not (last or self._due()) and now - self.told < SILENCE:
            return
        self.told = now
        losses = ", ".join(f"{k} {row[k]:.4f}" for k in self.trainer.losses if k in row)
        psnr = "" if row["psnr"] is None else f", validation PSNR {row['psnr']:.2f} dB"
        text = f"step {record.step} of {o.steps}: {losses}{psnr}, {record.seconds:.0f} s"
        self.say(Step(text))
        if record.timed_out:
            self.say(f"the time budget of {o.max_seconds:g} s ended the fit at step {record.step}")
        elif self.stalled:
            self.say(
                f"ended at step {record.step}: in the last {o.patience} steps the validation "
                f"rose by no more than {GAIN:g} dB"
            )


def _weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Copy the weights of the model that a bundle would hold now."""
    state = trainer.fitted().state_dict()
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def prefixed(title: str, say: Say) -> Say:
    """Return what passes on lines with a title in front."""
    return lambda line: say(type(line)(f"{title}: {line}"))


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a fit (tensors and plain values); the checkpoint before it is kept."""
    last = folder / LAST
    try:
        with atomic_path(last) as partial:
            with partial.open("wb") as stream:
                torch.save({"format": FORMAT, **state}, stream)
            if last.exists():  # only now, when the new one is written: one of them is always there
                last.replace(folder / PREVIOUS)
    except (OSError, RuntimeError) as err:
        # torch reports a full disk as a RuntimeError.
        raise InputOutputError(f"{last}: cannot write the checkpoint: {err}") from err


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read the newest checkpoint that is whole, or None if there is none."""
    found = [folder / name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    for path in found:
        with path.open("rb") as stream:  # one that may not be read is not damaged
            try:
                state = torch.load(stream, map_location="cpu", weights_only=True)
            except Exception as err:  # a damaged file raises any of a dozen types
                if lacking := of_the_machine(err):
                    raise lacking from err
                continue
        if isinstance(state, dict) and state.get("format") == FORMAT:
            return state
    if found:
        raise BadDataError(
            f"{found[0]}: damaged or not a checkpoint of this version; remove {folder} "
            "to start anew"
        )
    return None


def write_history(folder: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]] = ()) -> None:
    """Write what each step reported, one row each; what it did not stays empty."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    atomic_write_text(folder / HISTORY, text.getvalue())
