"""The folders of a dataset: images by PyBIDS, subjects, sessions, names that are nearly right.

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
from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from h2lo_bids.bids.names import NIFTI, parse_name, right_stem
from h2lo_bids.bids.query import nearest
from h2lo_bids.errors import InvalidBidsError
from h2lo_bids.io import TEMPORARY_PREFIX, read_text, table_rows
from h2lo_bids.wording import counted, listed

DATABASE = "h2lo/layout_index.sqlite"
"""In a folder of ours: another program's index would be replaced by one without metadata."""
_SUBJECT = re.compile(r"sub-[A-Za-z0-9+]+")
_SESSION = re.compile(r"ses-[A-Za-z0-9+]+")
_LIKE_SUBJECT = re.compile(r"(?i)(?:subject|subj|sub|participant|patient)(?=[-_. ]|\d)[-_. ]*")
_LIKE_SESSION = re.compile(r"(?i)(?:session|sess|ses)(?=[-_. ]|\d)[-_. ]*")


def index_images(
    bids_dir: Path,
    subjects: tuple[str, ...],
    sessions: tuple[str, ...] = (),
    database_dir: Path | None = None,
    *,
    every_subject: bool = False,
) -> tuple[list[Path], list[str]]:
    """List the NIfTI images in the ``anat`` folders of some subjects, with notes on the index."""
    if not subjects:
        return [], []
    chosen = partial(_select, bids_dir=bids_dir, subjects=subjects, sessions=sessions)
    notes = []
    if database_dir is not None:
        file = database_dir / DATABASE
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
            notes.append(
                f"{database_dir}: no index can be kept there ({error}); indexed without it"
            )
    try:
        return chosen(_paths(_layout(bids_dir, () if every_subject else subjects, sessions))), notes
    except PermissionError:  # PyBIDS stops at a link into a closed folder, wherever it is
        return sorted(_on_disk(bids_dir, subjects, sessions)), notes


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
    try:
        return layouts.BIDSLayout(bids_dir, validate=False, indexer=indexer, database_path=database)
    except RecursionError as error:  # PyBIDS reads the description, whatever is skipped
        path = bids_dir / "dataset_description.json"
        raise InvalidBidsError(f"{path}: is nested too deeply; repair or remove it") from error


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
        for anat in (visit / "anat" for visit in visits_of(bids_dir / f"sub-{subject}", sessions)):
            yield from (anat / name for name in folder_names(anat) if name.endswith(NIFTI))


def folder_names(folder: Path) -> list[str]:
    """List a folder's entries that are not hidden, sorted; none when it cannot be read."""
    with contextlib.suppress(OSError):
        names = os.listdir(folder)  # noqa: PTH208 - names alone, a folder at a time
        return sorted(name for name in names if not name.startswith("."))
    return []


def is_folder(path: os.PathLike[str]) -> bool:
    """Check for a folder, and whether one may look there: `Path.is_dir` raises where not."""
    return os.path.isdir(path)  # noqa: PTH112


def is_closed(folder: Path) -> bool:
    """Check for a folder that may not be read, and for a link into one."""
    try:
        return folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK)
    except PermissionError:
        return True


def sessions_of(subject: Path) -> list[str]:
    """List the ``ses-`` folders of a subject."""
    return [name for name in folder_names(subject) if name.startswith("ses-")]


def visits_of(subject: Path, sessions: Collection[str] = ()) -> list[Path]:
    """List the folders of a subject in which ``anat`` is looked for: its own, and sessions'."""
    visits = ["", *sessions_of(subject)]
    return [subject / visit for visit in visits if not sessions or visit[4:] in sessions]


def list_subjects(bids_dir: str | Path) -> tuple[str, ...]:
    """List the subjects that have a folder, by looking at folder names only."""
    with os.scandir(bids_dir) as entries:
        named = [entry for entry in entries if _SUBJECT.fullmatch(entry.name)]
    # Only links are looked at.
    folders = (e for e in named if e.is_dir(follow_symlinks=False) or is_folder(e))
    return tuple(sorted(entry.name[4:] for entry in folders))


def read_participants(bids_dir: str | Path) -> set[str]:
    """Read the labels in ``participants.tsv``, where they may lack ``sub-``."""
    try:
        rows = list(table_rows(read_text(Path(bids_dir) / "participants.tsv")))
    except (OSError, ValueError):
        return set()
    return {row.get("participant_id", "").strip().removeprefix("sub-") for row in rows} - {""}


class Odd(NamedTuple):
    """A file or folder that was probably meant to be read, and why it is not."""

    path: Path
    reason: str
    invalid: bool = True  # it has no place in BIDS; else it stands next to what is read


def misnamed_subjects(root: Path, existing: Collection[str]) -> str | None:
    """Name the folders of a dataset that look like subjects, but are not called so."""
    found, subjects = [], {f"sub-{label}" for label in existing}
    for name in folder_names(root):
        place, like = root / name, _LIKE_SUBJECT.match(name)
        label = re.sub(r"[^A-Za-z0-9+]", "", name[like.end() :] if like else name)
        if _SUBJECT.fullmatch(name):
            if name not in subjects:
                found.append(f"{name} (a file or a link to nothing)")
        elif like and "\\" in name:
            found.append(f"{name} (a path of Windows; unpack it again)")
        elif not label or not is_folder(place) or ignored(root, place):
            continue
        elif like or _holds_anat(place):
            found.append(f"{name} (did you mean sub-{label}?)")
    if not found:
        return None
    are = "entry is no folder" if len(found) == 1 else "entries are no folders"
    return f"{len(found)} {are} sub-<label>, so not read: {listed(found)}"


