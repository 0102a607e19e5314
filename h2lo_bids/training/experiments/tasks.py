"""What is asked of a process in a run that works on pairs; each with the settings of the run."""

from __future__ import annotations

from dataclasses import dataclass

from h2lo_bids.evaluation.splits import Fold
from h2lo_bids.settings import Settings

Sources = dict[str, tuple[str, ...]]
"""BIDS URIs of the high-field scans whose pairs are prepared, by contrast."""


@dataclass(frozen=True)
class PlanTask:
    """Divide the subjects of the prepared pairs into folds."""

    settings: Settings
    sources: Sources


@dataclass(frozen=True)
class FoldTask:
    """Fit and score one method on one fold, with so many threads of PyTorch."""

    settings: Settings
    contrast: str
    method: str
    fold: Fold
    sources: tuple[str, ...]
    threads: int


@dataclass(frozen=True)
class FinalTask:
    """Fit the final model of a contrast; without folds the held-out subjects validate it."""

    settings: Settings
    contrast: str
    folds: tuple[Fold, ...]
    held: tuple[str, ...]
    sources: tuple[str, ...]
    threads: int


@dataclass(frozen=True)
class CollectTask:
    """Write the tables of some contrasts from the folds that are done."""

    settings: Settings
    contrasts: tuple[str, ...]


@dataclass(frozen=True)
class TableTask:
    """Write the table of a benchmark from the folds that are done."""

    settings: Settings


@dataclass(frozen=True)
class ScoreTask:
    """Score models on the prepared pairs."""

    settings: Settings
    sources: Sources


@dataclass(frozen=True)
class GroupReportTask:
    """Write the report of a level that works on pairs, with the failures: step and message."""

    settings: Settings
    failures: tuple[tuple[str, str], ...] = ()
