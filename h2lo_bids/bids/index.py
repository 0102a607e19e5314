"""PyBIDS, restricted to what is asked for, and the subjects of a dataset.

Only the ``anat`` folders of the chosen subjects and sessions are walked, and no sidecar is
opened. An index kept between runs covers all subjects; it is compared with the folders of the
chosen ones each time, because PyBIDS never notices that a database has become stale.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from h2lo_bids.bids.names import NIFTI
from h2lo_bids.errors import MissingInputError
from h2lo_bids.io import TEMPORARY_PREFIX, read_text, table_rows

DATABASE = "h2lo/layout_index.sqlite"
"""In a folder of ours: another program's index would be replaced by one without metadata."""
_FOLDER = re.compile(r"sub-([A-Za-z0-9+]+)")


def index_images(
    bids_dir: Path,
    subjects: tuple[str, ...],
    sessions: tuple[str, ...] = (),
    database_dir: Path | None = None,
    *,
    every_subject: bool = False,
) -> tuple[list[Path], list[str]]:
    """List the NIfTI images in the ``anat`` folders of some subjects, with notes on the index."""

    def chosen(paths: Iterable[str]) -> list[Path]:
        return _select(paths, bids_dir, subjects, sessions)

    if not subjects:
        return [], []
    if database_dir is None:
        return chosen(_paths(_layout(bids_dir, () if every_subject else subjects, sessions))), []
    notes, file = [], database_dir / DATABASE
    if file.is_file():
        stored, fault = _stored(file.parent, bids_dir)
        kept, present = {*chosen(stored)}, {*_on_disk(bids_dir, subjects, sessions)}
        if not fault and kept == present:
            return sorted(kept), []
        fault = fault or (
            f"{len(kept - present)} of its images are gone, {len(present - kept)} are new"
        )
        notes.append(f"{file}: out of date ({fault}); remade")
    try:
        return chosen(_build(file, bids_dir)), notes
    except OSError as error:
        notes.append(f"{database_dir}: no index can be kept there ({error}); indexed without it")
    return chosen(_paths(_layout(bids_dir, subjects, sessions))), notes


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


def _stored(folder: Path, bids_dir: Path) -> tuple[list[str], str]:
    """Read a kept index, and report what is wrong with it, if anything."""
    layouts = _pybids()
    try:
        layout = layouts.BIDSLayout(bids_dir, validate=False, database_path=folder)
        root, paths = Path(layout.root), _paths(layout)
    except Exception as error:
        # Whatever a foreign, old or damaged database raises, it is of no use.
        return [], f"it cannot be read: {type(error).__name__}"
    return paths, "" if root == bids_dir else f"it describes {root}"


def _build(file: Path, bids_dir: Path) -> list[str]:
    """Index every subject into a new database, which replaces the old in one step."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    try:
        paths = _paths(_layout(bids_dir, (), (), temporary))
        (temporary / file.name).replace(file)
    except Exception as error:
        if isinstance(error, OSError):
            raise
        raise OSError(f"{type(error).__name__} while writing it") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return paths


def _select(
    paths: Iterable[str], bids_dir: Path, subjects: tuple[str, ...], sessions: tuple[str, ...]
) -> list[Path]:
    """Keep NIfTI files directly in ``sub-X/[ses-Y/]anat``, but hidden ones."""
    prefix = re.escape(f"{bids_dir.as_posix().rstrip('/')}/")
    place = re.compile(rf"{prefix}sub-([^/]+)/(?:ses-([^/]+)/)?anat/(?!\.)[^/]*\.nii(?:\.gz)?")
    found, wanted = ((path, place.fullmatch(path)) for path in paths), set(subjects)
    return sorted(
        Path(path)
        for path, match in found
        if match and match[1] in wanted and (not sessions or match[2] in sessions)
    )


def _on_disk(
    bids_dir: Path, subjects: tuple[str, ...], sessions: tuple[str, ...]
) -> Iterator[Path]:
    for subject in subjects:
        folder = bids_dir / f"sub-{subject}"
        for visit in [f"ses-{label}" for label in sessions] or ["", *sessions_of(folder)]:
            anat = folder / visit / "anat"
            yield from (anat / name for name in folder_names(anat) if name.endswith(NIFTI))


def folder_names(folder: Path) -> list[str]:
    """List a folder's entries that are not hidden, sorted; none when it cannot be read."""
    with contextlib.suppress(OSError):
        names = os.listdir(folder)  # noqa: PTH208 - names alone, a folder at a time
        return sorted(name for name in names if not name.startswith("."))
    return []


def sessions_of(subject: Path) -> list[str]:
    """List the ``ses-`` folders of a subject."""
    return [name for name in folder_names(subject) if name.startswith("ses-")]


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
    """Count what cannot be known, such as a link to itself: it is reported when it is read."""
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
