"""The folds of a cross-validation, and the files that hold them: ``splits.tsv``, or a user's."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from h2lo_bids.errors import BadDataError, MissingInputError, UsageError
from h2lo_bids.io import atomic_write_text, read_text, table_rows

PARTS = ("train", "validation", "test")
COLUMNS = ("contrast", "fold", "participant_id", "part")
_SIDECAR = {
    "contrast": {"Description": "Contrast of the pairs that are divided"},
    "fold": {"Description": "Fold of the cross-validation, counted from 0"},
    "participant_id": {"Description": "Subject"},
    "part": {
        "Description": "What the subject serves for in this fold",
        "Levels": {
            "train": "The model is fitted to its pairs",
            "validation": "Its pairs decide which weights are kept",
            "test": "Its pairs are scored",
        },
    },
}
_NUMBER = re.compile(r"\d{1,9}")
_ANY = ("", "n/a")
"""Contrast of a row that holds for every contrast."""


@dataclass(frozen=True)
class Fold:
    """One division of the subjects: sorted labels without ``sub-``, none of them twice."""

    index: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        listed = [s for part in PARTS for s in getattr(self, part)]
        twice = sorted({s for s in listed if listed.count(s) > 1})
        if twice:
            raise UsageError(f"fold {self.index}: sub-{twice[0]} is listed twice; list it once")


def write_splits(path: Path, splits: Mapping[str, Sequence[Fold]]) -> Path:
    """Write folds by contrast as a table with a JSON sidecar; the same folds, the same bytes."""
    rows = [
        (contrast, str(fold.index), f"sub-{subject}", part)
        for contrast in sorted(splits)
        for fold in sorted(splits[contrast], key=lambda f: f.index)
        for part in PARTS
        for subject in sorted(getattr(fold, part))
    ]
    atomic_write_text(path, "".join("\t".join(row) + "\n" for row in (COLUMNS, *rows)))
    atomic_write_text(path.with_suffix(".json"), json.dumps(_SIDECAR, indent=2) + "\n")
    return path


def read_splits(path: Path) -> dict[str, tuple[Fold, ...]]:
    """Read the folds by contrast that `write_splits` wrote; an absent file is empty."""
    found = _read(path) if path.exists() else {}
    if "" in found:
        raise BadDataError(f"{path}: has a row without contrast; run again to write it anew")
    return {
        contrast: tuple(_fold(path, index, parts) for index, parts in sorted(folds.items()))
        for contrast, folds in found.items()
    }


def read_folds(path: Path, subjects: Sequence[str], contrast: str) -> tuple[Fold, ...]:
    """Read the folds of a contrast that a user gives, in the order of their numbers.

    The table is as `write_splits` makes it; without its column ``contrast`` it holds for every
    contrast. Where a fold names nobody to train on, all of `subjects` that it does not name do.
    """
    folds = _read(path, contrast).get(contrast, {})
    if not folds:
        raise UsageError(f"{path}: no folds for {contrast}; add them, or leave the contrast out")
    for index, parts in folds.items():
        for subject in (s for name in PARTS for s in parts[name] if s not in subjects):
            raise UsageError(
                f"{path}: fold {index}: sub-{subject} has no pair of this contrast; "
                "remove it from the file"
            )
        held = {*parts["validation"], *parts["test"]}
        parts["train"] = parts["train"] or [s for s in sorted({*subjects}) if s not in held]
        for name in PARTS:
            if not parts[name]:
                raise UsageError(f"{path}: fold {index} has no {name} subject; list at least one")
    return tuple(_fold(path, index, parts) for index, parts in sorted(folds.items()))


def _read(path: Path, every: str = "") -> dict[str, dict[int, dict[str, list[str]]]]:
    """Read the labels by contrast, fold and part; rows for every contrast are those of `every`."""
    try:
        text = read_text(path)
        rows = list(table_rows(text, quoting=csv.QUOTE_NONE))
    except OSError as err:
        raise MissingInputError(
            f"{path}: cannot read the folds: {err.strerror}; give a .tsv file"
        ) from err
    except ValueError as err:
        raise BadDataError(f"{path}: not a table of folds: {err}; repair it") from err
    missing = {*COLUMNS[1:]} - {*text.partition("\n")[0].strip("\r").split("\t")}
    if missing:
        raise BadDataError(
            f"{path}: no column {', '.join(sorted(missing))}; a table of folds has the "
            f"tab-separated columns {', '.join(COLUMNS[1:])}, and contrast where it matters"
        )
    found: dict[str, dict[int, dict[str, list[str]]]] = {}
    for row in rows:
        number, subject, part = (row[name].strip() for name in COLUMNS[1:])
        if not _NUMBER.fullmatch(number) or part not in PARTS:
            what = f"fold {number!r}, part {part!r}"
            raise BadDataError(f"{path}: {what}: a fold is a number, a part {', '.join(PARTS)}")
        contrast = row.get("contrast", "")
        folds = found.setdefault(every if contrast in _ANY else contrast, {})
        parts = folds.setdefault(int(number), {name: [] for name in PARTS})
        parts[part].append(subject.removeprefix("sub-"))
    return found


def _fold(path: Path, index: int, parts: Mapping[str, Sequence[str]]) -> Fold:
    try:
        return Fold(index, *(tuple(sorted(parts[name])) for name in PARTS))
    except UsageError as err:
        raise UsageError(f"{path}: {err}") from err
