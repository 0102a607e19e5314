"""Drawn noise against the model it was drawn from."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat

from h2lo_bids.errors import BadDataError
from h2lo_bids.synthesis.noise import (
    PROBES,
    NoiseModel,
    add_noise,
    share_in_band,
    unit_noise,
)

FREQUENCIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def falling(*slopes):
    """Decibels that fall linearly with frequency, at different rates along the axes."""
    return lambda *at: -sum(s * f for s, f in zip(slopes, at, strict=True))


flat, level = falling(0, 0, 0), falling(40, 20, 10)


def coloured(shape=(48, 48, 48), power=level) -> NoiseModel:
    return NoiseModel(
        intensities=(0.2, 0.8), deviations=(0.02, 0.06), quantiles=tuple(PROBES),
        frequencies=(FREQUENCIES,) * 3, spacing=(1.0, 1.0, 1.0), shape=shape,
        power=tuple(power(*np.meshgrid(*[FREQUENCIES] * 3, indexing="ij")).ravel()),
    )  # fmt: skip


def drawn(model, affine=None, shape=(48, 48, 48), *, level=0.5, seed=1, number=1, **options):
    """Return the noise of an image of one level, all of which is brain."""
    image, mask = np.full(shape, level, np.float32), np.ones(shape, bool)
    affine = np.eye(4) if affine is None else affine
    return add_noise(image, mask, affine, model, seed=seed, realisation=number, **options) - image


@pytest.mark.parametrize("wrong", [
    {"deviations": (0.1,)}, {"deviations": (0.1, -0.1)}, {"deviations": (0.1, float("nan"))},
    {"intensities": (0.8, 0.2)}, {"quantiles": (0.0, 1.0)}, {"quantiles": tuple(-PROBES)},
    {"power": (0.0,)}, {"spacing": (0.0, 1.0, 1.0)}, {"shape": (8, 8)}, {"deviations": 3},
])  # fmt: skip
def test_values_that_make_no_sense(wrong):
    with pytest.raises(BadDataError, match="fit the model again"):
        NoiseModel.from_dict({**asdict(coloured()), **wrong})


@pytest.mark.parametrize("shape", [(48, 48, 48), (31, 30, 33)])
def test_the_deviation_follows_the_intensity(shape):
    for intensity, expected in ((0.1, 0.02), (0.2, 0.02), (0.5, 0.04), (0.8, 0.06)):
        noise = drawn(coloured(shape, flat), shape=shape, level=intensity)
        assert noise.std() == pytest.approx(expected, rel=0.01)
        assert ((noise / expected) ** 4).mean() == pytest.approx(3, rel=0.05)  # it is normal


def test_zero_outside_and_within_the_range():
    mask = np.zeros((20, 20, 20), bool)
    mask[5:15, 5:15, 5:15] = True
    loud = replace(coloured(), deviations=(1.0, 1.0))
    got = add_noise(np.where(mask, 0.5, 0.3), mask, np.eye(4), loud, seed=1, realisation=1)
    assert (got[~mask] == 0).all()
    assert got.min() == 0
    assert got.max() == 1
    assert got.dtype == np.float32
    assert not add_noise(mask, ~mask & mask, np.eye(4), loud, seed=1, realisation=1).any()


@pytest.mark.parametrize("acquired", [False, True])
def test_one_draw_serves_all_images_of_a_grid(acquired):
    model, mask = replace(coloured(shape=(24,) * 3), scan=0.02), np.ones((12, 12, 12), bool)
    sides = np.diag([1.0, 1.0, 2.0, 1.0])
    how = {"seed": 1, "realisation": 2, "acquired": acquired}
    one = model.of_one_scan(np.array([0.3]), sides[:3, :3]) if acquired else model
    shared = unit_noise(mask, sides, one, **how)
    for level in (0.3, 0.6):
        image = np.full(mask.shape, level)
        alone = add_noise(image, mask, sides, model, **how)
        assert np.array_equal(add_noise(image, mask, sides, model, drawn=shared, **how), alone)
        silent = add_noise(image, mask, sides, model, drawn=(1.0, np.zeros(mask.sum())), **how)
        assert np.array_equal(silent, image.astype(np.float32))


def test_seeds_and_realisations():
    def draw(seed, number):
        return drawn(coloured(), shape=(32, 32, 32), seed=seed, number=number)

    assert draw(7, 1).tobytes() == draw(7, 1).tobytes()
    assert draw([7, 3], 1).tobytes() == draw([7, 3], 1).tobytes()
    draws = [draw(7, 1), draw(7, 2), draw(8, 1), draw([7, 1], 1)]
    relation = np.corrcoef([d.ravel() for d in draws])
    assert np.abs(relation - np.eye(4)).max() < 0.05


def test_the_same_noise_on_other_grids():
    """Every second voxel, permuted axes and a shift of the origin: the same places."""
    whole = drawn(coloured())
    coarse = drawn(coloured(), np.diag([2.0, 2.0, 2.0, 1.0]), (24, 24, 24))
    np.testing.assert_array_equal(coarse, whole[::2, ::2, ::2])
    turned = drawn(coloured(), from_matvec([[0, 0, 1], [-1, 0, 0], [0, 1, 0]], (0, 47, 0)))
    np.testing.assert_array_equal(turned, whole[:, ::-1].transpose(1, 2, 0))
    rolled = drawn(coloured(), from_matvec(np.eye(3), (-5, 0, 60)))
    np.testing.assert_array_equal(rolled, np.roll(whole, (5, 0, -60), axis=(0, 1, 2)))
    warped = drawn(coloured(), to_frame=lambda points: points + (-5, 0, 60))
    np.testing.assert_array_equal(rolled, warped)


def test_between_lattice_points_deviation_and_smoothness_stay():
    """A grid turned by 30 degrees and off the lattice."""
    model = coloured(power=lambda r, a, s: -120 * np.maximum(np.maximum(r, a), s))
    turn = from_matvec(euler2mat(z=np.pi / 6), (0.3, 0.6, 0.1))
    straight, turned = (
        np.stack([drawn(model, affine, seed=5, number=n) for n in range(4)])
        for affine in (None, turn)
    )
    assert np.std(turned) == pytest.approx(np.std(straight), rel=0.05)
    assert np.std(turned) == pytest.approx(0.04, rel=0.06)
    # Neighbours along S, which both grids share, are equally alike.
    a, b = (np.mean(d[..., 1:] * d[..., :-1]) / np.var(d) for d in (straight, turned))
    assert a == pytest.approx(b, abs=0.03)


def _acquired(model, sides, *, acquired=True):
    """Draw noise on a grid over most of a lattice of 48 mm."""
    shape, affine = tuple(int(46 // side) for side in sides), np.diag([*sides, 1.0])
    return np.array(
        [drawn(model, affine, shape, seed=8, number=n, acquired=acquired) for n in range(6)]
    )


@pytest.mark.parametrize(
    ("slopes", "sides"),
    [((0, 0, 0), (1.6, 1.6, 5.0)), ((0, 0, 0), (3.0, 1.0, 1.0)), ((40, 20, 10), (1.6, 1.6, 5.0))],
)
def test_noise_of_larger_voxels_keeps_the_power_in_their_band(slopes, sides):
    """Decibels that fall linearly: the integral over a band has a closed form."""
    model, share = coloured(power=falling(*slopes)), 1.0
    for slope, side in zip(slopes, sides, strict=True):
        share *= (1 - 10 ** (-slope / 20 / side)) / (1 - 10 ** (-slope / 20)) if slope else 1 / side
    for axes in ([0, 1, 2], [2, 0, 1]):
        assert share_in_band(model, np.diag(sides)[:, axes]) == pytest.approx(share, rel=0.025)
    assert share_in_band(model, np.diag([0.8, 0.8, 0.8])) == pytest.approx(1)
    noise = _acquired(model, sides)
    assert noise.std() == pytest.approx(0.04 * np.sqrt(share), rel=0.06)
    for axis in (1, 2) if not any(slopes) else ():  # it is white on its own grid
        a, b = np.moveaxis(noise, axis, 0)[1:], np.moveaxis(noise, axis, 0)[:-1]
        assert abs(np.mean(a * b) / np.var(noise)) < 0.06
    # At points of the finer noise it is not weaker at all.
    assert _acquired(model, sides, acquired=False).std() == pytest.approx(0.04, rel=0.1)
