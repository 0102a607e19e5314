"""What a run asks of its processes: `work` names the function that is called with a task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from h2lo_bids.bids.discover import LowFieldSource
from h2lo_bids.bids.gather import Problem, Skipped
from h2lo_bids.bids.pairs import PairSource
from h2lo_bids.bids.scan import Scan
from h2lo_bids.cli.resources import Resources
from h2lo_bids.settings import Settings

Templates = tuple[tuple[str, str, Path, Path | None], ...]
"""For each contrast and standard space: both names, image and brain mask."""


@dataclass(frozen=True)
class CheckTask:
    """Check, before anything is begun, the models and templates for some contrasts."""

    work: ClassVar[str] = "h2lo_bids.cli.checks:check_models_and_templates"
    settings: Settings
    suffixes: tuple[str, ...]


@dataclass(frozen=True)
class SubjectTask:
    """Process the scans of one participant, then write the report."""

    work: ClassVar[str] = "h2lo_bids.cli.subject:process"
    settings: Settings
    subject: str
    scans: tuple[Scan, ...]
    resources: Resources
    logs: Path
    """The run's folder for crash files and graphs."""
    templates: Templates = ()
    skipped: tuple[Skipped, ...] = ()
    """Images of this participant that are not used, with the reason."""
    problems: tuple[Problem, ...] = ()
    """Images of this participant that cannot be used."""
    sources: tuple[LowFieldSource, ...] = ()
    """Of enhancement: which scans belong together; `scans` are then their parts."""


@dataclass(frozen=True)
class PairTask:
    """Prepare those pairs of one participant that are not prepared yet."""

    work: ClassVar[str] = "h2lo_bids.cli.pairs:prepare_participant"
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
    """Name the pairs that are not prepared yet."""

    work: ClassVar[str] = "h2lo_bids.cli.pairs:find_missing"
    settings: Settings
    pairs: tuple[PairSource, ...]


@dataclass(frozen=True)
class TrialTask:
    """Collect a virtual trial from the ratings of every scan."""

    work: ClassVar[str] = "h2lo_bids.cli.trial:collect_study"
    settings: Settings
