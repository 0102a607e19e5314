"""Fit an operator to pairs; a killed fit goes on where it was, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2lo_bids.errors import CannotCreateError, UsageError
from h2lo_bids.models.interface import Model
from h2lo_bids.synthesis.options import resolve_device
from h2lo_bids.training.checkpoint import load_checkpoint
from h2lo_bids.training.estimators import Share, build_estimator
from h2lo_bids.training.history import History
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair, common_shape, fingerprint
from h2lo_bids.training.processes import Processes, check_shares
from h2lo_bids.training.validation import Validation

if TYPE_CHECKING:
    import torch

    from h2lo_bids.training.lightning_module import FitModule

Progress = Callable[[str], None]


@dataclass(frozen=True)
class FitResult:
    """A fitted model and how the fit went.

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
    timed_out
        Whether the time budget ended the fit before its schedule did.
    stalled
        Whether the validation did, which no longer rose.
    """

    model: Model
    steps: int
    best_step: int
    best_psnr: float
    identity_psnr: float
    seconds: float
    timed_out: bool = False
    stalled: bool = False


def fit(
    pairs_train: Sequence[Pair],
    pairs_validation: Sequence[Pair],
    options: FitOptions,
    folder: Path,
    progress: Progress | None = None,
    *,
    stop_at: int | None = None,
    processes: Processes | None = None,
    initial: Mapping[str, torch.Tensor] | None = None,
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
        Work folder: checkpoints, ``history.csv`` and a TensorBoard log.
    progress
        Called with one line of text now and then.
    stop_at
        Stop after this many steps, with a checkpoint; the schedule stays that
        of ``options.steps``.
    processes
        From `find_processes`, where several share each step; process 0 alone writes.
    initial
        Weights to start from, of the same sizes; ``options.starts_from`` is their digest,
        so that a resumed fit goes on from no others.

    Returns
    -------
    FitResult
        The best weights so far.

    Raises
    ------
    H2loError
        If the loss is not finite: the last checkpoint from before it remains.
    UsageError
        If `folder` holds a fit of other options or other pairs, or ``options.starts_from``
        and `initial` do not belong together.
    TemporaryError
        If SIGTERM, or under Slurm SIGUSR1, ended the fit early, with a checkpoint.
    """
    check_start(options, initial)
    identity = check_fit(pairs_train, pairs_validation, options, processes)
    first = processes is None or processes.rank == 0
    say = progress if progress and first else (lambda line: None)
    saved = start_fit(folder, identity)
    baseline = identity_psnr(pairs_validation, options)
    say(f"identity baseline: validation PSNR {baseline:.2f} dB")
    module = _run(
        pairs_train, pairs_validation, options, folder, identity, saved, say,
        min(options.steps, stop_at or options.steps), processes,
        initial, bar=progress is None,
    )  # fmt: skip
    return FitResult(
        module.fitted(), module.step, module.best_step, module.best_psnr, baseline,
        module.seconds, module.timed_out, module.stalled,
    )  # fmt: skip


def check_fit(
    pairs_train: Sequence[Pair],
    pairs_validation: Sequence[Pair],
    options: FitOptions,
    processes: Processes | None = None,
) -> dict[str, str]:
    """Return what a fit's checkpoints say of its options and pairs.

    Raises
    ------
    BadDataError
        If the pairs are not on one grid.
    UsageError
        If there is no pair to train on, or the options cannot be met here.
    """
    if not pairs_train:
        raise UsageError("no pair to train on")
    if processes is not None:
        check_shares(len(pairs_train), options, processes.world)
    if options.precision == "fp16" and resolve_device(options.device).type != "cuda":
        raise UsageError("precision fp16 needs a CUDA device; take bf16 or fp32")
    pairs = [*pairs_train, *pairs_validation]
    common_shape(pairs)
    return {
        "options": json.dumps(options.identity(), sort_keys=True),
        "pairs": fingerprint(pairs),
    }


def check_start(options: FitOptions, initial: Mapping[str, torch.Tensor] | None) -> None:
    """Refuse weights to start from without their digest, or the other way round."""
    if (initial is None) != (options.starts_from is None):
        raise UsageError("starts_from names weights: give both, or neither")


def identity_psnr(pairs: Sequence[Pair], options: FitOptions) -> float:
    """Return the validation PSNR of the high-field images themselves, in dB."""
    validation = Validation(pairs, options)
    return validation.psnr(*validation.parts(None))


def start_fit(folder: Path, identity: dict[str, str]) -> dict[str, Any] | None:
    """Make a fit's work folder, and return the newest checkpoint in it, if any.

    Raises
    ------
    BadDataError
        If there are checkpoints and none can be read.
    CannotCreateError
        If the folder cannot be made.
    UsageError
        If it holds a fit of another identity, as `check_fit` gives it.
    """
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


def _run(
    pairs_train: Sequence[Pair],
    pairs_validation: Sequence[Pair],
    options: FitOptions,
    folder: Path,
    identity: dict[str, str],
    saved: dict[str, Any] | None,
    say: Progress,
    end: int,
    processes: Processes | None,
    initial: Mapping[str, torch.Tensor] | None,
    *,
    bar: bool,
) -> FitModule:
    """Do the steps that are left."""
    # Lightning takes seconds to import; only those who fit need it.
    from h2lo_bids.training.lightning_module import FitModule, Steps
    from h2lo_bids.training.lightning_plugins import FolderCheckpoints, TensorBoard
    from h2lo_bids.training.lightning_recorder import Recorder
    from h2lo_bids.training.lightning_trainer import run_trainer

    estimator = build_estimator(pairs_train, options)
    module = FitModule(options, estimator, identity, folder, initial)
    done = 0 if saved is None else int(saved["step"])
    if saved is not None:
        say(f"going on from step {done} of {folder}")
        module.on_load_checkpoint(saved)
        if done >= end or module.timed_out or module.stalled:
            module.load_state_dict(saved["state_dict"])
            return module
    share = Share() if processes is None else processes.share
    first = share.rank == 0
    history = History(folder / "history.csv", done) if first else None
    log = TensorBoard(folder, done, say) if first else None
    run_trainer(
        module,
        Steps(estimator, module, options.steps, share),
        end=end,
        checkpoints=FolderCheckpoints(folder, saved),
        resumed=saved is not None,
        callback=Recorder(Validation(pairs_validation, options), end, share, history, say),
        logger=log if log is not None and log.works else None,
        processes=processes,
        bar=bar,
    )
    return module
