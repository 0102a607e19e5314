"""Running fits: one process per contrast, method and fold, some at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence

from h2lo_bids.cli.execution import Run
from h2lo_bids.cli.failures import Failed
from h2lo_bids.cli.resources import fit_threads
from h2lo_bids.errors import H2loError, TemporaryError
from h2lo_bids.processes import Ended, Event, Job, resident
from h2lo_bids.training.experiments import FinalTask, FoldTask
from h2lo_bids.wording import counted, duration

_QUIET = 30.0  # seconds between two lines of one fit in the log
_GRACE = 600.0  # a step on whole volumes takes minutes on a CPU; a fit saves itself after it


def run_fits(run: Run, tasks: Sequence[FoldTask | FinalTask], *, at_a_time: int) -> None:
    """Run fits, some at a time; one that fails does not stop the others."""
    run.ended, run.total = 0, len(tasks)
    run.steps.clear()
    printed: dict[str, float] = {}
    console, limit = run.console, (run.settings.mem or 0.0) / at_a_time

    def excess(pid: int) -> str:
        held = resident(pid) / 1e9 if limit else 0.0
        if held <= limit:
            return ""
        return f"it held {held:.2f} GB, more than its share of --mem, {limit:g} GB"

    run.pool(fit_threads(run.settings)).run(
        [
            Job(t.name, t.work, t, run.logs / f"{t.name.replace('/', '_')}.log", _GRACE)
            for t in tasks
        ],
        limit=at_a_time,
        on_start=lambda job: run.status(job.name, "starting"),
        on_event=lambda job, event: _hear(run, job, event, printed),
        on_end=lambda ended: _end(run, ended),
        on_stop=lambda count: console.line(
            f"waiting for {counted(count, 'fit')} to save the current step; Ctrl-C ends them now"
        ),
        excess=excess,
        tick=console.tick,
    )


def _hear(run: Run, job: Job, event: Event, printed: dict[str, float]) -> None:
    """Take in one event of a fit; a line of progress now and then is enough."""
    kind = event["event"]
    if kind == "progress":
        text = _progress(event)
        run.status(job.name, text)
        now = time.monotonic()
        if run.settings.verbose or now - printed.get(job.name, now - _QUIET) >= _QUIET:
            printed[job.name] = now
            run.console.line(f"{job.name}: {text}")
    elif kind == "said":
        run.status(job.name, event["text"])
        run.console.to_log(event["text"])
    elif kind == "note":
        run.console.line(f"{job.name}: {event['text']}", level=event.get("level", ""))
    elif kind == "lost":
        run.fail(Failed(job.name, "fit", H2loError(f"{job.name}: {event['text']}")))


def _progress(event: Event) -> str:
    parts = [f"step {event['step']} of {event['steps']}"]
    if "psnr" in event:
        parts.append(f"validation PSNR {event['psnr']:.2f} dB")
    if event.get("left"):
        parts.append(f"{duration(event['left'])} left")
    return ", ".join(parts)


def _end(run: Run, ended: Ended) -> bool:
    job = ended.job
    count = run.close(job.name)
    if ended.cause:
        remedy = "run again to go on, with more memory or a lower --n-folds-parallel"
        if ended.stopped:
            remedy = "raise it and run again to go on, or fit with a smaller --batch or --crop"
        run.fail(Failed(job.name, "fit", TemporaryError(f"{ended.cause}; {remedy}")))
    elif ended.error is not None:
        log = "" if isinstance(ended.error, TemporaryError) else str(job.log)
        run.fail(Failed(job.name, "fit", ended.error, log))
    elif job.name not in run.reported:  # else some test subjects were lost
        run.done.add(job.name)
    end = "done in" if job.name in run.done else "failed after"
    run.console.line(f"{count} {job.name}: {end} {duration(ended.seconds)}")
    return not run.gives_up
