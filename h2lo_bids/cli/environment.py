"""Environment of the processes that do the work: nothing is written outside out and work."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

_SOCKET_PATH = 60  # what is left of a socket's 107 bytes after Python's own file names


def child_environment(
    work: Path, threads: int, parent: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment for a process that does a subject's work.

    Libraries that keep caches and settings in HOME are sent to the work folder, so that HOME may
    be absent or read-only; where it already holds TemplateFlow's images, they keep it.
    """
    env = dict(os.environ if parent is None else parent)
    home = work / "home"
    if not env.get("TEMPLATEFLOW_HOME"):  # images without templates leave it empty
        env["TEMPLATEFLOW_HOME"] = str(_templateflow_home(env, home))
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
    for name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    ):
        env[name] = str(threads)
    # Nipype and TemplateFlow ask the network for newer versions unless told not to.
    env |= {"NIPYPE_NO_ET": "1", "NO_ET": "1", "TEMPLATEFLOW_AUTOUPDATE": "off"}
    env |= {"MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1"}
    return env


def _templateflow_home(env: Mapping[str, str], fallback: Path) -> Path:
    """Return the user's TemplateFlow folder if it is there, else one in the work folder."""
    for base in (env.get("XDG_CACHE_HOME"), env.get("HOME") and f"{env['HOME']}/.cache"):
        # Unlike pathlib's, this one takes a folder that may not be entered for none.
        if base and os.path.isdir(Path(base) / "templateflow"):  # noqa: PTH112
            return Path(base) / "templateflow"
    return fallback / "templateflow"


def temporary_folder(env: Mapping[str, str], work: Path) -> Path:
    """Return a folder for temporary files that really can be written.

    A short path is preferred: sockets of libraries live there, limited to about 100 bytes.
    """
    for candidate in (env.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108
        if candidate and len(candidate) < _SOCKET_PATH and _writable(Path(candidate)):
            return Path(candidate)
    folder = work / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _writable(folder: Path) -> bool:
    probe = folder / f".h2lo-{uuid.uuid4().hex}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
