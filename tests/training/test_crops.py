"""Crops are drawn without bias; variations move a pair as a whole, and leave the background 0."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from problems import ball_pair

from h2lo_bids.training.crops import (
    Augmentation,
    CropSampler,
    cycled_batch,
    draw_crop,
    epoch_batch,
    flip_rotate,
)


@pytest.mark.parametrize("size", [5, 8])
def test_weights_are_the_inverse_chance_of_inclusion(size):
    pairs = [ball_pair("a", 1, (14, 15, 13)), ball_pair("b", 2, (14, 15, 13))]
    pairs[1].mask[:7] = False
    sampler = CropSampler(pairs, size)
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


@pytest.mark.parametrize(("count", "batch"), [(7, 1), (7, 3), (6, 2), (2, 5)])
def test_an_epoch_takes_each_pair_once(count, batch):
    steps = -(-count // batch)
    orders = [
        np.concatenate([epoch_batch(count, batch, e * steps + s, 42) for s in range(steps)])
        for e in range(6)
    ]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert count < 3 or len({tuple(order) for order in orders}) > 1
    # The same of full batches, which go on into the next epoch.
    cycled = np.concatenate([cycled_batch(count, batch, step, 42) for step in range(count)])
    assert sorted(cycled) == sorted([*range(count)] * batch)


def test_background_stays_zero_under_augmentation():
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


def test_flip_and_shift_move_the_pair_as_a_whole():
    """The crop is found at one place of the pair or of its mirror image, and target with input."""
    pair, size, corner = ball_pair("a", 1), 8, (6, 9, 7)
    either = Augmentation(flip=0.5, shift=2)
    padded = {m: [np.pad(v[::m], 10) for v in (pair.hf, pair.lf)] for m in (1, -1)}
    seen = set()
    for seed, how in enumerate([*[either] * 8, Augmentation(flip=1.0)]):
        hf, lf, _ = draw_crop(pair, corner, size, how, np.random.default_rng(seed))
        found = []
        for mirror, *shift in itertools.product((1, -1), *[range(-2, 3)] * 3):
            # A mirror image is taken after the shift, so that its shift is reversed.
            x, y, z = (
                c - s + 5 for c, s in zip(corner, [mirror * shift[0], *shift[1:]], strict=True)
            )
            wide, narrow = padded[mirror]
            same = np.array_equal(wide[x : x + size + 10, y : y + size + 10, z : z + size + 10], hf)
            inner = narrow[x + 5 : x + 5 + size, y + 5 : y + 5 + size, z + 5 : z + 5 + size]
            if same and np.array_equal(inner, lf):
                found.append((mirror, *shift))
        assert len(found) == 1
        seen |= {*found}
    assert {mirror for mirror, *_ in seen} == {1, -1}
    assert found == [(-1, 0, 0, 0)]  # of the last, about the middle of the frame


def test_eight_variants_are_axial_mirrors_and_quarter_turns():
    cube = np.random.default_rng(0).random((5, 5, 5))
    made = [flip_rotate([cube, cube + 1], k) for k in range(8)]
    assert len({m[0].tobytes() for m in made}) == 8
    assert all(np.array_equal(other, one + 1) for one, other in made)
    # The corner voxel goes to each corner of its slice, twice.
    corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
    where = [c for m in made for c in corners if m[0][*c, 1] == cube[0, 0, 1]]
    assert sorted(where) == sorted(corners * 2)
