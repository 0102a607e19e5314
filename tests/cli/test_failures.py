"""Exit codes, the table of failures, the words for them, and what a terminal shows."""

from __future__ import annotations

import io
import tomllib
from itertools import pairwise
from types import SimpleNamespace

import pytest
from heads import call, rows_of, write_dataset

from h2lo_bids import errors
from h2lo_bids.cli import console as module
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.execution import Run, plain_step, write_table
from h2lo_bids.errors import Failed, exit_code, recorded
from h2lo_bids.processes import Job
from h2lo_bids.settings import Settings


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
        ([BAD, BAD], 0, 65),
        ([BAD, GONE], 0, 1),
        ([GONE], 0, 66),
        ([KILLED], 3, 75),
        ([KILLED], 0, 75),
        ([KILLED, BAD], 3, 1),
        ([FULL], 5, 74),
        ([_failed(MemoryError())], 1, 75),
        ([_failed(PermissionError(13, "x"))], 0, 66),
        ([_failed(KeyError("x"))], 0, 1),
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


def test_a_run_in_an_array_records_its_job_and_what_ended_it(tmp_path, monkeypatch):
    write_dataset(tmp_path / "bids", 1, suffixes=("T1w",))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    none = ["--filter", "acq=other", "--skull-strip", "skip"]
    code, _, err = call(tmp_path / "bids", tmp_path / "out", "participant", *none)
    (logs,) = (tmp_path / "out" / "logs").glob("*_*")
    assert tomllib.loads((logs / "config.toml").read_text())["run"]["slurm-job"] == "7_3"
    (row,) = (logs / "failures.tsv").read_text().splitlines()[1:]
    (error,) = err.splitlines()
    assert code == 18
    assert row == f"n/a\tparticipant\tNoMatchError\t{error.removeprefix('h2lo: error: ')}\tn/a"


def test_giving_up_is_told_and_not_done_for_what_was_known_before(tmp_path, monkeypatch, capsys):
    class OneByOne:
        def run(self, jobs, *, on_end, **_):
            all(on_end(SimpleNamespace(job=job)) for job in jobs)

    monkeypatch.setattr(Run, "pool", lambda self, threads=0: OneByOne())
    run = Run(Settings(tmp_path, tmp_path, stop_on_first_crash=True), Console(), tmp_path)
    run.failed.append(Failed("sub-0/anat/t1.nii", "discovery", errors.InvalidBidsError("t1.nii")))
    done: list[str] = []

    def ended(count: str, end: SimpleNamespace) -> None:
        done.append(end.job.name)
        if len(done) == 2:
            run.fail(BAD)

    run.do([Job(f"sub-{n}", "", (), tmp_path) for n in (1, 2, 3, 4)], 1, 1, ended)
    assert done == ["sub-1", "sub-2"]
    assert "warning: stopped at the first failure: 2 of 4 not done\n" in capsys.readouterr().out
    run.do([Job("fold-0", "", (), tmp_path)], 1, 1, ended)  # whatever failed before these jobs
    assert done == ["sub-1", "sub-2"]
    assert "warning: stopped at the first failure: 1 of 1 not done\n" in capsys.readouterr().out


def test_the_line_names_the_scan_exactly_once():
    named = _failed(errors.BadDataError("/d/sub-1/anat/x: is empty; copy it"))
    assert named.line == "/d/sub-1/anat/x: is empty; copy it"
    odd = Failed(
        "sub-1/anat/sub-1_T1w.nii", "synthesize", recorded(KeyError("z")), "/logs/crash.txt"
    )
    assert odd.line == (
        "sub-1/anat/sub-1_T1w.nii: KeyError in step synthesize: 'z' (traceback in /logs/crash.txt)"
    )


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_is_never_silent_while_a_step_goes_on(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    screen = Screen()
    console = Console(screen)
    console.status("[0/1] sub-01: T1w synthesis")
    for _ in range(40):  # half a second each, as between two looks for events
        now[0] += 0.5
        console.tick()
    last = screen.getvalue().rpartition("\x1b[K")[2]
    assert last == "[0/1] sub-01: T1w synthesis (20 s)"
    assert screen.getvalue().count("\r") == 20  # once a second, not twice
    console.status("[0/1] sub-01: T1w figures")
    assert screen.getvalue().endswith("T1w figures")


def test_a_log_is_never_silent_for_ten_seconds_while_a_step_goes_on(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    said: list[tuple[float, str]] = []
    stream = io.StringIO()
    monkeypatch.setattr(stream, "write", lambda text: said.append((now[0], text)))
    console = Console(stream)
    console.progress("sub-01: started, 1 scan")
    console.status("[0/1] sub-01: T1w synthesis")
    for _ in range(60):
        now[0] += 0.5
        console.tick()
    lines = [(when, text) for when, text in said if text.strip()]
    assert [text for _, text in lines] == [
        "sub-01: started, 1 scan",
        *(f"[0/1] sub-01: T1w synthesis ({n} s)" for n in (8, 16, 24)),
    ]
    assert all(b - a <= 10 for (a, _), (b, _) in pairwise([*lines, (now[0], "")]))


@pytest.mark.parametrize(("stream", "lines"), [(Screen(), 0), (io.StringIO(), 1)])
def test_a_log_has_a_line_where_a_terminal_has_its_status(tmp_path, stream, lines) -> None:
    console = Console(stream)
    console.open_log(tmp_path / "log")
    console.status("[0/1] sub-01: starting")
    console.progress("sub-01: started, 1 scan")
    console.tick()
    console.close()
    assert stream.getvalue().count("sub-01: started, 1 scan\n") == lines
    assert (tmp_path / "log").read_text().count("sub-01: started, 1 scan\n") == 1


def test_steps_are_named_in_words():
    assert plain_step("scan_ses_HF_T1w_wf.find_brain") == "ses HF T1w find brain"
    assert plain_step("pair_sub_01_T2w_wf.align_0") == "T2w align 0"
