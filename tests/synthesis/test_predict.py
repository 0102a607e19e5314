"""One door to all methods: the same image on the frame, and its values on any grid."""

from __future__ import annotations

import numpy as np
import pytest
import shapes
import torch
from nibabel.affines import from_matvec
from scipy.ndimage import gaussian_filter

from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.models.baselines import Arnold, Identity, NoSizes
from h2lo_bids.models.bundle import default_bundle, load_model, save_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.h2lo import H2lo, H2loArchitecture
from h2lo_bids.synthesis import predict as door
from h2lo_bids.synthesis.arnold import predict_arnold
from h2lo_bids.synthesis.engine import synthesize, synthesize_at
from h2lo_bids.synthesis.noise import scan_seed
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.predict import fastest_precision, predict, predict_on_grid

AFFINE = from_matvec(np.eye(3), [-8, -6, -7])
IDENTITY = Identity(NoSizes())
SHAPE = (24, 28, 26)
GRID = np.moveaxis(np.indices(SHAPE), 0, -1)


def ball(radius=9.0):
    return shapes.ball(SHAPE, radius)


def shifted(offset):
    return from_matvec(np.eye(3), AFFINE[:3, 3] + offset)


def test_between_voxels_a_smooth_image_keeps_its_values():
    def truth(at):
        return 0.5 + 0.2 * np.sin(at[..., 0] / 3) * np.cos(at[..., 1] / 4) + at[..., 2] / 200

    volume = np.where(ball(12), truth(GRID), 0).astype(np.float32)
    offset = np.array([0.5, 0.3, 0.8])
    inner = ball(7)
    got = predict_on_grid(IDENTITY, volume, AFFINE, shifted(offset), inner)
    np.testing.assert_allclose(got[inner], truth(GRID + offset)[inner], atol=5e-4)
    assert not got[~inner].any()


def test_the_border_of_the_brain_is_not_darkened():
    volume, mask = np.where(ball(), np.float32(0.6), np.float32(0)), ball(9.5)
    got = predict_on_grid(IDENTITY, volume, AFFINE, shifted([0.4, -0.4, 0.5]), mask)
    np.testing.assert_allclose(got[mask], 0.6, atol=1e-5)


def test_a_method_without_positions_is_integrated_too():
    def wave(z, share=1.0):
        return 0.5 + 0.3 * share * np.cos(2 * np.pi * 0.1 * z)

    volume = np.where(ball(12), wave(GRID[..., 2]), 0).astype(np.float32)
    target = shifted([8, 10, 10]) @ np.diag([2.0, 2.0, 5.0, 1.0])
    given, z = (IDENTITY, volume, AFFINE, target, np.ones((3, 3, 2), bool)), 10 + 5 * np.arange(2)
    for how, share, atol in (({"response": VoxelResponse()}, np.sinc(0.5), 0.01), ({}, 1, 1e-5)):
        got = predict_on_grid(*given, **how)
        np.testing.assert_allclose(got, np.broadcast_to(wave(z, share), got.shape), atol=atol)


# The operator is asked for positions.


def test_the_frame_itself_needs_no_interpolation(model, volume, monkeypatch):
    monkeypatch.setattr(door, "synthesize_at", None)
    mask = volume > 0.4
    for affine in (AFFINE, shifted([5e-4] * 3)):  # the rounding of affines
        got = predict_on_grid(model, volume, AFFINE, affine, mask)
        np.testing.assert_array_equal(got, synthesize(model, volume, mask))


def test_whole_voxels_beyond_the_frame_are_still_queried(model, volume):
    mask = np.ones(volume.shape, dtype=bool)
    got = predict_on_grid(model, volume, AFFINE, shifted([-3, 0, 0]), mask)
    whole = synthesize(model, volume, mask)
    np.testing.assert_allclose(got[3:], whole[:-3], atol=2e-6)
    expected = synthesize_at(model, volume, np.array([[-3.0, 4, 5]]))[0]
    assert got[0, 4, 5] == pytest.approx(expected, abs=2e-6)


def test_nothing_wanted_and_nothing_there():
    volume = np.zeros(SHAPE, np.float32)
    empty = np.zeros(SHAPE, bool)
    assert not predict_on_grid(IDENTITY, volume, AFFINE, AFFINE, empty).any()
    assert not predict_on_grid(IDENTITY, volume, AFFINE, shifted([0.5, 0, 0]), ball()).any()


def test_methods_that_draw_at_random_are_given_the_seed():
    volume = np.where(ball(), 0.2 + np.random.default_rng(3).random(SHAPE) / 2, 0)
    truth = predict_arnold(Arnold(), volume, ball(), seed=7)
    np.testing.assert_array_equal(predict(Arnold(), volume, ball(), seed=7), truth)
    assert not np.array_equal(predict(Arnold(), volume, ball(), seed=8), truth)
    got = predict_on_grid(Arnold(), volume, AFFINE, shifted([3] * 3), ball()[3:, 3:, 3:], seed=7)
    np.testing.assert_array_equal(got, truth[3:, 3:, 3:])


def test_the_seed_of_a_scan_is_that_of_earlier_runs():
    assert scan_seed(42, "sub-01_T1w") == 1158172098


@pytest.mark.slow  # where bfloat16 is emulated
@pytest.mark.parametrize("contrast", ["T1w", "T2w"])
def test_the_embedded_models_are_within_60_db_in_bfloat16(contrast):
    rng = np.random.default_rng(1)
    volume = gaussian_filter(rng.random((6, 7, 5), np.float32), 1.5)
    volume, mask = (volume - volume.min()) / np.ptp(volume), np.ones(volume.shape, bool)
    model = load_model(default_bundle(contrast))
    exact, fast = (
        predict(model, volume, mask, options=EngineOptions(precision=p)) for p in ("fp32", "bf16")
    )
    assert 0 < np.sqrt(np.mean((exact - fast) ** 2)) < 10 ** (-door.FIDELITY / 20) == 1e-3


def test_a_model_that_bfloat16_changes_and_one_without_products_stay_in_float32(
    tmp_path, monkeypatch
):
    """Planted: two large terms of Equation 1 that cancel, so that rounding is all that is left."""
    choose = fastest_precision.__wrapped__  # which remembers nothing
    torch.manual_seed(0)
    model = H2lo(H2loArchitecture(channels=2, n_basis=2, width=4)).requires_grad_(False)
    last = model.trunk.net[-1]
    last.weight.zero_()
    last.bias[:] = torch.tensor([50.0, -50.0])
    for values in (model.encoder.net[-1].weight, model.encoder.net[-1].bias):
        values[1] = values[0] * 1.001
    frame = {"contrast": "T1w", "frame": Frame(), "metadata": {}, "card": ""}
    bundle = save_bundle(tmp_path / "m", model, **frame)
    monkeypatch.setattr(door, "native_precision", lambda device: "bf16")
    assert choose(bundle, "cpu") == "fp32"
    monkeypatch.setattr(door, "FIDELITY", 0.0)
    assert choose(bundle, "cpu") == "bf16"
    assert choose(default_bundle("T1w", method="identity"), "cpu") == "fp32"
    monkeypatch.setattr(door, "native_precision", lambda device: "fp32")
    assert choose(bundle, "cpu") == "fp32"
