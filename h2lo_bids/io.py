"""Files: those of others are read within bounds, ours appear complete or not at all; digests.

Everything is written to a hidden sibling on the same file system, flushed to the disk and
then renamed over the target, so that a full disk, a killed process or a second run on the
same folder never leaves half a file behind.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import functools
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import stat
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2lo_bids.errors import CannotCreateError, H2loError, InputOutputError, MissingInputError
from h2lo_bids.vocabulary import DISK_FULL, Say

if TYPE_CHECKING:
    import nibabel as nib

MAX_TEXT = 2**26
"""Bytes of a sidecar, table or filter: 64 MB, far beyond any."""
MAX_DIGITS = 18
"""Of a whole number; a longer one is read as a float, as other readers of JSON do."""
MAX_DEPTH = 100
"""Lists and objects within each other, far fewer than Python's own limit on recursion."""

TEMPORARY_PREFIX = ".tmp-"
_LONGEST_NAME = 255  # bytes, on the file systems of today
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
_ELSEWHERE = "choose another output folder or --work-dir"
_FAILED = {*DISK_FULL, errno.EIO, errno.ESTALE}
_ANNEX, _LFS = b"/annex/objects/", b"version https://git-lfs"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def read_json(path: Path) -> Any:
    """Parse a JSON file that others wrote."""
    return parse_json(read_text(path))


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that others wrote."""
    try:
        content = json.loads(
            text, parse_int=lambda digits: (int if len(digits) <= MAX_DIGITS else float)(digits)
        )
        level = [content]
        for _ in range(MAX_DEPTH):
            holders = (value for value in level if isinstance(value, dict | list))
            level = [part for h in holders for part in (h.values() if isinstance(h, dict) else h)]
        if level:
            raise ValueError("it is nested too deeply")
        # Half a surrogate pair has no UTF-8, and would stop whatever writes it on.
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("it holds half of a character, such as \\ud800 alone") from error
    return content


def read_text(path: Path) -> str:
    """Read a text file that others wrote, of no more than `MAX_TEXT` bytes."""
    kind = path.stat().st_mode
    given = path.parts[:3] in (("/", "dev", "fd"), ("/", "proc", "self"))
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or given):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    with path.open("rb") as stream:
        content = stream.read(MAX_TEXT + 1)
    if len(content) > MAX_TEXT:
        raise ValueError(f"it is larger than {MAX_TEXT >> 20} MB")
    return content.decode("utf-8-sig")


def table_rows(text: str, **form: Any) -> Iterator[dict[str, str]]:
    """Give the rows of a tab-separated table that others wrote."""
    rows = csv.DictReader(io.StringIO(text), delimiter="\t", restval="", **form)
    try:
        for row in rows:
            yield {key: value for key, value in row.items() if key is not None}
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}") from error


def check_content(path: Path) -> None:
    """Make sure that a file can be read and is no placeholder of git-annex or Git LFS."""
    absent = f"content not present, run: datalad get {path}"
    try:
        if not stat.S_ISREG(kind := path.stat().st_mode):
            # Opening a pipe would wait for a writer for ever.
            what = "a folder, not a file" if stat.S_ISDIR(kind) else "not a regular file"
            raise MissingInputError(f"{path}: is {what}; remove or rename it")
        with path.open("rb") as stream:
            start = stream.read(len(_LFS))
    except FileNotFoundError as error:
        if path.is_symlink() and "annex" in os.fspath(path.readlink()):
            raise MissingInputError(f"{absent}{_store(path)}") from error
        if path.is_symlink():
            raise MissingInputError(
                f"{path}: the link leads to {path.readlink()}, which does not exist; get it with "
                "datalad, or make that folder visible in the container"
            ) from error
        raise MissingInputError(f"{path}: no such file; check the path") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise MissingInputError(f"{path}: is a link to itself; remove it") from error
        raise MissingInputError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    if start.startswith(_ANNEX):
        raise MissingInputError(absent)
    if start == _LFS:
        raise MissingInputError(f"{path}: content not present, run: git lfs pull")


def _store(link: Path) -> str:
    """Say where the link of an annexed file leads if its repository is not here at all."""
    store, git, _ = os.path.normpath(link.parent.resolve() / link.readlink()).partition("/.git/")
    if not git or Path(f"{store}/.git").exists():
        return ""
    return f" (it links into {store}/.git, which is not here: bind the whole repository)"


def digest(values: Any, size: int = 8) -> str:
    """Return a digest of JSON-ready values, of `size` bytes, whatever the order of keys."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes, as bundles and sidecars record it."""
    return hashlib.sha256(content).hexdigest()


