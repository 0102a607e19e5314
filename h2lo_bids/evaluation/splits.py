"""The folds of a cross-validation: how subjects are divided, and the tables that hold them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids.errors import BadDataError, MissingInputError, UsageError
from h2lo_bids.evaluation.catalogue import columns_of, write_table
from h2lo_bids.io import read_text, table_rows
from h2lo_bids.vocabulary import CONTRASTS, Say
from h2lo_bids.wording import counted

PARTS = ("train", "validation", "test")
COLUMNS = ("fold", "participant_id", "part")
_NUMBER = re.compile(r"\d{1,9}")
_ANY = ("", "n/a")
"""Contrast of a row that holds for every contrast."""
AUTHORS = "ds006557"
"""The dataset whose folds the authors published."""

_AUTHORS_SUBJECTS = range(23)
_AUTHORS_FOLDS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((14, 15), (16, 17, 18, 19, 20, 21, 22)),
    ((19, 22), (4, 7, 8, 12, 13, 18, 21)),
    ((1, 8), (2, 4, 5, 6, 11, 19, 21)),
    ((1, 13), (6, 7, 8, 11, 15, 19, 22)),
    ((15, 18), (1, 2, 6, 7, 10, 13, 14)),
)
"""Validation and test subjects in the authors' release, whose test sets overlap."""
_AUTHORS_LACK: Mapping[str, frozenset[int]] = {"T1w": frozenset({6})}


@dataclass(frozen=True)
class Fold:
    """One division of the subjects: sorted labels without ``sub-``, none of them twice."""

    index: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def recorded(self) -> dict[str, Any]:
        """The fold as records have it, JSON."""
        return {"index": self.index, **{part: list(getattr(self, part)) for part in PARTS}}

    @classmethod
    def of(cls, index: int, *parts: Iterable[str]) -> Fold:
        """Return a fold of parts in any order."""
        return cls(index, *(tuple(sorted(part)) for part in parts))


