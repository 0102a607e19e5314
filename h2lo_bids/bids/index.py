"""PyBIDS, restricted to what is asked for, and the subjects of a dataset.

Only the ``anat`` folders of the chosen subjects and sessions are walked, and
no sidecar is opened (:mod:`h2lo_bids.bids.metadata` reads those of the images
that were found). An index kept between runs covers all subjects; it is
compared with the folders of the chosen ones each time, because PyBIDS itself
never notices that a database has become stale.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from h2lo_bids.bids.names import NIFTI
from h2lo_bids.errors import MissingInputError
from h2lo_bids.io import TEMPORARY_PREFIX, read_text, table_rows

DATABASE = "layout_index.sqlite"
OWN_FOLDER = "h2lo"


def index_images(
    bids_dir: Path,
    subjects: tuple[str, ...],
    sessions: tuple[str, ...] = (),
    database_dir: Path | None = None,
    *,
    every_subject: bool = False,
) -> tuple[list[Path], list[str]]:
    """List the NIfTI images in the ``anat`` folders of some subjects."""
    if not subjects:
        return [], []
    if database_dir is None:
        found = _paths(_layout(bids_dir, () if every_subject else subjects, sessions))
        return _select(found, bids_dir, subjects, sessions), []
    present = sorted(_on_disk(bids_dir, subjects, sessions))
    notes: list[str] = []
    for folder, own in ((database_dir, False), (database_dir / OWN_FOLDER, True)):
        if not (folder / DATABASE).is_file():
            continue
        stored, complaint = _open(folder, bids_dir)
        images = _select(stored, bids_dir, subjects, sessions)
        if not complaint and images == present:
            return images, notes
        complaint = complaint or _difference(images, present)
        notes.append(
            f"{folder / DATABASE}: out of date ({complaint}); {'remade' if own else 'not used'}"
        )
    try:
        stored = _build(database_dir / OWN_FOLDER, bids_dir)
    except OSError as error:
        notes.append(f"{database_dir}: no index can be kept there ({error}); indexed without it")
        stored = _paths(_layout(bids_dir, subjects, sessions))
    return _select(stored, bids_dir, subjects, sessions), notes


def _layout(
    bids_dir: Path,
    subjects: tuple[str, ...],
    sessions: tuple[str, ...],
    database: Path | None = None,
) -> Any:
    layouts = _pybids()
    sub = "|".join(map(re.escape, subjects)) or "[^/]+"
    ses = "|".join(map(re.escape, sessions)) or "[^/]+"
    below = f"ses-(?:{ses})" if sessions else f"anat|ses-(?:{ses})"
    ignore = [
        re.compile(rf"^/(?!sub-(?:{sub})(?:/|$))"),
        re.compile(rf"^/[^/]+/(?!(?:{below})(?:/|$))"),
        re.compile(r"^/[^/]+/ses-[^/]+/(?!anat(?:/|$))"),
        re.compile(r"/anat/(?!.*\.nii(?:\.gz)?$)"),
    ]
    indexer = layouts.BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=ignore)
    return layouts.BIDSLayout(bids_dir, validate=False, indexer=indexer, database_path=database)


def _pybids() -> Any:
    """Import pybids, which looks for settings in HOME and fails where it may not look."""
    home = os.environ.get("HOME")
    if not (home and os.access(home, os.X_OK)):
        os.environ["HOME"] = os.devnull  # nothing lies below it
    try:
        import bids.layout
    finally:
        if home is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = home
    return bids.layout


def _paths(layout: Any) -> list[str]:
    """Read the paths alone: the files' objects and tags take far longer."""
    from bids.layout.models import BIDSFile

    try:
        return [str(path) for (path,) in layout.session.query(BIDSFile.path)]
    finally:
        layout.session.close()
        layout.connection_manager.engine.dispose()


