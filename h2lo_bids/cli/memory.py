"""Stopping a child process that holds more memory than it may."""

from __future__ import annotations

import time
from collections.abc import Callable

_PAUSE = 0.5  # seconds between two looks at a process


class MemoryLimit:
    """Looks at child processes, each with all of its helpers.

    Parameters
    ----------
    gigabytes
        What a child may hold: resident memory, so that pages that helpers
        share count once for each.
    clock
        Seconds.
    """

    def __init__(self, gigabytes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._gigabytes, self._clock = gigabytes, clock
        self._last: dict[int, float] = {}

    def look(self, pid: int) -> str:
        """Say in one phrase why a child is to be stopped; empty if it may go on."""
        now = self._clock()
        if now - self._last.get(pid, -_PAUSE) < _PAUSE:
            return ""
        self._last[pid] = now
        held = resident(pid) / 1e9
        if held <= self._gigabytes:
            return ""
        return f"it held {held:.2f} GB, more than its share of --mem, {self._gigabytes:g} GB"


def resident(pid: int) -> int:
    """Return the resident memory of a process and its descendants, in bytes."""
    import psutil

    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for one in tree:
        try:
            total += one.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    return total
