"""Pix2Pix on volumes: scaled, masked, and without seams."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from h2lo_bids.models.pix2pix import Norm, Pix2Pix, Pix2PixArchitecture
from h2lo_bids.synthesis import patches as synthesis
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.patches import axis_weights, blend_patches, patch_side, predict_pix2pix
from h2lo_bids.synthesis.predict import predict

SHAPE = (64, 24, 24)
SIDE = 16


@pytest.fixture(scope="module")
def generator() -> Pix2Pix:
    """A small generator that has learnt to invert and blur, in patches of 16."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = Pix2Pix(Pix2PixArchitecture(channels=4, downs=3))
    optimiser = torch.optim.Adam(model.parameters(), 5e-3, betas=(0.5, 0.999))
    rng = np.random.default_rng(0)
    pairs = [(v, target(v)) for v in map(texture, range(10, 14))]
    for _ in range(150):
        corner = [int(rng.integers(0, n - SIDE + 1)) for n in SHAPE]
        box = tuple(slice(c, c + SIDE) for c in corner)
        x, y = (torch.from_numpy(v[box])[None, None] * 2 - 1 for v in pairs[rng.integers(4)])
        optimiser.zero_grad()
        (model(x) - y).abs().mean().backward()
        optimiser.step()
    return model.eval()


def texture(seed: int) -> np.ndarray:
    smooth = gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 1.5)
    return np.clip(0.5 + 0.25 * smooth / smooth.std(), 0, 1).astype(np.float32)


def target(volume: np.ndarray) -> np.ndarray:
    return gaussian_filter(0.9 - 0.8 * volume, 1.0)


def steps(out: np.ndarray, overlap: int) -> tuple[float, float]:
    """Mean absolute step along the first axis, at the borders of patches and elsewhere."""
    n = len(out)
    starts = axis_weights(0, n, n, SIDE, overlap)
    borders = {at for start in starts for at in (start, start + SIDE)} - {0, n}
    size = np.abs(np.diff(out, axis=0)).mean((1, 2))
    at = np.isin(np.arange(1, n), sorted(borders))
    return float(size[at].mean()), float(size[~at].mean())


def test_no_seams_at_patch_borders(generator: Pix2Pix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "patch_side", lambda shape, multiple: SIDE)
    mask = np.ones(SHAPE, bool)
    blended, butted = [], []
    for seed in range(4):
        volume = texture(seed)
        made = predict_pix2pix(generator, volume, mask)
        assert np.abs(made - target(volume)).mean() < 0.03  # it does what it has learnt
        blended.append(steps(made, SIDE // 2))
        touching = blend_patches(
            lambda x: (generator(2 * x - 1) + 1) / 2, volume, mask, patch=SIDE, overlap=0
        )
        butted.append(steps(touching, 0))
    at, elsewhere = np.mean(blended, 0)
    assert at < 1.05 * elsewhere
    # The same network in patches that only touch: this is what seams look like.
    at, elsewhere = np.mean(butted, 0)
    assert at > 1.5 * elsewhere


def test_one_patch_is_the_network_itself(generator: Pix2Pix) -> None:
    """A volume smaller than a patch: zeros around, [0, 1] to [-1, 1] and back."""
    assert generator.architecture.multiple == 8
    shape = (13, 16, 10)
    volume = np.random.default_rng(0).random(shape).astype(np.float32)
    mask = volume > 0.3
    volume[~mask] = 0
    made = predict_pix2pix(generator, volume, mask)
    whole = np.zeros((16, 16, 16), np.float32)
    inner = (slice(1, 14), slice(0, 16), slice(3, 13))
    whole[inner] = volume
    with torch.no_grad():
        direct = generator(torch.from_numpy(whole)[None, None] * 2 - 1)[0, 0].numpy()
    np.testing.assert_allclose(made[mask], (direct[inner][mask] + 1) / 2, atol=1e-6)
    assert made.dtype == np.float32
    assert not made[~mask].any()


def test_deterministic_whatever_the_threads_and_the_seed(generator: Pix2Pix) -> None:
    volume, mask = texture(7), texture(8) > 0.4
    one = predict_pix2pix(generator, volume, mask, options=EngineOptions(threads=1))
    two = predict(generator, volume, mask, options=EngineOptions(threads=2), seed=1)
    assert np.array_equal(one, two)
    half = predict(generator, volume, mask, options=EngineOptions(precision="bf16"))
    assert np.abs(half - one).max() < 0.05


def test_running_statistics_leave_no_trace_of_the_patch(generator: Pix2Pix) -> None:
    before = [m.mean.clone() for m in generator.modules() if isinstance(m, Norm)]
    generator.train()
    predict_pix2pix(generator, texture(3), np.ones(SHAPE, bool))
    after = [m.mean for m in generator.modules() if isinstance(m, Norm)]
    assert not generator.training
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_patches_fit_the_grid() -> None:
    assert patch_side((208, 256, 256), 32) == 64
    assert patch_side((40, 30, 20), 32) == 64
    assert patch_side((22, 26, 24), 32) == 32
    assert patch_side((22, 26, 24), 8) == 32
