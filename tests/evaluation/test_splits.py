"""Divisions against what they promise, and the authors' against their list."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from h2lo_bids.errors import BadDataError, H2loError, UsageError
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
        parts = [fold.train, fold.validation, fold.test]
        assert all(parts)
        assert sorted(itertools.chain(*parts)) == sorted(subjects)
        assert [list(p) for p in parts] == [sorted(p) for p in parts]


@settings(max_examples=60, deadline=None)
@given(
    *(st.integers(3, 40), st.integers(1, 12), st.none() | st.integers(1, 10)),
    *(st.none() | st.integers(1, 5), st.integers(0, 9)),
)
def test_folds_divide_everybody_and_test_each_as_often(count, k, test, validation, seed) -> None:
    people = labels(count)
    most = -(-count // k) if test is None else test
    validate = max(1, round(count / 10)) if validation is None else validation
    assume(count - most - validate >= 1 and (test or k <= count))
    how = {"folds": k, "test": test, "validation": validation, "seed": seed}
    folds = make_folds(people, **how)
    check(folds, people)
    assert {len(f.validation) for f in folds} == {validate}
    sizes = {len(f.test) for f in folds}
    assert max(sizes) - min(sizes) <= (1 if test is None else 0)
    tested = Counter(s for f in folds for s in f.test)  # in sets that overlap where `test` is given
    times = {tested[s] for s in people}
    assert times == {1} if test is None else max(times) - min(times) <= 1
    assert folds == make_folds(people[::-1], **how)


@pytest.mark.parametrize("test", [None, 2])
def test_one_person_stays_on_one_side(test: int | None) -> None:
    people, same = labels(9), [("s000", "s004", "s007"), ("s002", "s003")]
    for seed in range(4):
        folds = make_folds(people, folds=3, test=test, seed=seed, same=same)
        check(folds, people)
        held = hold_out(people, validation=4, seed=seed, same=same)
        check_together((*folds, Fold(3, (*{*people} - {*held},), held, ())), same)


def test_one_person_under_two_names_is_one_subject_whom_no_folds_divide(refused) -> None:
    both = {"subjects": ["a", "b"], "same": [("a", "b")]}
    line = refused(UsageError, hold_out, **both)
    assert line.endswith("cannot be divided into 1 to validate and others to train; add pairs")
    line = refused(UsageError, make_folds, folds=5, **both)
    assert "1 subject with pairs cannot make 5 folds" in line
    line = refused(UsageError, make_folds, labels(3), folds=2)
    assert "2 folds of 2 to test, 1 to validate" in line
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
        for fold, *parts in zip(folds, validation, test, strict=True):
            shown = [[f"HYPE{n}" for n in part.split()] for part in parts]
            wanted = [tuple(who for who in part if who in everybody) for part in shown]
            assert [fold.validation, fold.test] == wanted


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
    two, three = make_folds(labels(7), folds=2, test=3), make_folds(labels(9), folds=3)
    path = write_splits(tmp_path / "splits.tsv", {"T2w": three, "T1w": two})
    before = path.read_bytes()
    assert read_folds(path, labels(9), "T2w") == three
    assert read_splits(path) == {"T1w": two, "T2w": three}
    assert read_splits(tmp_path / "absent.tsv") == {}
    write_splits(path, {"T1w": two, "T2w": three[::-1]})
    assert path.read_bytes() == before


def test_other_forms_of_folds(tmp_path: Path, refused) -> None:
    table, people = tmp_path / "folds.tsv", ["a", "b", "c", "d"]
    expected = (Fold(0, ("c", "d"), ("a",), ("b",)),)
    table.write_text("fold\tpart\tparticipant_id\n0\tvalidation\ta\n0\ttest\tsub-b\n")
    assert read_folds(table, people, "T1w") == expected
    # Rows without a contrast are of every contrast, beside those that have one.
    rows = "n/a\t0\tvalidation\ta\nT1w \t0\ttest\tsub-b\n"
    table.write_text("contrast\tfold\tpart\tparticipant_id\n" + rows)
    assert read_folds(table, people, "T1w") == expected
    assert "fold 0 has no test subject" in refused(UsageError, read_folds, table, people, "T2w")
    assert "has a row without contrast" in refused(BadDataError, read_splits, table)
    table.write_text(table.read_text().replace("T1w", "t1w"))  # or b would be trained on
    assert "'t1w': a contrast is T1w, T2w or n/a" in refused(
        BadDataError, read_folds, table, people, "T1w"
    )


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ("0 train a|0 test b|0 validation b", "fold 0: sub-b is listed twice"),
        ("0 train a|0 test b|0 validation x", "sub-x has no T1w pair; remove it from the file, or"),
        ("0 test a|0 test b|0 validation c|0 validation d", "fold 0 has no train subject"),
        ("x train a", "fold 'x', part 'train'"),
        ("0 val a", "fold '0', part 'val'"),
        ("", "no folds for T1w"),
        (b"fold\tsubject\n", "no column part, participant_id"),
        (b"\xff\xfe\x00", "not a table of folds"),
        (None, "cannot read the folds"),
    ],
)
def test_complaints_about_folds_are_one_line(tmp_path, refused, rows, complaint) -> None:
    path = tmp_path / "f.tsv"
    if isinstance(rows, bytes):
        path.write_bytes(rows)
    elif rows is not None:
        lines = ["fold part participant_id", *rows.split("|")]
        path.write_text("".join("\t".join(line.split()) + "\n" for line in lines))
    line = refused(H2loError, read_folds, path, ["a", "b", "c", "d"], "T1w")
    assert line.startswith(f"{path}: ")
    assert complaint in line
