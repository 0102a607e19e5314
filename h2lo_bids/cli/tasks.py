"""What the parent hands to a child process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from h2lo_bids.bids.discover import Problem, Skipped
from h2lo_bids.bids.scan import Scan
from h2lo_bids.cli.resources import Resources
from h2lo_bids.cli.settings import Settings


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
    """

    settings: Settings
    subject: str
    scans: tuple[Scan, ...]
    resources: Resources
    logs: Path
    templates: tuple[tuple[str, str, Path, Path | None], ...] = ()
    skipped: tuple[Skipped, ...] = ()
    problems: tuple[Problem, ...] = ()


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
