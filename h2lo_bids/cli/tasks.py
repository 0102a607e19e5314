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