def make_folds(
    subjects: Sequence[str],
    *,
    folds: int,
    validation: int | None = None,
    test: int | None = None,
    seed: int = 42,
    same: Sequence[Sequence[str]] = (),
) -> tuple[Fold, ...]:
    """Divide subjects, or people, at random, the same way for the same seed and labels."""
    # With a number of them to test, test sets may overlap, as the authors' do.
    people = _people(subjects, same)
    names = np.array(sorted(people), dtype=object)
    validation = max(1, round(len(names) / 10)) if validation is None else validation
    # The largest of nearly equal test sets.
    largest = -(-len(names) // folds) if test is None else test
    if not (validation + largest < len(names) and (test is not None or folds <= len(names))):
        raise UsageError(
            f"{counted(len(names), 'subject')} with pairs cannot make {counted(folds, 'fold')} of "
            f"{largest} to test, {validation} to validate and others to train; add pairs, or "
            "change --folds (group: 0 to cross-validate nothing), --val-count or --test-count"
        )
    rng = np.random.default_rng([seed, len(names)])
    if test is None:
        tests = [set(part) for part in np.array_split(rng.permutation(names), folds)]
    else:
        tests = _balanced([list(names)] * folds, test, rng)
    rest = [[name for name in names if name not in held] for held in tests]
    validations = _balanced(rest, validation, rng)
    parts = zip(rest, validations, tests, strict=True)
    return tuple(
        Fold.of(k, *(_labels(people, part) for part in (set(r) - v, v, t)))
        for k, (r, v, t) in enumerate(parts)
    )


def _people(subjects: Sequence[str], same: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return all labels of each person under the first of them."""
    known = set(subjects)
    groups = [own for group in same if (own := tuple(sorted(known & set(group))))]
    alone = known.difference(*groups)
    return {**{name: (name,) for name in alone}, **{group[0]: group for group in groups}}


def _labels(people: dict[str, tuple[str, ...]], names: Iterable[str]) -> set[str]:
    return {label for name in names for label in people[name]}


def check_together(folds: Sequence[Fold], same: Sequence[Sequence[str]]) -> None:
    """Refuse folds in which one person is in two parts."""
    for fold in folds:
        part_of = {label: part for part in PARTS for label in getattr(fold, part)}
        for group in same:
            first, *others = [label for label in group if label in part_of] or [""]
            for other in others:
                if part_of[other] != part_of[first]:
                    raise UsageError(
                        f"fold {fold.index}: sub-{first} ({part_of[first]}) and sub-{other} "
                        f"({part_of[other]}) have the same high-field image; put them in one part "
                        "of every fold, or remove one from the dataset"
                    )


def hold_out(
    subjects: Sequence[str],
    *,
    validation: int | None = None,
    seed: int = 42,
    same: Sequence[Sequence[str]] = (),
    seen: Collection[str] = (),
) -> tuple[str, ...]:
    """Draw the subjects that choose the weights of a model without cross-validation.

    Those whom its first weights have `seen`, and look too well on, are left to train where
    others are enough.
    """
    people = _people(subjects, same)
    names = sorted(people)
    validation = max(1, round(len(names) / 10)) if validation is None else validation
    if validation >= len(names):
        raise UsageError(
            f"{counted(len(names), 'subject')} with pairs cannot be divided into {validation} to "
            f"validate and others to train; add pairs{', or change --val-count' * (validation > 1)}"
        )
    fresh = [name for name in names if not {*people[name]} & {*seen}]
    names = fresh if len(fresh) >= validation else names
    drawn = np.random.default_rng([seed, len(names)]).choice(len(names), validation, replace=False)
    return tuple(sorted(_labels(people, (names[i] for i in drawn))))


def ds006557_folds(
    subjects: Sequence[str], contrast: str, note: Say | None = None
) -> tuple[Fold, ...]:
    """Return the authors' five folds of ds006557."""
    labels = {_authors_number(label): label for label in sorted(set(subjects))}
    if len(labels) < len(set(subjects)):
        raise UsageError(f"two subjects have one number of {AUTHORS}; use --folds K or a file")
    lacking = _AUTHORS_LACK.get(contrast, frozenset())
    absent = [n for n in _AUTHORS_SUBJECTS if n not in labels and n not in lacking]
    dropped = sorted(lacking & labels.keys())
    for numbers, why in ((absent, "no pair"), (dropped, f"not in the authors' {contrast} list")):
        if numbers and note:
            listed = ", ".join(f"HYPE{n:02d}" for n in numbers)
            note(f"{contrast}: not in the authors' folds: {listed} ({why})")
    folds = []
    for index, (validation, test) in enumerate(_AUTHORS_FOLDS):
        train = [n for n in _AUTHORS_SUBJECTS if n not in (*validation, *test)]
        parts = [
            {labels[n] for n in part if n in labels and n not in lacking}
            for part in (train, validation, test)
        ]
        for name, part in zip(PARTS, parts, strict=True):
            if not part:
                raise UsageError(
                    f"--folds {AUTHORS}: fold {index} of {contrast} has no {name} subject among "
                    f"the {len(labels)} with a pair; use --folds K or a file"
                )
        folds.append(Fold.of(index, *parts))
    return tuple(folds)


def _authors_number(label: str) -> int:
    found = re.fullmatch(r"(?:sub-)?(?:HYPE)?(\d{1,2})", label)
    if not found or int(found[1]) not in _AUTHORS_SUBJECTS:
        raise UsageError(
            f"--folds {AUTHORS}: sub-{label} is not one of that dataset's subjects "
            "(HYPE00 to HYPE22); use --folds K or a file"
        )
    return int(found[1])


def _balanced(
    candidates: Sequence[Sequence[str]], count: int, rng: np.random.Generator
) -> list[set[str]]:
    """Draw from each list those drawn least often so far, ties at random."""
    used: Counter[str] = Counter()
    drawn = []
    for names in candidates:
        order = sorted(rng.permutation(len(names)), key=lambda i: used[names[i]])
        drawn.append({names[i] for i in order[:count]})
        used.update(drawn[-1])
    return drawn


def write_splits(path: Path, splits: Mapping[str, Sequence[Fold]]) -> Path:
    """Write folds by contrast as a table with a JSON sidecar; the same folds, the same bytes."""
    rows = [
        (contrast, fold.index, f"sub-{subject}", part)
        for contrast in sorted(splits)
        for fold in sorted(splits[contrast], key=lambda f: f.index)
        for part in PARTS
        for subject in sorted(getattr(fold, part))
    ]
    return write_table(path, rows, columns_of("splits"))


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
    """Read the folds of a contrast that a user gives, in the order of their numbers."""
    # Where a fold names nobody to train on, all of `subjects` that it does not name do.
    folds = _read(path, contrast).get(contrast, {})
    if not folds:
        raise UsageError(f"{path}: no folds for {contrast}; add them, or leave the contrast out")
    for index, parts in folds.items():
        for subject in (s for name in PARTS for s in parts[name] if s not in subjects):
            raise UsageError(
                f"{path}: fold {index}: sub-{subject} has no {contrast} pair; remove it from the "
                "file, or give each contrast rows of its own by a column contrast"
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
    missing = set(COLUMNS) - {*text.partition("\n")[0].strip("\r").split("\t")}
    if missing:
        raise BadDataError(
            f"{path}: no column {', '.join(sorted(missing))}; a table of folds has the "
            f"tab-separated columns {', '.join(COLUMNS)}, and contrast where it matters"
        )
    found: dict[str, dict[int, dict[str, list[str]]]] = {}
    for row in rows:
        number, subject, part = (row[name].strip() for name in COLUMNS)
        if not _NUMBER.fullmatch(number) or part not in PARTS:
            what = f"fold {number!r}, part {part!r}"
            raise BadDataError(f"{path}: {what}: a fold is a number, a part {', '.join(PARTS)}")
        contrast = row.get("contrast", "").strip()
        if contrast not in (*_ANY, *CONTRASTS):  # whom it holds out would be trained on unnoticed
            raise BadDataError(
                f"{path}: contrast {contrast!r}: a contrast is {', '.join(CONTRASTS)} or {_ANY[1]}"
            )
        folds = found.setdefault(every if contrast in _ANY else contrast, {})
        parts = folds.setdefault(int(number), {name: [] for name in PARTS})
        parts[part].append(subject.removeprefix("sub-"))
    return found


def _fold(path: Path, index: int, parts: Mapping[str, Sequence[str]]) -> Fold:
    listed = sorted(s for name in PARTS for s in parts[name])
    for subject, following in pairwise(listed):
        if subject == following:
            raise UsageError(f"{path}: fold {index}: sub-{subject} is listed twice; list it once")
    return Fold.of(index, *(parts[name] for name in PARTS))
