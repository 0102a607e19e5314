"""The losses against closed forms and loops, and their estimates against the whole grid."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from problems import SMALL, TINY, TRAIN, VARIED, ball_pair, small_options

from h2lo_bids.models.h2lo import HALO, ConditionalInr, H2lo, Operator
from h2lo_bids.synthesis.tiles import read_crop
from h2lo_bids.training.methods.operators import (
    PatchLoss,
    VolumeLoss,
    gaussian_derivative_kernels,
    gradient_loss,
    predict_crop,
)

SHAPE = (18, 21, 16)


def whole_and_model(kind: str = "h2lo") -> tuple[torch.Tensor, np.ndarray, Operator]:
    torch.manual_seed(3)
    model: Operator = ConditionalInr(TINY["inr"]["architecture"])
    if kind == "h2lo":
        model = H2lo(SMALL)
        model.bias.data.fill_(0.3)
    with torch.no_grad():
        for layer in model.encoder.convolutions:
            layer.bias.uniform_(-1, 1)  # large biases: zeros outside must stay zeros
    volume = np.random.default_rng(1).random(SHAPE).astype(np.float32)
    with torch.no_grad():
        return model(torch.from_numpy(volume)[None, None])[0, 0], volume, model


@pytest.mark.parametrize("corner", [(5, 6, 5), (0, 0, 0), (12, 15, 10), (3, 14, 9), (-3, 10, 12)])
@pytest.mark.parametrize("kind", ["h2lo", "inr"])
def test_crop_equals_whole_volume(corner, kind):
    whole, volume, model = whole_and_model(kind)
    size = 6
    wide = read_crop(volume, tuple(c - HALO for c in corner), size + 2 * HALO)
    with torch.no_grad():
        crop = predict_crop(model, torch.from_numpy(wide)[None, None], corner, SHAPE)[0, 0]
    inside = tuple(slice(max(0, c), min(n, c + size)) for c, n in zip(corner, SHAPE, strict=True))
    part = tuple(slice(s.start - c, s.stop - c) for s, c in zip(inside, corner, strict=True))
    torch.testing.assert_close(crop[part], whole[inside], atol=1e-5, rtol=0)


def test_gradient_loss_by_loops():
    rng = np.random.default_rng(0)
    shape = (4, 5, 6)
    predicted, target = rng.random((2, *shape))
    padded = np.pad(predicted - target, 2)
    expected = 0.0
    for axis in range(3):
        for x, y, z in np.ndindex(shape):
            response = 0.0
            for tap in np.ndindex(5, 5, 5):
                r = np.array(tap) - 2
                kernel = -r[axis] * math.exp(-(r @ r) / 2) / (2 * math.pi) ** 1.5
                response += kernel * padded[x + tap[0], y + tap[1], z + tap[2]]
            expected += response**2 / np.prod(shape)
    a, b = (torch.from_numpy(v).float()[None, None] for v in (predicted, target))
    assert float(gradient_loss(a, b, gaussian_derivative_kernels())) == pytest.approx(
        expected, rel=1e-5
    )


def test_gradient_loss_ignores_a_constant_inside():
    a = torch.rand(1, 1, 8, 8, 8)
    kernels = gaussian_derivative_kernels()
    assert float(gradient_loss(a, a, kernels)) == 0.0
    inner = torch.zeros_like(a)
    inner[..., 2:-2, 2:-2, 2:-2] = 1  # where no zero of the padding reaches
    assert float(gradient_loss(a + 0.5, a, kernels, inner)) == pytest.approx(0, abs=1e-10)


def test_patch_l1_is_unbiased():
    pairs = [ball_pair("a", 1), ball_pair("b", 2)]
    torch.manual_seed(0)
    model = H2lo(SMALL)
    estimator = PatchLoss(model, pairs, small_options(crop=9, batch=1))
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
    estimator = VolumeLoss(model, [pair], small_options(crop=8, points=2000))
    with torch.no_grad():
        whole = model(torch.from_numpy(pair.hf)[None, None])
        target = torch.from_numpy(pair.lf)[None, None]
        truth = float((whole - target).abs().mean())
        boxes = itertools.product(*(range(n - 8 + 1) for n in pair.shape))
        kernels = gaussian_derivative_kernels()
        blocks = [(slice(None),) * 2 + tuple(slice(c, c + 8) for c in box) for box in boxes]
        gradient = np.mean([float(gradient_loss(whole[b], target[b], kernels)) for b in blocks])
        batches = (estimator.draw(i)[:2] for i in range(150))
        draws = np.array([[float(t) for t in estimator(*b)] for b in batches])
    error = draws.std(0) / np.sqrt(len(draws))
    assert abs(draws[:, 0].mean() - truth) < 4 * error[0]
    assert abs(draws[:, 1].mean() - gradient) < 4 * error[1]


@pytest.mark.parametrize("kind", [PatchLoss, VolumeLoss])
def test_shares_of_a_step_add_up_to_it(kind):
    estimator = kind(H2lo(SMALL), TRAIN, small_options(batch=3, augmentation=VARIED))
    with torch.no_grad():
        whole = torch.stack(estimator(*estimator.draw(5)[:2]))
        batches = [estimator.draw(5, rank, 2) for rank in range(2)]
        parts = [torch.stack(estimator(*b[:2])) * b.fraction for b in batches]
    assert [b.fraction for b in batches] == [2 / 3, 1 / 3]
    torch.testing.assert_close(parts[0] + parts[1], whole)
