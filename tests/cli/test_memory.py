"""Children that hold more memory than they may."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from h2lo_bids.cli import children
from h2lo_bids.cli.children import Job, run_jobs
from h2lo_bids.cli.memory import MemoryLimit, resident

GREEDY = "import time; b = bytearray(400_000_000); print('held', flush=True); time.sleep(600)"
HELPER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {GREEDY!r}], check=False)"


def test_helpers_count_and_looks_are_spaced():
    process = subprocess.Popen([sys.executable, "-c", HELPER], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        assert resident(process.pid) > 400_000_000
        now = [0.0]
        limit = MemoryLimit(0.3, clock=lambda: now[0])
        assert "more than its share of --mem, 0.3 GB" in limit.look(process.pid)
        assert limit.look(process.pid) == ""
        now[0] = 1.0
        assert limit.look(process.pid)
        assert MemoryLimit(5).look(process.pid) == ""
    finally:
        for child in subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
        ).stdout.split():
            os.kill(int(child), 9)
        process.wait()
    assert resident(process.pid) == 0


def test_a_greedy_child_is_stopped_with_a_reason_and_the_next_one_runs(tmp_path, monkeypatch):
    programs = {"greedy": GREEDY, "modest": "pass"}

    def start(job, env, inbox, real=subprocess.Popen):
        def popen(command, **words):
            return real([sys.executable, "-c", programs[job.name]], **words)

        with monkeypatch.context() as patch:
            patch.setattr(children.subprocess, "Popen", popen)
            return original(job, env, inbox)

    original = children._start
    monkeypatch.setattr(children, "_start", start)
    ended = []
    run_jobs(
        [Job(name, None, Path(tmp_path / name)) for name in programs],
        limit=1,
        env=dict(os.environ),
        on_start=lambda job: None,
        on_event=lambda job, event: None,
        on_end=lambda end: ended.append(end) or True,
        look=MemoryLimit(0.3).look,
    )
    greedy, modest = ended
    assert greedy.killed
    assert greedy.cause.startswith("stopped: it held 0.")
    assert (modest.code, modest.reason) == (0, "")
