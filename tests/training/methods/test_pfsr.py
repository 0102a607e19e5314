"""Fitting the enhancer learns, is the same twice, and goes on bit for bit."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from problems import ball_pair, small_options, trainer_of

from h2lo_bids.models.pfsr import PfsrArchitecture
from h2lo_bids.training.methods.patches import PfsrTrainer, adapt_pfsr
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair

TINY = PfsrArchitecture(features=4, groups=1, blocks=2, reduction=2)
SHAPE = (14, 18, 16)
TRAIN = [ball_pair(name, seed, SHAPE).swapped() for name, seed in (("a", 1), ("b", 2), ("c", 3))]
HELD = [ball_pair("d", 4, SHAPE).swapped()]


def tiny_options(**changes: Any) -> FitOptions:
    options = adapt_pfsr(small_options(steps=6, validate_every=3, validation="volume"))
    values = {"architecture": TINY, "crop": 8, "batch": 2, "learning_rate": 1e-2, **changes}
    return dataclasses.replace(options, **values)


def weights(model: Any) -> torch.Tensor:
    return torch.cat([value.ravel() for value in model.state_dict().values()])


def test_gradients_in_bf16_are_the_same_every_time() -> None:
    """The one-channel layer's gradient was seen to read memory that nobody had set."""
    task = trainer_of(PfsrTrainer, TRAIN, [], tiny_options(precision="bf16", crop=4))
    with torch.no_grad():
        task.network.tail.weight.normal_()
    x = torch.rand(2, 1, 4, 4, 4)

    def gradients() -> torch.Tensor:
        task.network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = task.network(x)
        assert out.dtype == torch.float32
        out.abs().sum().backward()
        return torch.cat([p.grad.ravel().clone() for p in task.network.parameters()])

    first = gradients()
    for _ in range(5):
        torch.full((64, 64, 27), float("nan"))  # litter where freed memory is taken from
        assert torch.equal(gradients(), first)


def test_a_first_step_is_adam_on_the_mean_absolute_difference() -> None:
    task = trainer_of(PfsrTrainer, TRAIN, [], tiny_options(learning_rate=1e-3))
    source, target, brain = task.draw(0)
    assert source.shape == target.shape == brain.shape == (2, 1, 8, 8, 8)
    assert not target[~brain].any()
    before = task.network.tail.bias.item()
    told = task.step(0, 0)
    # An untrained network returns its input.
    assert told["loss"] == pytest.approx((source * brain - target).abs().mean().item(), rel=1e-5)
    sign = torch.sign((source * brain - target)[brain]).sum().sign().item()
    assert task.network.tail.bias.item() - before == pytest.approx(-1e-3 * sign, rel=1e-3)


def test_patches_follow_each_other_through_all_pairs() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[4:10, 4:10, 4:10] = True
    pairs = [Pair(str(k), mask * np.float32(0.5), mask * np.float32(k / 4), mask) for k in (1, 2)]
    task = trainer_of(PfsrTrainer, pairs, [], tiny_options(batch=4, crop=6))
    found = [task.draw(step)[1].amax((1, 2, 3, 4)) * 4 for step in range(3)]
    assert all(sorted(f.round().int().tolist()) == [1, 1, 2, 2] for f in found)
    assert torch.equal(task.draw(2)[0], task.draw(2)[0])
