"""Entry point of a child process: ``python -m h2lo_bids.cli.worker FD``.

The task comes pickled on standard input, from the parent alone; events go back
as JSON lines on the file descriptor given. The last one is the result.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import signal
import sys
from collections.abc import Callable
from typing import Any

from h2lo_bids.cli import tasks
from h2lo_bids.errors import H2loError, of_the_machine
from h2lo_bids.training.experiments import tasks as experiments
from h2lo_bids.vocabulary import Send

_CLI, _EXPERIMENTS = "h2lo_bids.cli", "h2lo_bids.training.experiments"
_WORK = {
    tasks.SubjectTask: f"{_CLI}.subject:process",
    tasks.CheckTask: f"{_CLI}.checks:check_models_and_templates",
    tasks.ReportTask: f"{_CLI}.reporting:rebuild",
    tasks.MissingTask: f"{_CLI}.pairwork:find_missing",
    tasks.PairTask: f"{_CLI}.pairwork:prepare",
    experiments.PlanTask: f"{_EXPERIMENTS}.plan:plan_folds",
    experiments.FoldTask: f"{_EXPERIMENTS}.fits:fit_fold",
    experiments.FinalTask: f"{_EXPERIMENTS}.fits:fit_all",
    experiments.CollectTask: f"{_EXPERIMENTS}.results:collect",
    experiments.TableTask: f"{_EXPERIMENTS}.results:make_table",
    experiments.ScoreTask: f"{_EXPERIMENTS}.scoring:score",
    experiments.GroupReportTask: f"{_EXPERIMENTS}.results:report",
}


def main() -> int:
    """Do one task and say how it ended."""
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)  # a helper must not keep the parent listening
    _end_with_parent()
    with os.fdopen(descriptor, "w", encoding="utf-8", buffering=1) as channel:

        def send(event: dict[str, Any]) -> None:
            channel.write(json.dumps(event) + "\n")

        task = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own parent's pipe
        try:
            send(_run(task, send))
        except Exception as err:
            if not isinstance(err, H2loError):
                import traceback

                traceback.print_exc()  # to the participant's log
            told = of_the_machine(err) or err
            send({"event": "error", "error": type(told).__name__, "message": _text(told)})
            return told.exit_code if isinstance(told, H2loError) else 1
    return 0


def _run(task: Any, send: Send) -> dict[str, Any]:
    # Only what the task needs is imported: PyTorch takes a second.
    module, _, name = _WORK[type(task)].partition(":")
    work: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), name)
    return work(task, send)


def _text(err: BaseException) -> str:
    return " ".join(str(err).split()) or type(err).__name__


def _end_with_parent() -> None:
    """Ask Linux to end this process when its parent is killed; elsewhere it ends by itself."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
