"""Jobs in processes of their own, forked from one server that has imported their libraries.

The server is a fresh interpreter in the environment that the libraries are to see. It imports
them once, which must start no thread and ask for no GPU, and forks for each job, so that a job
begins in a hundredth of a second; a job that is killed, as by the kernel when memory runs out,
costs itself alone. Pools of the standard library, pebble and loky need semaphores in /dev/shm and
sockets with a path; this needs nothing that can be written, as containers may be read-only.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import IO, Any

from h2lo_bids.errors import H2loError, TemporaryError, recorded

Event = dict[str, Any]

_PAUSE = 0.5  # seconds between two looks at jobs that report nothing
_PARENT_DEATH_SIGNAL = 1  # of Linux's prctl
_ENDING = (signal.SIGTERM, signal.SIGHUP)  # the latter when a terminal closes
_BLOCKED = (*_ENDING, signal.SIGINT)


def note(text: str, level: str = "") -> Event:
    """Return the event by which a process has a line printed."""
    return {"event": "note", "text": text, "level": level}


@contextlib.contextmanager
def when_ended(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Call a handler on SIGTERM and SIGHUP while the block runs, but not on a SIGHUP of nohup."""
    # Python delivers signals to the main thread; in another one, its program handles them itself.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # the run is to outlive its terminal
    before = {n: signal.signal(n, handler) for n in _ENDING if not (nohup and n == signal.SIGHUP)}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@dataclass(frozen=True)
class Job:
    """A function to call in a process of its own, its arguments, and the file for its output."""

    name: str
    work: str
    """``"module:function"``, which only that process imports."""
    args: tuple[Any, ...]
    log: Path
    """Takes what the process prints."""
    grace: float = 5.0
    """Seconds to save its work in, from being asked to end."""


class Process:
    """A job's process, from its start to its end."""

    def __init__(self, job: Job, events: Connection) -> None:
        self.job, self.events = job, events
        self.pid, self.code = 0, 0
        self.result: Any = None
        self._error: H2loError | None = None
        self._done = False
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since it began."""
        return time.monotonic() - self._began

    def failure(self, remedy: str) -> H2loError | None:
        """Return what went wrong, if anything; if it ended before it was done, with a remedy."""
        if self._done:
            return self._error
        if self.code >= 0:
            cause = f"ended with code {self.code} before it was done"
        else:
            cause = f"was killed by {signal.Signals(-self.code).name}"
            cause += ", most often because memory ran out" * (-self.code == signal.SIGKILL)
        return TemporaryError(f"its process {cause}; {remedy}")

    def kill(self, number: signal.Signals) -> None:
        """Signal the process and its helpers, which are its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.pid:
                os.killpg(self.pid, number)

    def read(self) -> list[Event]:
        """Return what was reported since the last time."""
        events = []
        # A process that is killed leaves half a message.
        with contextlib.suppress(EOFError, OSError):
            while self.events.poll():
                kind, content = self.events.recv()
                if kind == "event":
                    events.append(content)
                else:
                    self._done = True
                    self.result, self._error = content
            return events
        self.events.close()
        return events


