"""Fits learn, resume bit for bit, keep the best, stop in good order, and fail in one line."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from problems import HELD, SMALL, TRAIN, VARIED, history, small_options, vector

from h2lo_bids.errors import BadDataError, H2loError, InputOutputError, TemporaryError, UsageError
from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.training.fit import FitResult, fit, load_checkpoint
from h2lo_bids.training.methods import TRAINERS

Act = Callable[[int], float | None]


def saved_step(folder: Path) -> int:
    return load_checkpoint(folder)["record"]["step"]


class Walk:
    """A trainer whose weights move by draws, with momentum; its figure depends on the step."""

    losses = ("loss", "side")
    validation = SimpleNamespace(baseline=lambda: 5.0)

    def __init__(self, act: Act) -> None:
        torch.manual_seed(0)
        self.model = H2lo(SMALL)
        self.momentum = torch.zeros(3)
        self.done, self.act = 0, act
        self.figures = {4: 10.0, 8: 30.0, 12: 20.0}

    def step(self, step: int, place: int) -> Mapping[str, float]:
        assert step == self.done
        found = self.act(step)
        draw = torch.randn(3, generator=torch.Generator().manual_seed(1000 + step))
        self.momentum = 0.9 * self.momentum + draw
        for parameter in self.model.parameters():
            parameter.data.add_(self.momentum.sum() * 1e-3)
        self.done += 1
        loss = float(draw.sum()) if found is None else found
        return {"rate": float(place), "loss": loss, **({"side": 2.0} if step % 2 else {})}

    def state(self) -> dict[str, Any]:
        weights = self.model.state_dict()
        return {"model": weights, "momentum": self.momentum, "done": self.done}

    def load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.momentum, self.done = state["momentum"], state["done"]

    def validate(self) -> float:
        return self.figures.get(self.done, math.nan)

    def fitted(self) -> torch.nn.Module:
        return self.model


@pytest.fixture
def walk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FitResult]:
    """Fits with `Walk` in place of the operator."""

    def run(folder: Path, act: Act = lambda step: None, **changes: Any) -> FitResult:
        more = {k: changes.pop(k) for k in ("stop_at", "say") if k in changes}
        monkeypatch.setitem(TRAINERS, "h2lo", lambda *given: Walk(act))
        return fit(TRAIN, HELD, small_options(**{"steps": 14, **changes}), folder, **more)

    return run


def walked(steps: int) -> torch.Tensor:
    """The weights after some steps, without the loop."""
    walk = Walk(lambda step: None)
    for step in range(steps):
        walk.step(step, step)
    return vector(walk.model)


def test_the_best_weights_are_kept(walk, tmp_path, monkeypatch):
    lines: list[str] = []
    result = walk(tmp_path, say=lines.append)
    assert (result.steps, result.best_step, result.best_psnr) == (14, 8, 30.0)
    assert torch.equal(vector(result.model), walked(8))
    assert not result.model.training
    assert lines[0] == "identity baseline: validation PSNR 5.00 dB"
    assert any(", side 2.0000, validation PSNR 30.00 dB, " in line for line in lines)
    rows = history(tmp_path)
    assert [*rows[0]] == ["step", "rate", "loss", "side", "psnr", "seconds"]
    assert [int(r["step"]) for r in rows] == list(range(1, 15))
    psnr = {r["step"]: r["psnr"] for r in rows if r["psnr"]}
    assert psnr == {"4": "10.0", "8": "30.0", "12": "20.0"}
    assert [r["side"] for r in rows] == ["", "2.0"] * 7
    monkeypatch.setattr("h2lo_bids.training.fit.SILENCE", 0.0)  # as if each step took so long
    walk(tmp_path / "slow", say=(slow := []).append)
    assert [int(line.split()[1]) for line in slow[1:]] == [*range(1, 15)]
    last = walk(tmp_path / "unvalidated", steps=3)
    assert (last.best_step, torch.equal(vector(last.model), walked(3))) == (0, True)


def test_a_kill_costs_the_steps_since_the_checkpoint(walk, tmp_path):
    def die(step):
        if step == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    child = multiprocessing.get_context("fork").Process(target=walk, args=(tmp_path, die))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert saved_step(tmp_path) == 6
    # The newest is damaged as well: the one before it serves, and the log goes back to it.
    (tmp_path / "last.pt").write_bytes(b"PK\x03\x04 cut off")
    assert saved_step(tmp_path) == 4
    result = walk(tmp_path)
    assert (result.best_step, torch.equal(vector(result.model), walked(8))) == (8, True)
    assert [int(row["step"]) for row in history(tmp_path)] == [*range(1, 15)]


def test_a_full_disk_is_one_line_and_loses_nothing(walk, tmp_path):
    walk(tmp_path, stop_at=3)
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.pt")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["last.pt"]) // 2, limits[1]))
    try:
        with pytest.raises(InputOutputError, match=r"last\.pt: writing failed .*free") as error:
            walk(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "\n" not in str(error.value)
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.pt")} == before
    assert {p.name for p in tmp_path.iterdir()} == {*before, "history.csv"}
    assert torch.equal(vector(walk(tmp_path).model), walked(8))


def test_a_time_budget_ends_a_fit_for_good(walk, tmp_path):
    lines: list[str] = []
    first = walk(tmp_path / "a", max_seconds=1e-9, say=lines.append)
    assert (first.steps, first.timed_out) == (1, True)
    assert lines[-1] == "the time budget of 1e-09 s ended the fit at step 1"

    def never(step):
        raise AssertionError("it is finished")

    again = walk(tmp_path / "a", never, max_seconds=1e-9)
    assert again.timed_out
    assert torch.equal(vector(again.model), walked(1))
    ample = walk(tmp_path / "b", max_seconds=3600)
    assert (ample.steps, ample.timed_out) == (14, False)
    with pytest.raises(UsageError, match="other options"):
        walk(tmp_path / "a")


def test_a_time_budget_ends_the_schedule_too(walk, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def a_second(step):
        now[0] += 1

    for end in (3, None):
        walk(tmp_path, a_second, max_seconds=7, stop_at=end)
    places = [float(row["rate"]) for row in history(tmp_path)]
    assert places == [0, 1, 3, 5, 7, 9, 11]  # seconds / 7 of the way from step 0 to step 13
    # So a part of the schedule is that part of the time, and is done once.
    for _ in range(2):
        part = walk(tmp_path / "part", a_second, max_seconds=7, stop_at=6)
        assert (part.steps, part.timed_out) == (4, False)


def test_a_fit_that_no_longer_rises_ends_for_good(tmp_path):
    """At a rate of almost 0 nothing rises: it ends `patience` steps after the first."""
    lines: list[str] = []
    options = small_options(
        steps=40, learning_rate=1e-9, floor=1e-9, validate_every=2, patience=7, average=0.5
    )
    for stop in (3, 7):
        part = fit(TRAIN, HELD, options, tmp_path, stop_at=stop)
        assert (part.steps, part.stalled) == (stop, False)
    result = fit(TRAIN, HELD, options, tmp_path, lines.append)
    # Validated at 1, 2, 4, 6 and 8, which is 7 after the first.
    assert (result.steps, result.stalled, result.timed_out) == (8, True, False)
    assert lines[-1] == (
        "ended at step 8: in the last 7 steps the validation rose by no more than 0.02 dB"
    )
    again = fit(TRAIN, HELD, options, tmp_path)
    assert (again.steps, again.best_step, again.stalled) == (8, result.best_step, True)
    assert torch.equal(vector(again.model), vector(result.model))


def test_it_starts_from_given_weights(tmp_path):
    given = fit(TRAIN, HELD, small_options(seed=7), tmp_path / "given").model
    start = given.state_dict()
    options = small_options(starts_from="0" * 64, augmentation=VARIED, average=0.9)
    still = dataclasses.replace(options, learning_rate=1e-12, floor=1e-12, steps=1)
    said: list[str] = []
    begun = fit(TRAIN, [], still, tmp_path / "still", said.append, initial=start)
    assert not [line for line in said if "PSNR" in line]  # of nobody
    torch.testing.assert_close(vector(begun.model), vector(given), atol=1e-9, rtol=0)
    whole = fit(TRAIN, HELD, options, tmp_path / "whole", initial=start)
    fit(TRAIN, HELD, options, tmp_path / "parts", initial=start, stop_at=3)
    parts = fit(TRAIN, HELD, options, tmp_path / "parts", initial=start)
    assert torch.equal(vector(whole.model), vector(parts.model))
    with pytest.raises(UsageError, match="other options"):
        fit(TRAIN, HELD, small_options(), tmp_path / "whole")
    with pytest.raises(UsageError, match="give both, or neither"):
        fit(TRAIN, HELD, options, tmp_path / "none")
    changed = dataclasses.replace(TRAIN[0], lf=TRAIN[0].lf * np.float32(0.99))
    with pytest.raises(UsageError, match="other pairs"):
        fit([changed, *TRAIN[1:]], HELD, options, tmp_path / "whole", initial=start)


def test_a_signal_ends_the_step_with_a_checkpoint(walk, tmp_path):
    before = signal.getsignal(signal.SIGHUP)

    def send(step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGHUP)

    with pytest.raises(TemporaryError, match=r"stopped by a signal after step 5.*run again"):
        walk(tmp_path, send)
    assert signal.getsignal(signal.SIGHUP) == before
    assert saved_step(tmp_path) == 5
    assert torch.equal(vector(walk(tmp_path).model), walked(8))


def test_a_loss_that_is_not_finite_is_one_line(walk, tmp_path, refused):
    line = refused(H2loError, walk, tmp_path, lambda step: math.nan if step == 4 else None)
    assert "the loss became nan at step 5; " in line
    assert saved_step(tmp_path) == 4


def test_damaged_checkpoints_are_named(tmp_path):
    fit(TRAIN, HELD, small_options(), tmp_path, stop_at=4)
    for name in ("last.pt", "previous.pt"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(BadDataError, match=r"last\.pt: damaged .*remove .* to start anew"):
        fit(TRAIN, HELD, small_options(), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_fabric_is_quiet_and_stays_in_the_folder(tmp_path, monkeypatch, capfd):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    lines: list[str] = []
    for device, stop in (("cpu", 5), ("auto", None)):  # another name of the device
        options = small_options(device=device)
        fit(TRAIN, HELD, options, tmp_path / "fit", lines.append, stop_at=stop)
    assert capfd.readouterr() == ("", "")
    assert not list((tmp_path / "here").iterdir())
    names = {p.name for p in (tmp_path / "fit").iterdir()}
    assert names == {"history.csv", "last.pt", "previous.pt"}
    assert any(line.startswith("going on from step 5") for line in lines)
    with pytest.raises(UsageError, match="this machine offers"):
        fit(TRAIN, HELD, small_options(device="cuda:77"), tmp_path / "other")


def test_bad_pairs_are_named():
    good = TRAIN[0]
    with pytest.raises(BadDataError, match="pair x: NaN"):
        dataclasses.replace(good, name="x", hf=np.full_like(good.hf, np.nan))
    with pytest.raises(BadDataError, match="pair x: its brain mask is empty"):
        dataclasses.replace(good, name="x", mask=np.zeros_like(good.mask))
    with pytest.raises(BadDataError, match="pair x: volumes and mask need one 3-D shape"):
        dataclasses.replace(good, name="x", lf=good.lf[1:])
