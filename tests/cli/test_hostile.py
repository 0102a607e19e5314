"""Hostile files, names and surroundings: one line and a code, never a traceback or a wait."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest
from heads import add_subject, call, rows_of, shell, write_dataset, write_scan
from report_samples import make_scan

from h2lo_bids.bids.dataset import require_own, write_dataset_files
from h2lo_bids.bids.discover import discover
from h2lo_bids.cli import console, execution
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.execution import Run
from h2lo_bids.cli.run import main
from h2lo_bids.errors import (
    BadDataError,
    CannotCreateError,
    Failed,
    MissingInputError,
    TemporaryError,
    UnexpectedError,
    UsageError,
    exit_code,
    of_the_machine,
    recorded,
)
from h2lo_bids.reports.records import SubjectReport, save_subject_report
from h2lo_bids.settings import Settings


@pytest.fixture
def bids(tmp_path):
    """Return a dataset of one T1w image."""
    return write_dataset(tmp_path / "bids", suffixes=("T1w",))


def test_a_folder_with_images_of_another_dataset_is_told_before_and_at_the_run(tmp_path, bids):
    out, said = tmp_path / "out", io.StringIO()
    write_dataset_files(out, bids_dir=tmp_path / "other")
    (out / "sub-01").mkdir()
    line = f"warning: {out}: holds images of another dataset ({(tmp_path / 'other').as_uri()}; now "
    code, text, _ = call(bids, out, "participant", "--dry-run", "--skip-bids-validation")
    assert (code, text.count(line)) == (0, 1)
    for _ in range(2):
        run = Run(Settings(bids, out), Console(said), out / "logs")
        run.write_dataset()
    assert said.getvalue().count(line) == 1


def test_odd_files_cost_their_own_scan_and_nothing_else(tmp_path, bids):
    image = add_subject(bids, "pipe") / "anat/sub-pipe_T1w.nii.gz"
    image.unlink()
    os.mkfifo(image)  # to open it would take for ever
    closed = '{"a": ' * 600 + "1" + "}" * 600  # Python reads it, but cannot pickle it
    (add_subject(bids, "closed") / "anat/sub-closed_T1w.json").write_text(closed)
    number = '{"MagneticFieldStrength": ' + "9" * 400 + "}"  # no float is as large
    (add_subject(bids, "number") / "anat/sub-number_T1w.json").write_text(number)
    (bids / "sub-self").symlink_to("sub-self")
    words = ("--dry-run", "--skip-bids-validation")
    code, out, err = call(bids, tmp_path / "out", "participant", *words)
    assert (code, err) == (1, "")  # as the run would end
    assert "exit with code 1" in out.splitlines()[-1]
    problems = [line for line in out.splitlines() if line.startswith("cannot use: ")]
    assert "skipped: " in next(line for line in out.splitlines() if "sub-self" in line)
    for name in ("sub-pipe_T1w", "sub-closed_T1w", "sub-number_T1w"):
        (line,) = [line for line in problems if name in line]
        assert ";" in line
    read = [line for line in out.splitlines() if line.startswith("read ")]
    assert len(read) == 1


def test_a_dry_run_names_the_mask_that_derivatives_lack(tmp_path, bids):
    (masks := tmp_path / "masks").mkdir()
    write_scan(bids / "sub-01/ses-LF/anat/sub-01_ses-LF_T1w.nii.gz", tesla=0.064)
    words = (bids, tmp_path / "out", "participant", "-d", f"x={masks}", "--dry-run")
    told = f"brain mask: computed, as there is no {masks}/sub-01/anat/sub-01_desc-brain_mask.nii.gz"
    assert f"{told}]" in call(*words)[1]
    assert f"[T1w; {told}]" in call(*words, "--pairs")[1]


def test_a_surprise_is_one_line_and_its_traceback_is_in_the_log(tmp_path, bids, monkeypatch):
    def broken(settings):
        raise LookupError("of a kind\nnobody thought of")

    monkeypatch.setattr("h2lo_bids.cli.participant.discover", broken)
    code, _, err = call(bids, tmp_path / "out", "participant")
    assert code == 1
    (line,) = err.splitlines()
    assert "LookupError: of a kind nobody thought of" in line
    (log,) = tmp_path.glob("out/logs/*/h2lo.log")
    assert str(log) in line
    assert "Traceback" in log.read_text()


def test_lines_are_neither_obeyed_nor_lost_by_a_terminal(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with pytest.raises(SystemExit, match="0"):  # whose text has a dot of its own kind
        main(["participant", "--help"])
    assert b'"t2w": {\\u2026}' in raw.getvalue()
    Console().line("sub-\x1b[31m01 é\r \udcff")
    assert raw.getvalue().endswith(b"\nsub-\\x1b[31m01 \\xe9\\r \\udcff\n")


def test_pages_are_made_again_without_the_subject_whose_record_is_broken(tmp_path, bids):
    out = tmp_path / "out"
    (out / "sub-01_old/figures").mkdir(parents=True)  # a copy, of no participant
    for label in ("01", "02"):
        save_subject_report(out, SubjectReport(label, (make_scan(f"sub-{label}_T1w"),)))
    (broken := out / "sub-01/figures/sub-01_desc-summary.json").write_text("{")
    code, text, err = call(bids, out, "participant", "--reports-only")
    assert (code, err) == (1, "")
    assert text.count(f"error: {broken}: not a stored report") == 1
    assert "_old" not in text
    assert (out / "sub-02.html").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 75)])
def test_a_second_signal_does_not_cut_short_what_the_first_has_saved(monkeypatch, number, code):
    saved = []

    def end_twice(words):
        try:
            os.kill(os.getpid(), number)
        finally:
            for each in (signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), each)
            saved.append(words)

    before = signal.getsignal(number)
    monkeypatch.setattr("h2lo_bids.cli.run.read_settings", end_twice)
    assert (call("x")[0], saved) == (code, [["x"]])
    assert signal.getsignal(number) == before


def test_a_run_below_nohup_outlives_its_terminal(monkeypatch):
    def hang_up(words):
        os.kill(os.getpid(), signal.SIGHUP)
        raise UsageError("it went on")

    monkeypatch.setattr("h2lo_bids.cli.run.read_settings", hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        code, _, err = call("x")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (code, "it went on" in err) == (64, True)


def test_a_deleted_current_folder_and_closed_streams_are_no_obstacle(tmp_path, bids, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    words = ("participant", "--dry-run", "--skip-bids-validation")
    h2lo = shlex.join([sys.executable, "-m", "h2lo_bids.cli.run", str(bids), "/out", *words])
    assert shell(f"rmdir {gone}; {h2lo} <&- >&- 2>&-", cwd=gone).returncode == 0
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, _, err = call("bids", tmp_path / "out", *words)
    assert (code, "deleted" in err, len(err.splitlines())) == (64, True, 1)
    assert call(bids, tmp_path / "out", *words)[0] == 0
    assert Path.cwd() == Path("/")


def test_inputs_in_a_closed_folder_are_one_line_with_a_remedy(tmp_path, bids):
    """As a model in the home of somebody else, from where the program was started."""
    rights, user = "-dac_override,-dac_read_search", ()
    if os.geteuid() == 0:  # who enters every folder
        if not shutil.which("setpriv"):
            pytest.skip("root cannot be kept from a folder without setpriv")
        user = ("setpriv", f"--inh-caps={rights}", f"--bounding-set={rights}")
    (tmp_path / "closed").mkdir()
    model, h2lo = tmp_path / "closed" / "model", f"{sys.executable} -m h2lo_bids.cli.run"
    words = f"{tmp_path}/out participant --skip-bids-validation --model {model}"
    done = shell(f"chmod 000 .; {h2lo} {bids} {words}", *user, cwd=model.parent)
    assert done.returncode == 66
    assert done.stderr.startswith(f"h2lo: error: {model}: Permission denied; check ")


def test_nothing_is_written_into_the_input_but_outputs_may_be_in_its_derivatives(tmp_path, bids):
    out, masks = bids / "derivatives" / "h2lo", tmp_path / "masks"
    shutil.copytree(bids / "sub-01", out / "sub-01")
    (masks / "sub-01").mkdir(parents=True)
    before = sorted(bids.rglob("*"))
    dry = ("--skip-bids-validation", "--dry-run")
    code, told, err = call(bids, out, "participant", *dry)
    assert (code, err) == (0, "")
    read = [line.split()[1] for line in told.splitlines() if line.startswith("read ")]
    assert read == [str(bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz")]  # not what is in out
    index = "--bids-database-dir"
    assert call(bids, out, "participant", index, out / "index", *dry)[0] == 0
    own, away = ("-d", f"own={masks}"), tmp_path / "out"
    for place, *words in (
        (bids,), (bids / "out",), (bids / "derivatives",), (bids / "sub-01/derivatives/h2lo",),
        (away, "-w", bids / "work"), (out, index, bids / "index"),
        (masks, *own), (masks / "out", *own), (away, *own, "-w", masks / "w"),
        (out, "-d", f"own={out}"),
    ):  # fmt: skip
        code, _, err = call(bids, place, "participant", *words)
        assert code == 64
        assert "which is never written; choose a folder outside it" in err
        assert ("--derivatives" in err) == ("-d" in words) != ("derivatives/NAME" in err)
    assert [path.name for path in masks.rglob("*")] == ["sub-01"]
    assert sorted(bids.rglob("*")) == before


def test_a_folder_of_somebody_is_left_alone_whatever_its_description_says(tmp_path, refused):
    for makers in (3.5, {"Name": "x"}, [None]):
        (tmp_path / "dataset_description.json").write_text(json.dumps({"GeneratedBy": makers}))
        assert "choose another output folder" in refused(CannotCreateError, require_own, tmp_path)


def test_a_broken_sidecar_of_all_scans_is_told_once_by_its_own_name(bids):
    write_scan(bids / "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz")
    (bids / "T1w.json").write_text("{")
    said, settings = io.StringIO(), Settings(bids, bids / "out")
    Run(settings, Console(said), bids / "logs").report_discovery(discover(settings))
    (line,) = said.getvalue().splitlines()
    assert line.startswith(f"error: {bids}/T1w.json: ")
    assert "(2 images: " in line


def test_what_the_machine_lacks_is_told_with_a_remedy():
    for error in (MemoryError("1.78 PiB"), RuntimeError("[enforce] not enough memory: you")):
        assert isinstance(found := of_the_machine(error), TemporaryError)
        assert "smaller --batch or --crop" in str(found)
    assert of_the_machine(RuntimeError("of another kind")) is None


# Exit codes, the table of failures, and what a terminal shows.


BAD, GONE, KILLED, FULL = (
    Failed("sub-1/anat/x", "check", recorded(error))
    for error in (
        BadDataError("x: broken; mend it"),
        MissingInputError("x: gone; get it"),
        TemporaryError("x: killed; try again"),
        OSError("[Errno 28] No space left on device"),
    )
)


def test_exit_codes():
    for failed, done, code in (
        ([], 3, 0), ([BAD], 3, 1), ([BAD], 0, 65), ([BAD, GONE], 0, 1), ([GONE], 0, 66),
        ([KILLED], 3, 75), ([KILLED, BAD], 3, 1), ([FULL], 5, 74),
    ):  # fmt: skip
        assert exit_code(failed, done) == code


def test_the_table_keeps_one_row_per_failure_whatever_the_text(tmp_path):
    path = tmp_path / "failures.tsv"
    odd = Failed("sub-1\tx", "check", UnexpectedError("a\tb\nc", "KeyError"))
    execution.write_table(path, [odd, GONE])
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


def test_neither_a_terminal_nor_a_log_is_silent_while_a_step_goes_on(monkeypatch, tmp_path) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    screen, stream = io.StringIO(), io.StringIO()
    screen.isatty = lambda: True
    consoles = Console(screen), Console(stream)
    for each in consoles:
        each.open_log(tmp_path / "log")
        each.progress("sub-01: started, 1 scan")
        each.status("[0/1] sub-01: T1w synthesis")
    for _ in range(40):  # half a second each, as between two looks for events
        now[0] += 0.5
        for each in consoles:
            each.tick()
    assert screen.getvalue().rpartition("\x1b[K")[2] == "[0/1] sub-01: T1w synthesis (20 s)"
    assert screen.getvalue().count("\r") == 20  # once a second, not twice
    assert "started" not in screen.getvalue()  # which the status tells
    assert stream.getvalue().splitlines() == [
        "sub-01: started, 1 scan",
        *(f"[0/1] sub-01: T1w synthesis ({n} s)" for n in (8, 16)),
    ]
    assert (tmp_path / "log").read_text().count("sub-01: started, 1 scan\n") == 2