def stamp(path: Path) -> tuple[str, int, int]:
    """Return place, size and time of a file, which change when it is made again."""
    found = path.stat()
    return str(path.resolve()), found.st_size, found.st_mtime_ns


def file_digest(path: Path) -> str:
    """Return a digest of a file's bytes; it is read once per process unless it changes."""
    return _content(*stamp(path))


@functools.cache
def _content(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary sibling of ``path``, of the same extension, that replaces it on success."""
    target = Path(path)
    prefix = f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}_"
    # Of a very long name only the end is kept.
    kept = os.fsencode(target.name)[len(prefix) - _LONGEST_NAME :]
    temporary = target.with_name(prefix + os.fsdecode(kept))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        # Some network file systems refuse to sync a folder; the rename stands anyway.
        with contextlib.suppress(OSError):
            _flush(target.parent)
    except OSError as error:
        translated = _translate(error, target, temporary)
        if translated is None:
            raise
        raise translated from error
    finally:
        # After the rename there is nothing left under this name.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``, unless the file holds exactly that already."""
    target = Path(path)
    with contextlib.suppress(OSError):
        if target.read_bytes() == data:
            return
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text with POSIX line ends; see :func:`atomic_write_bytes`."""
    atomic_write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically, unless the file holds just that."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write_text(path, text + "\n")


def save_nifti(
    image: nib.Nifti1Image, path: str | os.PathLike[str], *, compresslevel: int = 1
) -> Path:
    """Save an image atomically, with the same bytes for the same content."""
    import nibabel as nib

    target = Path(path)
    if not target.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{target}: an image is saved as .nii or .nii.gz")
    with atomic_path(target) as temporary, temporary.open("wb") as raw:
        # No file name and no time in the gzip header: same content, same bytes.
        zipped = gzip.GzipFile("", "wb", compresslevel, raw, 0) if target.suffix == ".gz" else raw
        with zipped as stream:
            image.to_file_map({"image": nib.FileHolder(fileobj=stream)})
    return target


def remove_temporaries(folder: Path, begin: str) -> None:
    """Delete what a killed process left half written of files whose names begin so."""
    for path in folder.rglob(f"{TEMPORARY_PREFIX}*_{begin}_*"):
        with contextlib.suppress(OSError):
            path.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    # NumPy, of a full disk, says only "9 requested and 4 written".
    if error.errno in _FAILED or (error.errno is None and reason.endswith(" written")):
        remedy = f"free some space there or {_ELSEWHERE}, then run again"
        return InputOutputError(f"{target}: writing failed ({reason}); {remedy}")
    if error.errno in _REFUSED:
        remedy = f"check the permissions of its folder or {_ELSEWHERE}"
        return CannotCreateError(f"{target}: cannot be created ({reason}); {remedy}")
    return None


def common_lock(out_dir: Path, name: str) -> Path:
    """Name the lock of an output that several runs write, each with a work folder of its own."""
    return out_dir / "logs" / "locks" / f"{name}.lock"


@contextlib.contextmanager
def exclusive(path: Path, on_wait: Say | None = None) -> Iterator[bool]:
    """Hold a lock file while the body runs; yields False where the file system has no locks."""
    # However its holder ends, the system releases the lock; the file stays.
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():  # to an object of git-annex, where DataLad has saved the folder
            path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # less the umask
    except OSError as error:  # most often it is another user's
        raise _translate(error, path, path) or error from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is not None:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
                on_wait(holder or "another run")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as err:
            if err.errno not in _NO_LOCKS:
                raise
            yield False
            return
        with contextlib.suppress(OSError):  # only for the message; a full disk does not matter
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield True
    finally:
        os.close(descriptor)


def replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files as a new folder; one that is there already makes way at the end."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    partial.mkdir()
    try:
        for name, content in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
            _flush(partial / name)
        if folder.exists():
            # A folder with content cannot be replaced in one step.
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            folder.replace(old / folder.name)
            partial.replace(folder)
            shutil.rmtree(old)
        else:
            partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
