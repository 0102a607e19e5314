"""Fits keep the best, stop in good order, and fail in one line."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import HELD, TRAIN, VARIED, history, small_options, vector

from h2lo_bids.errors import BadDataError, H2loError, InputOutputError, TemporaryError, UsageError
from h2lo_bids.training.fit import FitResult, fit, load_checkpoint
from h2lo_bids.training.methods.operators import OperatorTrainer
from h2lo_bids.training.pairs import keep_pair, map_pair

TINY = {"crop": 4, "validation_crops": 1, "learning_rate": 0.03, "average": 0.5,
        "validate_every": 1, "augmentation": VARIED}  # fmt: skip


def run(folder: Path, say: Callable = lambda line: None, held=HELD, **changes: Any) -> FitResult:
    """Eight steps, each of which is validated and reported."""
    more = {k: changes.pop(k) for k in ("stop_at", "initial") if k in changes}
    return fit(TRAIN, held, small_options(**TINY | changes), folder, say, **more)


def at(step: int, act: Callable[[], object]) -> Callable[[str], None]:
    """Return what does something when a step is reported: before its checkpoint is written."""
    return lambda line: act() if line.startswith(f"step {step} of") else None


def saved_step(folder: Path) -> int:
    return load_checkpoint(folder)["record"]["step"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FitResult]:
    """The folder and the result of an undisturbed fit."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


def assert_as_undisturbed(folder: Path, whole: tuple[Path, FitResult]) -> None:
    again = run(folder)
    assert (again.steps, again.best_step) == (8, whole[1].best_step)
    assert torch.equal(vector(again.model), vector(whole[1].model))
    states = [load_checkpoint(one)["trainer"] for one in (folder, whole[0])]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_the_best_weights_are_kept(whole, tmp_path, monkeypatch):
    folder, result = whole
    rows = history(folder)
    assert [*rows[0]] == ["step", "rate", "loss", "l1", "gradient", "psnr", "seconds"]
    assert [int(row["step"]) for row in rows] == [*range(1, 9)]
    psnr = [float(row["psnr"]) for row in rows]
    loss, l1, gradient = (
        np.array([float(row[name]) for row in rows]) for name in ("loss", "l1", "gradient")
    )
    np.testing.assert_allclose(loss, l1 + small_options().lambda_grad * gradient, rtol=1e-5)
    best = 1 + int(np.argmax(psnr))
    assert 1 < best < 8
    assert (result.steps, result.best_step, result.best_psnr) == (8, best, max(psnr))
    run(tmp_path, stop_at=best)
    average = load_checkpoint(tmp_path)["trainer"]["average"]
    torch.testing.assert_close(result.model.state_dict(), average, rtol=0, atol=0)
    assert not result.model.training
    for silence, steps in ((10.0, [1, 4, 8]), (0.0, [*range(1, 9)])):  # as if each took so long
        monkeypatch.setattr("h2lo_bids.training.fit.SILENCE", silence)
        run(tmp_path / f"{silence}", (lines := []).append, validate_every=4)
        assert [int(line.split()[1]) for line in lines[1:]] == steps


def test_a_kill_costs_the_steps_since_the_checkpoint(whole, tmp_path, refused):
    die = at(7, lambda: os.kill(os.getpid(), signal.SIGKILL))
    child = multiprocessing.get_context("fork").Process(target=run, args=(tmp_path, die))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert saved_step(tmp_path) == 6
    # The newest is damaged as well: the one before it serves, and the log goes back to it.
    (tmp_path / "last.pt").write_bytes(b"PK\x03\x04 cut off")
    assert saved_step(tmp_path) == 4
    assert_as_undisturbed(tmp_path, whole)
    assert [int(row["step"]) for row in history(tmp_path)] == [*range(1, 9)]
    for path in tmp_path.glob("*.pt"):  # both
        path.write_bytes(path.read_bytes()[:1000])
    line = refused(BadDataError, run, tmp_path)
    assert line.startswith(f"{tmp_path / 'last.pt'}: damaged")
    assert line.endswith(f"remove {tmp_path} to start anew")