def _open(folder: Path, bids_dir: Path) -> tuple[list[str], str | None]:
    layouts = _pybids()
    try:
        layout = layouts.BIDSLayout(bids_dir, validate=False, database_path=folder)
        root = Path(layout.root)
        paths = _paths(layout)
    except Exception as error:
        # Whatever a foreign, old or damaged database raises, it is of no use.
        return [], f"it cannot be read: {type(error).__name__}"
    if root != bids_dir:
        return [], f"it describes {root}"
    return paths, None


def _build(folder: Path, bids_dir: Path) -> list[str]:
    """Index every subject into a new database, which replaces the old in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        paths = _paths(_layout(bids_dir, (), (), temporary))
        (temporary / DATABASE).replace(folder / DATABASE)
    except Exception as error:
        if isinstance(error, OSError):
            raise
        raise OSError(f"{type(error).__name__} while writing it") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return paths


def _select(
    paths: list[str], bids_dir: Path, subjects: tuple[str, ...], sessions: tuple[str, ...]
) -> list[Path]:
    """Keep NIfTI files directly in ``sub-X/[ses-Y/]anat``."""
    wanted = {f"sub-{label}" for label in subjects}
    visits = {f"ses-{label}" for label in sessions}
    prefix = f"{bids_dir.as_posix().rstrip('/')}/"
    chosen = []
    for path in paths:
        parts = path.removeprefix(prefix).split("/")
        if not path.startswith(prefix) or not path.endswith(NIFTI) or parts[-2:-1] != ["anat"]:
            continue
        if parts[-1].startswith("."):  # such as what macOS writes beside each file
            continue
        session = parts[1] if len(parts) == 4 else None
        if parts[0] in wanted and len(parts) in (3, 4) and (not visits or session in visits):
            chosen.append(Path(path))
    return sorted(chosen)


def _on_disk(
    bids_dir: Path, subjects: tuple[str, ...], sessions: tuple[str, ...]
) -> Iterator[Path]:
    for subject in subjects:
        folder = bids_dir / f"sub-{subject}"
        visits = [f"ses-{label}" for label in sessions] or [
            "",
            *(name for name in folder_names(folder) if name.startswith("ses-")),
        ]
        for visit in visits:
            anat = folder / visit / "anat"
            yield from (anat / name for name in folder_names(anat) if name.endswith(NIFTI))


def folder_names(folder: Path) -> list[str]:
    """List a folder's entries that are not hidden; none when it cannot be read."""
    with contextlib.suppress(OSError):
        names = os.listdir(folder)  # noqa: PTH208 - names alone, a folder at a time
        return [name for name in names if not name.startswith(".")]
    return []


def _difference(stored: list[Path], present: list[Path]) -> str:
    gone, new = set(stored) - set(present), set(present) - set(stored)
    return f"{len(gone)} of its images are gone, {len(new)} are new"


_FOLDER = re.compile(r"sub-([A-Za-z0-9+]+)")


def list_subjects(bids_dir: str | Path) -> tuple[str, ...]:
    """List the subjects that have a folder, by looking at folder names only."""
    try:
        with os.scandir(bids_dir) as entries:
            found = [
                match[1]
                for entry in entries
                if (match := _FOLDER.fullmatch(entry.name)) and _is_folder(entry)
            ]
    except OSError as error:
        raise MissingInputError(
            f"{bids_dir}: the input dataset cannot be read ({error.strerror}); check the path"
        ) from error
    return tuple(sorted(found))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Count what cannot be told, such as a link to itself: it is reported later, on its own."""
    try:
        return entry.is_dir()
    except OSError:
        return True


def read_participants(bids_dir: str | Path) -> dict[str, dict[str, str]]:
    """Read ``participants.tsv``, with or without ``sub-`` in its first column."""
    try:
        rows = list(table_rows(read_text(Path(bids_dir) / "participants.tsv")))
    except (OSError, ValueError):
        return {}
    labelled = ((row.get("participant_id", "").strip().removeprefix("sub-"), row) for row in rows)
    return {label: row for label, row in labelled if label}
