"""How many processors and how much memory this process may really use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from h2lo_bids.settings import Settings

SUBJECT_GB = 2.0
"""Peak memory of one subject without registration, GB, as measured."""
REGISTRATION_GB = 3.0
"""The same with registration to a template, GB, as measured."""
_MAX_THREADS = 4
_UNLIMITED = 1 << 60  # cgroup v1 writes a huge number for "no limit"


@dataclass(frozen=True)
class Resources:
    """How the work is spread."""

    children: int
    """Subjects in process at the same time."""
    omp_nthreads: int
    """Threads of one step."""
    warning: str = ""
    """One line if the memory looks too small."""


def plan(settings: Settings, subjects: int) -> Resources:
    """Spread processors and memory over subjects; one is done at a time, whatever the memory."""
    nprocs = settings.nprocs or available_processors()
    threads = step_threads(settings)
    memory = settings.mem or available_memory_gb()
    registers = any(space not in ("native", "model") for space in settings.output_spaces)
    need = REGISTRATION_GB if registers else SUBJECT_GB
    children = max(1, min(subjects, nprocs // threads, int(memory // need)))
    warning = ""
    if memory < need:
        warning = (
            f"one participant takes about {need:g} GB and {memory:.1f} GB are free: if it is "
            "killed, give it more memory"
        )
    return Resources(children, threads, warning)


def step_threads(settings: Settings) -> int:
    """Return the threads of one step.

    They do not depend on the number of subjects: another number may change the last bits.
    """
    nprocs = settings.nprocs or available_processors()
    return min(settings.omp_nthreads or min(nprocs, _MAX_THREADS), nprocs)


def fit_threads(settings: Settings) -> int:
    """Return the threads of one fit: they decide its last bits."""
    if settings.omp_nthreads is not None:
        return settings.omp_nthreads
    nprocs = settings.nprocs or available_processors()
    return max(1, nprocs // (settings.n_folds_parallel * settings.devices))


def available_processors(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the processors this process may use, counting its control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = None
    for folder in _groups(root, "cpu"):
        quota = _least(quota, _cpu_quota(folder))
    return max(1, min(count or 1, int(quota) if quota else count or 1))


def available_memory_gb(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the memory that is free for this process, GB (1e9 bytes).

    The least of what the machine reports as available and what each control
    group above this process has left, where the page cache that can be dropped
    counts as free.
    """
    import psutil

    free = float(psutil.virtual_memory().available)
    for folder in _groups(root, "memory"):
        left = _memory_left(folder)
        if left is not None:
            free = min(free, left)
    return max(free, 0.0) / 1e9


def _groups(root: Path, controller: str, table: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """Return this process's control group and those above it, for version 1 or 2."""
    try:
        lines = table.read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        # In a container the path may be the host's; the mount's root always counts.
        inside = base / path.lstrip("/")
        for folder in (inside, *inside.parents):
            if folder == base or base in folder.parents:
                folders.append(folder)
    return folders


def _memory_left(folder: Path) -> float | None:
    """Return the bytes a control group has left, or None if it has no limit."""
    for limit_name, usage_name, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit = _number(folder / limit_name)
        if limit is None or limit >= _UNLIMITED:
            continue
        usage = _number(folder / usage_name) or 0.0
        return limit - usage + _statistic(folder / "memory.stat", reclaimable)
    return None


def _cpu_quota(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else max(1.0, float(quota) / float(period))
    except (OSError, ValueError):
        pass
    quota_us, period_us = (
        _number(folder / "cpu.cfs_quota_us"),
        _number(folder / "cpu.cfs_period_us"),
    )
    if not quota_us or not period_us or quota_us < 0:
        return None
    return max(1.0, quota_us / period_us)


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None


def _statistic(path: Path, name: str) -> float:
    try:
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return float(value)
    except (OSError, ValueError):
        pass
    return 0.0


def _least(a: float | None, b: float | None) -> float | None:
    values = [value for value in (a, b) if value is not None]
    return min(values) if values else None
