"""What failed, as a table and as an exit code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from h2lo_bids import errors
from h2lo_bids.io import atomic_write_text

COLUMNS = ("scan", "step", "error", "message", "crash_file")
_OF_THE_MACHINE = (73, 74, 75)
_FULL_DISK = ("No space left on device", "Disk quota exceeded", "File too large")


@dataclass(frozen=True)
class Failed:
    """One scan that was not finished.

    Parameters
    ----------
    scan
        Path relative to the input dataset.
    step
        Name of the step that failed.
    error
        Class of the exception.
    message
        One line that names the file and the remedy.
    crash_file
        Path of the traceback, or an empty string.
    """

    scan: str
    step: str
    error: str
    message: str
    crash_file: str = ""

    @property
    def exit_code(self) -> int:
        """The code that stands for this kind of failure."""
        if any(text in self.message for text in _FULL_DISK):
            return errors.InputOutputError.exit_code
        if self.error in ("MemoryError", "BrokenProcessPool"):
            return errors.TemporaryError.exit_code
        if self.error == "PermissionError":
            return errors.MissingInputError.exit_code
        kind = getattr(errors, self.error, None)
        return int(kind.exit_code) if kind is not None else 1

    @property
    def expected(self) -> bool:
        """Whether the message was written for the user."""
        return hasattr(errors, self.error)

    @property
    def line(self) -> str:
        """The one line that the user sees."""
        text = self.message
        if not self.expected:
            text = f"{self.error} in step {self.step}: {text}"
            text += f" (traceback in {self.crash_file})" if self.crash_file else ""
        return text if Path(self.scan).name in text else f"{self.scan}: {text}"


def error_of_code(code: int) -> str:
    """Return the name of the error class that stands for an exit code."""
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and getattr(kind, "exit_code", None) == code:
            return name
    return errors.H2loError.__name__


def exit_code(failed: Sequence[Failed], done: int) -> int:
    """Choose the exit code of a run.

    Parameters
    ----------
    failed
        Scans that were not finished.
    done
        How many were.

    Returns
    -------
    int
        0 if nothing failed. The common code of all failures if it speaks of the
        machine rather than of the scans (73, 74, 75), or if nothing was done.
        Otherwise 1.
    """
    if not failed:
        return 0
    codes = {item.exit_code for item in failed}
    if len(codes) == 1:
        code = codes.pop()
        if code in _OF_THE_MACHINE or done == 0:
            return code
    return 1


def write_table(path: Path, failed: Iterable[Failed]) -> None:
    """Write the failures as a TSV file with a header row."""
    rows = [COLUMNS, *(tuple(getattr(item, name) for name in COLUMNS) for item in failed)]
    text = "".join("\t".join(_cell(value) for value in row) + "\n" for row in rows)
    atomic_write_text(path, text)


def _cell(value: str) -> str:
    return " ".join(value.split()) or "n/a"
