"""What a search passes over: absent subjects, names that are nearly right, empty folders."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from h2lo_bids.bids.index import folder_names
from h2lo_bids.bids.names import FORMS, NIFTI, Name, meant_suffix, parse_name
from h2lo_bids.bids.query import Query, describe, nearest
from h2lo_bids.vocabulary import CONTRASTS
from h2lo_bids.wording import counted, listed

_SUBJECT = re.compile(r"sub-[A-Za-z0-9+]+")
_SESSION = re.compile(r"ses-[A-Za-z0-9+]+")
_LIKE_SUBJECT = re.compile(r"(?i)(?:subject|subj|sub|participant|patient)(?=[-_. ]|\d)[-_. ]*")
_LIKE_SESSION = re.compile(r"(?i)(?:session|sess|ses)(?=[-_. ]|\d)[-_. ]*")


class Odd(NamedTuple):
    """A file or folder that was probably meant to be read, and why it is not.

    ``invalid`` if it has no place in BIDS; else it is valid, or stands beside what is read.
    """

    path: Path
    reason: str
    invalid: bool


def misnamed_subjects(root: Path) -> str | None:
    """Name the folders of a dataset that look like subjects, but are not called so."""
    found = []
    for name in sorted(folder_names(root)):
        like, folder = _LIKE_SUBJECT.match(name), root / name
        if _SUBJECT.fullmatch(name):
            if folder.is_file() or (folder.is_symlink() and not _leads_somewhere(folder)):
                found.append(f"{name} (a file or a link to nothing)")
            continue
        label = re.sub(r"[^A-Za-z0-9+]", "", name[like.end() :] if like else name)
        if label and folder.is_dir() and (like or _holds_anat(folder)):
            found.append(f"{name} (did you mean sub-{label}?)")
    if not found:
        return None
    are = "entry is no folder" if len(found) == 1 else "entries are no folders"
    return f"{root}: {len(found)} {are} sub-<label>, so not read: {listed(found)}"


def _leads_somewhere(link: Path) -> bool:
    try:
        link.stat()
    except FileNotFoundError:
        return False
    except OSError:  # told when it is read
        return True
    return True


def _holds_anat(folder: Path) -> bool:
    visits = (folder / name for name in folder_names(folder) if name.lower().startswith("ses"))
    return any((place / "anat").is_dir() for place in (folder, *visits))


def unlisted(rows: Collection[str], existing: Collection[str]) -> Iterator[str]:
    """Compare ``participants.tsv`` with the folders, one line for each side."""
    lacking = sorted(set(rows) - set(existing))
    if rows and lacking:
        near = {
            label: nearest(label, set(existing) - set(rows), similar=True) for label in lacking[:3]
        }
        hints = {label: f" (did you mean sub-{other}?)" for label, other in near.items() if other}
        names = [f"sub-{label}{hints.get(label, '')}" for label in lacking]
        yield f"{counted(len(names), 'row')} without a folder: {listed(names)}"
    extra = [f"sub-{label}" for label in sorted(set(existing) - set(rows))]
    if rows and extra:
        yield f"{counted(len(extra), 'folder')} of participants without a row: {listed(extra)}"


def odd_names(subject: Path, sessions: Collection[str], suffixes: tuple[str, ...]) -> Iterator[Odd]:
    """Look for folders and files of a subject whose names are nearly those that are read."""
    names = sorted(folder_names(subject))
    for name in names:
        like = _LIKE_SESSION.match(name)
        if like and not _SESSION.fullmatch(name) and (subject / name).is_dir():
            label = re.sub(r"[^A-Za-z0-9+]", "", name[like.end() :])
            if not sessions or label in sessions:
                yield Odd(subject / name, f"the name is not BIDS; did you mean ses-{label}?", True)
    visits = [name for name in names if _SESSION.fullmatch(name)]
    for visit in [visit for visit in ("", *visits) if not sessions or visit[4:] in sessions]:
        place = subject / visit
        for name in sorted(folder_names(place)):
            if name.lower() in ("anat", "anatomy", "anatomical") and name != "anat":
                yield Odd(place / name, "the name is not BIDS; did you mean anat?", True)
            elif _right_stem(name, suffixes):
                yield Odd(place / name, "lies outside anat, where images are read; move it", True)
        here = folder_names(place / "anat")
        for name in sorted(here):
            if not name.endswith(NIFTI):
                yield from _odd_file(place / "anat" / name, here, suffixes)


def _right_stem(name: str, suffixes: tuple[str, ...]) -> str | None:
    """Return the stem that a file of any image format should have, if it is of a contrast."""
    stem, dot, extension = name.partition(".")
    before, _, suffix = stem.rpartition("_")
    right = suffix if suffix in suffixes else meant_suffix(suffix, suffixes)
    known = before.lower().startswith("sub") and FORMS.fullmatch(dot + extension)
    return f"{before}_{right}" if right and known else None


def _odd_file(path: Path, here: Collection[str], suffixes: tuple[str, ...]) -> Iterator[Odd]:
    """Tell of an image that is no NIfTI by its name."""
    if path.is_dir():
        inside = [name for name in folder_names(path) if _right_stem(name, suffixes)]
        if inside:
            yield Odd(path, "folders inside anat are not searched; move its images up", False)
        return
    stem = _right_stem(path.name, suffixes)
    if stem is None:
        return
    twin = next((stem + end for end in NIFTI if stem + end in here), None)
    end = path.name.partition(".")[2].lower()
    if twin:
        yield Odd(path, f"{twin} beside it is read", False)
    elif f".{end}" in NIFTI:
        yield Odd(path, f"the name is not BIDS; rename it to {stem}.{end}", True)
    elif end.startswith(("nii.gz.", "nii.")):
        yield Odd(path, f"not a whole NIfTI file; get or unpack {stem}.nii.gz", True)
    else:
        yield Odd(path, f"not a NIfTI file; convert it to {stem}.nii.gz", True)


def empty_subject(folder: Path, sessions: Collection[str], suffixes: tuple[str, ...]) -> str:
    """Say why a subject's folder gives no image, by what it holds instead."""
    names = sorted(folder_names(folder))
    visits = [name for name in names if _SESSION.fullmatch(name)]
    if sessions and visits and not any(visit[4:] in sessions for visit in visits):
        return f"none of the chosen sessions (found {listed(visits)})"
    places = [folder / visit for visit in ("", *visits) if not sessions or visit[4:] in sessions]
    inside = {name for place in places for name in folder_names(place)} - set(visits)
    found = sorted(name for name in inside if "." not in name)
    what = " or ".join(suffixes)
    if "anat" not in found:
        return f"no {what} image: no anat folder (found {listed(found) or 'nothing'})"
    images = (parse_name(n) for place in places for n in folder_names(place / "anat"))
    kinds = sorted({name.suffix for name in images if name and name.extension in NIFTI})
    return f"no {what} image in anat (found {listed(kinds) or 'no image'})"


