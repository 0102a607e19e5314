"""Experiments on prepared pairs, and what is asked of their processes: `work` is called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
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
class FoldTask:
    """Fit and score one method on one fold, with so many threads of PyTorch."""

    work: ClassVar[str] = "h2lo_bids.training.experiments.fits:fit_fold"
    settings: Settings
    contrast: str
    method: str
    fold: Fold
    sources: tuple[str, ...]
    threads: int

    @property
    def name(self) -> str:
        """What the fit is called."""
        return f"folds/{self.contrast}/{self.method}/fold-{self.fold.index}"


@dataclass(frozen=True)
class FinalTask:
    """Fit the final model of a contrast; without folds the held-out subjects validate it."""

    work: ClassVar[str] = "h2lo_bids.training.experiments.fits:fit_all"
    settings: Settings
    contrast: str
    folds: tuple[Fold, ...]
    held: tuple[str, ...]
    sources: tuple[str, ...]
    threads: int

    @property
    def name(self) -> str:
        """What the fit is called."""
        return f"models/{self.settings.methods[0]}_{self.contrast}"


@dataclass(frozen=True)
class Evaluated:
    """Tables that were written; pairs and reference scans that could not be used, and why."""

    tables: tuple[Path, ...]
    lost: tuple[tuple[str, str], ...]
    unusable: tuple[tuple[str, str], ...]
