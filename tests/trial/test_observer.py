"""Observers against closed forms, and against lesions planted in noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from h2lo_bids.imaging.resample import lf_grid, weigh_by_axis
from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.phantom.lesions import Lesion, lesion_share
from h2lo_bids.trial.lesions import MIRROR, Anatomy, Shown, find_lesions, response_lines, shown
from h2lo_bids.trial.observer import Observers, channel_weights, crop_of, segment
from h2lo_bids.trial.statistics import delong, hotelling_ratings

SHAPE, LEVEL = (60, 38, 34), 0.5
AFFINE = np.eye(4)
BRAIN = np.zeros(SHAPE, dtype=bool)
BRAIN[2:-2, 2:-2, 2:-2] = True
PLACE = (17.0, 19.0, 17.0)


def planted(diameter: float, contrast: float):
    """Return the image of a white brain with one lesion, that, and a healthy place."""
    plain = np.where(BRAIN, LEVEL, 0.0)
    share = lesion_share([Lesion(PLACE, diameter)], SHAPE, AFFINE)
    image, mask = (plain * (1 + contrast * share)).astype(np.float32), share >= 0.5
    # A grey and a fluid corner, far away: three tissues.
    plain[3:6, 3:6, 3:6], plain[-6:-3, 3:6, 3:6] = 1.0, 1.5
    head = Anatomy(plain, BRAIN, mask, AFFINE, "T2w")
    lesion = find_lesions(head)[0][0]
    corner = np.add(lesion.corner, (26, 0, 0))
    return image, lesion, lesion.at(corner, MIRROR, head)


def areas(diameter, contrast, noise, realisations=100):
    """Areas under both observers' curves for one lesion in white noise."""
    image, *places = planted(diameter, contrast)
    seen = [(place, shown(place, [], BRAIN)) for place in places]
    observers, rng = Observers(seen, BRAIN, AFFINE, "T2w"), np.random.default_rng(0)
    ratings = [
        list(observers.look((image + rng.normal(0, noise, SHAPE)) * BRAIN))
        for _ in range(realisations)
    ]
    which = np.tile([True, False], realisations)
    rated = [rating for pair in ratings for rating in pair]
    cnr, channels = (np.array([getattr(r, name) for r in rated]) for name in ("cnr", "channels"))
    groups, sizes = np.arange(2 * realisations) // 2, np.full(2 * realisations, diameter)
    both = (cnr, hotelling_ratings(channels, which, groups, sizes))
    return tuple(float(delong(of[which], of[~which])[0][0]) for of in both)


def test_the_cnr_observer_reaches_the_closed_form_in_white_noise():
    image, lesion, _ = planted(8, 0.1)
    own = shown(lesion, [], BRAIN)
    weights = own.inside - own.around
    signal, sigma = (image[own.box] * weights).sum(), 0.6
    dprime = signal / (sigma * np.linalg.norm(weights))
    assert 0.8 < dprime < 3
    assert areas(8, 0.1, sigma)[0] == pytest.approx(norm.cdf(dprime / math.sqrt(2)), abs=0.05)


def test_channels_of_a_signal_known_exactly_reach_the_matched_filter():
    image, lesion, _ = planted(9, 0.2)
    own = shown(lesion, [], BRAIN)
    weights = channel_weights(own, np.ones(3))
    assert np.allclose(weights.sum(axis=(1, 2, 3)), 0, atol=1e-3)
    assert np.tensordot(weights, own.share, 3) == pytest.approx([1, 0, 0, 0], abs=1e-4)
    signal = image[own.box] - LEVEL
    ideal, heard = np.linalg.norm(signal), np.tensordot(weights, signal, 3)
    flat = weights.reshape(len(weights), -1).astype(float)
    reached = math.sqrt(heard @ np.linalg.solve(flat @ flat.T, heard))
    assert 0.9 * ideal < reached <= ideal * 1.001
    # Hotelling in white noise: d' is the norm of the signal that the channels span over sigma.
    sigma = 1.2
    truth = norm.cdf(reached / sigma / math.sqrt(2))
    assert 0.75 < truth < 0.99
    assert areas(9, 0.2, sigma)[1] == pytest.approx(truth, abs=0.05)


def test_the_first_channel_is_as_wide_as_kernel_and_voxel_together():
    share = np.zeros((9, 9, 9))
    share[4, 4, 4] = 1
    sides = np.array([1, 1.6, 5])
    first, *_ = channel_weights(Shown((), share, share, 0 * share, share + 1), sides)
    for axis, side in enumerate(sides):
        halves = (2 * side * (np.arange(9) - 4)) ** 2 / (2**2 + side**2)
        assert np.moveaxis(first, axis, 0)[:, 4, 4] == pytest.approx(0.5**halves, abs=1e-3)


def test_the_segmenter_finds_the_volume_and_takes_no_fluid_in_thick_slices_for_the_lesion():
    image, lesion, twin = planted(10, 0.4)
    own = shown(lesion, [], BRAIN)
    assert segment(image, own, 1.0) == pytest.approx(lesion.volume, rel=0.02)
    assert segment(image, own, -1.0) == 0  # the wrong sign
    assert segment(image, shown(twin, [], BRAIN), 1.0) == 0
    share = lesion_share([Lesion(PLACE, 10)], SHAPE, AFFINE)
    image, mask = LEVEL * BRAIN * (1 + 0.8 * share), share >= 0.5
    image[:, :, 26:] = 3 * LEVEL * BRAIN[:, :, 26:]  # 4 mm above the lesion
    (lesion,), _ = find_lesions(Anatomy(image, BRAIN, mask, AFFINE, "T2w"))
    lines = response_lines(SHAPE, AFFINE, *lf_grid(AFFINE, SHAPE, (1.6, 1.6, 5.0)), VoxelResponse())
    brain = weigh_by_axis(BRAIN, lines) > 0.5
    found = segment(weigh_by_axis(image, lines), shown(lesion, lines, brain), 1.0)
    assert 1.6 * 1.6 * 5 * found == pytest.approx(lesion.volume, rel=0.2)


def test_a_picture_is_axial_and_undistorted_whichever_way_an_array_lies():
    image, share = np.random.default_rng(0).random((4, 5, 6)), np.zeros((4, 5, 6))
    share[1, 2, 4] = 1
    # Sagittal slices of 3 mm: towards back, top and right.
    stored, place = (array[:, ::-1].transpose(1, 2, 0) for array in (image, share))
    affine = np.array([[0, 0, 3.0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    crop = crop_of(stored, Shown((slice(None),) * 3, *[place] * 4), affine)
    assert np.array_equal(crop, np.rint(255 * np.repeat(image[:, :, 4], 3, axis=0)))
