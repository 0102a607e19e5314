"""DiffI2I's two stages: what moves, what is learnt, and going on after a stop."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from problems import HELD, TRAIN, history, tiny_options, trainer_of, vector

from h2lo_bids.synthesis.patches import predict_diffi2i
from h2lo_bids.training.crops import NONE
from h2lo_bids.training.fit import fit, load_checkpoint
from h2lo_bids.training.methods.diffi2i import (
    DiffI2ITrainer,
    SliceValidation,
    slice_sampler,
)
from h2lo_bids.training.options import FitOptions


def options_of(**changes: Any) -> FitOptions:
    """Eight steps: four of stage 1, one of the prior alone, three of both."""
    return tiny_options("diffi2i", **{"augmentation": NONE, **changes})


def test_each_stage_trains_its_own_networks_and_reports_its_losses():
    # Without an average no stage begins with other weights than the last one's.
    task = trainer_of(DiffI2ITrainer, TRAIN, HELD, options_of(average=0.0))
    parts = {n: getattr(task.model, n) for n in ("transformer", "condition", "denoiser")}
    parts["extractor"] = task.networks["extractor"]
    seen = []
    for step in range(8):
        before = {name: vector(part) for name, part in parts.items()}
        losses = task.step(step, step)
        moved = {
            name for name, part in parts.items() if not torch.equal(before[name], vector(part))
        }
        terms = {name: losses[name] for name in ("pixel", "prior") if name in losses}
        assert losses["loss"] == pytest.approx(sum(terms.values()))
        seen.append((moved, {*terms}, math.isnan(task.validate())))
    assert seen[:4] == [({"transformer", "extractor"}, {"pixel"}, True)] * 4
    assert seen[4] == ({"condition", "denoiser"}, {"prior"}, False)
    assert seen[5:] == [({"transformer", "condition", "denoiser"}, {"pixel", "prior"}, False)] * 3


def test_all_slices_give_the_figure_of_the_product():
    options = options_of(validation_crops=1000)
    model = trainer_of(DiffI2ITrainer, TRAIN, [], options).fitted()
    made = predict_diffi2i(model, HELD[0].hf, HELD[0].mask).clip(0, 1)
    error = np.mean((made - HELD[0].lf)[HELD[0].mask].astype(np.float64) ** 2)
    found = SliceValidation(HELD, options).figure(lambda v, m: predict_diffi2i(model, v, m))
    assert found == pytest.approx(-10 * np.log10(error))


def test_time_decides_the_stage_and_the_rate_which_falls_in_each():
    options = options_of(steps=14, learning_rate=2e-4, floor=1e-6)
    task = trainer_of(DiffI2ITrainer, TRAIN, [], options)
    for step, place in enumerate((0, 2, 5, 6, 7, 8, 13)):
        rate = task.step(step, place)["rate"]
        stage, start, stop = next(s for s in ((0, 0, 6), (1, 6, 8), (2, 8, 14)) if place < s[2])
        assert task.stage == stage
        part = (place - start) / (stop - start)
        assert rate == pytest.approx(1e-6 + (2e-4 - 1e-6) * np.cos(np.pi * part / 2) ** 2)


@pytest.mark.slow
def test_learns_the_prior_and_a_held_out_subject(tmp_path):
    options = options_of(steps=80, learning_rate=5e-3, validate_every=80)
    result = fit(TRAIN, HELD, options, tmp_path)
    assert result.best_psnr > result.identity_psnr + 5
    assert [bool(r["prior"]) for r in history(tmp_path)] == [False] * 35 + [True] * 45
    # From noise, and for a subject that was in no step, the chain finds stage 1's z.
    untrained = trainer_of(DiffI2ITrainer, TRAIN, HELD, options)
    task = trainer_of(DiffI2ITrainer, TRAIN, HELD, options)
    task.load(load_checkpoint(tmp_path)["trainer"])
    source, target, _ = slice_sampler(HELD, options)(0)
    with torch.inference_mode():
        z = task.networks["extractor"](torch.cat([source, target], 1))
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
        estimates = [t.model.estimate_prior(source, noise) for t in (untrained, task)]
    before, after = ((estimate - z).abs().mean().item() for estimate in estimates)
    assert after < 0.3 * before
