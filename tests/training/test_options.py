"""The paper's protocol as the paper and the authors' release describe it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from problems import SMALL, ball_pair, small_options

from h2lo_bids.errors import UsageError
from h2lo_bids.synthesis.options import native_precision
from h2lo_bids.training.fit import fit
from h2lo_bids.training.options import FitOptions, default_options, paper_options, rate_of


def test_paper_options_are_the_release_s() -> None:
    o = paper_options(13, device="cpu")
    assert (o.sampling, o.points, o.crop, o.batch, o.lambda_grad) == ("volume", 8000, 32, 1, 10)
    assert (o.steps, o.seed, o.precision, o.average) == (6500, 42, "fp32", 0)
    assert o.validation == "volume"
    epochs = [s / 13 for s in range(1, 6501) if s == o.validate_first or not s % o.validate_every]
    assert epochs == [1, *range(5, 501, 5)]


def test_paper_rate_is_pytorch_s_per_epoch() -> None:
    options = paper_options(3, device="cpu", epochs=20)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=1e-6)
    for epoch in range(20):
        for step in range(3 * epoch, 3 * epoch + 3):
            assert math.isclose(rate_of(step, options), scheduler.get_last_lr()[0], rel_tol=1e-9)
        optimizer.step()
        scheduler.step()


def test_a_paper_fit_validates_and_keeps_the_best(tmp_path: Path) -> None:
    pairs = [ball_pair(name, n) for n, name in enumerate("abc")]
    options = paper_options(2, device="cpu", epochs=6)
    options = FitOptions(**{**options.__dict__, "architecture": SMALL, "crop": 8, "points": 400})
    lines: list[str] = []
    result = fit(pairs[:2], pairs[2:], options, tmp_path, lines.append)
    assert [line.split("/")[0] for line in lines if line.startswith("step")] == [
        "step 2", "step 10", "step 12"
    ]  # fmt: skip
    assert result.best_step in (2, 10, 12)


def test_default_fits_few_pairs_and_steps() -> None:
    assert default_options(1, device="cpu").batch == 1
    assert default_options(12, device="cpu", steps=30).validate_every == 30
    assert native_precision("cpu") in ("bf16", "fp32")
    assert FitOptions.from_dict(default_options(3).to_dict()) == default_options(3)
    with pytest.raises(UsageError, match="no options of a fit"):
        FitOptions.from_dict({"steps": 3})
    with pytest.raises(UsageError, match="lambda_grad"):
        small_options(lambda_grad=-1.0)
