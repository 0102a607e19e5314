"""Exit codes, the table of failures, the words for them, and what a terminal shows."""

from __future__ import annotations

import io

import pytest
from heads import call, rows_of, write_dataset

from h2lo_bids import errors
from h2lo_bids.cli import console as module
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.execution import write_table
from h2lo_bids.errors import Failed, exit_code, recorded


def _failed(error: Exception, scan: str = "sub-1/anat/x") -> Failed:
    return Failed(scan, "check", recorded(error))


BAD = _failed(errors.BadDataError("x: broken; mend it"))
GONE = _failed(errors.MissingInputError("x: gone; get it"))
KILLED = _failed(errors.TemporaryError("x: killed; try again"))
FULL = _failed(OSError("[Errno 28] No space left on device"))


@pytest.mark.parametrize(
    ("failed", "done", "code"),
    [
        ([], 3, 0),
        ([BAD], 3, 1),
        ([BAD], 0, 65),
        ([BAD, GONE], 0, 1),
        ([GONE], 0, 66),
        ([KILLED], 3, 75),
        ([KILLED, BAD], 3, 1),
        ([FULL], 5, 74),
    ],
)
def test_exit_codes(failed, done, code):
    assert exit_code(failed, done) == code


def test_the_table_keeps_one_row_per_failure_whatever_the_text(tmp_path):
    path = tmp_path / "failures.tsv"
    odd = Failed("sub-1\tx", "check", errors.UnexpectedError("a\tb\nc", "KeyError"))
    write_table(path, [odd, GONE])
    rows = rows_of(path)
    assert [row["message"] for row in rows] == ["a b c", GONE.message]
    assert (rows[0]["scan"], rows[0]["error"]) == ("sub-1 x", "KeyError")
    assert rows[0]["crash_file"] == "n/a"


def test_what_ends_a_whole_run_stands_in_its_table(tmp_path):
    write_dataset(tmp_path / "bids", 1, suffixes=("T1w",))
    code, _, err = call(tmp_path / "bids", tmp_path / "out", "participant", "--filter", "acq=other")
    (table,) = tmp_path.glob("out/logs/*/failures.tsv")
    (row,) = rows_of(table)
    assert (code, row["error"]) == (18, "NoMatchError")
    assert err == f"h2lo: error: {row['message']}\n"


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_neither_a_terminal_nor_a_log_is_silent_while_a_step_goes_on(monkeypatch, tmp_path) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    screen, stream = Screen(), io.StringIO()
    consoles = Console(screen), Console(stream)
    for console in consoles:
        console.open_log(tmp_path / "log")
        console.progress("sub-01: started, 1 scan")
        console.status("[0/1] sub-01: T1w synthesis")
    for _ in range(40):  # half a second each, as between two looks for events
        now[0] += 0.5
        for console in consoles:
            console.tick()
    assert screen.getvalue().rpartition("\x1b[K")[2] == "[0/1] sub-01: T1w synthesis (20 s)"
    assert screen.getvalue().count("\r") == 20  # once a second, not twice
    assert "started" not in screen.getvalue()  # which the status tells
    assert stream.getvalue().splitlines() == [
        "sub-01: started, 1 scan",
        *(f"[0/1] sub-01: T1w synthesis ({n} s)" for n in (8, 16)),
    ]
    assert (tmp_path / "log").read_text().count("sub-01: started, 1 scan\n") == 2
