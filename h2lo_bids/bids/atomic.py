"""Files that appear complete or not at all.

Everything is written to a hidden sibling on the same file system, flushed to
the disk and then renamed over the target, so that a full disk, a killed
process or a second run on the same folder never leaves half a file behind.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from h2lo_bids.errors import CannotCreateError, H2loError, InputOutputError

if TYPE_CHECKING:
    import nibabel as nib

TEMPORARY_PREFIX = ".tmp-"
_LONGEST_NAME = 255  # bytes, on the file systems of today
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
_ELSEWHERE = "choose another output folder or --work-dir"
_FAILED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE}


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary sibling of ``path`` that replaces it on success.

    The sibling keeps the whole file name at its end, so that writers which
    look at the extension behave. Missing folders are created.

    Parameters
    ----------
    path : path-like
        The file to write.

    Yields
    ------
    Path
        Where to write. Nothing is left behind when the body raises.

    Raises
    ------
    CannotCreateError
        The folder or the file may not be created.
    InputOutputError
        Writing failed half-way, for example on a full disk.
    """
    target = Path(path)
    temporary = _sibling(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        _flush_folder(target.parent)
    except OSError as error:
        translated = _translate(error, target, temporary)
        if translated is None:
            raise
        raise translated from error
    finally:
        # After the rename there is nothing left under this name.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> bool:
    """Write ``data`` to ``path``, unless the file holds exactly that already.

    Parameters
    ----------
    path : path-like
        The file to write.
    data : bytes
        Its whole content.

    Returns
    -------
    bool
        Whether anything was written.
    """
    target = Path(path)
    with contextlib.suppress(OSError):
        if target.read_bytes() == data:
            return False
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)
    return True


def atomic_write_text(path: str | os.PathLike[str], text: str) -> bool:
    """Write UTF-8 text with POSIX line ends; see :func:`atomic_write_bytes`."""
    return atomic_write_bytes(path, text.encode("utf-8"))


def save_nifti(
    image: nib.Nifti1Image, path: str | os.PathLike[str], *, compresslevel: int = 1
) -> Path:
    """Save an image atomically, with the same bytes for the same content.

    Parameters
    ----------
    image : nibabel.Nifti1Image
        What to save.
    path : path-like
        ``.nii`` or ``.nii.gz``.
    compresslevel : int, optional
        Of gzip, 1 to 9.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    CannotCreateError, InputOutputError
        As in :func:`atomic_path`.
    ValueError
        The extension is neither.
    """
    import nibabel as nib

    target = Path(path)
    if not target.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{target}: an image is saved as .nii or .nii.gz")
    with atomic_path(target) as temporary, temporary.open("wb") as raw:
        if target.name.endswith(".gz"):
            # No file name and no time in the gzip header: same content, same bytes.
            with gzip.GzipFile(
                filename="", mode="wb", compresslevel=compresslevel, fileobj=raw, mtime=0
            ) as packed:
                image.to_file_map({"image": nib.FileHolder(fileobj=packed)})
        else:
            image.to_file_map({"image": nib.FileHolder(fileobj=raw)})
    return target


def remove_temporaries(folder: str | os.PathLike[str], *, older_than: float = 86400.0) -> int:
    """Delete what killed runs left behind, sparing files a live run may be writing.

    Parameters
    ----------
    folder : path-like
        Searched with everything below it.
    older_than : float, optional
        Age in seconds from which a temporary file counts as abandoned.

    Returns
    -------
    int
        How many files were deleted.
    """
    import time

    removed = 0
    limit = time.time() - older_than
    for path in Path(folder).rglob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.is_file() and path.stat().st_mtime < limit:
                path.unlink()
                removed += 1
    return removed


def _sibling(target: Path) -> Path:
    """Name a temporary file beside a target; of a very long name only the end is kept."""
    prefix = f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}_"
    kept = os.fsencode(target.name)[len(prefix) - _LONGEST_NAME :]
    return target.with_name(prefix + os.fsdecode(kept))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    # Some network file systems refuse to sync a folder; the rename stands anyway.
    with contextlib.suppress(OSError):
        _flush(folder)


def _translate(error: OSError, target: Path, temporary: Path) -> H2loError | None:
    """Turn an error about this file into one line; leave errors about others alone."""
    ours = {None, str(target), str(temporary), *(str(parent) for parent in target.parents)}
    name = None if error.filename is None else str(error.filename)
    if name not in ours:
        return None
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == errno.ENAMETOOLONG:
        remedy = "shorten the labels in the scan's name or the path of the output folder"
        return CannotCreateError(f"{target}: the name is too long; {remedy}")
    if error.errno in _FAILED:
        remedy = f"free some space there or {_ELSEWHERE}, then run again"
        return InputOutputError(f"{target}: writing failed ({reason}); {remedy}")
    if error.errno in _REFUSED:
        remedy = f"check the permissions of its folder or {_ELSEWHERE}"
        return CannotCreateError(f"{target}: cannot be created ({reason}); {remedy}")
    return None
