"""Processors and memory on made-up control groups; what processes get of the environment."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from platformdirs import user_cache_dir

from h2lo_bids.cli import resources
from h2lo_bids.cli.parser import read_settings
from h2lo_bids.imaging.templates import templateflow_home
from h2lo_bids.settings import Settings


def test_the_tightest_limit_above_a_process_counts(tmp_path):
    folder, places = tmp_path / "cgroup/a/b", (tmp_path / "cgroup", tmp_path / "self")
    folder.mkdir(parents=True)
    places[1].write_text("0::/a/b\n")
    (folder.parent / "memory.max").write_text("3000000000\n")
    (folder.parent / "memory.current").write_text("2000000000\n")
    (folder.parent / "memory.stat").write_text("anon 5\ninactive_file 500000000\n")
    (folder / "memory.max").write_text("max\n")
    free = resources.available_memory_gb(*places)
    assert free == pytest.approx(min(1.5, psutil.virtual_memory().available / 1e9))
    (folder / "cpu.max").write_text("max 100000\n")
    assert resources.available_processors(*places) == len(os.sched_getaffinity(0))
    (folder / "cpu.max").write_text("100000 100000\n")
    assert resources.available_processors(*places) == 1


def test_version_one_of_control_groups(tmp_path):
    folder = tmp_path / "memory" / "docker"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("1000000000")
    (folder / "memory.usage_in_bytes").write_text("400000000")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(str(2**63 - 4096))
    table = tmp_path / "self"
    table.write_text("7:memory:/docker\n3:cpu,cpuacct:/docker\n")
    assert resources.available_memory_gb(tmp_path, table) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("nprocs", "threads", "mem", "subjects", "limit"),
    [(16, 2, 64.0, 100, 8), (16, 2, 5.0, 100, 2), (16, 2, 64.0, 1, 1), (4, None, 1.0, 9, 1)],
)
def test_memory_and_processors_bound_how_many_run_at_once(nprocs, threads, mem, subjects, limit):
    asked = Settings(Path("/b"), Path("/o"), nprocs=nprocs, omp_nthreads=threads, mem=mem)
    found, warning = resources.participants_at_a_time(asked, subjects)
    assert found == limit
    assert ("1.0 GB are free" in warning) == bool(warning) == (mem == 1.0)


IMPORT = """
import importlib, os, sys
import torch
def refuse(*_):
    raise SystemExit("asks for a GPU")
for name in ("is_available", "device_count", "init", "current_device"):
    setattr(torch.cuda, name, refuse)
for name in sys.argv[1:]:
    importlib.import_module(name)
assert len(os.listdir("/proc/self/task")) == 1, "starts a thread"
print(sorted(os.sched_getaffinity(0)))
"""


@pytest.mark.slow
def test_what_is_imported_ahead_can_be_forked_and_binds_no_thread_to_a_processor(tmp_path):
    """As where a cluster's modules bind OpenMP's threads: all participants had one processor."""
    kinds = (["participant", "--output-spaces", "MNI152"], ["group"])
    asked = (read_settings(["/b", "/o", *words]) for words in kinds)
    names = [name for one in asked for name in resources.imports_of(one)]
    bound = {**os.environ, "OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
    env = resources.child_environment(tmp_path, 1, bound)
    command = [sys.executable, "-c", IMPORT, *names]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(sorted(os.sched_getaffinity(0)))


def test_a_home_that_may_not_be_entered_is_replaced(tmp_path):
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir(mode=0)
    if os.access(home, os.X_OK):
        pytest.skip("this user may read everything")
    env = resources.child_environment(work, 1, {"HOME": str(home), "TMPDIR": str(tmp_path)})
    assert env["HOME"] == str(work / "home")
    assert env["TEMPLATEFLOW_HOME"] == str(work / "home" / "templateflow")


@pytest.mark.parametrize("name", ["XDG_CACHE_HOME", "HOME"])
def test_a_dry_run_and_a_run_look_where_the_client_keeps_templates(tmp_path, monkeypatch, name):
    for other in ("TEMPLATEFLOW_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(other, "")  # which counts as none
    monkeypatch.setenv(name, str(tmp_path))
    kept = Path(user_cache_dir("templateflow"))  # as the client asks for it
    kept.mkdir(parents=True)
    assert templateflow_home() == kept
    env = resources.child_environment(tmp_path / "work", 1)
    assert env["TEMPLATEFLOW_HOME"] == str(kept)


def test_a_full_disk_is_no_place_for_temporary_files(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # files can be made, not written
    try:
        found = resources.temporary_folder({"TMPDIR": str(tmp_path)}, tmp_path / "work")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found == tmp_path / "work" / "tmp"
