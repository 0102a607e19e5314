"""Experiments on prepared pairs, and what is asked of their processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from h2lo_bids.evaluation.splits import Fold
from h2lo_bids.settings import Settings

Sources = dict[str, tuple[str, ...]]
"""BIDS URIs of the high-field scans whose pairs are prepared, by contrast."""


@dataclass(frozen=True)
class Plan:
    """What is to be fitted to the pairs of a contrast."""

    sources: tuple[str, ...]  # BIDS URIs of the high-field scans, one for each pair
    folds: tuple[Fold, ...]
    held: tuple[str, ...]  # without folds the subjects held out to validate on
    done: frozenset[tuple[str, int]]  # methods and folds whose results are there


@dataclass(frozen=True)
class FitTask:
    """Fit and score a method on a fold, or without one fit the final model, on so many threads."""

    work: ClassVar[str] = "h2lo_bids.training.experiments.fits:run_fit"
    settings: Settings
    contrast: str
    method: str
    plan: Plan
    fold: Fold | None
    threads: int

    @property
    def name(self) -> str:
        """What the fit is called."""
        if self.fold is None:
            return f"models/{self.method}_{self.contrast}"
        return f"folds/{self.contrast}/{self.method}/fold-{self.fold.index}"
