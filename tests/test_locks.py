"""Locks between runs."""

from __future__ import annotations

import errno
import fcntl
import signal
import subprocess
import sys
import time

import pytest

from h2lo_bids.io import exclusive

HOLD = """
import sys, time
from pathlib import Path
from h2lo_bids.io import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def _holder(path, seconds):
    command = [sys.executable, "-c", HOLD, str(path), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_waits_and_says_for_whom(tmp_path):
    process = _holder(tmp_path / "l", 1.0)
    waited = []
    with exclusive(tmp_path / "l", waited.append):
        assert process.wait(5) == 0
    assert len(waited) == 1
    assert str(process.pid) in waited[0]


def test_a_killed_holder_leaves_no_lock(tmp_path):
    process = _holder(tmp_path / "l", 60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    began = time.monotonic()
    with exclusive(tmp_path / "l") as locked:
        assert locked
    assert time.monotonic() - began < 5


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with exclusive(tmp_path / "l") as locked:
        assert not locked


def test_an_error_of_the_body_passes_through(tmp_path):
    with pytest.raises(KeyError), exclusive(tmp_path / "l"):
        raise KeyError
