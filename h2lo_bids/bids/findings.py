"""What a search gathers beside what it was after."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from h2lo_bids.bids.scan import Scan
from h2lo_bids.errors import H2loError
from h2lo_bids.wording import summarise


class Problem(NamedTuple):
    """Something asked for that cannot be used: what, why with the remedy, exit code."""

    path: Path
    message: str
    exit_code: int


class Skipped(NamedTuple):
    """An image left out on purpose, with the reason and the option that changes it."""

    path: Path
    reason: str


@dataclass
class Findings:
    """What the steps of one search add to."""

    problems: list[Problem] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    said: list[tuple[Path, str]] = field(default_factory=list)
    doubts: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def told(self) -> tuple[str, ...]:
        """The notes, those on scans with one line for each kind."""
        return (*self.notes, *summarise((path, f"{path}: {text}") for path, text in self.said))

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each kind of warning."""
        return tuple(summarise((path, f"{path}: {text}") for path, text in self.doubts))

    def hear(self, scan: Scan) -> None:
        """Keep what was noted at a scan."""
        self.said += [(scan.path, text) for text in scan.notes]
        self.doubt(scan.path, *scan.warnings)

    def doubt(self, path: Path, *texts: str) -> None:
        """Warn of what concerns a file or folder."""
        self.doubts += [(path, text) for text in texts]

    def fail(self, path: Path, error: H2loError) -> None:
        """Keep an error that concerns one image or subject only."""
        self.problems.append(Problem(path, str(error), error.exit_code))

    def skip(self, path: Path, reason: str) -> None:
        """Leave something out."""
        self.skipped.append(Skipped(path, reason))
