"""The engine's conditional INR against the whole-volume pass and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator

from h2lo_bids.models.h2lo import ConditionalInr, InrArchitecture
from h2lo_bids.synthesis.engine import synthesize, synthesize_at
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.predict import predict_on_grid


def trained_like(sizes: InrArchitecture, seed: int = 0) -> ConditionalInr:
    """Draw weights that keep the signal's size through all layers, as trained ones do."""
    torch.manual_seed(seed)
    model = ConditionalInr(sizes).eval().requires_grad_(False)
    for linear in model.linears:
        linear.weight.normal_(0, (2 / linear.in_features) ** 0.5)
        linear.bias.normal_(0, 0.1)
    for layer in model.encoder.convolutions:
        layer.weight.normal_(0, (2 / (layer.in_channels * 27)) ** 0.5)
        layer.bias.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def inr():
    return trained_like(InrArchitecture(4, 8, 16, 4))


def brute_force(model, volume, points):
    """Interpolate the feature field with SciPy, then loop over positions."""
    with torch.no_grad():
        features = model.encoder(torch.from_numpy(volume)[None, None])[0]
    axes = [np.arange(n) for n in volume.shape]
    field = RegularGridInterpolator(axes, features.permute(1, 2, 3, 0).double().numpy())
    inside = np.clip(points, 0, np.array(volume.shape) - 1)
    weights = [(m.weight.double().numpy(), m.bias.double().numpy()) for m in model.linears]
    out = []
    for point, feature in zip(points, field(inside), strict=True):
        n = np.array(volume.shape)
        x = np.concatenate([feature, (2 * point + 1) / n - 1, 2 / n])
        for weight, bias in weights[:-1]:
            x = np.maximum(weight @ x + bias, 0)
        out.append(float((weights[-1][0] @ x + weights[-1][1])[0]))
    return np.array(out)


@pytest.mark.parametrize("tile", [3, 7, 40])
@pytest.mark.parametrize("sizes", [InrArchitecture(4, 8, 16, 4), InrArchitecture()])
def test_tiles_equal_the_whole_volume(naive, volume, sizes, tile):
    model = trained_like(sizes)
    mask = np.random.default_rng(2).random(volume.shape) < 0.3
    options = EngineOptions(tile=tile, rows=100)
    got = synthesize(model, volume, mask, options=options)
    expected = naive(model, volume)
    assert got.dtype == np.float32
    assert not got[~mask].any()
    np.testing.assert_allclose(got[mask], expected[mask], atol=1e-4 * np.ptp(expected))


def test_off_grid_queries_equal_brute_force(inr, volume):
    rng = np.random.default_rng(5)
    points = rng.uniform(-2, np.array(volume.shape) + 1, (200, 3))
    points[:50] = np.rint(points[:50]).clip(0, np.array(volume.shape) - 1)
    got = synthesize_at(inr, volume, points, options=EngineOptions(tile=5))
    expected = brute_force(inr, volume, points)
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.ptp(expected))


def test_other_grids_are_queried_not_resampled(inr, volume):
    frame = np.diag([1.0, 1, 1, 1])
    target = np.diag([1.5, 0.8, 2.1, 1]) @ np.eye(4)
    target[:3, 3] = 0.3
    shape = (9, 11, 6)
    got = predict_on_grid(inr, volume, frame, target, np.ones(shape, bool))
    points = np.argwhere(np.ones(shape)) @ target[:3, :3].T + target[:3, 3]
    expected = brute_force(inr, volume, points)
    np.testing.assert_allclose(got.ravel(), expected, atol=1e-4 * np.ptp(expected))