def test_a_full_disk_is_one_line_and_loses_nothing(whole, tmp_path, refused):
    run(tmp_path, stop_at=3)
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.pt")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["last.pt"]) // 2, limits[1]))
    try:
        assert "last.pt: writing failed" in refused(InputOutputError, run, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.pt")} == before
    assert {p.name for p in tmp_path.iterdir()} == {*before, "history.csv"}
    assert_as_undisturbed(tmp_path, whole)


def test_a_time_budget_ends_fit_and_schedule_for_good(tmp_path, monkeypatch):
    now, places, step_of = [0.0], [], OperatorTrainer.step

    def a_second(trainer, step, place):
        now[0] += 1
        places.append(place)
        return step_of(trainer, step, place)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(OperatorTrainer, "step", a_second)
    limit = {"steps": 14, "max_seconds": 7}
    for end in (3, None):
        result = run(tmp_path / "a", (lines := []).append, stop_at=end, **limit)
    assert places == [0, 1, 3, 5, 7, 9, 11]  # seconds / 7 of the way from step 0 to step 13
    assert (result.steps, result.timed_out) == (7, True)
    assert lines[-1] == "the time budget of 7 s ended the fit at step 7"
    again = run(tmp_path / "a", **limit)
    assert (len(places), again.timed_out) == (7, True)
    assert torch.equal(vector(again.model), vector(result.model))
    # So a part of the schedule is that part of the time, and is done once.
    for _ in range(2):
        part = run(tmp_path / "part", stop_at=6, **limit)
        assert (part.steps, part.timed_out) == (4, False)
    ample = run(tmp_path / "b", max_seconds=3600)
    assert (ample.steps, ample.timed_out) == (8, False)


def test_a_fit_that_no_longer_rises_ends_for_good(tmp_path):
    """At a rate of almost 0 nothing rises: it ends `patience` steps after the first."""
    still = {"steps": 40, "learning_rate": 1e-9, "floor": 1e-9, "validate_every": 2, "patience": 7}
    part = run(tmp_path, stop_at=7, **still)
    assert (part.steps, part.stalled) == (7, False)
    result, again = (run(tmp_path, **still) for _ in range(2))
    # Validated at 1, 2, 4, 6 and 8, which is 7 after the first.
    assert (result.steps, result.stalled, result.timed_out) == (8, True, False)
    assert (again.steps, again.best_step, again.stalled) == (8, result.best_step, True)
    assert torch.equal(vector(again.model), vector(result.model))


def test_it_starts_from_given_weights(whole, tmp_path):
    start = whole[1].model.state_dict()
    still = {"learning_rate": 1e-12, "floor": 1e-12, "steps": 1}
    named = {"initial": start, "starts_from": "0" * 64}
    begun = run(tmp_path, (said := []).append, held=[], **still, **named)
    assert begun.best_step == 0
    assert not [line for line in said if "PSNR" in line]  # of nobody
    torch.testing.assert_close(begun.model.state_dict(), start, atol=1e-9, rtol=0)
    with pytest.raises(UsageError, match="other options"):
        run(tmp_path, held=[])
    with pytest.raises(UsageError, match="give both, or neither"):
        run(tmp_path / "none", initial=start)
    changed = dataclasses.replace(HELD[0], lf=HELD[0].lf * np.float32(0.99))
    with pytest.raises(UsageError, match="other pairs"):
        run(whole[0], held=[changed])


def test_a_signal_ends_the_step_with_a_checkpoint(whole, tmp_path):
    before = signal.getsignal(signal.SIGHUP)
    with pytest.raises(TemporaryError, match=r"stopped by a signal after step 5.*run again"):
        run(tmp_path, at(5, lambda: os.kill(os.getpid(), signal.SIGHUP)))
    assert signal.getsignal(signal.SIGHUP) == before
    assert saved_step(tmp_path) == 5
    assert_as_undisturbed(tmp_path, whole)


def test_a_loss_that_is_not_finite_is_one_line(tmp_path, refused):
    line = refused(H2loError, run, tmp_path, learning_rate=1e30, checkpoint_every=1)
    assert re.search(r"the loss became (nan|inf) at step 2; ", line)
    assert saved_step(tmp_path) == 1


def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(tmp_path, monkeypatch, refused):
    run(tmp_path, stop_at=2)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", lambda *_, **__: np.empty(1 << 50))
        assert "memory ran out" in refused(TemporaryError, run, tmp_path)
    (tmp_path / "last.pt").unlink()
    (tmp_path / "last.pt").mkdir()  # as good as one that is another user's
    with pytest.raises(IsADirectoryError):
        run(tmp_path)


def test_fabric_is_quiet_and_stays_in_the_folder(tmp_path, monkeypatch, capfd):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run(tmp_path / "fit", device="cpu", stop_at=5)
    run(tmp_path / "fit", (lines := []).append, device="auto")  # another name of the device
    assert capfd.readouterr() == ("", "")
    assert not list((tmp_path / "here").iterdir())
    names = {p.name for p in (tmp_path / "fit").iterdir()}
    assert names == {"history.csv", "last.pt", "previous.pt"}
    assert any(line.startswith("going on from step 5") for line in lines)
    with pytest.raises(UsageError, match="this machine offers"):
        run(tmp_path / "other", device="cuda:77")


def test_bad_pairs_are_named(tmp_path, refused):
    good = TRAIN[0]
    for said, change in (
        ("NaN", {"hf": np.full_like(good.hf, np.nan)}),
        ("its brain mask is empty", {"mask": np.zeros_like(good.mask)}),
        ("volumes and mask need one 3-D shape", {"lf": good.lf[1:]}),
    ):
        with pytest.raises(BadDataError, match=f"pair x: {said}"):
            dataclasses.replace(good, name="x", **change)
    kept = tmp_path / "kept.npy"
    keep_pair(kept, good.hf, good.lf, good.mask)
    whole = kept.read_bytes()
    unclosed = whole.replace(b")", b"(", 1)  # of the shape, in the header
    for damaged in (b"", b"PK\x03\x04", whole[:-1000], b"\x93NUMPY\x01\x00", unclosed):
        kept.write_bytes(damaged)
        assert f"{kept}: cannot be read" in refused(BadDataError, map_pair, kept, "x")
