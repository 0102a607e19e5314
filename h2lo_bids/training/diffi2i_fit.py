"""Fitting DiffI2I to axial slices of pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from h2lo_bids.models.diffi2i import DiffI2IArchitecture
from h2lo_bids.training.diffi2i_task import DiffI2ITask
from h2lo_bids.training.fit import FitResult, Progress
from h2lo_bids.training.loop import run_loop
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair
from h2lo_bids.training.slices import SliceValidation

LEARNING_RATE, AVERAGE = 2e-4, 0.999


def adapt_diffi2i(options: FitOptions) -> FitOptions:
    """Turn the options that the user gave into those of DiffI2I.

    Adam at 2e-4 and a running average of decay 0.999 are DiffIR's. Our choices:
    within each stage the rate falls along a cosine to `floor`; with
    ``sampling="patch"`` a step takes two crops of 64 x 64, with ``"volume"`` four
    whole slices; a validation on ``"crops"`` takes eight slices. float16 needs the
    loss to be scaled, so bfloat16 takes its place.

    Parameters
    ----------
    options
        As given; those that are DiffI2I's already are returned as they are. Steps,
        seed, augmentation, validation and device are kept.
    """
    if options.family == "diffi2i":
        return options
    return dataclasses.replace(
        options,
        family="diffi2i",
        architecture=DiffI2IArchitecture(),
        learning_rate=LEARNING_RATE,
        floor=min(options.floor, LEARNING_RATE),
        warmup=0,
        rate_steps=1,
        crop=64,
        batch=4 if options.sampling == "volume" else 2,
        lambda_grad=0.0,
        precision="bf16" if options.precision == "fp16" else options.precision,
        average=AVERAGE,
        patience=0,
        validation_crops=min(8, options.validation_crops),
    )


def fit_diffi2i(
    pairs_train: Sequence[Pair],
    pairs_validation: Sequence[Pair],
    options: FitOptions,
    folder: Path,
    progress: Progress | None = None,
    *,
    stop_at: int | None = None,
) -> FitResult:
    """Fit DiffI2I to axial slices, or go on with the fit that `folder` holds.

    Three sevenths of the steps are stage 1 (see `DiffI2ITask`), one the prior
    alone, the rest both together. Stage 1 is not validated: its model sees the target.

    Parameters
    ----------
    pairs_train, pairs_validation, folder, progress, stop_at
        As for `h2lo_bids.training.fit.fit`.
    options
        From `adapt_diffi2i`. With `max_seconds` the stages share the time instead
        of the steps where it is the time that runs out first.

    Returns
    -------
    FitResult
        The best weights so far.

    Raises
    ------
    H2loError
        As `h2lo_bids.training.loop.run_loop`.
    """
    return run_loop(
        lambda: DiffI2ITask(pairs_train, pairs_validation, options),
        pairs_train,
        pairs_validation,
        options,
        folder,
        progress,
        stop_at=stop_at,
        baseline=SliceValidation(pairs_validation, options).identity,
    )