class Pool:
    """Runs jobs in processes forked from a server, which begins to import modules at once."""

    def __init__(self, env: Mapping[str, str], imports: Sequence[str] = ()) -> None:
        self._env, self._imports = dict(env), tuple(imports)
        self._running: dict[int, Process] = {}
        self._count = 0
        self._start_server()

    def close(self) -> None:
        """End the server, and jobs that still run with it."""
        self._control.close()
        self._server.kill()
        self._server.wait()

    def run(
        self,
        jobs: Iterable[Job],
        *,
        limit: int,
        on_end: Callable[[Process], bool | None],
        on_start: Callable[[Job], None] = lambda job: None,
        on_event: Callable[[Job, Event], None] = lambda job, event: None,
        on_stop: Callable[[int], None] = lambda count: None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Run jobs, `limit` at a time, while `on_end` returns true; none of them is left behind."""
        waiting, go_on = iter(jobs), True
        try:
            while go_on:
                while len(self._running) < limit and (job := next(waiting, None)) is not None:
                    on_start(job)
                    self._start(job)
                if not self._running:
                    return
                for running, event in self._wait(_PAUSE):
                    if event is not None:
                        on_event(running.job, event)
                    else:
                        go_on = bool(on_end(running)) and go_on
                tick()
        finally:
            if self._running:
                try:
                    on_stop(len(self._running))
                finally:
                    self._stop()

    def call(
        self,
        job: Job,
        on_event: Callable[[Job, Event], None] = lambda job, event: None,
        tick: Callable[[], None] = lambda: None,
    ) -> Any:
        """Run one job and return its result, or raise its error; an empty log is removed."""
        ends: list[Process] = []
        self.run([job], limit=1, on_event=on_event, on_end=ends.append, tick=tick)
        with contextlib.suppress(OSError):
            if job.log.stat().st_size == 0:
                job.log.unlink()
        (ended,) = ends
        if error := ended.failure(f"try again, and see {job.log}"):
            raise error
        return ended.result

    def _start_server(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                # -P: no module of ours or of a library is looked for in the user's folder.
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), *self._imports],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self._env,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for this process alone
            )
        self._control = Connection(ours.detach())

    def _start(self, job: Job) -> None:
        if self._server.poll() is not None and not self._running:
            self.close()
            self._start_server()
        ours, theirs = socket.socketpair()
        self._count += 1
        running = self._running[self._count] = Process(job, Connection(ours.detach()))
        # A server that is gone is noticed while waiting, as is a process that died at once.
        with theirs, _log(job.log) as log, contextlib.suppress(OSError):
            self._control.send(self._count)
            with socket.socket(fileno=os.dup(self._control.fileno())) as channel:
                socket.send_fds(channel, [b"."], [theirs.fileno(), log.fileno()])
        with contextlib.suppress(OSError):
            running.events.send((job.work, job.args))

    def _wait(self, seconds: float) -> list[tuple[Process, Event | None]]:
        """Return events of jobs as they came, and None for a job that has ended."""
        sources = [r for r in self._running.values() if not r.events.closed]
        ready = wait([self._control, *(running.events for running in sources)], seconds)
        found: list[tuple[Process, Event | None]] = [
            (running, event)
            for running in sources
            if running.events in ready
            for event in running.read()
        ]
        if self._control not in ready:
            return found
        try:
            number, what, value = self._control.recv()
        except (EOFError, OSError):  # without a server none goes on
            code = self._server.wait()
            for running in self._running.values():
                running.kill(signal.SIGKILL)
                running.code = code
            ended, self._running = list(self._running.values()), {}
        else:
            setattr(self._running[number], what, value)
            ended = [self._running.pop(number)] if what == "code" else []
        return found + [(one, event) for one in ended for event in (*one.read(), None)]

    def _stop(self) -> None:
        """Ask all to end, and end those that do not; all at once when interrupted again."""
        asked = time.monotonic()
        try:
            # The pid of one that has begun may still be on its way.
            while time.monotonic() - asked < 1 and not all(r.pid for r in self._running.values()):
                self._wait(0.1)
            for running in self._running.values():
                running.kill(signal.SIGTERM)
            while any(running.pid for running in self._running.values()):
                for running in self._running.values():
                    if time.monotonic() - asked > running.job.grace:
                        running.kill(signal.SIGKILL)
                self._wait(0.1)
        finally:
            if self._running:  # not begun yet, or not to be waited for
                for running in self._running.values():
                    running.kill(signal.SIGKILL)
                self._running.clear()
                self.close()


def _log(path: Path) -> IO[bytes]:
    """Open a log; without one, as on a full disk, the work goes on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError:
        return open(os.devnull, "ab")


def _serve(control: Connection, imports: Sequence[str]) -> tuple[Connection, int] | None:
    """Fork for each job; return the channel of events and the log in each of the processes."""
    os.set_inheritable(control.fileno(), False)  # else a helper of a job would keep it open
    # A cluster sends these to every process of a job at once, but jobs have their grace.
    signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    gc.disable()  # what is imported stays: looking for garbage in it takes a third of the time
    for name in imports:
        with contextlib.suppress(Exception):  # the job will meet it, and say so
            importlib.import_module(name)
    gc.freeze()  # these objects stay shared with every process
    gc.enable()
    children: dict[int, int] = {}
    try:
        while True:
            if woken in wait([control, woken]):  # type: ignore[list-item]
                os.read(woken, 4096)
                _reap(control, children)
                continue
            number = control.recv()
            with socket.socket(fileno=os.dup(control.fileno())) as channel:
                _, (events, log), *_ = socket.recv_fds(channel, 1, 2)
            pid = os.fork()
            if pid == 0:
                control.close()
                return Connection(events), log
            os.close(events)
            os.close(log)
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)
            children[pid] = number
            control.send((number, "pid", pid))
    except (EOFError, OSError):  # nobody is there to listen
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)
    return None


def _reap(control: Connection, children: dict[int, int]) -> None:
    """Report processes that ended, and end what they left behind."""
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            control.send((children.pop(pid), "code", os.waitstatus_to_exitcode(status)))


def _work(events: Connection, log: int) -> None:
    """Do one job."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    with contextlib.suppress(OSError, AttributeError):  # Linux ends it with its server
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # else every process would draw the same
    try:
        work, args = events.recv()
        module, _, name = work.partition(":")
        function = getattr(importlib.import_module(module), name)
        result, error = function(*args, lambda event: events.send(("event", event))), None
    except Exception as err:
        if not isinstance(err, H2loError):
            traceback.print_exc()
        result, error = None, recorded(err)
    events.send(("answer", (result, error)))
    # What an interpreter does at its end, without taking its modules apart, which takes longer.
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    """Be the server, or one of the processes that it forks."""
    forked = _serve(Connection(int(sys.argv[1])), sys.argv[2:])
    if forked is not None:
        _work(*forked)


if __name__ == "__main__":
    main()
