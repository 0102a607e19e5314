"""The arms of the paper's Table 2, ways to train one enhancer, and what they are compared with."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from h2lo_bids.models.registry import CATALOGUE
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair
from h2lo_bids.vocabulary import CURVE, ENHANCER, FLIP_ROTATE, REAL, Say

if TYPE_CHECKING:
    import torch

    from h2lo_bids.training.experiments.cohort import Cohort
    from h2lo_bids.training.fit import FitResult

PRETRAIN, FINETUNE = "pretrain", "finetune"
"""Folders of the two stages in that of a fit."""
BRAIN_MM3 = 1.4e6
"""Volume of a usual brain."""
LEVELS = 200
"""Steps of grey from 0 to 1 of a curve."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast the arms train: the paper's, but for `factor` and `pretrain_floor`."""

    # An epoch takes as many patches of each pair as hold its brain once, by volume: our choice.

    real: int = 200  # epochs of real pairs alone; below with flips and turns, and of both stages
    augmented: int = 400
    pretrain: int = 150
    finetune: int = 50
    pretrain_rate: float = 1e-4  # Adam's, at both ends of the cosine of all but fine-tuning
    pretrain_floor: float = 1e-6
    finetune_rate: float = 2e-6
    finetune_floor: float = 5e-7
    warmup: int = 4  # epochs over which fine-tuning's rate rises from a part of it
    warmup_from: float = 0.5
    factor: float = 1.0  # by which all epochs are multiplied, the warm-up's too

    def with_rate(self, rate: float | None) -> Schedule:
        """Return the schedule with another rate of fine-tuning, and its floor in proportion."""
        if rate is None or rate == self.finetune_rate:
            return self
        floor = rate * self.finetune_floor / self.finetune_rate
        return dataclasses.replace(self, finetune_rate=rate, finetune_floor=floor)


@dataclass(frozen=True)
class Arm:
    """A row of Table 2; `pretrain` is the method whose images of a cohort it is pretrained on."""

    title: str
    pretrain: str | None = None
    augment: str = "none"
    schedule: Schedule = Schedule()
    cohort: Cohort | None = None

    def stages(
        self, options: FitOptions, pairs: int, spacing: Sequence[float]
    ) -> dict[str, FitOptions]:
        """Return the options of the stages, `PRETRAIN` if there is one and `FINETUNE`, in order."""
        from h2lo_bids.training.methods.patches import adapt_pfsr

        schedule = self.schedule
        base = dataclasses.replace(
            adapt_pfsr(options), learning_rate=schedule.pretrain_rate,
            floor=schedule.pretrain_floor, flip_rotate=self.augment == FLIP_ROTATE,
        )  # fmt: skip
        patches = max(1, round(BRAIN_MM3 / (math.prod(spacing) * base.crop**3)))

        def steps(epochs: int, count: int) -> int:
            return round(schedule.factor * epochs * count * patches / base.batch)

        if self.pretrain is None:
            epochs = schedule.augmented if base.flip_rotate else schedule.real
            return {FINETUNE: _timed(base, steps(epochs, pairs), 1.0)}
        assert self.cohort is not None  # see `h2lo_bids.cli.checks`
        tuned = dataclasses.replace(
            base, learning_rate=schedule.finetune_rate, floor=schedule.finetune_floor,
            warmup=steps(schedule.warmup, pairs), warmup_from=schedule.warmup_from,
        )  # fmt: skip
        # By epochs, as by steps next to nothing of a time budget would be left to few real pairs.
        share = schedule.pretrain / (schedule.pretrain + schedule.finetune)
        return {
            PRETRAIN: _timed(base, steps(schedule.pretrain, self.cohort.pairs), share),
            FINETUNE: _timed(tuned, steps(schedule.finetune, pairs), 1 - share),
        }

    def identity(self, stages: Mapping[str, FitOptions]) -> dict[str, Any]:
        """Return what decides the weights besides the pairs: both stages, and the cohort."""
        first = stages.get(PRETRAIN)
        return {
            **stages[FINETUNE].identity(),
            "pretrain": first.identity() if first else None,
            **(self.cohort.identity() if self.cohort else {"cohort": None}),
            "schedule": dataclasses.asdict(self.schedule),
        }


_LONE = {REAL: "Real LF", FLIP_ROTATE: "Flip & Rotate", CURVE: "Grey-level curve"}


def find_arm(name: str) -> Arm:
    """Return an arm by its name, or by that of the method that it is pretrained on."""
    name = name.removeprefix(f"{ENHANCER}-")
    if name in _LONE:
        return Arm(_LONE[name], augment=name)
    return Arm(CATALOGUE[name].title, pretrain=name)


def _timed(options: FitOptions, steps: int, share: float) -> FitOptions:
    """Give a stage its steps, at least one, and its share of the time budget."""
    budget = options.max_seconds
    return dataclasses.replace(
        options, steps=max(1, steps), max_seconds=None if budget is None else budget * share,
        validate_every=min(options.validate_every, max(1, steps // 4)),
    )  # fmt: skip


def fit_arm(
    stages: Mapping[str, FitOptions],
    pairs: tuple[Sequence[Pair], Sequence[Pair]],
    cohort: tuple[Sequence[Pair], Sequence[Pair]],
    folder: Path,
    say: Say = lambda line: None,
    stop_at: int | None = None,
) -> FitResult:
    """Fit an arm to swapped pairs to train and validate on, or go on with the fit in `folder`."""
    from h2lo_bids.training.fit import fit, prefixed

    tuned = stages[FINETUNE]
    if PRETRAIN not in stages:
        return fit(*pairs, tuned, folder / FINETUNE, say, stop_at=stop_at)
    first = fit(*cohort, stages[PRETRAIN], folder / PRETRAIN, prefixed("pretraining", say))
    start = {name: v.detach().clone() for name, v in first.model.state_dict().items()}
    tuned = dataclasses.replace(tuned, starts_from=weights_digest(start))
    say = prefixed("fine-tuning", say)
    last = fit(*pairs, tuned, folder / FINETUNE, say, stop_at=stop_at, initial=start)
    return dataclasses.replace(
        last, seconds=first.seconds + last.seconds, timed_out=first.timed_out or last.timed_out,
        pretrain_steps=first.steps,
    )  # fmt: skip


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of weights, whatever file they are in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().float().contiguous().numpy()
        digest.update(f"{name} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def fit_curve(pairs: Iterable[Pair]) -> np.ndarray:
    """Return the target's mean at each level of the input inside the brains."""
    sums, counts = np.zeros((2, LEVELS + 1))
    for pair in pairs:
        level = np.rint(pair.hf[pair.mask].clip(0, 1) * LEVELS).astype(int)
        sums += np.bincount(level, pair.lf[pair.mask], LEVELS + 1)
        counts += np.bincount(level, minlength=LEVELS + 1)
    seen = np.flatnonzero(counts)
    return np.interp(np.arange(LEVELS + 1), seen, sums[seen] / counts[seen])


def apply_curve(curve: np.ndarray, pair: Pair) -> np.ndarray:
    """Return what the curve makes of a pair's input; 0 outside the brain."""
    made = np.interp(pair.hf * LEVELS, np.arange(LEVELS + 1), curve)
    return np.where(pair.mask, made, 0).astype(np.float32)
