"""Whether a file's content is really there."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from h2lo_bids.errors import MissingInputError
from h2lo_bids.foreign import read_json

__all__ = ["check_content", "read_json"]

_POINTER = b"/annex/objects/"


def check_content(path: Path) -> None:
    """Make sure that a file can be read and is not a git-annex placeholder.

    Parameters
    ----------
    path : Path
        An image or a sidecar.

    Raises
    ------
    MissingInputError
        In one line: the content is not present (a dangling link or an annex
        pointer), the file is a folder, or it may not be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            # Opening a pipe would wait for a writer for ever.
            raise MissingInputError(f"{path}: is not a regular file; remove or rename it")
        with path.open("rb") as stream:
            start = stream.read(len(_POINTER))
    except FileNotFoundError as error:
        if path.is_symlink() and "annex" in os.fspath(path.readlink()):
            raise _not_present(path) from error
        if path.is_symlink():
            raise MissingInputError(
                f"content not present, run: datalad get {path} "
                f"(the link leads to {path.readlink()}, which does not exist)"
            ) from error
        raise MissingInputError(f"{path}: no such file; check the path") from error
    except IsADirectoryError as error:
        raise MissingInputError(f"{path}: is a folder, not a file; remove or rename it") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise MissingInputError(f"{path}: is a link to itself; remove it") from error
        raise MissingInputError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    if start == _POINTER:
        raise _not_present(path)


def _not_present(path: Path) -> MissingInputError:
    return MissingInputError(f"content not present, run: datalad get {path}")