def absent_subject(bids_dir: Path, label: str, existing: tuple[str, ...], listed: bool) -> str:
    """Say that a subject is not there, and which ones have a similar label."""
    close = [name for name in existing if name.lstrip("0").lower() == label.lstrip("0").lower()]
    close += difflib.get_close_matches(label, existing, n=3)
    hint = (
        f"did you mean {', '.join(dict.fromkeys(close))}?"
        if close
        else f"there are {_some(existing)}"
    )
    where = "only in participants.tsv, without a folder" if listed else "not there"
    return f"{bids_dir}: sub-{label} is {where}; {hint}"


def rename(name: Name | None, path: Path) -> str:
    """Suggest the name that an image should have."""
    if name is None:
        return "write sub-<label>[_ses-<label>][_acq-<label>][_run-<index>]_T1w.nii.gz"
    suffix = meant_suffix(name.suffix, CONTRASTS) or name.suffix
    extension = ".nii" if path.suffix == ".nii" else ".nii.gz"
    better = f"{name.stem.rpartition('_')[0]}_{suffix}{extension}"
    if better == path.name:
        return "its subject or session is not that of its folder: move or rename it"
    return f"rename it to {better}"


def nothing_found(
    query: Query,
    subjects: tuple[str, ...],
    existing: tuple[str, ...],
    paths: list[Path],
    reasons: list[str],
) -> str:
    """Say what was searched and what exists, in one line."""
    conditions = query.conditions()
    filters = "; ".join(f"{suffix}: {describe(asked)}" for suffix, asked in conditions.items())
    searched = (
        f"searched subjects {_some(subjects)}, sessions {_some(query.session_labels) or 'all'}, "
        f"images {'/'.join(query.suffixes)}, filters {filters}"
    )
    visits = {name.get("ses") for path in paths if (name := parse_name(path.name))}
    if not paths:
        visits = {
            entry.name.removeprefix("ses-")
            for label in subjects[:20]
            for entry in (query.bids_dir / f"sub-{label}").glob("ses-*")
        }
    seen = _some(sorted(filter(None, visits)))
    are = "is" if len(existing) == 1 else "are"
    there = f"there {are} {counted(len(existing), 'subject')}, sessions {seen or 'none'}"
    if reasons:
        there += f", and images were skipped: {'; '.join(reasons[:3])}"
    return f"{query.bids_dir}: no scan to work on; {searched}; {there}"


def _some(labels: tuple[str, ...] | list[str], most: int = 8) -> str:
    shown = ", ".join(labels[:most])
    return shown + (f" and {len(labels) - most} more" if len(labels) > most else "")
