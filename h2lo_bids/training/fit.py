"""Fit an operator to pairs; a killed fit goes on where it was, bit for bit."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from h2lo_bids.errors import CannotCreateError, H2loError, UsageError
from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.training.checkpoint import load_checkpoint, save_checkpoint
from h2lo_bids.training.estimators import build_estimator
from h2lo_bids.training.history import History, Row
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair, common_shape, fingerprint
from h2lo_bids.training.schedule import cosine_rate
from h2lo_bids.training.validation import brain_psnr, validation_places

Progress = Callable[[str], None]


@dataclass(frozen=True)
class FitResult:
    """A fitted operator and how the fit went.

    Parameters
    ----------
    model
        With the weights of the best validation, in evaluation mode.
    steps
        Optimiser steps done; fewer than the schedule's after `stop_at`.
    best_step, best_psnr
        When the best validation was, and its brain PSNR in dB.
    identity_psnr
        The same figure of the high-field image itself.
    seconds
        Time spent in the steps, over all resumed runs.
    """

    model: H2lo
    steps: int
    best_step: int
    best_psnr: float
    identity_psnr: float
    seconds: float


@dataclass
class _State:
    model: H2lo
    optimizer: torch.optim.Adam
    average: H2lo
    step: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_psnr: float = -math.inf
    best_weights: dict[str, torch.Tensor] | None = None


def fit(
    pairs_train: Sequence[Pair],
    pairs_validation: Sequence[Pair],
    options: FitOptions,
    folder: Path,
    progress: Progress | None = None,
    *,
    stop_at: int | None = None,
) -> FitResult:
    """Fit an operator, or go on with the fit that `folder` holds.

    Every draw is a function of the seed and the step alone, so that a resumed
    fit needs no generator's state and gives the weights of an undisturbed one.
    The number of threads decides the last bits; keep it.

    Parameters
    ----------
    pairs_train, pairs_validation
        Pairs on one common grid; with no validation pair the last weights win.
    options
        What the fit depends on.
    folder
        Work folder: checkpoints and ``history.csv``.
    progress
        Called with one line of text now and then.
    stop_at
        Stop after this many steps, with a checkpoint; the schedule stays that
        of ``options.steps``.

    Returns
    -------
    FitResult
        The best weights so far.

    Raises
    ------
    H2loError
        If the loss is not finite: the last checkpoint from before it remains.
    UsageError
        If `folder` holds a fit of other options or other pairs.
    """
    say = progress or (lambda line: None)
    if not pairs_train:
        raise UsageError("no pair to train on")
    common_shape([*pairs_train, *pairs_validation])
    identity = {"options": json.dumps(options.to_dict(), sort_keys=True)}
    identity["pairs"] = fingerprint([*pairs_train, *pairs_validation])
    state = _start(options, folder, identity, say)
    history = History(folder / "history.csv", state.step)
    places = validation_places(pairs_validation, options.crop, options.validation_crops)
    baseline = brain_psnr(None, pairs_validation, places, options.crop)
    say(f"identity baseline: validation PSNR {baseline:.2f} dB in the brain")
    estimator = build_estimator(pairs_train, options)
    end = min(options.steps, stop_at or options.steps)
    while state.step < end:
        begun = time.perf_counter()
        row = _step(state, estimator, options, folder)
        last = state.step in (options.steps, end)
        if state.step == 1 or state.step % options.validate_every == 0 or last:
            psnr = _validate(state, pairs_validation, places, options)
            row = row.with_psnr(psnr)
        state.seconds += time.perf_counter() - begun
        history.add(row.with_seconds(state.seconds))
        if row.psnr is not None:
            say(f"step {state.step}/{options.steps}: {row.describe()}, {state.seconds:.0f} s")
        if state.step % options.checkpoint_every == 0 or last:
            history.flush()
            _save(state, folder, identity)
    return _result(state, options, baseline)


def _start(options: FitOptions, folder: Path, identity: dict[str, str], say: Progress) -> _State:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise CannotCreateError(f"{folder}: cannot make the work folder: {err.strerror}") from err
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = H2lo(options.architecture)
    # Weights in the layout in which the CPU's convolutions are fastest.
    model.encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    state = _State(model, optimizer, copy.deepcopy(model))
    saved = load_checkpoint(folder)
    if saved is None:
        return state
    for key, what in (("options", "other options"), ("pairs", "other pairs")):
        if saved[key] != identity[key]:
            raise UsageError(
                f"{folder}: holds a fit with {what}; give another work folder or remove it"
            )
    model.load_state_dict(saved["model"])
    state.average.load_state_dict(saved["average"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.step, state.seconds = saved["step"], saved["seconds"]
    state.best_step, state.best_psnr = saved["best_step"], saved["best_psnr"]
    state.best_weights = saved["best_weights"]
    say(f"going on from step {state.step} of {folder}")
    return state


def _step(state: _State, estimator: Any, options: FitOptions, folder: Path) -> Row:
    rate = cosine_rate(
        state.step, options.steps, options.learning_rate, options.floor, options.warmup
    )
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    rng = np.random.default_rng([options.seed, state.step])
    l1, gradient = estimator(state.model, rng)
    loss = l1 + options.lambda_grad * gradient
    if not torch.isfinite(loss):
        raise H2loError(
            f"{folder}: the loss became {loss.item()} at step {state.step + 1}; "
            "start anew with a lower learning rate or another precision"
        )
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    state.optimizer.step()
    state.step += 1
    _average(state, options.average)
    return Row(state.step, rate, loss.item(), l1.item(), gradient.item())


@torch.no_grad()
def _average(state: _State, decay: float) -> None:
    # Early on the average forgets faster, so that it does not keep the random start.
    decay = min(decay, state.step / (10 + state.step)) if decay else 0.0
    for kept, new in zip(state.average.parameters(), state.model.parameters(), strict=True):
        kept.lerp_(new, 1.0 - decay)


def _validate(
    state: _State, pairs: Sequence[Pair], places: list[Any], options: FitOptions
) -> float | None:
    if not pairs:
        return None
    psnr = brain_psnr(state.average, pairs, places, options.crop, precision=options.precision)
    if psnr > state.best_psnr:
        state.best_step, state.best_psnr = state.step, psnr
        state.best_weights = {k: v.clone() for k, v in state.average.state_dict().items()}
    return psnr


def _save(state: _State, folder: Path, identity: dict[str, str]) -> None:
    record = {
        **identity,
        "model": state.model.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        **{k: getattr(state, k) for k in ("step", "seconds", "best_step", "best_psnr")},
        "best_weights": state.best_weights,
    }
    save_checkpoint(folder, record)


def _result(state: _State, options: FitOptions, baseline: float) -> FitResult:
    model = H2lo(options.architecture)
    model.load_state_dict(state.best_weights or state.average.state_dict())
    return FitResult(
        model.eval(), state.step, state.best_step, state.best_psnr, baseline, state.seconds
    )
