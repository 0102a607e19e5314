"""Exit codes, the table of failures, and the words for them."""

from __future__ import annotations

import csv
import fnmatch
from pathlib import Path

import pytest

from h2lo_bids import errors
from h2lo_bids.bids.findings import Problem
from h2lo_bids.cli.account import tally_problems
from h2lo_bids.cli.failures import Failed, error_of_code, exit_code, write_table


def _failed(error: str, message: str = "x: broken; mend it", scan: str = "sub-1/anat/x") -> Failed:
    return Failed(scan, "check", error, message)


BAD, GONE = _failed("BadDataError"), _failed("MissingInputError")
KILLED, FULL = _failed("TemporaryError"), _failed("OSError", "[Errno 28] No space left on device")


@pytest.mark.parametrize(
    ("failed", "done", "code"),
    [
        ([], 3, 0),
        ([BAD], 3, 1),
        ([BAD], 0, 65),
        ([BAD, BAD], 0, 65),
        ([BAD, GONE], 0, 1),
        ([GONE], 0, 66),
        ([KILLED], 3, 75),
        ([KILLED], 0, 75),
        ([KILLED, BAD], 3, 1),
        ([FULL], 5, 74),
        ([_failed("MemoryError")], 1, 75),
        ([_failed("KeyError")], 0, 1),
    ],
)
def test_exit_codes(failed, done, code):
    assert exit_code(failed, done) == code


def test_every_code_of_an_error_has_its_class_back():
    for kind in (errors.InvalidBidsError, errors.NoMatchError, errors.BadDataError):
        assert error_of_code(kind.exit_code) == kind.__name__
    assert error_of_code(1) == "H2loError"


def test_the_table_keeps_one_row_per_failure_whatever_the_text(tmp_path):
    path = tmp_path / "failures.tsv"
    write_table(path, [_failed("KeyError", "a\tb\nc", "sub-1/anat/x"), GONE])
    with path.open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [row["message"] for row in rows] == ["a b c", GONE.message]
    assert rows[0]["crash_file"] == "n/a"


def test_many_problems_of_a_kind_are_one_line():
    def problems(count: int, text: str) -> list[Problem]:
        paths = [
            Path(f"/d/sub-{n:02d}/ses-{n % 2}/anat/sub-{n:02d}_ses-{n % 2}_T1w.nii.gz")
            for n in range(count)
        ]
        return [Problem(path, text.format(path), 66) for path in paths]

    few = problems(3, "{}: is empty; get it again")
    assert list(tally_problems(few)) == [problem.message for problem in few]
    (line,) = tally_problems(problems(184, "{}: is empty; get it again"))
    assert line == (
        "184 files: /d/sub-00/ses-0/anat/sub-00_ses-0_T1w.nii.gz, sub-01_ses-1_T1w.nii.gz and 182 "
        "more: is empty; get it again"
    )
    # A command that takes a path takes the pattern of all.
    absent = problems(184, "content not present, run: datalad get {}")
    (line,) = tally_problems([*absent])
    assert line.endswith("run: datalad get /d/sub-*/ses-*/anat/*_T1w.nii.gz")
    assert all(fnmatch.fnmatch(p.path, "/d/sub-*/ses-*/anat/*_T1w.nii.gz") for p in absent)
    # Each kind, and whatever speaks of no path, has lines of its own.
    other = [Problem(Path("/d/sub-1"), "no scan was found", 18)] * 4
    lines = list(tally_problems([*few, *absent, *other]))
    assert len(lines) == 3 + 1 + 4
    assert lines[-1] == "sub-1: no scan was found"


def test_the_line_names_the_scan_exactly_once():
    named = _failed("BadDataError", "/d/sub-1/anat/x: is empty; copy it")
    assert named.line == "/d/sub-1/anat/x: is empty; copy it"
    odd = Failed("sub-1/anat/sub-1_T1w.nii", "synthesize", "KeyError", "'z'", "/logs/crash.txt")
    assert odd.line == (
        "sub-1/anat/sub-1_T1w.nii: KeyError in step synthesize: 'z' (traceback in /logs/crash.txt)"
    )
