"""The estimators' expectation is the loss over the whole brain or grid."""

import itertools

import numpy as np
import pytest
import torch
from problems import SMALL, ball_pair, small_options

from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.training.augment import Augmentation
from h2lo_bids.training.crops import CropSampler, draw_points, draw_subvolume
from h2lo_bids.training.estimators import (
    build_estimator,
    gaussian_derivative_kernels,
    gradient_loss,
)


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


def test_patch_l1_is_unbiased() -> None:
    pairs = [ball_pair("a", 1), ball_pair("b", 2)]
    torch.manual_seed(0)
    model = H2lo(SMALL)
    estimator = build_estimator(pairs, small_options(crop=9, batch=1))
    with torch.no_grad():
        brain = np.mean([p.mask.sum() for p in pairs])
        truth = np.mean([
            np.abs(model(torch.from_numpy(p.hf)[None, None])[0, 0].numpy() - p.lf)[p.mask].sum()
            for p in pairs
        ]) / brain  # fmt: skip
        draws = np.array([float(estimator.terms(model, estimator.draw(i))[0]) for i in range(600)])
    assert abs(draws.mean() - truth) < 4 * draws.std() / np.sqrt(len(draws))
    assert draws.std() / np.sqrt(len(draws)) < 0.02 * truth


def test_volume_l1_is_unbiased_over_the_whole_grid() -> None:
    pair = ball_pair("a", 1, (12, 13, 11))
    torch.manual_seed(0)
    model = H2lo(SMALL)
    estimator = build_estimator([pair], small_options(sampling="volume", crop=8, points=2000))
    with torch.no_grad():
        whole = model(torch.from_numpy(pair.hf)[None, None])
        target = torch.from_numpy(pair.lf)[None, None]
        truth = float((whole - target).abs().mean())
        boxes = itertools.product(*(range(n - 8 + 1) for n in pair.shape))
        kernels = gaussian_derivative_kernels()
        blocks = [(slice(None),) * 2 + tuple(slice(c, c + 8) for c in box) for box in boxes]
        gradient = np.mean([float(gradient_loss(whole[b], target[b], kernels)) for b in blocks])
        batches = (estimator.draw(i) for i in range(150))
        draws = np.array([[float(t) for t in estimator.terms(model, b)] for b in batches])
    error = draws.std(0) / np.sqrt(len(draws))
    assert abs(draws[:, 0].mean() - truth) < 4 * error[0]
    assert abs(draws[:, 1].mean() - gradient) < 4 * error[1]


def test_points_and_subvolumes_cover_the_grid() -> None:
    rng = np.random.default_rng(0)
    points = draw_points((3, 4, 5), 5000, rng)
    assert len(np.unique(points, axis=0)) == 60
    assert {draw_subvolume((6, 4, 3), 4, rng) for _ in range(200)} == {(i, 0, 0) for i in range(3)}


def test_background_stays_zero_under_augmentation() -> None:
    from h2lo_bids.training.augment import draw_crop

    pair = ball_pair("a", 1)
    wild = Augmentation(flip=0.5, shift=3, scale=0.4, gamma=0.3, bias=0.2, noise=0.1)
    rng = np.random.default_rng(0)
    for _ in range(20):
        hf, lf, mask = draw_crop(pair, (6, 8, 7), 10, wild, rng)
        inner = hf[5:-5, 5:-5, 5:-5]
        assert (inner[~mask] == 0).all()
        assert (lf[~mask] == 0).all()
        assert hf.min() >= 0
        assert hf.max() <= 1


def test_flip_and_shift_move_the_pair_as_a_whole() -> None:
    from h2lo_bids.training.augment import draw_crop

    pair = ball_pair("a", 1)
    size, corner = 8, (6, 9, 7)
    for seed in range(12):
        hf, lf, _ = draw_crop(pair, corner, size, Augmentation(flip=0.5, shift=2),
                              np.random.default_rng(seed))  # fmt: skip
        matches = 0
        for mirror, *shift in itertools.product((False, True), *[range(-2, 3)] * 3):
            moved = []
            for volume in (pair.hf, pair.lf):
                v = np.pad(volume[::-1] if mirror else volume, 10)
                # A mirror image is taken after the shift, so that its shift is reversed.
                d = [-shift[0] if mirror else shift[0], *shift[1:]]
                v = np.roll(v, d, (0, 1, 2))
                moved.append(v)
            a = tuple(slice(c + 5, c + 15 + size) for c in corner)
            b = tuple(slice(c + 10, c + 10 + size) for c in corner)
            matches += np.array_equal(moved[0][a], hf) and np.array_equal(moved[1][b], lf)
        assert matches == 1


def test_half_precision_pairs_give_float32_crops() -> None:
    import dataclasses

    from h2lo_bids.training.augment import draw_crop
    from h2lo_bids.training.pairs import fingerprint

    pair = ball_pair("a", 1)
    half = {k: getattr(pair, k).astype(np.float16) for k in ("hf", "lf")}
    single = {k: v.astype(np.float32) for k, v in half.items()}
    stored, full = dataclasses.replace(pair, **half), dataclasses.replace(pair, **single)
    assert fingerprint([stored]) == fingerprint([full]) != fingerprint([pair])
    wild = Augmentation(flip=0.5, shift=2, scale=0.2, gamma=0.1)
    crops = [draw_crop(p, (6, 8, 7), 9, wild, np.random.default_rng(3)) for p in (stored, full)]
    for a, b in zip(*crops, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
