"""What a run asks of its processes, where `work` names the function; and what of it failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from h2lo_bids.bids.discover import LowFieldSource
from h2lo_bids.bids.gather import Problem, Skipped
from h2lo_bids.bids.pairs import PairSource
from h2lo_bids.bids.scan import Scan
from h2lo_bids.cli.resources import Resources
from h2lo_bids.errors import H2loError, InputOutputError, UnexpectedError
from h2lo_bids.io import atomic_write_text, exclusive
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import Send

COLUMNS = ("scan", "step", "error", "message", "crash_file")
_OF_THE_MACHINE = {73, 74, 75}
_FULL_DISK = ("No space left on device", "Disk quota exceeded", "File too large")
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

    work: ClassVar[str] = "h2lo_bids.cli.participant:collect_study"
    settings: Settings


@dataclass(frozen=True)
class Failed:
    """A scan, or a fit, that was not finished."""

    scan: str
    """Path relative to the input dataset, or the name of a fit."""
    step: str
    error: H2loError
    crash_file: str = ""
    """Path of the traceback, if there is one."""

    @property
    def kind(self) -> str:
        """Name of the class of the error."""
        return getattr(self.error, "kind", type(self.error).__name__)

    @property
    def message(self) -> str:
        """One line that names the file and the remedy."""
        return " ".join(str(self.error).split())

    @property
    def exit_code(self) -> int:
        """The code that stands for this kind of failure."""
        full = any(text in self.message for text in _FULL_DISK)
        return InputOutputError.exit_code if full else self.error.exit_code

    @property
    def line(self) -> str:
        """The one line that the user sees."""
        text = self.message
        if isinstance(self.error, UnexpectedError):
            text = f"{self.kind} in step {self.step}: {text}"
            text += f" (traceback in {self.crash_file})" if self.crash_file else ""
        return text if Path(self.scan).name in text else f"{self.scan}: {text}"


def exit_code(failed: Sequence[Failed], done: int) -> int:
    """Choose the exit code of a run.

    It is the common code of all failures if that speaks of the machine rather than of the scans
    (73, 74, 75), or if nothing was done; otherwise 1.
    """
    codes = {item.exit_code for item in failed}
    if len(codes) == 1 and (codes <= _OF_THE_MACHINE or not done):
        return codes.pop()
    return int(bool(codes))


def write_table(path: Path, failed: Iterable[Failed]) -> None:
    """Write the failures as a TSV file with a header row."""
    rows = [COLUMNS, *((f.scan, f.step, f.kind, f.message, f.crash_file) for f in failed)]
    text = "".join(
        "\t".join(" ".join(cell.split()) or "n/a" for cell in row) + "\n" for row in rows
    )
    atomic_write_text(path, text)


def note(text: str, level: str = "") -> dict[str, Any]:
    """Return the event by which a process has a line printed."""
    return {"event": "note", "text": text, "level": level}


@contextmanager
def alone(task: SubjectTask | PairTask, send: Send, other: str) -> Iterator[None]:
    """Keep every other run from a participant, or warn where that cannot be."""
    work = task.settings.work
    lock = work / "locks" / f"sub-{task.subject}.lock"

    def waiting(holder: str) -> None:
        send(note(f"waiting for another run {other} ({holder})"))

    with exclusive(lock, waiting) as locked:
        if not locked:
            text = "this file system has no file locks; do not start two runs on it at once"
            send(note(f"{work}: {text}", "warning"))
        yield
