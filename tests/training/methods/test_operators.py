"""The losses against closed forms and loops, and their estimates against the whole grid."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from problems import (
    SMALL,
    TINY,
    TRAIN,
    VARIED,
    ball_pair,
    small_options,
    trainer_of,
    vector,
)
from scipy.ndimage import correlate

from h2lo_bids.models.h2lo import HALO, ConditionalInr, H2lo, Operator
from h2lo_bids.synthesis.tiles import read_crop
from h2lo_bids.training.methods.operators import (
    OperatorTrainer,
    PatchLoss,
    VolumeLoss,
    gradient_loss,
    predict_crop,
)


@pytest.mark.parametrize("kind", ["h2lo", "inr"])
def test_crop_equals_whole_volume(kind):
    torch.manual_seed(3)
    model: Operator = ConditionalInr(TINY["inr"]["architecture"])
    if kind == "h2lo":
        model = H2lo(SMALL)
        model.bias.data.fill_(0.3)
    size, shape = 6, (18, 21, 16)
    volume = np.random.default_rng(1).random(shape).astype(np.float32)
    with torch.no_grad():
        for layer in model.encoder.convolutions:
            layer.bias.uniform_(-1, 1)  # large biases: zeros outside must stay zeros
        whole = model(torch.from_numpy(volume)[None, None])[0, 0]
    for corner in ((5, 6, 5), (0, 0, 0), (12, 15, 10), (-3, 10, 12)):
        wide = read_crop(volume, tuple(c - HALO for c in corner), size + 2 * HALO)
        with torch.no_grad():
            crop = predict_crop(model, torch.from_numpy(wide)[None, None], corner, shape)[0, 0]
        first = [max(0, -c) for c in corner]
        inside = tuple(slice(max(0, c), c + size) for c in corner)
        part = tuple(slice(f, n - c) for f, n, c in zip(first, shape, corner, strict=True))
        torch.testing.assert_close(crop[part], whole[inside], atol=1e-5, rtol=0)


def test_gradient_loss_is_that_of_equation_3():
    rng = np.random.default_rng(0)
    predicted, target, weight = rng.random((3, 4, 5, 6))
    r = np.indices((5, 5, 5)) - 2
    density = np.exp(-(r**2).sum(0) / 2) / (2 * math.pi) ** 1.5
    responses = [correlate(predicted - target, -x * density, mode="constant") for x in r]
    for weights, given in ((1, ()), (weight, (weight,))):
        expected = sum((response**2 * weights).mean() for response in responses)
        images = (torch.from_numpy(v).float()[None, None] for v in (predicted, target, *given))
        assert float(gradient_loss(*images)) == pytest.approx(expected, rel=1e-5)


def test_patch_l1_is_unbiased():
    pairs = [ball_pair("a", 1, (14, 15, 13)), ball_pair("b", 2, (14, 15, 13))]
    torch.manual_seed(0)
    model = H2lo(SMALL)
    model.bias.data.fill_(0.3)  # outside the brain, too, where the loss sets it to 0
    estimator = PatchLoss(model, pairs, small_options(crop=5, batch=1))
    with torch.no_grad():
        brain = np.mean([p.mask.sum() for p in pairs])
        truth = np.mean([
            np.abs(model(torch.from_numpy(p.hf)[None, None])[0, 0].numpy() - p.lf)[p.mask].sum()
            for p in pairs
        ]) / brain  # fmt: skip
        draws = np.array([float(estimator(*estimator.draw(i)[:2])[0]) for i in range(600)])
    assert abs(draws.mean() - truth) < 4 * draws.std() / np.sqrt(len(draws))
    assert draws.std() / np.sqrt(len(draws)) < 0.02 * truth


def test_volume_l1_is_unbiased_over_the_whole_grid():
    pair = ball_pair("a", 1, (12, 13, 11))
    torch.manual_seed(0)
    model = H2lo(SMALL)
    for parameter in model.parameters():
        parameter.data.mul_(4)  # its image is almost 0 before it is fitted
    estimator = VolumeLoss(model, [pair], small_options(crop=8, points=2000))
    with torch.no_grad():
        whole = model(torch.from_numpy(pair.hf)[None, None])
        target = torch.from_numpy(pair.lf)[None, None]
        truth = float((whole - target).abs().mean())
        boxes = itertools.product(*(range(n - 8 + 1) for n in pair.shape))
        blocks = [(slice(None),) * 2 + tuple(slice(c, c + 8) for c in box) for box in boxes]
        gradient = np.mean([float(gradient_loss(whole[b], target[b])) for b in blocks])
        batches = (estimator.draw(i)[:2] for i in range(150))
        draws = np.array([[float(t) for t in estimator(*b)] for b in batches])
    error = draws.std(0) / np.sqrt(len(draws))
    assert abs(draws[:, 0].mean() - truth) < 4 * error[0]
    assert abs(draws[:, 1].mean() - gradient) < 4 * error[1]


def test_the_weights_that_are_kept_are_a_running_average():
    task = trainer_of(OperatorTrainer, TRAIN, [], small_options(average=0.1))
    expected = vector(task.model)
    for step, decay in enumerate((1 / 11, 0.1, 0.1)):  # the first step forgets the start faster
        task.step(step, step)
        expected = decay * expected + (1 - decay) * vector(task.model)
    torch.testing.assert_close(vector(task.fitted()), expected)


@pytest.mark.parametrize("kind", [PatchLoss, VolumeLoss])
def test_shares_of_a_step_add_up_to_it(kind):
    estimator = kind(H2lo(SMALL), TRAIN, small_options(batch=3, augmentation=VARIED))
    with torch.no_grad():
        whole = torch.stack(estimator(*estimator.draw(5)[:2]))
        batches = [estimator.draw(5, rank, 2) for rank in range(2)]
        parts = [torch.stack(estimator(*b[:2])) * b.fraction for b in batches]
    assert [b.fraction for b in batches] == [2 / 3, 1 / 3]
    torch.testing.assert_close(parts[0] + parts[1], whole)
