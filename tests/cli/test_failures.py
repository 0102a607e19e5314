"""Exit codes, the table of failures, and the words for them."""

from __future__ import annotations

import csv
import tomllib

import pytest
from heads import write_dataset

from h2lo_bids import errors
from h2lo_bids.cli.failures import Failed, error_of_code, exit_code, write_table
from h2lo_bids.cli.run import main


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


def test_a_run_in_an_array_records_its_job_and_what_ended_it(tmp_path, monkeypatch, capsys):
    write_dataset(tmp_path / "bids", 1, suffixes=("T1w",))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    none = ["--filter", "acq=other", "--skull-strip", "skip"]
    assert main([str(tmp_path / "bids"), str(tmp_path / "out"), "participant", *none]) == 18
    (logs,) = (tmp_path / "out" / "logs").glob("*_*")
    assert tomllib.loads((logs / "config.toml").read_text())["run"]["slurm-job"] == "7_3"
    (row,) = (logs / "failures.tsv").read_text().splitlines()[1:]
    (error,) = capsys.readouterr().err.splitlines()
    assert row == f"n/a\tparticipant\tNoMatchError\t{error.removeprefix('h2lo: error: ')}\tn/a"


def test_the_line_names_the_scan_exactly_once():
    named = _failed("BadDataError", "/d/sub-1/anat/x: is empty; copy it")
    assert named.line == "/d/sub-1/anat/x: is empty; copy it"
    odd = Failed("sub-1/anat/sub-1_T1w.nii", "synthesize", "KeyError", "'z'", "/logs/crash.txt")
    assert odd.line == (
        "sub-1/anat/sub-1_T1w.nii: KeyError in step synthesize: 'z' (traceback in /logs/crash.txt)"
    )
