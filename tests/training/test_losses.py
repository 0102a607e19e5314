"""The losses against closed forms and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from h2lo_bids.training.estimators import gaussian_derivative_kernels, gradient_loss, l1_loss


@pytest.mark.parametrize(("sigma", "size"), [(1.0, 5), (0.7, 3), (2.0, 7)])
def test_kernels_are_gaussian_derivatives(sigma, size):
    kernels = gaussian_derivative_kernels(sigma, size).numpy()
    assert kernels.shape == (3, 1, size, size, size)
    assert kernels.dtype == np.float32
    norm = (2 * math.pi) ** 1.5 * sigma**3
    for voxel in np.ndindex(size, size, size):
        r = [i - size // 2 for i in voxel]
        gauss = math.exp(-sum(c * c for c in r) / (2 * sigma**2)) / norm
        for axis in range(3):
            expected = -r[axis] / sigma**2 * gauss
            assert kernels[(axis, 0, *voxel)] == pytest.approx(expected, abs=1e-8)


def test_kernels_of_a_sampled_gaussian_match_its_numerical_derivative():
    kernels = gaussian_derivative_kernels(1.5, 9).double().numpy()
    h = 1e-5

    def density(x, y, z):
        return math.exp(-(x * x + y * y + z * z) / 4.5) / (2 * math.pi * 2.25) ** 1.5

    slope = (density(1 + h, -2, 3) - density(1 - h, -2, 3)) / (2 * h)
    assert kernels[0, 0, 5, 2, 7] == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize(("sigma", "size"), [(1.0, 4), (0.0, 5), (-1.0, 5), (float("nan"), 5)])
def test_impossible_kernels_are_refused(sigma, size):
    with pytest.raises(ValueError):
        gaussian_derivative_kernels(sigma, size)


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
    assert float(gradient_loss(a + 0.5, a, kernels, padding=0)) == pytest.approx(0, abs=1e-10)
    assert float(gradient_loss(a, a, kernels)) == 0.0


def test_l1_loss_is_the_mean_absolute_difference():
    a, b = torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.5, 0.0, 0.5])
    assert float(l1_loss(a, b)) == pytest.approx(0.5)
    assert l1_loss(a.bfloat16(), b.bfloat16()).dtype == torch.float32
