"""Crops give what the whole volume gives, at the border too, and are drawn without bias."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import ball_pair

from h2lo_bids.models.h2lo import (
    HALO,
    ConditionalInr,
    H2lo,
    H2loArchitecture,
    InrArchitecture,
    Operator,
)
from h2lo_bids.training.crops import (
    CropSampler,
    epoch_batch,
    epoch_steps,
    predict_crop,
    read_crop,
)

SHAPE = (18, 21, 16)


def whole_and_model(kind: str = "h2lo") -> tuple[torch.Tensor, np.ndarray, Operator]:
    torch.manual_seed(3)
    model: Operator = ConditionalInr(InrArchitecture(4, 8, 16, 4))
    if kind == "h2lo":
        model = H2lo(H2loArchitecture(channels=4, n_basis=8, width=16))
        model.bias.data.fill_(0.3)
    with torch.no_grad():
        for layer in model.encoder.convolutions:
            layer.bias.uniform_(-1, 1)  # large biases: zeros outside must stay zeros
    volume = np.random.default_rng(1).random(SHAPE).astype(np.float32)
    with torch.no_grad():
        return model(torch.from_numpy(volume)[None, None])[0, 0], volume, model


@pytest.mark.parametrize("corner", [(5, 6, 5), (0, 0, 0), (12, 15, 10), (3, 14, 9), (-3, 10, 12)])
@pytest.mark.parametrize("kind", ["h2lo", "inr"])
def test_crop_equals_whole_volume(corner: tuple[int, int, int], kind: str) -> None:
    whole, volume, model = whole_and_model(kind)
    size = 6
    wide = read_crop(volume, tuple(c - HALO for c in corner), size + 2 * HALO)
    with torch.no_grad():
        crop = predict_crop(model, torch.from_numpy(wide)[None, None], corner, SHAPE)[0, 0]
    inside = tuple(slice(max(0, c), min(n, c + size)) for c, n in zip(corner, SHAPE, strict=True))
    part = tuple(slice(s.start - c, s.stop - c) for s, c in zip(inside, corner, strict=True))
    torch.testing.assert_close(crop[part], whole[inside], atol=1e-5, rtol=0)


def test_crops_of_a_batch_are_independent() -> None:
    whole, volume, model = whole_and_model()
    wide = read_crop(volume, (0, 1, 0), 16)
    batch = torch.from_numpy(np.stack([wide, wide[::-1].copy()]))[:, None]
    with torch.no_grad():
        crop = predict_crop(model, batch, (5, 6, 5), SHAPE)
    torch.testing.assert_close(crop[0, 0], whole[5:11, 6:12, 5:11], atol=1e-5, rtol=0)
    assert not torch.allclose(crop[0], crop[1])


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(-12, 12)] * 3), st.integers(1, 9))
def test_read_crop_pads_with_zeros(start: tuple[int, int, int], size: int) -> None:
    volume = np.arange(1, 5 * 6 * 7 + 1).reshape(5, 6, 7)
    padded = np.pad(volume, 25)
    box = tuple(slice(s + 25, s + 25 + size) for s in start)
    np.testing.assert_array_equal(read_crop(volume, start, size), padded[box])


@pytest.mark.parametrize("size", [5, 8])
def test_weights_are_the_inverse_chance_of_inclusion(size: int) -> None:
    pairs = [ball_pair("a", 1, (14, 15, 13)), ball_pair("b", 2, (14, 15, 13))]
    pairs[1].mask[:7] = False
    sampler = CropSampler.build(pairs, size)
    # By brute force: every possible centre, its chance, and the voxels of its crop.
    density = sum(p.mask.astype(float) for p in pairs)
    density /= density.sum()
    chance = np.zeros(density.shape)
    for centre in np.argwhere(density > 0):
        box = tuple(slice(max(0, c - size // 2), max(0, c - size // 2 + size)) for c in centre)
        chance[box] += density[tuple(centre)]
    brain = np.mean([p.mask.sum() for p in pairs])
    where = density > 0
    np.testing.assert_allclose(sampler.weights[where], size**3 / (brain * chance[where]), rtol=1e-5)


def test_draws_follow_the_masks() -> None:
    pair = ball_pair("a", 1, (14, 15, 13))
    sampler, rng = CropSampler.build([pair], 4), np.random.default_rng(0)
    centres = np.array([sampler.draw(rng) for _ in range(4000)]) + 2
    assert pair.mask[tuple(centres.T)].all()
    np.testing.assert_allclose(centres.mean(0), np.argwhere(pair.mask).mean(0), atol=0.3)


@pytest.mark.parametrize(("count", "batch"), [(7, 1), (7, 3), (6, 2), (2, 5)])
def test_an_epoch_takes_each_pair_once(count: int, batch: int) -> None:
    steps = epoch_steps(count, batch)
    orders = [
        np.concatenate([epoch_batch(count, batch, e * steps + s, 42) for s in range(steps)])
        for e in range(6)
    ]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert count < 3 or len({tuple(order) for order in orders}) > 1
