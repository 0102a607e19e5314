"""The file of a cross-validation's folds: ``splits.tsv``, or one that a user gives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from h2lo_bids.errors import BadDataError, MissingInputError, UsageError
from h2lo_bids.io import atomic_write_text, parse_json, read_text, table_rows
from h2lo_bids.training.folds import PARTS, Fold

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
_Row = tuple[str, str, str]
"""Fold, subject, part, as written."""


def write_splits(path: str | Path, splits: Mapping[str, Sequence[Fold]]) -> Path:
    """Write folds as a table with a JSON sidecar; the same folds give the same bytes.

    Parameters
    ----------
    path
        The ``.tsv`` file; the sidecar is its neighbour.
    splits
        Folds by contrast.

    Returns
    -------
    Path
        The table.
    """
    path = Path(path)
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


def read_folds(path: str | Path, subjects: Sequence[str], contrast: str) -> tuple[Fold, ...]:
    """Read folds that a user gives.

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

    Returns
    -------
    tuple of Fold
        In the order of their numbers.

    Raises
    ------
    MissingInputError
        If the file cannot be read.
    BadDataError
        If it is not of such a form.
    UsageError
        If a subject is unknown or in two parts of a fold, or a part is empty.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except OSError as err:
        raise MissingInputError(
            f"{path}: cannot read the folds: {err.strerror}; give a .tsv or .json file"
        ) from err
    except ValueError as err:
        raise BadDataError(f"{path}: not a text file; give folds as .tsv or .json") from err
    read = _json_rows if path.suffix.lower() == ".json" else _table_rows
    parts: dict[int, dict[str, list[str]]] = {}
    for number, subject, part in read(path, text, contrast):
        if not _NUMBER.fullmatch(number.strip()) or part not in PARTS:
            what = f"fold {number!r}, part {part!r}"
            raise BadDataError(f"{path}: {what}: a fold is a number, a part {', '.join(PARTS)}")
        found = parts.setdefault(int(number), {name: [] for name in PARTS})
        found[part].append(subject.strip().removeprefix("sub-"))
    if not parts:
        raise UsageError(f"{path}: no folds for {contrast}; add them, or leave the contrast out")
    return tuple(_check(path, k, parts[k], sorted(set(subjects))) for k in sorted(parts))


def _check(path: Path, index: int, parts: dict[str, list[str]], known: Sequence[str]) -> Fold:
    for name in PARTS:
        for subject in parts[name]:
            if subject not in known:
                raise UsageError(
                    f"{path}: fold {index}: sub-{subject} has no pair of this contrast; "
                    "remove it from the file"
                )
    held = {*parts["validation"], *parts["test"]}
    parts["train"] = parts["train"] or [s for s in known if s not in held]
    for name in PARTS:
        if not parts[name]:
            raise UsageError(f"{path}: fold {index} has no {name} subject; list at least one")
    try:
        return Fold(index, *(tuple(sorted(parts[name])) for name in PARTS))
    except UsageError as err:
        raise UsageError(f"{path}: {err}") from err


def _table_rows(path: Path, text: str, contrast: str) -> Iterable[_Row]:
    missing = {*COLUMNS[1:]} - {*text.partition("\n")[0].strip("\r").split("\t")}
    if missing:
        raise BadDataError(
            f"{path}: no column {', '.join(sorted(missing))}; a table of folds has the "
            f"tab-separated columns {', '.join(COLUMNS[1:])}, and contrast where it matters"
        )
    try:
        for row in table_rows(text):
            if row.get("contrast") in (None, "", "n/a", contrast):
                yield tuple(row[name].strip() for name in COLUMNS[1:])  # type: ignore[misc]
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
        yield from _json_fold(number, fold, wrong)


def _json_fold(number: int, fold: dict[str, Any], wrong: str) -> Iterable[_Row]:
    for part in PARTS:
        listed = fold.get(part, [])
        if not isinstance(listed, list) or not all(isinstance(s, str) for s in listed):
            raise BadDataError(wrong)
        yield from ((str(fold.get("index", number)), subject, part) for subject in listed)
