"""Jobs in processes: what they return, what ends them, and what that costs the others."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

import h2lo_bids
from h2lo_bids.errors import BadDataError, H2loError, TemporaryError, UnexpectedError
from h2lo_bids.processes import Job, Pool

WORK = """
import os, signal, subprocess, sys, time

def double(task, send):
    send({"pid": os.getpid(), "imported": "wave" in sys.modules})
    time.sleep(0.2)
    return 2 * task

def die(task, send):
    os.kill(os.getpid(), task)

def bad(task, send):
    from h2lo_bids.errors import BadDataError
    raise BadDataError(f"{task}: is cut short; copy it again")

def odd(task, send):
    raise KeyError(task)

def leave(task, send):
    send({"helper": subprocess.Popen(["sleep", "600"]).pid})
    os.kill(os.getpid(), signal.SIGKILL)

def save_late(task, send):
    path, pause = task
    def save(*_):
        time.sleep(pause)
        open(path, "w").close()
        sys.exit()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, save)
    send({"ready": True})
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Return an environment in which `WORK` can be imported."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "work_of_tests.py").write_text(WORK)
    path = f"{folder}:{Path(h2lo_bids.__file__).resolve().parents[1]}"
    return {**os.environ, "PYTHONPATH": path}


@pytest.fixture(scope="module")
def pool(environment):
    """Return processes that can do what `WORK` defines."""
    with closing(Pool(environment, imports=("wave", "no_such_module"))) as found:
        yield found


def _job(folder, work, task=None, name="x", **words) -> Job:
    return Job(name, f"work_of_tests:{work}", (task,), folder / f"{name}.log", **words)


def _run(pool, jobs, **words):
    """Run jobs; give how each ended, by its name, and their events."""
    ends, events = {}, []
    pool.run(
        jobs,
        on_end=lambda end: ends.update({end.job.name: end}) or True,
        on_event=lambda job, event: events.append((job.name, event)),
        **{"limit": 2, **words},
    )
    return ends, events


def test_each_job_has_a_process_of_its_own_that_need_not_import(tmp_path, pool):
    began = []
    jobs = [_job(tmp_path, "double", n, str(n)) for n in range(4)]
    ends, events = _run(pool, jobs, on_start=lambda job: began.append(job.name))
    assert {name: end.result for name, end in ends.items()} == {"0": 0, "1": 2, "2": 4, "3": 6}
    assert len({event["pid"] for _, event in events} - {os.getpid()}) == 4
    assert all(event["imported"] for _, event in events)
    assert began == ["0", "1", "2", "3"]


def test_a_script_in_the_users_folder_is_no_library(tmp_path, environment, monkeypatch):
    """Such as a queue.py, without which PyTorch cannot be imported."""
    (tmp_path / "wave.py").write_text("raise ImportError('not meant for you')")
    monkeypatch.chdir(tmp_path)
    with closing(Pool(environment, imports=("wave",))) as found:
        _, ((_, event), *_) = _run(found, [_job(tmp_path, "double", 1)])
    assert event["imported"]


def test_a_killed_process_costs_its_job_alone(tmp_path, pool):
    jobs = [_job(tmp_path, "double", 1, "a"), _job(tmp_path, "die", int(signal.SIGKILL), "b")]
    ends, _ = _run(pool, [*jobs, _job(tmp_path, "double", 2, "c")])
    assert (ends["a"].result, ends["c"].result) == (2, 4)
    said = str(ends["b"].failure("mend it"))
    assert said.startswith("its process was killed by SIGKILL, most often because memory")
    with pytest.raises(TemporaryError, match=r"killed by SIGSEGV.*try again"):
        pool.call(_job(tmp_path, "die", 11))


def test_errors_arrive_as_they_were_raised(tmp_path, pool):
    with pytest.raises(BadDataError, match=r"^/x: is cut short; copy it again$"):
        pool.call(_job(tmp_path, "bad", "/x"))
    assert not (tmp_path / "x.log").exists()  # nothing was printed
    with pytest.raises(UnexpectedError, match="'z'") as found:
        pool.call(_job(tmp_path, "odd", "z"))
    assert (found.value.kind, found.value.exit_code) == ("KeyError", 1)
    assert "Traceback" in (tmp_path / "x.log").read_text()
    with pytest.raises(H2loError, match="no attribute"):
        pool.call(_job(tmp_path, "nothing"))


def test_what_a_killed_process_leaves_behind_is_ended(tmp_path, pool):
    _, ((_, event), *_) = _run(pool, [_job(tmp_path, "leave")])
    limit = time.monotonic() + 10
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(event["helper"]).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < limit
            time.sleep(0.02)


SIGNALS = (0, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""What a cluster sends to every process, or nothing."""


@pytest.mark.parametrize(
    ("number", "pause", "grace"), [(0, 30.0, 0.2), *((n, 0.5, 30.0) for n in SIGNALS)]
)
def test_a_stopped_job_has_its_grace_to_save_its_work(tmp_path, pool, number, pause, grace):
    job = _job(tmp_path, "save_late", (str(tmp_path / "saved"), pause), grace=grace)
    stopped = []

    def interrupt(job, event):
        for process in psutil.Process().children(recursive=True) if number else ():
            process.send_signal(number)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.run([job], limit=1, on_end=bool, on_event=interrupt, on_stop=stopped.append)
    assert stopped == [1]
    assert (tmp_path / "saved").exists() is (pause < grace)
    assert pool.call(_job(tmp_path, "double", 4)) == 8


def test_a_second_interruption_ends_all_at_once(tmp_path, pool):
    jobs = [
        _job(tmp_path, "save_late", (str(tmp_path / name), 30.0), name, grace=60.0) for name in "ab"
    ]
    ready = []

    def interrupt(job, event):
        ready.append(job.name)
        if len(ready) == 2:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.run(jobs, limit=2, on_end=bool, on_event=interrupt)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 20
    assert pool.call(_job(tmp_path, "double", 1)) == 2
    assert list(tmp_path.glob("[ab]")) == []


def test_without_its_server_a_job_is_lost_and_the_next_one_gets_a_new_server(tmp_path, pool):
    def kill_server(job, event):
        psutil.Process(event["pid"]).parent().kill()

    ends = []
    pool.run([_job(tmp_path, "double", 1)], limit=1, on_end=ends.append, on_event=kill_server)
    assert "killed by SIGKILL" in str(ends[0].failure("mend it"))
    assert pool.call(_job(tmp_path, "double", 3)) == 6
