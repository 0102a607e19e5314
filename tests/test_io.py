"""Writing: what fails leaves the old file, and what several runs write stays whole."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest
from skeletons import anat, scan_at

from h2lo_bids.bids.discover import Discovery, ImageSource
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.execution import Run, alone
from h2lo_bids.cli.participant import SubjectTask, write_report
from h2lo_bids.errors import CannotCreateError, InputOutputError
from h2lo_bids.io import (
    atomic_path,
    atomic_write_bytes,
    atomic_write_text,
    exclusive,
    remove_temporaries,
    save_nifti,
)
from h2lo_bids.settings import Settings


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_failure_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "new" / "x.txt"
    atomic_write_text(target, "old")

    def interrupted() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert names(target.parent) == ["x.txt"]


def test_full_disk_is_one_line_that_names_the_file(tmp_path: Path, monkeypatch, refused) -> None:
    path, image = tmp_path / "image.nii.gz", nib.Nifti1Image(np.zeros((2, 2, 2), "f4"), np.eye(4))
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(code, os.strerror(code))))
        for write, what in ((atomic_write_bytes, (path, b"x")), (save_nifti, (image, path))):
            assert str(path) in refused(InputOutputError, write, *what)
            assert names(tmp_path) == []


def test_an_array_that_is_cut_by_a_quota_is_one_line_too(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with (
            pytest.raises(InputOutputError, match=r"pair\.npy: writing failed .*; free some space"),
            atomic_path(tmp_path / "pair.npy") as temporary,
            temporary.open("wb") as stream,
        ):
            np.save(stream, np.zeros(5000))  # NumPy raises OSError without a number
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


def test_a_folder_that_is_a_file_is_told_and_errors_about_others_pass(tmp_path, refused) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "x"
    for write in (lambda: atomic_write_text(path, "text"), exclusive(path).__enter__):
        line = refused(CannotCreateError, write)
        assert line.startswith(f"{path}: cannot be created (")
        assert "check the permissions" in line
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        (tmp_path / "absent").read_text()


def test_equal_content_is_not_written_again_and_the_mode_follows_the_umask(tmp_path: Path) -> None:
    target, umask = tmp_path / "x", os.umask(0o027)
    try:
        atomic_write_bytes(target, b"one")
    finally:
        os.umask(umask)
    before = target.stat()
    assert before.st_mode & 0o777 == 0o640
    atomic_write_bytes(target, b"one")
    assert (target.stat().st_mtime_ns, target.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    atomic_write_bytes(target, b"two")
    assert target.read_bytes() == b"two"


def test_only_temporaries_are_removed(tmp_path: Path) -> None:
    (tmp_path / "anat").mkdir()
    other = "anat/.tmp-3_sub-1_ses-B_T1w.nii.gz"  # that another run writes now
    for name in (".tmp-1_sub-1_ses-A_x", "anat/.tmp-2_sub-1_ses-A_y", "sub-1_ses-A_T1w", other):
        (tmp_path / name).write_text("")
    remove_temporaries(tmp_path, "sub-1_ses-A")
    assert names(tmp_path) == ["anat", "sub-1_ses-A_T1w"]
    assert names(tmp_path / "anat") == [other.partition("/")[2]]


# Locks between runs.


def test_a_second_run_waits_and_says_for_which_other(tmp_path: Path) -> None:
    """As for ever, where a machine died and its file server does not know."""
    (tmp_path / "bids").mkdir()
    out, said = tmp_path / "out", io.StringIO()
    run = Run(Settings(tmp_path / "bids", out), Console(said), tmp_path / "x")
    second = threading.Thread(target=run.write_dataset, daemon=True)
    with exclusive(out / "logs/locks/dataset.lock"):
        second.start()
        while "waiting" not in said.getvalue():
            assert second.is_alive()
            time.sleep(0.01)
        assert not (out / "dataset_description.json").exists()
    second.join(20)
    assert (out / "dataset_description.json").exists()
    assert f"waiting for another run in this out_dir (process {os.getpid()} on " in said.getvalue()


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with exclusive(tmp_path / "l") as locked:
        assert not locked
    settings, sent = Settings(tmp_path, tmp_path, work_dir=tmp_path / "work"), []
    with alone(settings, "01", sent.append, "of this participant"):
        (warning,) = sent
    assert warning["level"] == "warning"
    assert warning["text"].startswith(f"{tmp_path}/work: this file system has no file locks; ")


def test_a_lock_that_datalad_has_saved_is_made_anew_and_the_group_may_take_it(tmp_path):
    (tmp_path / "object").write_text("saved")
    (tmp_path / "object").chmod(0o444)
    (tmp_path / "l").symlink_to("object")
    before = os.umask(0o002)
    try:
        with exclusive(tmp_path / "l"):
            assert not (tmp_path / "l").is_symlink()
            assert (tmp_path / "l").stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(before)
    assert (tmp_path / "object").read_text() == "saved"


WRITERS, ROUNDS = ("A", "B", "C"), 3
"""A round is one race: each writer writes once, so that what is lost stays lost."""


def test_what_tasks_write_at_the_same_moment_is_all_kept(tmp_path: Path) -> None:
    """Links to datasets of all, and the pages' sessions, each of a task of its own."""
    (bids := tmp_path / "bids").mkdir()
    ready = threading.Barrier(len(WRITERS), timeout=60)

    def write_and_report(session: str) -> None:
        scan = scan_at(bids / anat("01", session, "T1w"))
        found = Discovery(sources=(ImageSource(scan, (scan,)),))
        own = {"participant_label": ("01",), "session_label": (session,)}
        for out in (tmp_path / f"out{k}" for k in range(ROUNDS)):
            settings = Settings(bids, out, derivatives=((session, tmp_path),), **own)
            ready.wait()
            Run(settings, Console(), out / "logs" / "x").write_dataset()
            ready.wait()
            write_report(SubjectTask(settings, "01", found, out / "logs"), [], [])

    with ThreadPoolExecutor() as pool:  # a lock is of an open file, so that threads wait, too
        list(pool.map(write_and_report, WRITERS))
    for out in (tmp_path / f"out{k}" for k in range(ROUNDS)):
        content = json.loads((out / "dataset_description.json").read_text())
        links = {"raw": (tmp_path / "bids").as_uri(), **dict.fromkeys(WRITERS, tmp_path.as_uri())}
        assert content["DatasetLinks"] == links
        page = (out / "sub-01.html").read_text()
        assert [s for s in WRITERS if f"sub-01_ses-{s}_T1w" in page] == [*WRITERS]
    assert not list(tmp_path.rglob(".tmp-*"))
