"""What to tell a user when a search comes back empty-handed."""

from __future__ import annotations

import difflib
from pathlib import Path

from h2lo_bids.bids.filters import describe
from h2lo_bids.bids.names import Name, parse_name
from h2lo_bids.bids.query import Query


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
    return f"{bids_dir}: subject {label} is {where}; {hint}"


def rename(name: Name | None, path: Path) -> str:
    """Suggest the name that an image should have."""
    if name is None:
        return "write sub-<label>[_ses-<label>][_acq-<label>][_run-<index>]_T1w.nii.gz"
    suffix = {"t1w": "T1w", "t2w": "T2w"}.get(name.suffix.lower(), name.suffix)
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
    there = f"there are {len(existing)} subjects, sessions {seen or 'none'}"
    if reasons:
        there += f", and images were left out: {'; '.join(reasons[:3])}"
    return f"{query.bids_dir}: no scan to work on; {searched}; {there}"


def _some(labels: tuple[str, ...] | list[str], most: int = 8) -> str:
    shown = ", ".join(labels[:most])
    return shown + (f" and {len(labels) - most} more" if len(labels) > most else "")
