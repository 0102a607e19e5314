"""Signals that end a fit after the step at hand, with a checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from h2lo_bids.errors import TemporaryError

REASONS = (None, "SIGTERM", "SIGUSR1")
"""What `Signals.reason` can be; the later ones weigh more."""


class Signals:
    """Records SIGTERM, and under Slurm SIGUSR1, while its block runs.

    Slurm sends the second with ``sbatch --requeue --signal=USR1@120``. Python
    delivers signals to the main thread alone; elsewhere none is recorded.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        numbers = [signal.SIGTERM]
        if "SLURM_JOB_ID" in os.environ:
            numbers.append(signal.SIGUSR1)
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._on_signal) for n in numbers}
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.reason = signal.Signals(number).name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        for number, handler in self._before.items():
            signal.signal(number, handler)


def stopped(folder: Path, step: int, reason: str, *, first: bool = True) -> TemporaryError:
    """Return the error that ends a fit early; after SIGUSR1 the first process queues it again."""
    queued = _requeue() if reason == "SIGUSR1" and first else ""
    return TemporaryError(
        f"{folder}: stopped by {reason} after step {step}{queued}; run again to go on from there"
    )


def _requeue() -> str:
    """Put this job back into Slurm's queue; return a remark on how that went."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as err:
        return f", but job {job} was not put back into the queue ({err})"
    return f", and job {job} was put back into the queue"
