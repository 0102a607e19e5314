"""What a run may use, and what its processes get: processors, memory, environment, libraries."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from h2lo_bids.imaging.templates import templateflow_home
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import ENHANCE, THREAD_VARIABLES

_MAX_THREADS = 4
_CGROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_SOCKET_PATH = 60  # what is left of a socket's 107 bytes after Python's own file names
_LIBRARIES = (
    "torch", "scipy.ndimage", "scipy.stats", "nipype.pipeline.engine", "nipype.pipeline.plugins",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "markdown_it", "jinja2", "yaml",
    "matplotlib.style", "contourpy", "safetensors.torch", "h2lo_bids.cli.checks",
    "h2lo_bids.reports.subject", "h2lo_bids.synthesis.predict",
)  # fmt: skip


def participants_at_a_time(settings: Settings, subjects: int) -> tuple[int, str]:
    """Return how many participants are done at a time, and a warning if the memory looks small."""
    nprocs = settings.nprocs or available_processors()
    memory = settings.mem or available_memory_gb()
    need = 3.0 if settings.standard_spaces else 2.0  # GB, as measured
    limit = max(1, min(subjects, nprocs // step_threads(settings), int(memory // need)))
    if memory >= need:
        return limit, ""
    return limit, (
        f"one participant takes about {need:g} GB and {memory:.1f} GB are free: if it is killed, "
        "give it more memory"
    )


def step_threads(settings: Settings) -> int:
    """Return the threads of one step, for any number of subjects: they decide its last bits."""
    nprocs = settings.nprocs or available_processors()
    return min(settings.omp_nthreads or _MAX_THREADS, nprocs)


def fit_threads(settings: Settings) -> int:
    """Return the threads of one fit: they decide its last bits."""
    if settings.omp_nthreads is not None:
        return settings.omp_nthreads
    nprocs = settings.nprocs or available_processors()
    return max(1, nprocs // (settings.n_folds_parallel * settings.devices))


def available_processors(root: Path = _CGROUPS, table: Path = _OWN_GROUPS) -> int:
    """Return the processors this process may use, counting its control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    least = count or 1
    for folder in _groups(root, "cpu", table):
        old = [*_numbers(folder / "cpu.cfs_quota_us"), *_numbers(folder / "cpu.cfs_period_us")]
        limit = _numbers(folder / "cpu.max") or old
        if len(limit) == 2 and limit[0] > 0:
            least = min(least, int(limit[0] / limit[1]))
    return max(1, least)


def available_memory_gb(root: Path = _CGROUPS, table: Path = _OWN_GROUPS) -> float:
    """Return the free memory in GB: the least that the machine or a control group has left."""
    # The page cache that can be dropped counts as free.
    import psutil

    free = float(psutil.virtual_memory().available)
    for folder in _groups(root, "memory", table):
        for limit_name, usage_name, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            if limit := _numbers(folder / limit_name):  # huge in version 1 where there is none
                shares = text_of(folder / "memory.stat")
                dropped = re.search(rf"^{cache} (\d+)", shares, re.MULTILINE)
                left = limit[0] - sum(_numbers(folder / usage_name))
                free = min(free, left + int(dropped[1] if dropped else 0))
    return max(free, 0.0) / 1e9


def _groups(root: Path, controller: str, table: Path) -> Iterator[Path]:
    """Yield this process's control group and those above it, for version 1 or 2."""
    for line in text_of(table).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            base = root / controllers
            # In a container the path may be the host's; the mount's root always counts.
            inside = base / path.lstrip("/")
            yield from (f for f in (inside, *inside.parents) if f == base or base in f.parents)


def text_of(path: Path) -> str:
    """Return what a file holds; nothing if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _numbers(path: Path) -> list[float]:
    """Return the numbers of a file; none if it is absent, or says "max"."""
    try:
        return [float(word) for word in text_of(path).split()]
    except ValueError:
        return []


def child_environment(
    work: Path, threads: int, parent: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment for a process that does a subject's work."""
    # What libraries keep in HOME, which may be absent or read-only, goes to the work folder.
    env = dict(os.environ if parent is None else parent)
    home = work / "home"
    if not env.get("TEMPLATEFLOW_HOME"):  # images without templates leave it empty
        there = templateflow_home(env)
        found = os.path.isdir(there)  # noqa: PTH112 - pathlib's raises where it may not look
        env["TEMPLATEFLOW_HOME"] = str(there if found else home / "templateflow")
    for name, folder in {
        "MPLCONFIGDIR": "matplotlib",
        "NIPYPE_CONFIG_DIR": "nipype",
        "XDG_CACHE_HOME": "cache",
        "XDG_CONFIG_HOME": "config",
        "TORCH_HOME": "torch",
        "TORCHINDUCTOR_CACHE_DIR": "torch-compiled",
    }.items():
        env[name] = str(home / folder)
        (home / folder).mkdir(parents=True, exist_ok=True)
    if not env.get("HOME") or not os.access(env["HOME"], os.W_OK):
        env["HOME"] = str(home)
    env["TMPDIR"] = str(temporary_folder(env, work))
    env |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    # Bound threads of every process would be bound to the same first processors.
    env["OMP_PROC_BIND"] = "false"
    # Nipype and TemplateFlow ask the network for newer versions unless told not to.
    env |= {"NIPYPE_NO_ET": "1", "NO_ET": "1", "TEMPLATEFLOW_AUTOUPDATE": "off"}
    env |= {"MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1"}
    return env


def imports_of(settings: Settings) -> tuple[str, ...]:
    """Return the modules that processes of a run need, of those that are slow to import."""
    # None of them may start a thread or ask for a GPU, as deepbet does: neither survives a fork.
    registers = settings.on_pairs or settings.standard_spaces or settings.task == ENHANCE
    work = ("h2lo_bids.cli.subject", "pipelines.participant")
    return (
        *_LIBRARIES,
        *(("pipelines.pairs",) if settings.on_pairs else work),
        *(("ants",) if registers else ()),
        *(("lightning_fabric",) if settings.fits else ()),
    )


def temporary_folder(env: Mapping[str, str], work: Path) -> Path:
    """Return a folder for temporary files that really can be written, a short path if possible."""
    for candidate in (env.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108
        if candidate and len(candidate) < _SOCKET_PATH:
            with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=candidate) as file:
                file.write(bytes(1 << 20))  # a full disk takes a file, but nothing in it
                return Path(candidate)
    folder = work / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
