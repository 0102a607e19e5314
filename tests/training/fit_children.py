"""Fits in real processes, started from one that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from h2lo_bids.errors import H2loError
from h2lo_bids.training.fit import fit
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair

_MODULES = ["torch", "lightning_fabric", "h2lo_bids.training.fit", "h2lo_bids.training.methods"]
_START = multiprocessing.get_context("forkserver")


class Fitting(NamedTuple):
    """What `fit` and `launch` are called with."""

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    options: FitOptions
    folder: Path


class Child:
    """A process that runs a fit."""

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


def start_child(fitting: Fitting, *, largest_file: int | None = None) -> Child:
    _START.set_forkserver_preload(_MODULES)
    errors = fitting.folder.with_suffix(".err")
    errors.write_text("")
    process = _START.Process(target=_run, args=(fitting, errors, largest_file))
    process.start()
    return Child(process, errors)


def _run(fitting: Fitting, errors: Path, largest_file: int | None) -> None:
    stream = os.open(errors, os.O_WRONLY | os.O_APPEND)
    os.dup2(stream, 2)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    torch.set_num_threads(1)
    try:
        fit(*fitting)
    except H2loError as err:
        print(f"error: {err}", file=sys.stderr)
        sys.exit(err.exit_code)
