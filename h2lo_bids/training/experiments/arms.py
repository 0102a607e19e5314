"""The arms of the paper's Table 2: ways to train one enhancer, and their schedules."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2lo_bids.errors import UsageError
from h2lo_bids.models.catalogue import CATALOGUE
from h2lo_bids.models.registry import task_of
from h2lo_bids.training.fitting import prefixed
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair
from h2lo_bids.vocabulary import ENHANCER, SYNTHESIZE, Say

if TYPE_CHECKING:
    import torch

    from h2lo_bids.training.fit import FitResult

PRETRAIN, FINETUNE = "pretrain", "finetune"
"""Folders of the two stages in that of a fit."""
BRAIN_MM3 = 1.4e6
"""Volume of a usual brain."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast the arms train.

    All but `factor` and `finetune_rate` are the paper's. An epoch takes as many
    patches of each pair as hold its brain once, by volume: see `patches_of`. What an
    epoch is in patches, the paper does not say.

    Parameters
    ----------
    real, augmented
        Epochs of real pairs alone, as they are and with flips and turns.
    pretrain, finetune
        Epochs of both stages.
    pretrain_rate, pretrain_floor
        Adam's rate at both ends of the cosine of everything but fine-tuning; the
        lower end is our choice.
    finetune_rate, finetune_floor
        Those of fine-tuning. Another rate takes its floor along in proportion.
    warmup, warmup_from
        Epochs over which fine-tuning's rate rises, and the part of it that it rises from.
    factor
        By which all epochs are multiplied, the warm-up's too.

    Raises
    ------
    UsageError
        If the factor or the rate is not positive.
    """

    real: int = 200
    augmented: int = 400
    pretrain: int = 150
    finetune: int = 50
    pretrain_rate: float = 1e-4
    pretrain_floor: float = 1e-6
    finetune_rate: float = 2e-6
    finetune_floor: float = 5e-7
    warmup: int = 4
    warmup_from: float = 0.5
    factor: float = 1.0

    def __post_init__(self) -> None:
        for name, option in (("factor", "--schedule-factor"), ("finetune_rate", "--finetune-rate")):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise UsageError(f"{option} {value:g}: give a positive number")

    def with_rate(self, rate: float | None) -> Schedule:
        """Return the schedule with another rate of fine-tuning; None leaves it."""
        if rate is None or rate == self.finetune_rate:
            return self
        floor = rate * self.finetune_floor / self.finetune_rate
        return dataclasses.replace(self, finetune_rate=rate, finetune_floor=floor)

    def steps(self, epochs: int, pairs: int, patches: int, batch: int) -> int:
        """Return the optimiser steps of some epochs, at least one."""
        return max(1, round(self.factor * epochs * pairs * patches / batch))

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as JSON-ready values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Arm:
    """A row of Table 2; `pretrain` is the method whose images of a cohort it is pretrained on."""

    name: str
    title: str
    pretrain: str | None = None
    augment: str = "none"


REAL = Arm(f"{ENHANCER}-real", "Real LF")
FLIP_ROTATE = Arm(f"{ENHANCER}-flip-rotate", "Flip & Rotate", augment="flip-rotate")


def pretrained(method: str) -> Arm:
    """Return the arm that is pretrained on the images of a synthesis method."""
    if method not in CATALOGUE or task_of(method) != SYNTHESIZE:
        raise UsageError(f"{method!r} makes no low-field images to pretrain on")
    return Arm(f"{ENHANCER}-{method}", CATALOGUE[method].title, pretrain=method)


def find_arm(name: str) -> Arm:
    """Return an arm by its name, or by that of the method that it is pretrained on."""
    for arm in (REAL, FLIP_ROTATE):
        if name in (arm.name, arm.name.removeprefix(f"{ENHANCER}-")):
            return arm
    return pretrained(name.removeprefix(f"{ENHANCER}-"))


def patches_of(spacing: Sequence[float], crop: int) -> int:
    """Return how many patches hold a brain once, by volume."""
    return max(1, round(BRAIN_MM3 / (math.prod(spacing) * crop**3)))


def stages_of(
    arm: Arm,
    options: FitOptions,
    schedule: Schedule,
    *,
    pairs: int,
    cohort: int = 0,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> dict[str, FitOptions]:
    """Return the options of an arm's stages, `PRETRAIN` if it has one and `FINETUNE`, in order.

    Steps follow from the numbers of real pairs and of the cohort's, and from the voxel size;
    ``starts_from`` of the last stage is not known yet.
    """
    from h2lo_bids.training.methods.pfsr import adapt_pfsr

    base = dataclasses.replace(
        adapt_pfsr(options), learning_rate=schedule.pretrain_rate, floor=schedule.pretrain_floor,
        flip_rotate=arm.augment == "flip-rotate",
    )  # fmt: skip
    patches = patches_of(spacing, base.crop)

    def steps(epochs: int, count: int) -> int:
        return schedule.steps(epochs, count, patches, base.batch)

    if arm.pretrain is None:
        epochs = schedule.augmented if base.flip_rotate else schedule.real
        return {FINETUNE: _timed(base, steps(epochs, pairs), 1.0)}
    if not cohort:
        raise UsageError(
            f"{arm.name}: no pair of a cohort to pretrain on; give --pretrain-derivatives"
        )
    tuned = dataclasses.replace(
        base, learning_rate=schedule.finetune_rate, floor=schedule.finetune_floor,
        warmup=round(schedule.factor * schedule.warmup * pairs * patches / base.batch),
        warmup_from=schedule.warmup_from,
    )  # fmt: skip
    both = steps(schedule.pretrain, cohort), steps(schedule.finetune, pairs)
    return {
        PRETRAIN: _timed(base, both[0], both[0] / sum(both)),
        FINETUNE: _timed(tuned, both[1], both[1] / sum(both)),
    }


def _timed(options: FitOptions, steps: int, share: float) -> FitOptions:
    """Give a stage its steps, and its share of the time budget; keep the intervals within."""
    budget = options.max_seconds
    every = min(options.validate_every, max(1, steps // 4))
    return dataclasses.replace(
        options, steps=steps, max_seconds=None if budget is None else budget * share,
        validate_every=every,
    )  # fmt: skip


def fit_arm(
    arm: Arm,
    pairs_train: Sequence[Pair],
    pairs_validation: Sequence[Pair],
    cohort_train: Sequence[Pair],
    cohort_validation: Sequence[Pair],
    options: FitOptions,
    folder: Path,
    progress: Say | None = None,
    *,
    schedule: Schedule | None = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    stop_at: int | None = None,
) -> FitResult:
    """Fit an arm, or go on with the fit that `folder` holds.

    Pretraining keeps the weights that were best on the cohort's validation pairs, and
    fine-tuning starts from them with an optimiser of its own.

    Parameters
    ----------
    arm
        The arm.
    pairs_train, pairs_validation
        Real pairs, swapped: see `h2lo_bids.training.pairs.Pair.swapped`.
    cohort_train, cohort_validation
        Pairs of the cohort, swapped, on the same grid; of no use to an arm without
        pretraining.
    options
        As for `stages_of`; its steps, rates and patches do not count.
    folder
        Receives ``pretrain`` and ``finetune``, each a work folder as of
        `h2lo_bids.training.fit.fit`.
    progress
        Called with a line, or a step of the fit, now and then.
    schedule
        None takes the paper's.
    spacing
        Voxel size of the pairs' frame in mm.
    stop_at
        Steps of the last stage after which to stop.

    Returns
    -------
    FitResult
        Of the last stage, with the seconds of both; timed out if one was.

    Raises
    ------
    H2loError, UsageError, TemporaryError
        As `h2lo_bids.training.fit.fit` and `stages_of`.
    """
    from h2lo_bids.training.fit import fit

    stages = stages_of(
        arm, options, schedule or Schedule(), pairs=len(pairs_train), cohort=len(cohort_train),
        spacing=spacing,
    )  # fmt: skip
    tuned = stages[FINETUNE]
    first, start = None, None
    if PRETRAIN in stages:
        first = fit(
            cohort_train, cohort_validation, stages[PRETRAIN], folder / PRETRAIN,
            prefixed("pretraining", progress),
        )  # fmt: skip
        start = {name: v.detach().clone() for name, v in first.model.state_dict().items()}
        tuned = dataclasses.replace(tuned, starts_from=weights_digest(start))
    result = fit(
        pairs_train, pairs_validation, tuned, folder / FINETUNE,
        prefixed("fine-tuning", progress) if first else progress,
        stop_at=stop_at, initial=start,
    )  # fmt: skip
    if first is None:
        return result
    return dataclasses.replace(
        result, seconds=first.seconds + result.seconds,
        timed_out=first.timed_out or result.timed_out,
    )  # fmt: skip


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of weights, whatever file they are in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().float().contiguous().numpy()
        digest.update(f"{name} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
