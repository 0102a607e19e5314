"""Divisions against what they promise, and the authors' against their list."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from h2lo_bids.errors import BadDataError, H2loError, MissingInputError, UsageError
from h2lo_bids.evaluation.splits import (
    Fold,
    check_together,
    ds006557_folds,
    hold_out,
    make_folds,
    read_folds,
    read_splits,
    write_splits,
)

HYPE = [f"HYPE{n:02d}" for n in range(23)]


def labels(count: int) -> list[str]:
    return [f"s{n:03d}" for n in range(count)]


def check(folds: tuple[Fold, ...], subjects: list[str]) -> None:
    assert [f.index for f in folds] == list(range(len(folds)))
    for fold in folds:
        parts = [set(fold.train), set(fold.validation), set(fold.test)]
        assert all(parts)
        assert set.union(*parts) == set(subjects)
        assert sum(map(len, parts)) == len(subjects)
        assert all(list(p) == sorted(set(p)) for p in (fold.train, fold.validation, fold.test))


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 40), st.integers(2, 12), st.integers(0, 9))
def test_disjoint_test_sets_cover_everybody_once(count: int, k: int, seed: int) -> None:
    held = -(-count // k)
    validation = max(1, round(count / 10))
    assume(k <= count and count - held - validation >= 1)
    folds = make_folds(labels(count), folds=k, seed=seed)
    check(folds, labels(count))
    assert sorted(s for f in folds for s in f.test) == labels(count)
    sizes = {len(f.test) for f in folds}
    assert max(sizes) - min(sizes) <= 1
    assert {len(f.validation) for f in folds} == {validation}
    assert folds == make_folds(labels(count)[::-1], folds=k, seed=seed)


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 30), st.integers(1, 8), st.integers(1, 10), st.integers(1, 5))
def test_overlapping_test_sets_are_balanced(count: int, k: int, test: int, val: int) -> None:
    assume(count - test - val >= 1)
    folds = make_folds(labels(count), folds=k, test=test, validation=val, seed=1)
    check(folds, labels(count))
    assert {len(f.test) for f in folds} == {test}
    assert {len(f.validation) for f in folds} == {val}
    tested = Counter(s for f in folds for s in f.test)
    times = [tested[s] for s in labels(count)]
    assert max(times) - min(times) <= 1


@pytest.mark.parametrize(
    ("count", "values", "remedy"),
    [
        (4, {"folds": 5}, "5 folds of 1 to test, 1 to validate"),
        (3, {"folds": 2}, "2 folds of 2 to test, 1 to validate"),
        (9, {"folds": 3, "test": 7, "validation": 2}, "cross-validate nothing), --val-count or "),
    ],
)
def test_too_few_subjects_is_one_line(refused, count: int, values: dict, remedy: str) -> None:
    assert remedy in refused(UsageError, make_folds, labels(count), seed=1, **values)


@pytest.mark.parametrize("test", [None, 2])
@pytest.mark.parametrize("seed", range(4))
def test_one_person_stays_on_one_side(test: int | None, seed: int) -> None:
    people, same = labels(9), [("s000", "s004", "s007"), ("s002", "s003")]
    folds = make_folds(people, folds=3, test=test, seed=seed, same=same)
    check(folds, people)
    for fold in folds:
        parts = [{*fold.train}, {*fold.validation}, {*fold.test}]
        assert all(any({*group} <= part for part in parts) for group in same)
    if test is None:
        assert sorted(s for fold in folds for s in fold.test) == people
    held = hold_out(people, validation=4, seed=seed, same=same)
    assert all({*group} <= {*held} or not {*group} & {*held} for group in same)
    check_together(folds, same)


def test_one_person_under_two_names_is_one_subject_whom_no_folds_divide(refused) -> None:
    both = {"subjects": ["a", "b"], "same": [("a", "b")]}
    line = refused(UsageError, hold_out, **both)
    assert line.endswith("cannot be divided into 1 to validate and others to train; add pairs")
    line = refused(UsageError, make_folds, folds=5, **both)
    assert "1 subject with pairs cannot make 5 folds" in line
    folds = (Fold(0, ("a", "b"), ("c",), ("d",)), Fold(1, ("a", "c"), ("b",), ("d",)))
    check_together(folds, [("c", "x")])  # x is in no part
    line = refused(UsageError, check_together, folds, [("a", "b")])
    assert "fold 1: sub-a (train) and sub-b (validation) have" in line


def test_the_authors_folds_literally() -> None:
    validation = ["14 15", "19 22", "01 08", "01 13", "15 18"]
    test = [
        "16 17 18 19 20 21 22", "04 07 08 12 13 18 21", "02 04 05 06 11 19 21",
        "06 07 08 11 15 19 22", "01 02 06 07 10 13 14",
    ]  # fmt: skip
    for contrast, everybody in (("T2w", HYPE), ("T1w", [h for h in HYPE if h != "HYPE06"])):
        notes: list[str] = []
        folds = ds006557_folds(everybody, contrast, notes.append)
        assert notes == []
        check(folds, everybody)
        for fold, v, t in zip(folds, validation, test, strict=True):
            assert fold.validation == tuple(f"HYPE{n}" for n in v.split())
            assert fold.test == tuple(
                f"HYPE{n}" for n in t.split() if contrast == "T2w" or n != "06"
            )


def test_the_authors_folds_with_other_subjects(refused) -> None:
    notes: list[str] = []
    folds = ds006557_folds([h for h in HYPE if h not in ("HYPE00", "HYPE20")], "T1w", notes.append)
    told = ("HYPE00, HYPE20 (no pair)", "HYPE06 (not in the authors' T1w list)")
    assert notes == [f"T1w: not in the authors' folds: {who}" for who in told]
    assert folds[0].test == ("HYPE16", "HYPE17", "HYPE18", "HYPE19", "HYPE21", "HYPE22")
    bare = ds006557_folds([str(n) for n in range(23)], "T2w")
    assert bare[2].validation == ("1", "8")
    for subjects, complaint in (
        ([*HYPE, "X1"], "sub-X1 is not one of that dataset's subjects"),
        (HYPE[:16], "fold 0 of T1w has no test subject among the 16"),
        (["HYPE07", "7"], "two subjects have one number"),
    ):
        assert complaint in refused(UsageError, ds006557_folds, subjects, "T1w")


def test_splits_come_back(tmp_path: Path) -> None:
    splits = {
        "T2w": make_folds(labels(9), folds=3, seed=4),
        "T1w": make_folds(labels(7), folds=2, test=3, seed=4),
    }
    path = write_splits(tmp_path / "splits.tsv", splits)
    before = path.read_bytes()
    heads = before.decode().splitlines()[0].split("\t")
    assert heads == ["contrast", "fold", "participant_id", "part"]
    assert set(json.loads((tmp_path / "splits.json").read_text())) == set(heads)
    for contrast, folds in splits.items():
        people = labels(9 if contrast == "T2w" else 7)
        assert read_folds(path, people, contrast) == folds
    assert read_splits(path) == splits
    assert read_splits(tmp_path / "absent.tsv") == {}
    write_splits(path, dict(reversed(splits.items())))
    assert path.read_bytes() == before


def test_other_forms_of_folds(tmp_path: Path, refused) -> None:
    table = tmp_path / "folds.tsv"
    table.write_text("fold\tpart\tparticipant_id\n0\tvalidation\ta\n0\ttest\tsub-b\n")
    expected = (Fold(0, ("c", "d"), ("a",), ("b",)),)
    assert read_folds(table, ["a", "b", "c", "d"], "T1w") == expected
    # Rows without a contrast are of every contrast, beside those that have one.
    table.write_text(
        "contrast\tfold\tpart\tparticipant_id\nn/a\t0\tvalidation\ta\nT1w\t0\ttest\tsub-b\n"
        "T2w\t1\ttest\td\n"
    )
    assert read_folds(table, ["a", "b", "c", "d"], "T1w") == expected
    line = refused(UsageError, read_folds, table, ["a", "b", "c", "d"], "T2w")
    assert "fold 0 has no test subject" in line
    assert "has a row without contrast" in refused(BadDataError, read_splits, table)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ("0 train a|0 test b|0 validation b", "fold 0: sub-b is listed twice"),
        ("0 train a|0 test b|0 validation x", "sub-x has no T1w pair; remove it from the file, or"),
        ("0 train a|0 test b", "fold 0 has no validation subject"),
        ("0 test a|0 test b|0 validation c|0 validation d", "fold 0 has no train subject"),
        ("x train a", "fold 'x', part 'train'"),
        ("0 val a", "fold '0', part 'val'"),
        ("", "no folds for T1w"),
    ],
)
def test_complaints_about_folds_are_one_line(tmp_path, refused, rows, complaint) -> None:
    path = tmp_path / "f.tsv"
    lines = ["fold part participant_id", *rows.split("|")]
    path.write_text("".join("\t".join(line.split()) + "\n" for line in lines))
    line = refused(H2loError, read_folds, path, ["a", "b", "c", "d"], "T1w")
    assert line.startswith(str(path))
    assert complaint in line


def test_files_that_are_no_folds(tmp_path: Path, refused) -> None:
    path = tmp_path / "f.tsv"
    for content in (b"fold\tsubject\n", b"", b"\xff\xfe\x00"):
        path.write_bytes(content)
        assert str(path) in refused(BadDataError, read_folds, path, ["a"], "T1w")
    refused(MissingInputError, read_folds, tmp_path / "absent.tsv", ["a"], "T1w")
