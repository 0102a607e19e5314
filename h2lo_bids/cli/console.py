"""What the user sees, and the same as plain lines in a log file."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import TextIO

_TICK = 1.0  # seconds from one look at the time to the next
_SILENCE = 8.0  # seconds after which a stream that is no terminal gets the status as a line


class Console:
    """Lines on the terminal and in a log file; what cannot be written never stops the work."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._tty = self._stream.isatty()
        self._status, self._since = "", 0.0
        self._drawn = 0.0
        self._log: TextIO | None = None
        self.log: Path | None = None

    def open_log(self, path: Path) -> None:
        """Write every further line to a file too, with the time before it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._log = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        self.log = path

    def line(self, text: str, *, level: str = "") -> None:
        """Print one line; ``level`` is ``"warning"``, ``"error"`` or nothing."""
        text = printable(f"{level}: {text}" if level else text)
        self._show(text)
        self.to_log(text)

    def to_log(self, text: str) -> None:
        """Write one line to the log file alone."""
        if self._log is not None:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            with contextlib.suppress(OSError, ValueError):
                self._log.write(f"{stamp} {text}\n")

    def status(self, text: str) -> None:
        """Replace the status line, which a terminal shows at once and others in a long silence."""
        self._show(status=text)

    def tick(self) -> None:
        """Show on the status line how long it has said the same; to be called often."""
        now = time.monotonic()
        if self._tty and now - self._drawn >= _TICK:
            self._show()
        elif not self._tty and self._status and now - self._drawn >= _SILENCE:
            self._show(printable(f"{self._status} ({now - self._since:.0f} s)"))

    def progress(self, text: str) -> None:
        """Print a line where there is no status line to tell the same; log it anyway."""
        (self.to_log if self._tty else self.line)(text)

    def close(self) -> None:
        """Remove the status line and close the log."""
        self.status("")
        if self._log is not None:
            with contextlib.suppress(OSError, ValueError):
                self._log.close()
            self._log = None

    def _show(self, line: str | None = None, status: str | None = None) -> None:
        """Print a line above the status line, and draw that anew, or another one."""
        with contextlib.suppress(OSError, ValueError):
            if self._tty and self._status:
                self._stream.write("\r\x1b[K")
            now = time.monotonic()
            if line is not None:
                print(line, file=self._stream)
                self._drawn = now
            if status is not None:
                self._status, self._since = status, now
            if self._tty and self._status:
                self._drawn = now
                seconds = int(now - self._since)
                waited = f" ({seconds} s)" if seconds >= _TICK else ""
                width = max(1, shutil.get_terminal_size().columns - 1 - len(waited))
                self._stream.write(self._status[:width] + waited)
            self._stream.flush()


def printable(text: str) -> str:
    """Show control characters, which file names may hold, instead of obeying them."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text)


def complain(program: str, text: str, code: int) -> int:
    """Print the error that ends a program, and return its exit code."""
    try:
        print(f"{program}: error: {printable(text)}", file=sys.stderr)
    except OSError:
        fall_silent(sys.stdout, sys.stderr)
    return code


def fall_silent(*streams: TextIO) -> None:
    """Write nowhere from now on: the reader of our output, or the terminal, has gone."""
    for stream in streams:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
