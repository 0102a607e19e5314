"""Errors that end in one clear line and a documented exit code, and what of a run failed.

The codes are those of the BIDS execution specification and of ``sysexits.h``.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from h2lo_bids.vocabulary import DISK_FULL

_LONG_LINE = re.compile(r"(?m)^(.{1333}).{2,}(.{666})$")
"""Longer than a few paths of the greatest length and what is said of them: of a hostile file."""
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
_FULL_DISK = ("No space left on device", "Disk quota exceeded", "File too large")
_OF_THE_MACHINE = {73, 74, 75}
_REFUSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)


class H2loError(Exception):
    """A problem that the user can act on: one line that names the file at fault and the remedy."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(_LONG_LINE.sub(r"\1 [...] \2", message))


class InvalidBidsError(H2loError):
    """The input dataset is not valid BIDS."""

    exit_code = 16


class UnknownLevelError(H2loError):
    """The analysis level is not one of those offered."""

    exit_code = 17


class NoMatchError(H2loError):
    """The filters matched no scan."""

    exit_code = 18


class UsageError(H2loError):
    """The command line or a configuration file makes no sense."""

    exit_code = 64


class BadDataError(H2loError):
    """An input file has content that cannot be used."""

    exit_code = 65


class MissingInputError(H2loError):
    """An input file does not exist, cannot be read, or has no content."""

    exit_code = 66


class CannotCreateError(H2loError):
    """An output cannot be created."""

    exit_code = 73


class InputOutputError(H2loError):
    """Reading or writing failed half-way, for example on a full disk."""

    exit_code = 74


class TemporaryError(H2loError):
    """The run may succeed when tried again, for example with more memory."""

    exit_code = 75


class UnexpectedError(H2loError):
    """An exception that no message was written for; `kind` is the name of its class."""

    def __init__(self, message: str, kind: str = "") -> None:  # unpickling sets the latter
        super().__init__(message)
        self.kind = kind


def recorded(error: Exception, place: str = "a file") -> H2loError:
    """Return an exception as one line that can be sent to another process."""
    error = of_the_machine(error, place) or error
    text, kind = " ".join(str(error).split()), getattr(error, "kind", type(error).__name__)
    if isinstance(error, H2loError) and not isinstance(error, UnexpectedError):
        return type(error)(text)
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return MissingInputError(
            f"{error.filename or place}: {error.strerror}; check the path, and the "
            "permissions of it and the folders above it"
        )
    return UnexpectedError(text or kind, kind)


def error_named(kind: str, message: str) -> H2loError:
    """Return the error of a class whose name was recorded."""
    found = globals().get(kind)
    if isinstance(found, type) and issubclass(found, H2loError):
        return found(message)
    return UnexpectedError(message, kind)


def of_the_machine(error: Exception, place: str = "a file") -> H2loError | None:
    """Say in one line what the machine lacked: memory, or room on a disk; None if neither."""
    # PyTorch's allocators have no exception class of their own on the CPU.
    full = isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    if full or isinstance(error, MemoryError):
        text = " ".join(str(error).split())[:120]
        return TemporaryError(
            f"memory ran out{f' ({text})' if text else ''}; run again with fewer --nprocs, in a "
            "fit with a smaller --batch or --crop, or on a machine with more memory"
        )
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return InputOutputError(
            f"{error.filename or place}: writing failed ({os.strerror(error.errno)}); "
            "free some space or choose another --work-dir, then run again"
        )
    return None


@dataclass(frozen=True)
class Failed:
    """A scan, or a fit, that was not finished."""

    scan: str
    """Path relative to the input dataset, or the name of a fit."""
    step: str
    error: H2loError
    crash_file: str = ""
    """Path of the traceback, if there is one."""
    path: Path = Path()
    """File or folder at fault, of what a search found."""

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
    """Choose a run's exit code: that of all failures if of the machine, or if nothing was done."""
    codes = {item.exit_code for item in failed}
    if len(codes) == 1 and (codes <= _OF_THE_MACHINE or not done):
        return codes.pop()
    return int(bool(codes))
