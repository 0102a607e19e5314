"""The paper's protocol as the paper and the authors' release describe it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from problems import HELD, TRAIN, tiny_options, trainer_of

from h2lo_bids.settings import OPTIONS, Settings
from h2lo_bids.training.methods import TRAINERS
from h2lo_bids.training.options import (
    FitOptions,
    default_options,
    fit_options,
    has_stalled,
    linear_rate,
    paper_options,
    rate_of,
)


def test_paper_options_are_the_release_s():
    o = paper_options(13, device="cpu")
    assert (o.sampling, o.points, o.crop, o.batch, o.lambda_grad) == ("volume", 8000, 32, 1, 10)
    assert (o.steps, o.seed, o.precision, o.average) == (6500, 42, "fp32", 0)
    assert o.validation == "volume"
    epochs = [s / 13 for s in range(1, 6501) if s == o.validate_first or not s % o.validate_every]
    assert epochs == [1, *range(5, 501, 5)]


def test_the_help_tells_the_defaults_of_both_protocols():
    own, paper = default_options(20, device="cpu"), paper_options(20, device="cpu")
    epochs = ("steps", "validate_every")
    for name in (*epochs, "sampling", "crop", "batch", "lambda_grad", "learning_rate"):
        text, value = OPTIONS[name].help, getattr(paper, name)
        usual, theirs = text.partition("default: ")[2], text.partition("paper: ")[2]
        assert usual.startswith(f"{getattr(own, name)}".removesuffix(".0"))
        if theirs:
            assert theirs.startswith(f"{value // 20} epochs" if name in epochs else f"{value}")
        else:
            assert value == getattr(own, name)


def test_warmup_rises_linearly():
    options = FitOptions(steps=100, learning_rate=1.0, floor=0.0, warmup=4)
    assert [rate_of(s, options) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate_of(0, FitOptions(steps=1, learning_rate=1.0, floor=0.0)) == 1.0
    options = FitOptions(steps=104, learning_rate=2e-6, floor=5e-7, warmup=4, warmup_from=0.5)
    rates = [rate_of(k, options) for k in (*range(5), 103)]
    assert rates == pytest.approx([1e-6, 1.25e-6, 1.5e-6, 1.75e-6, 2e-6, 5e-7])


@pytest.mark.parametrize(("protocol", "given"), [("default", 1e-7), ("paper", 1e-8)])
def test_a_rate_below_the_usual_floor_never_rises(protocol, given):
    settings = Settings(
        Path("/b"), Path("/o"), "group", protocol=protocol, learning_rate=given, device="cpu"
    )
    options = fit_options(settings, 3)
    assert max(rate_of(step, options) for step in range(options.steps)) == given
    usual = fit_options(dataclasses.replace(settings, learning_rate=None), 3)
    assert usual.floor == 1e-6


@pytest.mark.parametrize("name", ["h2lo", "pfsr"])
def test_the_warmup_is_a_part_of_the_schedule_that_a_time_budget_shortens(name):
    """At the second step a tenth and a fifth of the time lie behind."""
    options = tiny_options(name, steps=100, warmup=20, learning_rate=0.01, seed=1)
    trainer = trainer_of(TRAINERS[name], TRAIN, HELD, options)
    rates = [trainer.step(1, place)["rate"] for place in (9, 19)]
    assert rates == pytest.approx([0.005, 0.01])


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        (FitOptions(steps=101, learning_rate=1e-3, floor=1e-6), 100),
        (dataclasses.replace(paper_options(3, device="cpu"), steps=60), 20),
        # Counted after the warm-up, the last epoch of 2 steps.
        (FitOptions(steps=100, learning_rate=1.0, floor=0.01, warmup=10, rate_steps=8), 12),
    ],
)
def test_the_cosine_is_pytorch_s(options, epochs):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=options.learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, options.floor)
    for done, step in enumerate(range(options.warmup, options.steps), start=1):
        expected = scheduler.get_last_lr()[0]
        assert math.isclose(rate_of(step, options), expected, rel_tol=1e-9)
        if done % options.rate_steps == 0:
            optimizer.step()
            scheduler.step()
    assert rate_of(max(0, options.warmup - 1), options) == options.learning_rate


def test_linear_rate_is_constant_for_half_and_then_falls_to_nothing():
    rates = [linear_rate(step, 10, 2.0) for step in range(11)]
    assert rates == pytest.approx([2, 2, 2, 2, 2, 2, 1.6, 1.2, 0.8, 0.4, 0])
    assert linear_rate(0, 1, 2.0) == 2.0


def test_a_fit_stalls_once_its_validation_no_longer_rises():
    found = [(10, 20.0), (20, 21.0), (30, 21.01), (40, 21.02)]
    assert has_stalled(found, 20)
    assert not has_stalled(found, 30)
    assert not has_stalled([*found, (50, 21.04)], 30)