def _holds_anat(folder: Path) -> bool:
    visits = (folder / name for name in folder_names(folder) if name.lower().startswith("ses"))
    return any(is_folder(place / "anat") for place in (folder, *visits))


def ignored(root: Path, path: Path) -> bool:
    """Check whether a dataset's ``.bidsignore`` names a file, or a folder that holds it."""
    lines = list[str]()
    with contextlib.suppress(OSError, ValueError):
        lines = read_text(root / ".bidsignore").splitlines()
    parts, last = path.relative_to(root).parts, False
    wholes = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    for line in map(str.strip, lines):
        pattern = line.lstrip("!").rstrip("/")
        names = wholes if "/" in pattern else parts
        if line[:1] != "#" and any(fnmatchcase(name, pattern.lstrip("/")) for name in names):
            last = not line.startswith("!")
    return last


def unlisted(rows: Collection[str], existing: Collection[str]) -> Iterator[str]:
    """Compare ``participants.tsv`` with the folders, one line for each side."""
    lacking, extra = sorted(set(rows) - set(existing)), sorted(set(existing) - set(rows))
    if rows and lacking:
        near = {label: nearest(label, extra, similar=True) for label in lacking[:3]}
        hints = {label: f" (did you mean sub-{other}?)" for label, other in near.items() if other}
        names = [f"sub-{label}{hints.get(label, '')}" for label in lacking]
        yield f"{counted(len(names), 'row')} without a folder: {listed(names)}"
    if rows and extra:
        names = [f"sub-{label}" for label in extra]
        yield f"{counted(len(extra), 'folder')} of participants without a row: {listed(names)}"


def odd_names(subject: Path, sessions: Collection[str], suffixes: tuple[str, ...]) -> Iterator[Odd]:
    """Look for folders and files of a subject whose names are nearly those that are read."""
    for name in folder_names(subject):
        like = _LIKE_SESSION.match(name)
        if like and not _SESSION.fullmatch(name) and is_folder(subject / name):
            label = re.sub(r"[^A-Za-z0-9+]", "", name[like.end() :])
            if not sessions or label in sessions:
                yield Odd(subject / name, f"the name is not BIDS; did you mean ses-{label}?")
    for place in visits_of(subject, sessions):
        for name in folder_names(place):
            if name.lower() in ("anat", "anatomy", "anatomical") and name != "anat":
                yield Odd(place / name, "the name is not BIDS; did you mean anat?")
            elif right_stem(name, suffixes):
                yield Odd(place / name, "lies outside anat, where images are read; move it")
        here = folder_names(place / "anat")
        for name in here:
            if not name.endswith(NIFTI):
                yield from _odd_file(place / "anat" / name, here, suffixes)


def _odd_file(path: Path, here: Collection[str], suffixes: tuple[str, ...]) -> Iterator[Odd]:
    """Report an image that is no NIfTI by its name."""
    if is_folder(path):
        if any(right_stem(name, suffixes) for name in folder_names(path)):
            yield Odd(path, "folders inside anat are not searched; move its images up", False)
        return
    stem, end = right_stem(path.name, suffixes), path.name.partition(".")[2].lower()
    if stem is None:
        return
    if any(stem + extension in here for extension in NIFTI):
        yield Odd(path, f"{stem} is read from its NIfTI file", False)
    elif f".{end}" in NIFTI:
        yield Odd(path, f"the name is not BIDS; rename it to {stem}.{end}")
    elif end.startswith(("nii.gz.", "nii.")):
        yield Odd(path, f"not a whole NIfTI file; get or unpack {stem}.nii.gz")
    else:
        yield Odd(path, f"not a NIfTI file; convert it to {stem}.nii.gz")


def empty_subject(folder: Path, sessions: Collection[str], suffixes: tuple[str, ...]) -> str:
    """Explain by its content why a subject's folder gives no image."""
    places = visits_of(folder, sessions)
    if not places:
        visits = listed(sessions_of(folder)) or "no sessions"
        return f"none of the chosen sessions (found {visits})"
    names = {name for place in places for name in folder_names(place)}
    found = sorted(name for name in names if "." not in name and not _SESSION.fullmatch(name))
    what = " or ".join(suffixes)
    if "anat" not in found:
        return f"no {what} image: no anat folder (found {listed(found) or 'nothing'})"
    images = (parse_name(name) for place in places for name in folder_names(place / "anat"))
    kinds = sorted({name.suffix for name in images if name and name.extension in NIFTI})
    return f"no {what} image in anat (found {listed(kinds) or 'no image'})"


def absent_subject(label: str, existing: tuple[str, ...], in_table: bool) -> str:
    """Report that a subject does not exist, with the most similar label."""
    where = "only in participants.tsv, without a folder" if in_table else "no such folder"
    near = nearest(label, existing, similar=True)
    return f"{where}; {f'did you mean {near}?' if near else f'there are {listed(existing)}'}"
