"""Processors and memory, on made-up control groups."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from h2lo_bids.cli import resources
from h2lo_bids.settings import Settings


@pytest.fixture
def group(tmp_path, monkeypatch):
    """Return the folder of this process's control group, version 2, two levels deep."""
    root = tmp_path / "cgroup"
    folder = root / "a" / "b"
    folder.mkdir(parents=True)
    real = resources._groups
    table = tmp_path / "self"
    table.write_text("0::/a/b\n")
    monkeypatch.setattr(resources, "_groups", lambda root, name: real(root, name, table))
    return folder


def test_the_tightest_limit_above_a_process_counts(group):
    (group.parent / "memory.max").write_text("3000000000\n")
    (group.parent / "memory.current").write_text("2000000000\n")
    (group.parent / "memory.stat").write_text("anon 5\ninactive_file 500000000\n")
    (group / "memory.max").write_text("max\n")
    free = resources.available_memory_gb(group.parents[1])
    assert free == pytest.approx(min(1.5, psutil.virtual_memory().available / 1e9))


def test_no_limit_means_what_the_machine_has_free(group):
    free = resources.available_memory_gb(group.parents[1])
    assert free == pytest.approx(psutil.virtual_memory().available / 1e9, rel=0.1)


def test_version_one_of_control_groups(tmp_path, monkeypatch):
    folder = tmp_path / "memory" / "docker"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("1000000000")
    (folder / "memory.usage_in_bytes").write_text("400000000")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(str(2**63 - 4096))
    table = tmp_path / "self"
    table.write_text("7:memory:/docker\n3:cpu,cpuacct:/docker\n")
    assert tmp_path / "memory" in resources._groups(tmp_path, "memory", table)
    real = resources._groups
    monkeypatch.setattr(resources, "_groups", lambda root, name: real(root, name, table))
    assert resources.available_memory_gb(tmp_path) == pytest.approx(0.6)


def test_a_quota_of_processors_is_heard(group):
    (group / "cpu.max").write_text("100000 100000\n")
    assert resources.available_processors(group.parents[1]) == 1
    (group / "cpu.max").write_text("max 100000\n")
    assert resources.available_processors(group.parents[1]) >= 1


def _settings(**changes) -> Settings:
    return Settings(Path("/b"), Path("/o"), **changes)


def test_memory_and_processors_bound_how_many_run_at_once():
    plan = resources.plan(_settings(nprocs=16, omp_nthreads=2, mem=64.0), subjects=100)
    assert (plan.children, plan.omp_nthreads) == (8, 2)
    plan = resources.plan(_settings(nprocs=16, omp_nthreads=2, mem=5.0), subjects=100)
    assert plan.children == 2
    plan = resources.plan(_settings(nprocs=16, omp_nthreads=2, mem=64.0), subjects=1)
    assert plan.children == 1


def test_threads_do_not_depend_on_the_number_of_subjects():
    counts = {resources.plan(_settings(nprocs=16, mem=64.0), n).omp_nthreads for n in (1, 3, 99)}
    assert counts == {4}


def test_too_little_memory_warns_and_still_runs():
    plan = resources.plan(_settings(nprocs=4, mem=1.0), subjects=9)
    assert plan.children == 1
    assert "1.0 GB are free" in plan.warning
    assert "\n" not in plan.warning
