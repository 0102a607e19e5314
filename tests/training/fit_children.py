"""Fits in real processes, started from one that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path

_MODULES = ["torch", "lightning_fabric", "h2lo_bids.training.fit", "h2lo_bids.training.launch"]
_START = multiprocessing.get_context("forkserver")


class Child:
    """A process that runs a specification."""

    def __init__(self, process: multiprocessing.process.BaseProcess, errors: Path) -> None:
        self._process, self._errors = process, errors

    def running(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()

    def send(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def finish(self) -> tuple[int | None, str]:
        """Wait for its end: exit code (negative: signal) and what it wrote to stderr."""
        self._process.join(120)
        return self._process.exitcode, self._errors.read_text()


def start_child(
    spec: Path, *, env: dict[str, str] | None = None, largest_file: int | None = None
) -> Child:
    _START.set_forkserver_preload(_MODULES)
    errors = spec.with_suffix(".err")
    errors.write_text("")
    process = _START.Process(target=_run, args=(spec, errors, env or {}, largest_file))
    process.start()
    return Child(process, errors)


def _run(spec: Path, errors: Path, env: dict[str, str], largest_file: int | None) -> None:
    stream = os.open(errors, os.O_WRONLY | os.O_APPEND)
    os.dup2(stream, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.environ.update(env)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    from h2lo_bids.training.launch import main

    sys.exit(main([str(spec)]))
