"""Running each participant in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from h2lo_bids.errors import TemporaryError


@dataclass(frozen=True)
class Job:
    """Something for a child process to do.

    Parameters
    ----------
    name
        Of the participant, for messages.
    task
        Handed to the child: one of the tasks in `h2lo_bids.cli.tasks`.
    log
        File that takes what the child and its libraries print.
    grace
        Seconds between asking it to end and ending it: as long as it takes to save its work.
    """

    name: str
    task: Any
    log: Path
    grace: float = 5.0


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    began: float
    reason: str = ""


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Parameters
    ----------
    job
        What it had to do.
    code
        Exit code; negative is the number of the signal that killed it.
    seconds
        From start to end.
    reason
        Why it was stopped by this program, if it was.
    """

    job: Job
    code: int
    seconds: float
    reason: str = ""

    @property
    def killed(self) -> bool:
        """Whether a signal ended it."""
        return self.code < 0

    @property
    def cause(self) -> str:
        """Tell in one phrase what ended it."""
        if self.reason:
            return f"stopped: {self.reason}"
        if self.killed:
            name = signal.Signals(-self.code).name
            return f"its process was killed by {name}" + (
                ", most often because memory ran out" if name == "SIGKILL" else ""
            )
        return f"its process ended with code {self.code} before it was done"


EventCallback = Callable[[Job, dict[str, Any]], None]
EndCallback = Callable[[Ended], bool]
Look = Callable[[int], str]


def run_jobs(
    jobs: Iterable[Job],
    *,
    limit: int,
    env: Mapping[str, str],
    on_start: Callable[[Job], None],
    on_event: EventCallback,
    on_end: EndCallback,
    on_stop: Callable[[int], None] = lambda count: None,
    look: Look | None = None,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Run jobs in child processes, some at a time; whatever happens, none is left behind.

    Parameters
    ----------
    jobs
        Consumed as places become free.
    limit
        How many run at the same time.
    env
        Environment of the children.
    on_start, on_event
        Called when a child starts and for each event that it sends.
    on_end
        Called when a child has ended; returning False starts no further job
        and stops those that run.
    on_stop
        Called with the number of children that are about to be stopped.
    look
        Called with the process number of each child now and then; where it
        returns a reason the child is stopped.
    tick
        Called about twice a second while nothing comes.
    """
    inbox: queue.Queue[tuple[_Running, dict[str, Any] | None]] = queue.Queue()
    running: list[_Running] = []
    waiting = iter(jobs)
    try:
        exhausted = False
        while True:
            while not exhausted and len(running) < limit:
                job = next(waiting, None)
                if job is None:
                    exhausted = True
                    break
                on_start(job)
                running.append(_start(job, env, inbox))
            if not running:
                return
            child, event = _next(inbox, running, look, tick)
            if event is not None:
                on_event(child.job, event)
                continue
            code = child.process.wait()
            running.remove(child)
            _kill_group(child.process, signal.SIGKILL)  # what a killed child left behind
            seconds = time.monotonic() - child.began
            if not on_end(Ended(child.job, code, seconds, child.reason)):
                return
    finally:
        try:
            if running:
                on_stop(len(running))
        finally:
            _stop(running)


def call(
    task: Any,
    env: Mapping[str, str],
    log: Path,
    on_event: EventCallback | None = None,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run one task in a child and return the last event that it sent.

    Parameters
    ----------
    task, env
        As in `Job` and `run_jobs`.
    log
        File that takes what the child prints; not kept if that is nothing.
    on_event
        Called for each event as it comes.
    tick
        As in `run_jobs`.

    Returns
    -------
    dict
        The last event.

    Raises
    ------
    TemporaryError
        If the child was killed or sent nothing.
    """
    events: list[dict[str, Any]] = []
    ends: list[Ended] = []

    def end(ended: Ended) -> bool:
        ends.append(ended)
        return True

    def hear(job: Job, event: dict[str, Any]) -> None:
        events.append(event)
        if on_event is not None:
            on_event(job, event)

    run_jobs(
        [Job("", task, log)],
        limit=1,
        env=env,
        on_start=lambda job: None,
        on_event=hear,
        on_end=end,
        tick=tick,
    )
    with contextlib.suppress(OSError):
        if log.stat().st_size == 0:
            log.unlink()
    if not events or ends[0].killed:
        raise TemporaryError(f"{ends[0].cause}; try again, and see {log}")
    return events[-1]


def _start(job: Job, env: Mapping[str, str], inbox: queue.Queue[Any]) -> _Running:
    """Start a child and a thread that listens to it."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "h2lo_bids.cli.worker", str(writing)]
    with _output(job.log) as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=dict(env),
            pass_fds=(writing,),
            start_new_session=True,  # a signal to its group reaches all of its helpers
        )
    os.close(writing)
    child = _Running(job, process, time.monotonic())
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once: told by its exit code
        process.stdin.write(pickle.dumps(job.task))
        process.stdin.close()
    threading.Thread(target=_listen, args=(child, reading, inbox), daemon=True).start()
    return child


def _output(log: Path) -> IO[bytes]:
    """Open a child's log; without one, as on a full disk, the work goes on."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("ab")
    except OSError:
        return open(os.devnull, "ab")


def _listen(child: _Running, reading: int, inbox: queue.Queue[Any]) -> None:
    """Pass on a child's events, and None when it has closed its end."""
    with os.fdopen(reading, "r", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            with contextlib.suppress(ValueError):  # the last line of a killed child
                inbox.put((child, json.loads(line)))
    inbox.put((child, None))


def _next(
    inbox: queue.Queue[Any],
    running: list[_Running],
    look: Look | None,
    tick: Callable[[], None],
) -> tuple[_Running, dict[str, Any] | None]:
    """Wait for the next event in short naps, between which signals are heard."""
    while True:
        for child in running if look is not None else ():
            if not child.reason and (reason := look(child.process.pid)):  # type: ignore[misc]
                child.reason = reason
                _kill_group(child.process, signal.SIGKILL)
        try:
            return inbox.get(timeout=0.5)  # type: ignore[no-any-return]
        except queue.Empty:
            tick()
            for child in running:
                # A helper that outlives its killed parent would keep the pipe open.
                if child.process.poll() is not None:
                    _kill_group(child.process, signal.SIGKILL)


def _stop(running: list[_Running]) -> None:
    """Ask all to end, and end those that do not; all at once when asked a second time."""
    for child in running:
        _kill_group(child.process, signal.SIGTERM)
    asked = time.monotonic()
    try:
        for child in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(timeout=max(0.0, asked + child.job.grace - time.monotonic()))
    finally:
        for child in running:
            _kill_group(child.process, signal.SIGKILL)
            child.process.wait()


def _kill_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
