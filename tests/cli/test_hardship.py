"""What goes wrong in practice: bad scans, killed processes, full disks, odd machines."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import nibabel as nib
import psutil
import pytest
from heads import rows_of, shell, write_dataset, write_scan
from skeletons import annex

from h2lo_bids.models.bundle import default_bundle

pytestmark = pytest.mark.slow


def test_each_bad_scan_costs_one_line_and_the_good_one_is_finished(tmp_path, h2lo):
    bids, bad, long = write_dataset(tmp_path / "bids", subjects=0), ("text", "annex"), "a" * 200
    write_scan(bids / "sub-text/anat/sub-text_T1w.nii.gz").write_bytes(b"this is no image\n" * 50)
    annex(bids / "sub-annex" / "anat" / "sub-annex_T1w.nii.gz")
    # A good scan of the same participant is finished, too.
    write_scan(bids / "sub-text" / "anat" / "sub-text_T2w.nii.gz")
    write_scan(bids / f"sub-{long}" / "anat" / f"sub-{long}_T1w.nii.gz")
    (bids / "sub-none" / "func").mkdir(parents=True)
    out = tmp_path / "a \"b' $c" / "ö"
    # Of one contrast, which not every participant has; of the other the package has one.
    model = ("--method", "identity", "--model", default_bundle("T2w", method="identity").path)
    done = h2lo(bids, out, *model, "--clean-workdir", model=False, code=1)
    assert "sub-none: no T1w or T2w image: no anat folder (found func)" in done.stdout
    (table,) = out.glob("logs/*/failures.tsv")
    rows = {row["scan"]: row["message"] for row in rows_of(table)}
    ended = {row["scan"]: row["status"] for row in rows_of(out / "scans.tsv")}
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert len(rows) == len(bad)
    for label in bad:
        name = f"sub-{label}_T1w.nii.gz"
        (line,) = [line for line in errors if name in line]
        assert ";" in line or "run:" in line, line  # the remedy
        assert name in rows[f"sub-{label}/anat/{name}"]
        assert ended[f"sub-{label}_T1w"] == "failed"
        page = (out / f"sub-{label}.html").read_text()
        assert f"{'1 of 2' if label == 'text' else '0 of 1'} found" in page
        assert re.search(rf"anat/{name}</code></td>(<td>[^<]*</td>){{2}}<td>failed</td>", page)
        assert "Command line" in page
        assert not list((out / f"sub-{label}").glob("anat/*T1w*")), label
    assert "datalad get" in done.stdout
    for name in (f"sub-{long}_desc-lowfield_T1w", "sub-text_desc-lowfield_T2w"):
        assert (out / name.partition("_")[0] / "anat" / f"{name}.nii.gz").exists()
    assert not list(out.rglob(".tmp-*"))
    # What a participant still needs to go on is kept.
    assert [path.name for path in out.glob(".h2lo-work/sub_*")] == ["sub_text_wf"]


def _wait_for(condition, seconds=120.0):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def _worker(process, out, subject):
    """Return the process that works on a subject, once its workflow runs."""

    def find():
        logs = list(out.glob(f"logs/*/sub-{subject}.log"))
        if not logs or b"Setting-up" not in logs[0].read_bytes():
            return None
        # The main process, the server, and what that forked.
        return next((c for s in psutil.Process(process.pid).children() for c in s.children()), None)

    return _wait_for(find)


def _left(out: Path) -> list[str]:
    """Return what is half-written in the outputs, the work folder aside."""
    return [str(p) for p in out.rglob(".tmp-*") if ".h2lo-work" not in p.parts]


def test_a_killed_worker_costs_one_participant_and_the_run_says_75(tmp_path, h2lo):
    bids = write_dataset(tmp_path / "bids", subjects=2, suffixes=("T1w",))
    out = tmp_path / "out"
    process = h2lo(bids, out, "--nprocs", 1, popen=True)
    _worker(process, out, "01").send_signal(signal.SIGKILL)
    text, errors = process.communicate(timeout=120)
    assert process.returncode == 75, text + errors
    assert "sub-01_T1w.nii.gz: " in text.replace("sub-01/anat/", "")
    assert "SIGKILL" in text
    assert "memory" in text
    assert (out / "sub-02" / "anat" / "sub-02_desc-lowfield_T1w.nii.gz").exists()
    page = (out / "sub-01.html").read_text()
    for words in ("SIGKILL", "0 of 1 found", "<td>failed</td>", "Command line"):
        assert words in page
    assert _left(out) == []
    h2lo(bids, out)
    assert "SIGKILL" not in (out / "sub-01.html").read_text()


def test_a_run_that_ends_early_leaves_no_process_and_nothing_half_written(tmp_path, h2lo):
    bids = write_dataset(tmp_path / "bids", subjects=1)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        out = tmp_path / str(code)
        process = h2lo(bids, out, popen=True)
        worker = _worker(process, out, "01")
        process.send_signal(number)
        began = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code
        if number == signal.SIGKILL:
            _wait_for(lambda w=worker: not w.is_running() or w.status() == psutil.STATUS_ZOMBIE, 30)
        else:
            assert time.monotonic() - began < 15
            assert len(errors.splitlines()) == 1
            assert not worker.is_running()
            assert _left(out) == []
        for image in out.rglob("[!.]*.nii.gz"):
            if ".h2lo-work" not in image.parts:
                nib.load(image).get_fdata()
    h2lo(bids, out)


def test_two_runs_on_one_folder_both_end_whole(tmp_path, h2lo):
    bids = write_dataset(tmp_path / "bids", suffixes=("T1w",))
    out = tmp_path / "out"
    runs = [h2lo(bids, out, popen=True) for _ in range(2)]
    texts = [run.communicate(timeout=200) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], texts
    assert len(list(out.glob("logs/*/h2lo.log"))) == 2
    assert _left(out) == []
    h2lo(bids, tmp_path / "alone")
    for path in (tmp_path / "alone").glob("sub-01/anat/*"):
        assert (out / path.relative_to(tmp_path / "alone")).read_bytes() == path.read_bytes()


def test_stop_on_first_crash_begins_nothing_else_and_says_so(tmp_path, h2lo):
    bids, out = write_dataset(tmp_path / "bids", subjects=2), tmp_path / "out"
    h2lo(bids, out, "--participant-label", "01")
    (bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_bytes(b"\x1f\x8b")
    annex(bids / "sub-03/anat/sub-03_T1w.nii.gz")  # as is known before, and so ends nothing
    done = h2lo(bids, out, "--nprocs", 1, "--stop-on-first-crash", code=1)
    assert "sub-01: 0 of 2 scans done" in done.stdout
    assert "warning: stopped at the first failure: 1 of 2 not done\n" in done.stdout
    assert "<td>not begun</td>" in (out / "sub-01.html").read_text()
    assert not (out / "sub-02").exists()


OWN_MOUNTS = ("unshare", "-m")


@pytest.mark.parametrize(("full", "size"), [("out", "60k"), ("work", "300k")])
def test_a_full_disk_is_told_in_one_line(tmp_path, models, full, size):
    if not shutil.which("unshare") or shell("mount -t tmpfs none /mnt", *OWN_MOUNTS).returncode:
        pytest.skip("this machine gives no mount namespaces")
    bids = write_dataset(tmp_path / "bids", suffixes=("T1w",))
    (tmp_path / full).mkdir()
    parts = [sys.executable, "-m", "h2lo_bids.cli.run", bids, tmp_path / "out", "participant"]
    parts += [*models, "--skull-strip", "skip", "-w", tmp_path / "work"]
    code = f"{shlex.join(map(str, parts))} || code=$?; find {tmp_path}/{full} -name '.tmp-*'"
    shared = "mount -t tmpfs -o ro none /dev/shm"  # which no run needs
    mount = f"mount -t tmpfs -o size={size} none {tmp_path}/{full}"
    done = shell(f"{shared}; {mount}; {code}; exit $code", *OWN_MOUNTS)
    assert done.returncode == 74, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "No space left" in done.stdout + done.stderr
    assert full == "work" or ".tmp-" not in done.stdout
