"""Dividing subjects into those who train, who validate and who test."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from h2lo_bids.errors import UsageError
from h2lo_bids.evaluation.splits import PARTS, Fold
from h2lo_bids.vocabulary import Say
from h2lo_bids.wording import counted

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


def make_folds(
    subjects: Sequence[str],
    *,
    folds: int,
    validation: int | None = None,
    test: int | None = None,
    seed: int = 42,
    same: Sequence[Sequence[str]] = (),
) -> tuple[Fold, ...]:
    """Divide subjects at random, the same way for the same seed and labels.

    Without `test` all subjects are divided into disjoint test sets of nearly equal size; with a
    number, test sets may overlap, as the authors' do, and each subject tests equally often, or
    once more. `validation` subjects choose the weights in each fold; None takes a tenth, at least
    one. Labels of a group in `same` are one person, who stays together and counts once.
    """
    people = _people(subjects, same)
    names = np.array(sorted(people), dtype=object)
    validation = max(1, round(len(names) / 10)) if validation is None else validation
    # The largest of nearly equal test sets.
    largest = -(-len(names) // folds) if test is None else test
    if not (validation + largest < len(names) and (test is not None or folds <= len(names))):
        raise UsageError(
            f"{counted(len(names), 'subject')} with pairs cannot make {counted(folds, 'fold')} of "
            f"{largest} to test, {validation} to validate and others to train; add pairs, or "
            "change --folds, --val-count or --test-count"
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
        _fold(k, *(_labels(people, part) for part in (set(r) - v, v, t)))
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
) -> tuple[str, ...]:
    """Draw the subjects that choose the weights of a model without cross-validation."""
    people = _people(subjects, same)
    names = sorted(people)
    validation = max(1, round(len(names) / 10)) if validation is None else validation
    if validation >= len(names):
        raise UsageError(
            f"{counted(len(names), 'subject')} with pairs cannot be divided into {validation} to "
            "validate and others to train; add pairs, or change --val-count"
        )
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
    dropped = [n for n in sorted(lacking) if n in labels]
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
        folds.append(_fold(index, *parts))
    return tuple(folds)


def _authors_number(label: str) -> int:
    found = re.fullmatch(r"(?:sub-)?(?:HYPE)?(\d{1,2})", label)
    if not found or int(found[1]) not in _AUTHORS_SUBJECTS:
        raise UsageError(
            f"--folds {AUTHORS}: sub-{label} is not one of that dataset's subjects "
            "(HYPE00 to HYPE22); use --folds K or a file"
        )
    return int(found[1])


def _fold(index: int, train: set[str], validation: set[str], test: set[str]) -> Fold:
    return Fold(index, *(tuple(sorted(part)) for part in (train, validation, test)))


def _balanced(
    candidates: Sequence[Sequence[str]], count: int, rng: np.random.Generator
) -> list[set[str]]:
    """Draw from each list those drawn least often so far, ties at random."""
    used: dict[str, int] = {}
    drawn = []
    for names in candidates:
        order = sorted(rng.permutation(len(names)), key=lambda i: used.get(names[i], 0))
        chosen = {names[i] for i in order[:count]}
        used |= {name: used.get(name, 0) + 1 for name in chosen}
        drawn.append(chosen)
    return drawn
