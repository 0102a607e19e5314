"""The plain loop resumes bit for bit, keeps the best, and stops in good order."""

import csv
import dataclasses
import math
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import SMALL, ball_pair, small_options

from h2lo_bids.errors import H2loError, TemporaryError, UsageError
from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.training import stopping
from h2lo_bids.training.checkpoint import load_checkpoint
from h2lo_bids.training.fit import FitResult
from h2lo_bids.training.loop import run_loop

TRAIN, HELD = [ball_pair("a", 1), ball_pair("b", 2)], [ball_pair("c", 3)]


class Walk:
    """Moves all weights by draws, with momentum; its figure is a function of the step."""

    losses = ("loss", "side")

    def __init__(self, act: Callable[[int], float | None] = lambda step: None) -> None:
        torch.manual_seed(0)
        self.model = H2lo(SMALL)
        self.momentum = torch.zeros(3)
        self.done, self.act = 0, act
        self.figures = {4: 10.0, 8: 30.0, 12: 20.0}

    def step(self, step: int) -> Mapping[str, float]:
        assert step == self.done
        found = self.act(step)
        draw = torch.randn(3, generator=torch.Generator().manual_seed(1000 + step))
        self.momentum = 0.9 * self.momentum + draw
        for parameter in self.model.parameters():
            parameter.data.add_(self.momentum.sum() * 1e-3)
        self.done += 1
        loss = float(draw.sum()) if found is None else found
        return {"rate": 0.1, "loss": loss, **({"side": 2.0} if step % 2 else {})}

    def state(self) -> dict[str, Any]:
        weights = self.model.state_dict()
        return {"model": weights, "momentum": self.momentum, "done": self.done}

    def load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.momentum, self.done = state["momentum"], state["done"]

    def validate(self) -> float | None:
        return self.figures.get(self.done)

    def weights(self) -> Mapping[str, torch.Tensor]:
        return self.model.state_dict()


def run(
    folder: Path, act: Callable[[int], float | None] = lambda step: None, **changes: Any
) -> FitResult:
    stop_at = changes.pop("stop_at", None)
    options = small_options(**{"steps": 14, **changes})
    return run_loop(lambda: Walk(act), TRAIN, HELD, options, folder, stop_at=stop_at)


def equal(one: FitResult, other: FitResult) -> bool:
    a, b = (r.model.state_dict() for r in (one, other))
    return all(torch.equal(a[k], b[k]) for k in a) and one.best_step == other.best_step


def walked(steps: int) -> FitResult:
    """The weights after some steps, without the loop."""
    walk = Walk()
    for step in range(steps):
        walk.step(step)
    return FitResult(walk.model, steps, steps, 0.0, 0.0, 0.0)


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert (result.steps, result.best_step, result.best_psnr) == (14, 8, 30.0)
    assert equal(result, walked(8))
    assert not result.model.training
    with (tmp_path / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [*rows[0]] == ["step", "rate", "loss", "side", "psnr", "seconds"]
    assert [int(r["step"]) for r in rows] == list(range(1, 15))
    assert {r["step"]: r["psnr"] for r in rows if r["psnr"]} == {
        "4": "10.0",
        "8": "30.0",
        "12": "20.0",
    }
    assert [r["side"] for r in rows] == ["", "2.0"] * 7


@pytest.mark.parametrize("stop", [1, 3, 6, 9, 13])
def test_a_fit_in_parts_is_a_whole_one(tmp_path: Path, stop: int) -> None:
    whole = run(tmp_path / "whole")
    assert run(tmp_path / "parts", stop_at=stop).steps == stop
    assert equal(whole, run(tmp_path / "parts"))
    logs = [(tmp_path / d / "history.csv").read_text().splitlines() for d in ("whole", "parts")]
    assert [r.split(",")[:5] for r in logs[0]] == [r.split(",")[:5] for r in logs[1]]
    assert load_checkpoint(tmp_path / "parts")["step"] == 14  # type: ignore[index]


def test_without_a_validation_the_last_weights_win(tmp_path: Path) -> None:
    assert equal(run(tmp_path, steps=3), dataclasses.replace(walked(3), best_step=0))


def test_a_kill_costs_the_steps_since_the_checkpoint(tmp_path: Path) -> None:
    def die(step: int) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", die)
    assert load_checkpoint(tmp_path / "killed")["step"] == 6  # type: ignore[index]
    assert equal(run(tmp_path / "killed"), run(tmp_path / "whole"))


def test_the_checkpoint_before_a_damaged_one_serves(tmp_path: Path) -> None:
    run(tmp_path / "a", stop_at=6)
    (tmp_path / "a/last.pt").write_bytes(b"PK cut off")
    assert load_checkpoint(tmp_path / "a")["step"] == 4  # type: ignore[index]
    assert equal(run(tmp_path / "a"), run(tmp_path / "whole"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_signals_end_the_step_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setattr(stopping, "_requeue", lambda: ", and job 77 was put back into the queue")
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)]

    def send(step: int) -> None:
        if step == 4:
            os.kill(os.getpid(), getattr(signal, name))

    with pytest.raises(TemporaryError, match=f"stopped by {name} after step 5.*run again") as err:
        run(tmp_path / "a", send)
    assert ("job 77" in str(err.value)) == (name == "SIGUSR1")
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)] == before
    assert load_checkpoint(tmp_path / "a")["step"] == 5  # type: ignore[index]
    assert equal(run(tmp_path / "a"), run(tmp_path / "whole"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_one_line(tmp_path: Path, value: float) -> None:
    def spoil(step: int) -> float | None:
        return value if step == 4 else None

    with pytest.raises(H2loError, match=r"the loss became \w+ at step 5; .*learning rate") as err:
        run(tmp_path, spoil)
    assert "\n" not in str(err.value)
    assert load_checkpoint(tmp_path)["step"] == 4  # type: ignore[index]


def test_other_options_or_pairs_are_refused(tmp_path: Path) -> None:
    run(tmp_path, stop_at=1)
    with pytest.raises(UsageError, match="other options"):
        run(tmp_path, seed=7)
    with pytest.raises(UsageError, match="other pairs"):
        run_loop(Walk, TRAIN[:1], HELD, small_options(steps=14), tmp_path)
    with pytest.raises(UsageError, match="no pair"):
        run_loop(Walk, [], HELD, small_options(), tmp_path / "b")


def test_a_time_budget_ends_a_fit_for_good(tmp_path: Path) -> None:
    lines: list[str] = []
    options = small_options(steps=14, max_seconds=1e-9)
    result = run_loop(Walk, TRAIN, HELD, options, tmp_path, lines.append)
    assert (result.steps, result.timed_out) == (1, True)
    assert any("time budget" in line for line in lines)

    def never(step: int) -> None:
        raise AssertionError("it is finished")

    again = run_loop(lambda: Walk(never), TRAIN, HELD, options, tmp_path)
    assert again.timed_out
    assert equal(again, result)
    roomy = run(tmp_path / "roomy", max_seconds=1e6)
    assert (roomy.steps, roomy.timed_out) == (14, False)
