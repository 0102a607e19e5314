"""Running fits: one child process per contrast, method and fold, some at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from h2lo_bids.cli.account import Run, fail
from h2lo_bids.cli.children import Ended, Job, run_jobs
from h2lo_bids.cli.environment import child_environment
from h2lo_bids.cli.failures import Failed
from h2lo_bids.cli.memory import MemoryLimit
from h2lo_bids.cli.resources import available_processors
from h2lo_bids.errors import H2loError, TemporaryError
from h2lo_bids.settings import Settings
from h2lo_bids.training.experiments.tasks import FinalTask, FoldTask
from h2lo_bids.wording import counted

_QUIET = 30.0  # seconds between two lines of one fit in the log
_GRACE = 600.0  # a step on whole volumes takes minutes on a CPU; a fit saves itself after it
_MINUTE, _HOUR = 60, 3600

Fit = FoldTask | FinalTask


def threads_of(settings: Settings) -> int:
    """Return the threads of one fit: they decide its last bits."""
    if settings.omp_nthreads is not None:
        return settings.omp_nthreads
    nprocs = settings.nprocs or available_processors()
    return max(1, nprocs // (settings.n_folds_parallel * settings.devices))


def name_of(task: Fit) -> str:
    """Return what a fit is called, on the terminal and in the table of failures."""
    if isinstance(task, FinalTask):
        return f"models/{task.settings.methods[0]}_{task.contrast}"
    return f"folds/{task.contrast}/{task.method}/fold-{task.fold.index}"


def run_fits(run: Run, tasks: Iterable[Fit], *, at_a_time: int) -> None:
    """Run fits; one that fails does not stop the others.

    Parameters
    ----------
    run
        Takes what is done and what failed, under `name_of`.
    tasks
        What to fit.
    at_a_time
        How many go on at the same time.
    """
    tasks = list(tasks)
    run.ended, run.total = 0, len(tasks)
    run.steps.clear()
    told: dict[str, float] = {}
    limit = None if run.settings.mem is None else run.settings.mem / at_a_time
    jobs = [
        Job(name_of(task), task, run.logs / f"{name_of(task).replace('/', '_')}.log", _GRACE)
        for task in tasks
    ]
    run_jobs(
        jobs,
        limit=at_a_time,
        env=child_environment(run.settings.work, threads_of(run.settings)),
        on_start=lambda job: _status(run, job, "starting"),
        tick=run.console.tick,
        on_event=lambda job, event: _hear(run, job, event, told),
        on_end=lambda ended: _end(run, ended),
        look=None if limit is None else MemoryLimit(limit).look,
        on_stop=lambda count: run.console.line(
            f"waiting for {counted(count, 'fit')} to save the current step; Ctrl-C ends them now"
        ),
    )


def _status(run: Run, job: Job, text: str) -> None:
    run.steps[job.name] = text
    now = ", ".join(f"{name}: {what}" for name, what in run.steps.items())
    run.console.status(f"[{run.ended}/{run.total}] {now}")


def _hear(run: Run, job: Job, event: dict[str, Any], told: dict[str, float]) -> None:
    """Take in one event of a fit; a line of progress now and then is enough."""
    kind = event["event"]
    if kind == "progress":
        text = _progress(event)
        _status(run, job, text)
        now = time.monotonic()
        if run.settings.verbose or now - told.get(job.name, now - _QUIET) >= _QUIET:
            told[job.name] = now
            run.console.line(f"{job.name}: {text}")
    elif kind == "said":
        _status(run, job, event["text"])
        run.console.to_log(event["text"])
    elif kind == "note":
        run.console.line(f"{job.name}: {event['text']}", level=event.get("level", ""))
    elif kind == "lost":
        _lose(run, job, H2loError.__name__, f"{job.name}: {event['text']}")
    elif kind == "fitted":
        run.done.add(job.name)
    elif kind == "error":
        log = "" if event["error"] == TemporaryError.__name__ else str(job.log)
        _lose(run, job, event["error"], event["message"], log)


def _progress(event: dict[str, Any]) -> str:
    parts = [f"step {event['step']} of {event['steps']}"]
    if "psnr" in event:
        parts.append(f"validation PSNR {event['psnr']:.2f} dB")
    if event.get("left"):
        parts.append(f"{duration(event['left'])} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Tell a time in the unit that fits.

    Examples
    --------
    >>> duration(12.3), duration(600), duration(9000)
    ('12 s', '10 min', '2 h 30 min')
    """
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    hours, rest = divmod(int(seconds), _HOUR)
    return f"{hours} h {rest // _MINUTE} min"


def _lose(run: Run, job: Job, error: str, message: str, log: str = "") -> None:
    run.told.add(job.name)
    fail(run, Failed(job.name, "fit", error, message, log))


def _end(run: Run, ended: Ended) -> bool:
    job = ended.job
    run.steps.pop(job.name, None)
    run.ended += 1
    if not run.steps:
        run.console.status("")
    if job.name in run.done:
        text = f"done in {duration(ended.seconds)}"
    else:
        if job.name not in run.told:
            remedy = "run again to go on, with more memory or a lower --n-folds-parallel"
            if ended.reason:
                remedy = "raise it and run again to go on, or fit with a smaller --batch or --crop"
            _lose(run, job, TemporaryError.__name__, f"{ended.cause}; {remedy}")
        text = f"failed after {duration(ended.seconds)}"
    run.console.line(f"[{run.ended}/{run.total}] {job.name}: {text}")
    return not (run.settings.stop_on_first_crash and run.failed)
