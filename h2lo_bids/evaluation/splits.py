"""The folds of a cross-validation, and the files that hold them: ``splits.tsv``, or a user's."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2lo_bids.errors import BadDataError, MissingInputError, UsageError
from h2lo_bids.io import atomic_write_text, parse_json, read_text, table_rows

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
_ANY = (None, "", "n/a")
"""Contrast of a row that holds for every contrast."""

_Row = tuple[str | None, str, str, str]
"""Contrast, fold, subject and part, as written."""
_Parts = dict[str, list[str]]


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
    found: dict[str, list[_Row]] = {}
    for row in _read(path) if path.exists() else []:
        if row[0] in _ANY:
            raise BadDataError(f"{path}: has a row without contrast; run again to write it anew")
        found.setdefault(str(row[0]), []).append(row)
    return {
        contrast: tuple(_fold(path, index, parts) for index, parts in _by_fold(path, rows).items())
        for contrast, rows in found.items()
    }


def read_folds(path: Path, subjects: Sequence[str], contrast: str) -> tuple[Fold, ...]:
    """Read the folds of a contrast that a user gives, in the order of their numbers.

    Parameters
    ----------
    path
        A table as `write_splits` makes it; without its column ``contrast`` it
        holds for every contrast. Or a ``.json`` file: a list with one object per
        fold, whose ``validation`` and ``test`` list subjects; an object may hold
        such lists by contrast.
    subjects
        Labels of those with a pair. Where a fold names nobody to train on, all
        that it does not name do.
    contrast
        The contrast whose folds are wanted.

    Raises
    ------
    MissingInputError
        If the file cannot be read.
    BadDataError
        If it is not of such a form.
    UsageError
        If a subject is unknown or in two parts of a fold, or a part is empty.
    """
    rows = [row for row in _read(path, contrast) if row[0] in (*_ANY, contrast)]
    if not rows:
        raise UsageError(f"{path}: no folds for {contrast}; add them, or leave the contrast out")
    known = sorted(set(subjects))
    folds = []
    for index, parts in _by_fold(path, rows).items():
        for subject in (s for name in PARTS for s in parts[name] if s not in known):
            raise UsageError(
                f"{path}: fold {index}: sub-{subject} has no pair of this contrast; "
                "remove it from the file"
            )
        held = {*parts["validation"], *parts["test"]}
        parts["train"] = parts["train"] or [s for s in known if s not in held]
        for name in PARTS:
            if not parts[name]:
                raise UsageError(f"{path}: fold {index} has no {name} subject; list at least one")
        folds.append(_fold(path, index, parts))
    return tuple(folds)


def _read(path: Path, contrast: str = "") -> list[_Row]:
    try:
        text = read_text(path)
    except OSError as err:
        raise MissingInputError(
            f"{path}: cannot read the folds: {err.strerror}; give a .tsv or .json file"
        ) from err
    except ValueError as err:
        raise BadDataError(f"{path}: not a text file; give folds as .tsv or .json") from err
    if path.suffix.lower() == ".json":
        return [*_json_rows(path, text, contrast)]
    return [*_table_rows(path, text)]


def _by_fold(path: Path, rows: Iterable[_Row]) -> dict[int, _Parts]:
    folds: dict[int, _Parts] = {}
    for _, number, subject, part in rows:
        if not _NUMBER.fullmatch(number.strip()) or part not in PARTS:
            what = f"fold {number!r}, part {part!r}"
            raise BadDataError(f"{path}: {what}: a fold is a number, a part {', '.join(PARTS)}")
        parts = folds.setdefault(int(number), {name: [] for name in PARTS})
        parts[part].append(subject.strip().removeprefix("sub-"))
    return dict(sorted(folds.items()))


def _fold(path: Path, index: int, parts: _Parts) -> Fold:
    try:
        return Fold(index, *(tuple(sorted(parts[name])) for name in PARTS))
    except UsageError as err:
        raise UsageError(f"{path}: {err}") from err


def _table_rows(path: Path, text: str) -> Iterable[_Row]:
    missing = {*COLUMNS[1:]} - {*text.partition("\n")[0].strip("\r").split("\t")}
    if missing:
        raise BadDataError(
            f"{path}: no column {', '.join(sorted(missing))}; a table of folds has the "
            f"tab-separated columns {', '.join(COLUMNS[1:])}, and contrast where it matters"
        )
    try:
        for row in table_rows(text, quoting=csv.QUOTE_NONE):
            number, subject, part = (row[name].strip() for name in COLUMNS[1:])
            yield row.get("contrast"), number, subject, part
    except ValueError as err:
        raise BadDataError(f"{path}: not a table of folds: {err}; repair it") from err


def _json_rows(path: Path, text: str, contrast: str) -> Iterable[_Row]:
    try:
        content = parse_json(text)
    except ValueError as err:
        raise BadDataError(f"{path}: not JSON ({err}); repair it") from err
    folds = content.get(contrast, []) if isinstance(content, dict) else content
    wrong = f"{path}: not a list with one object of train, validation and test lists per fold"
    if not isinstance(folds, list):
        raise BadDataError(wrong)
    for number, fold in enumerate(folds):
        if not isinstance(fold, dict):
            raise BadDataError(wrong)
        for part in PARTS:
            if not _is_list_of_texts(listed := fold.get(part, [])):
                raise BadDataError(wrong)
            yield from ((None, str(fold.get("index", number)), subject, part) for subject in listed)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
