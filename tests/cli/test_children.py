"""Children that are asked to end get the time that their work needs."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from h2lo_bids.cli import children
from h2lo_bids.cli.children import Job

SAVES_LATE = """
import signal, sys, time
def save(*_):
    time.sleep({pause})
    open(sys.argv[1], "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


def _child(folder, pause, grace):
    command = [sys.executable, "-c", SAVES_LATE.format(pause=pause), str(folder / "saved")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b"ready\n"
    return SimpleNamespace(job=Job("fit", None, folder / "log", grace), process=process)


@pytest.mark.parametrize(("grace", "saved"), [(30.0, True), (0.1, False)])
def test_a_child_has_its_grace_to_save_its_work(tmp_path, grace, saved):
    child = _child(tmp_path, 0.5 if saved else 30, grace)
    children._stop([child])
    assert child.process.returncode is not None
    assert (tmp_path / "saved").exists() is saved


def test_a_second_interruption_ends_all_at_once(tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    running = [_child(folder, 30, 60.0) for folder in folders]

    def interrupted(timeout):
        del running[0].process.wait  # the next one waits
        raise KeyboardInterrupt

    running[0].process.wait = interrupted
    with pytest.raises(KeyboardInterrupt):
        children._stop(running)
    assert all(child.process.returncode < 0 for child in running)
    assert not any((folder / "saved").exists() for folder in folders)
