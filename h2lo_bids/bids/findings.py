"""What a search gathers beside what it was after."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from h2lo_bids.errors import H2loError


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

    def fail(self, path: Path, error: H2loError) -> None:
        """Keep an error that concerns one image or subject only."""
        self.problems.append(Problem(path, str(error), error.exit_code))

    def skip(self, path: Path, reason: str) -> None:
        """Leave something out."""
        self.skipped.append(Skipped(path, reason))
