"""The parts of the GPU benchmark run on the CPU at a toy size, and go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from h2lo_bids.errors import TemporaryError
from h2lo_bids.models.bundle import default_bundle

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script(benchmark_script: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_script("gpu")


def run(script: ModuleType, part: str, out: Path, *more: str) -> dict[str, Any]:
    script.main([part, str(out), "--device", "cpu", "--scale", "0.1", *more])
    record: dict[str, Any] = json.loads((out / f"{part}.json").read_text())
    assert (record["part"], record["device"]) == (part, "CPU")
    return record


def test_the_engine_on_both_is_one(script: ModuleType, tmp_path: Path) -> None:
    record = run(script, "engine", tmp_path)
    assert record["cpu fp32"]["largest_error"] == 0
    assert 60 < record["cpu bf16"]["psnr"] < 120
    assert record["cpu bf16"]["peak_mb"] > 10


@pytest.mark.slow
def test_steps_on_both_give_one_model(script: ModuleType, tmp_path: Path) -> None:
    record = run(script, "training", tmp_path, "--steps", "1")
    assert record["cpu"]["steps"] == 1
    assert record["largest_difference_of_weights"] == 0


@pytest.mark.slow
def test_the_papers_protocol_ends_in_time_and_goes_on(script: ModuleType, tmp_path: Path) -> None:
    record = run(script, "paper", tmp_path, "--minutes", "0.002")
    assert (record["done"], record["of"]) == (False, 2000)  # 500 epochs of four pairs
    for steps in (1, 2):
        record = run(script, "paper", tmp_path, "--steps", str(steps))
        assert (record["done"], record["steps"]) == (True, steps)
    rows = (tmp_path / "paper" / "history.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows] == ["step", "1", "2"]


def test_the_embedded_models_are_fitted_once(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def train(labels: Path, out: Path, contrast: str, options: Any) -> None:
        asked.append((contrast, options.device, options.steps))
        if len(asked) == 2:
            raise TemporaryError("ended by SIGTERM")
        out.mkdir(exist_ok=True)
        (out / f"h2lo_{contrast}").symlink_to(default_bundle(contrast).path)

    monkeypatch.setattr(script, "train_embedded", train)
    words = ("--labels", str(tmp_path), "--steps", "7")
    assert run(script, "embedded", tmp_path, *words)["done"] is False
    record = run(script, "embedded", tmp_path, *words)
    assert asked == [("T1w", "cpu", 7), ("T2w", "cpu", 7), ("T2w", "cpu", 7)]
    assert record["done"]
    assert record["T2w"] == default_bundle("T2w").metadata["held_out"]["mean"]
