"""What a search passes over: absent subjects, names that are nearly right, empty folders."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from h2lo_bids.bids.index import folder_names, list_subjects, sessions_of
from h2lo_bids.bids.names import FORMS, NIFTI, Name, meant_suffix, parse_name
from h2lo_bids.bids.query import nearest
from h2lo_bids.vocabulary import CONTRASTS
from h2lo_bids.wording import counted, listed

_SUBJECT = re.compile(r"sub-[A-Za-z0-9+]+")
_SESSION = re.compile(r"ses-[A-Za-z0-9+]+")
_LIKE_SUBJECT = re.compile(r"(?i)(?:subject|subj|sub|participant|patient)(?=[-_. ]|\d)[-_. ]*")
_LIKE_SESSION = re.compile(r"(?i)(?:session|sess|ses)(?=[-_. ]|\d)[-_. ]*")


class Odd(NamedTuple):
    """A file or folder that was probably meant to be read, and why it is not.

    ``invalid`` if it has no place in BIDS; else it is valid, or stands next to what is read.
    """

    path: Path
    reason: str
    invalid: bool = True


def misnamed_subjects(root: Path) -> str | None:
    """Name the folders of a dataset that look like subjects, but are not called so."""
    found, subjects = [], {f"sub-{label}" for label in list_subjects(root)}
    for name in folder_names(root):
        like = _LIKE_SUBJECT.match(name)
        label = re.sub(r"[^A-Za-z0-9+]", "", name[like.end() :] if like else name)
        if _SUBJECT.fullmatch(name):
            if name not in subjects:
                found.append(f"{name} (a file or a link to nothing)")
        elif label and (root / name).is_dir() and (like or _holds_anat(root / name)):
            found.append(f"{name} (did you mean sub-{label}?)")
    if not found:
        return None
    are = "entry is no folder" if len(found) == 1 else "entries are no folders"
    return f"{len(found)} {are} sub-<label>, so not read: {listed(found)}"


def _holds_anat(folder: Path) -> bool:
    visits = (folder / name for name in folder_names(folder) if name.lower().startswith("ses"))
    return any((place / "anat").is_dir() for place in (folder, *visits))


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
        if like and not _SESSION.fullmatch(name) and (subject / name).is_dir():
            label = re.sub(r"[^A-Za-z0-9+]", "", name[like.end() :])
            if not sessions or label in sessions:
                yield Odd(subject / name, f"the name is not BIDS; did you mean ses-{label}?")
    for place in _places(subject, sessions):
        for name in folder_names(place):
            if name.lower() in ("anat", "anatomy", "anatomical") and name != "anat":
                yield Odd(place / name, "the name is not BIDS; did you mean anat?")
            elif _right_stem(name, suffixes):
                yield Odd(place / name, "lies outside anat, where images are read; move it")
        here = folder_names(place / "anat")
        for name in here:
            if not name.endswith(NIFTI):
                yield from _odd_file(place / "anat" / name, here, suffixes)


def _places(subject: Path, sessions: Collection[str]) -> list[Path]:
    """List the folders of a subject in which ``anat`` is looked for."""
    visits = ["", *filter(_SESSION.fullmatch, folder_names(subject))]
    return [subject / visit for visit in visits if not sessions or visit[4:] in sessions]


def _right_stem(name: str, suffixes: tuple[str, ...]) -> str | None:
    """Return the stem that a file of any image format should have, if it is of a contrast."""
    stem, dot, extension = name.partition(".")
    before, _, suffix = stem.rpartition("_")
    right = suffix if suffix in suffixes else meant_suffix(suffix, suffixes)
    known = before.lower().startswith("sub") and FORMS.fullmatch(dot + extension)
    return f"{before}_{right}" if right and known else None


def _odd_file(path: Path, here: Collection[str], suffixes: tuple[str, ...]) -> Iterator[Odd]:
    """Report an image that is no NIfTI by its name."""
    if path.is_dir():
        if any(_right_stem(name, suffixes) for name in folder_names(path)):
            yield Odd(path, "folders inside anat are not searched; move its images up", False)
        return
    stem, end = _right_stem(path.name, suffixes), path.name.partition(".")[2].lower()
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
    places = _places(folder, sessions)
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


def some(labels: Collection[str]) -> str:
    """List some labels, and how many more there are."""
    return listed([*labels], 8)


def absent_subject(label: str, existing: tuple[str, ...], in_table: bool) -> str:
    """Report that a subject does not exist, with the most similar labels."""
    close = [name for name in existing if name.lstrip("0").lower() == label.lstrip("0").lower()]
    close += difflib.get_close_matches(label, existing, n=3)
    where = "only in participants.tsv, without a folder" if in_table else "no such folder"
    if close:
        return f"{where}; did you mean {', '.join(dict.fromkeys(close))}?"
    return f"{where}; there are {some(existing)}"


def rename(name: Name | None, path: Path) -> str:
    """Suggest the name that an image should have."""
    if name is None:
        return "write sub-<label>[_ses-<label>][_acq-<label>][_run-<index>]_T1w.nii.gz"
    better = right_name(name)
    if better == path.name:
        return "its subject or session is not that of its folder: move or rename it"
    return f"rename it to {better}"


def right_name(name: Name) -> str:
    """Return the name of an image with its entities in order and a suffix that is read."""
    suffix = meant_suffix(name.suffix, CONTRASTS) or name.suffix
    extension = ".nii" if name.extension.endswith("nii") else ".nii.gz"
    return f"{name.stem.rpartition('_')[0]}_{suffix}{extension}"
