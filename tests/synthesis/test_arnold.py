"""Arnold's simulator against its five steps written out with explicit kernels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from problems import simulator
from scipy.ndimage import convolve

from h2lo_bids.synthesis.arnold import predict_arnold

SETS = [(0.5, 2.5, 1.5, 0.5), (0.0, 1.0, 0.0, 1.0), (1.7, 0.0, 3.0, 2.4), (1.0, 4.0, 5.0, 0.05)]


def kernel(sigma):
    """A three-dimensional Gaussian of imgaussfilt3's default size, 2 ceil(2 sigma) + 1."""
    reach = math.ceil(2 * sigma)
    r = np.arange(-reach, reach + 1)
    square = sum(axis**2 for axis in np.meshgrid(r, r, r, indexing="ij"))
    weights = np.exp(-square / (2 * sigma**2))
    return weights / weights.sum()


def five_steps(volume, mask, values, first, second):
    sigma, c1, c2, c3 = values
    image = volume.astype(np.float64) * mask
    image /= image.max()
    image = image + convolve(
        c1 * np.std(image[image != 0], ddof=1) * first, kernel(0.5), mode="nearest"
    )
    image = convolve(image, kernel(max(sigma, 0.1)), mode="nearest") * mask
    noise = c2 * np.std(image[image != 0], ddof=1) * second
    image = (image + convolve(noise, kernel(max(c3, 0.1)), mode="nearest")) * mask
    image = (image - image.min()) * mask
    return image / image.max()


@pytest.fixture(params=["inner", "border"])
def head(request):
    rng = np.random.default_rng(8)
    mask = np.zeros((17, 14, 15), bool)
    part = (slice(5, 12), slice(4, 9), slice(6, 11))
    mask[part if request.param == "inner" else (slice(0, 9), slice(6, 14), slice(3, 15))] = True
    mask &= rng.random(mask.shape) < 0.9
    return (rng.random(mask.shape) * 0.7 * mask).astype(np.float32), mask


@pytest.mark.parametrize("values", SETS)
def test_the_five_steps(head, values):
    volume, mask = head
    kept = volume.copy()
    noises = np.random.default_rng(3).random((2, *mask.shape), np.float32) - 0.5
    got = predict_arnold(simulator(values), volume, mask, seed=3)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, five_steps(volume, mask, values, *noises), atol=2e-6)
    np.testing.assert_array_equal(volume, kept)
    assert not got[~mask].any()
    assert (got.min(), got.max()) == (0, 1)


def test_an_empty_mask_and_an_empty_volume(head):
    volume, mask = head
    assert not predict_arnold(simulator(SETS[0]), volume, np.zeros_like(mask)).any()
    assert not np.isnan(predict_arnold(simulator(SETS[0]), np.zeros_like(volume), mask)).any()
