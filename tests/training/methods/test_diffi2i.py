"""DiffI2I's two stages: what moves, what is learnt, and going on after a stop."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from problems import HELD, TRAIN, history, tiny_options, trainer_of, vector
from problems import TINY as SIZES

from h2lo_bids.models.diffi2i import DiffI2I
from h2lo_bids.synthesis.patches import predict_diffi2i
from h2lo_bids.training.crops import NONE
from h2lo_bids.training.fit import fit, load_checkpoint
from h2lo_bids.training.methods.diffi2i import (
    DiffI2ITrainer,
    SliceValidation,
    slice_sampler,
)
from h2lo_bids.training.options import FitOptions

TINY = SIZES["diffi2i"]["architecture"]


def options_of(**changes: Any) -> FitOptions:
    """Eight steps: four of stage 1, one of the prior alone, three of both."""
    return tiny_options("diffi2i", **{"augmentation": NONE, **changes})


def moved(task: DiffI2ITrainer, step: int) -> set[str]:
    """Name the networks of which a step changes anything."""

    def parts() -> dict[str, torch.Tensor]:
        model = task.model
        found = {n: vector(getattr(model, n)) for n in ("transformer", "condition", "denoiser")}
        return {**found, "extractor": vector(task.networks["extractor"])}

    before = parts()
    task.step(step, step)
    return {name for name, now in parts().items() if not torch.equal(before[name], now)}


def test_each_stage_trains_its_own_networks():
    # Without an average no stage begins with other weights than the last one's.
    task = trainer_of(DiffI2ITrainer, TRAIN, HELD, options_of(average=0.0))
    found = [moved(task, step) for step in range(8)]
    assert found[:4] == [{"transformer", "extractor"}] * 4
    assert found[4] == {"condition", "denoiser"}
    assert found[5:] == [{"transformer", "condition", "denoiser"}] * 3


def test_stages_report_their_losses_and_validate_the_product_alone():
    task = trainer_of(DiffI2ITrainer, TRAIN, HELD, options_of())
    names, validated = [], []
    for step in range(8):
        losses = task.step(step, step)
        terms = [losses[n] for n in ("pixel", "prior") if n in losses]
        assert losses["loss"] == pytest.approx(sum(terms))
        names.append({*losses} - {"loss", "rate"})
        validated.append(task.validate())
    assert names == [{"pixel"}] * 4 + [{"prior"}] + [{"pixel", "prior"}] * 3
    assert np.isnan(validated[:4]).all()
    model = DiffI2I(TINY)
    model.load_state_dict(task.fitted().state_dict())
    made = predict_diffi2i(model, HELD[0].hf, HELD[0].mask).clip(0, 1)
    whole = SliceValidation(HELD, dataclasses.replace(task.options, validation_crops=1000))
    error = np.mean((made - HELD[0].lf)[HELD[0].mask].astype(np.float64) ** 2)
    assert whole.figure(lambda v, m: predict_diffi2i(model, v, m)) == pytest.approx(
        -10 * np.log10(error)
    )


def test_rate_falls_in_every_stage():
    options = options_of(steps=14, learning_rate=2e-4, floor=1e-6)
    task = trainer_of(DiffI2ITrainer, TRAIN, [], options)
    rates = [task.step(step, step)["rate"] for step in range(14)]
    for start, stop in ((0, 6), (6, 8), (8, 14)):
        at = np.arange(stop - start) / (stop - start)
        expected = 1e-6 + (2e-4 - 1e-6) * np.cos(np.pi * at / 2) ** 2
        np.testing.assert_allclose(rates[start:stop], expected)


@pytest.mark.slow
def test_learns_the_prior_and_a_held_out_subject(tmp_path):
    options = options_of(steps=160, learning_rate=5e-3, validate_every=40)
    result = fit(TRAIN, HELD, options, tmp_path)
    assert result.best_psnr > result.identity_psnr + 5
    assert result.best_step > 69
    assert [bool(r["prior"]) for r in history(tmp_path)] == [False] * 69 + [True] * 91
    # From noise, and for a subject that was in no step, the chain finds stage 1's z.
    untrained = trainer_of(DiffI2ITrainer, TRAIN, HELD, options)
    task = trainer_of(DiffI2ITrainer, TRAIN, HELD, options)
    task.load(load_checkpoint(tmp_path)["trainer"])  # type: ignore[index]
    source, target, _ = slice_sampler(HELD, options)(0)
    with torch.inference_mode():
        z = task.networks["extractor"](torch.cat([source, target], 1))
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
        estimates = [t.model.estimate_prior(source, noise) for t in (untrained, task)]
    before, after = ((estimate - z).abs().mean().item() for estimate in estimates)
    assert after < 0.3 * before


def test_time_budget_is_shared_by_the_stages():
    task = trainer_of(DiffI2ITrainer, TRAIN, [], options_of(steps=1000))
    stages = []
    for step, place in enumerate((0, 420, 440, 570, 580, 990)):
        task.step(step, place)
        stages.append(task.stage)
    assert stages == [0, 0, 1, 1, 2, 2]
