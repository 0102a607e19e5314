"""What the parent hands to a child process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from h2lo_bids.bids.discover import Problem, Skipped
from h2lo_bids.bids.lowfield import LowFieldSource
from h2lo_bids.bids.pairs import PairSource
from h2lo_bids.bids.scan import Scan
from h2lo_bids.cli.resources import Resources
from h2lo_bids.settings import Settings


@dataclass(frozen=True)
class CheckTask:
    """Check, before anything is begun, what the run will need.

    Parameters
    ----------
    settings
        Of the run.
    suffixes
        Contrasts for which a model is needed.
    """

    settings: Settings
    suffixes: tuple[str, ...]


@dataclass(frozen=True)
class SubjectTask:
    """Process the scans of one participant, then write the report.

    Parameters
    ----------
    settings
        Of the run.
    subject
        Label without ``sub-``.
    scans
        All of them of this participant.
    resources
        Of this child.
    logs
        The run's folder for crash files and graphs.
    templates
        For each contrast and standard space: both names, image and brain mask.
    skipped
        Images of this participant that were left out, with the reason.
    problems
        Images of this participant that cannot be used.
    sources
        Of enhancement: which scans belong together; `scans` are then their parts.
    """

    settings: Settings
    subject: str
    scans: tuple[Scan, ...]
    resources: Resources
    logs: Path
    templates: tuple[tuple[str, str, Path, Path | None], ...] = ()
    skipped: tuple[Skipped, ...] = ()
    problems: tuple[Problem, ...] = ()
    sources: tuple[LowFieldSource, ...] = ()


@dataclass(frozen=True)
class ReportTask:
    """Write one participant's report from what is in ``out_dir``.

    Parameters
    ----------
    settings
        Of the run.
    subject
        Label without ``sub-``.
    failures
        Scan stem and message of what failed without a chance to say so.
    """

    settings: Settings
    subject: str
    failures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class PairTask:
    """Prepare the pairs of one participant.

    Parameters
    ----------
    settings
        Of the run.
    subject
        Label without ``sub-``.
    pairs
        Those of this participant that are not prepared yet.
    resources
        Of this child.
    logs
        The run's folder for crash files.
    """

    settings: Settings
    subject: str
    pairs: tuple[PairSource, ...]
    resources: Resources
    logs: Path

    @property
    def scans(self) -> tuple[Scan, ...]:
        """The high-field scans, by which pairs go."""
        return tuple(pair.hf for pair in self.pairs)


@dataclass(frozen=True)
class MissingTask:
    """Tell which pairs are not prepared yet.

    Parameters
    ----------
    settings
        Of the run.
    pairs
        All that were found.
    """

    settings: Settings
    pairs: tuple[PairSource, ...]


@dataclass(frozen=True)
class PlanTask:
    """Look at the prepared pairs and lay out the folds.

    Parameters
    ----------
    settings
        Of the run.
    sources
        BIDS URIs of the high-field scans whose pairs are prepared, per contrast.
    """

    settings: Settings
    sources: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class FoldTask:
    """Fit and score one method on one fold.

    Parameters
    ----------
    settings
        Of the run.
    contrast, method, index
        Which.
    sources
        BIDS URIs of the high-field scans whose pairs take part.
    threads
        Of PyTorch.
    """

    settings: Settings
    contrast: str
    method: str
    index: int
    sources: tuple[str, ...]
    threads: int


@dataclass(frozen=True)
class FinalTask:
    """Fit the final model of a contrast on all pairs.

    Parameters
    ----------
    settings
        Of the run.
    contrast
        Which.
    sources, threads
        As in `FoldTask`.
    """

    settings: Settings
    contrast: str
    sources: tuple[str, ...]
    threads: int


@dataclass(frozen=True)
class CollectTask:
    """Write the tables from the folds that are done.

    Parameters
    ----------
    settings
        Of the run.
    contrasts
        Of which contrasts.
    """

    settings: Settings
    contrasts: tuple[str, ...]


@dataclass(frozen=True)
class TableTask:
    """Write the table of a benchmark from the folds that are done.

    Parameters
    ----------
    settings
        Of the run.
    """

    settings: Settings


@dataclass(frozen=True)
class ScoreTask:
    """Score models on prepared pairs.

    Parameters
    ----------
    settings
        Of the run.
    sources
        As in `PlanTask`.
    """

    settings: Settings
    sources: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class GroupReportTask:
    """Write the report of a level that works on pairs.

    Parameters
    ----------
    settings
        Of the run.
    failures
        What failed, with step and message.
    """

    settings: Settings
    failures: tuple[tuple[str, str], ...] = ()
