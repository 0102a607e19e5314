"""The paper's protocol as the paper and the authors' release describe it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import SMALL, ball_pair, small_options

from h2lo_bids.errors import UsageError
from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.synthesis.options import native_precision
from h2lo_bids.training import estimators
from h2lo_bids.training.crops import epoch_batch, epoch_steps
from h2lo_bids.training.estimators import build_estimator
from h2lo_bids.training.fit import fit
from h2lo_bids.training.options import FitOptions, default_options, paper_options
from h2lo_bids.training.schedule import rate_of
from h2lo_bids.training.validation import Validation


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


@pytest.mark.parametrize(("count", "batch"), [(7, 1), (7, 3), (6, 2), (2, 5)])
def test_an_epoch_takes_each_pair_once(count: int, batch: int) -> None:
    steps = epoch_steps(count, batch)
    orders = [
        np.concatenate([epoch_batch(count, batch, e * steps + s, 42) for s in range(steps)])
        for e in range(6)
    ]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert count < 3 or len({tuple(order) for order in orders}) > 1


@pytest.mark.parametrize("sampling", ["patch", "volume"])
def test_without_the_gradient_term_it_costs_nothing(
    sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [ball_pair("a", 1), ball_pair("b", 2)]
    with_term, without = (
        build_estimator(pairs, small_options(sampling=sampling, lambda_grad=weight))
        for weight in (10.0, 0.0)
    )
    model = H2lo(SMALL)
    l1, gradient = with_term.terms(model, with_term.draw(0))
    assert gradient > 0
    monkeypatch.setattr(estimators, "gradient_loss", None)  # a call would fail
    found = without.terms(model, without.draw(0))
    assert torch.equal(found[0], l1)
    assert found[1] == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_whole_volume_validation_is_the_mean_of_the_pairs(precision: str) -> None:
    pairs = [ball_pair("a", 1), ball_pair("b", 2)]
    model = H2lo(SMALL)
    validation = Validation(pairs, small_options(validation="volume", precision=precision))
    found, baseline = [], []
    for pair in pairs:
        with torch.no_grad():
            made = model(torch.from_numpy(pair.hf)[None, None])[0, 0].numpy()
        for values, source in ((found, made), (baseline, pair.hf)):
            error = np.where(pair.mask, np.clip(source, 0, 1), 0) - pair.lf
            values.append(-10 * math.log10((error.astype(float) ** 2).mean()))
    tolerance = 1e-4 if precision == "fp32" else 0.1
    assert validation.psnr(*validation.parts(model)) == pytest.approx(np.mean(found), abs=tolerance)
    assert validation.psnr(*validation.parts(None)) == pytest.approx(np.mean(baseline), abs=1e-4)


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
