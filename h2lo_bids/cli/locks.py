"""One run at a time on a participant's work folder, or on an output that runs share."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def common_lock(out_dir: Path, name: str) -> Path:
    """Name the lock of an output that several runs write, each with a work folder of its own."""
    return out_dir / "logs" / "locks" / f"{name}.lock"


@contextlib.contextmanager
def exclusive(path: Path, on_wait: Callable[[str], None] | None = None) -> Iterator[bool]:
    """Hold a lock file while the body runs; wait for another run that holds it.

    The operating system releases the lock when its holder ends, however it
    ends, so that no stale lock is ever left. The file itself stays.

    Parameters
    ----------
    path
        The lock file.
    on_wait
        Called once with who holds the lock, if it has to be waited for.

    Yields
    ------
    bool
        False where the file system offers no locks; the body runs all the same.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _acquire(fcntl, descriptor, on_wait)
    finally:
        os.close(descriptor)


def _acquire(fcntl, descriptor: int, on_wait: Callable[[str], None] | None) -> bool:  # type: ignore[no-untyped-def]
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if on_wait is not None:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            on_wait(holder or "another run")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as err:
        if err.errno in _UNSUPPORTED:
            return False
        raise
    with contextlib.suppress(OSError):  # only for the message; a full disk does not matter
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return True
