"""The engine against the whole-volume pass and an independent interpolator."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import TINY
from scipy.interpolate import RegularGridInterpolator

from h2lo_bids.errors import UsageError
from h2lo_bids.models.h2lo import ConditionalInr
from h2lo_bids.synthesis import engine
from h2lo_bids.synthesis import options as engine_options
from h2lo_bids.synthesis.engine import (
    Evaluator,
    convolve_one_channel,
    products_in_bfloat16,
    synthesize,
    synthesize_at,
)
from h2lo_bids.synthesis.options import EngineOptions, noting_device
from h2lo_bids.synthesis.predict import predict


@pytest.fixture(scope="session")
def inr():
    """Draw weights that keep the signal's size through all layers, as trained ones do."""
    torch.manual_seed(0)
    model = ConditionalInr(TINY["inr"]["architecture"]).eval().requires_grad_(False)
    for values in model.parameters():
        if values.ndim > 1:
            torch.nn.init.kaiming_normal_(values)
        else:
            values.normal_(0, 0.1)
    return model


def naive(model, volume):
    """The whole-volume pass in plain PyTorch."""
    with torch.inference_mode():
        return model(torch.from_numpy(volume)[None, None])[0, 0].numpy()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.tuples(*[st.integers(2, 16)] * 3),
    tile=st.integers(2, 17),
    fill=st.sampled_from([0.02, 0.5, 1.0]),
    kind=st.sampled_from(["siren", "mlp", "inr"]),
    seed=st.integers(0, 2**16),
)
def test_tiles_equal_the_whole_volume(draw_model, inr, shape, tile, fill, kind, seed):
    model, rng = inr if kind == "inr" else draw_model(kind), np.random.default_rng(seed)
    volume = np.asfortranarray(rng.random(shape, dtype=np.float32).astype(">f4"))
    mask = rng.random(shape) < fill
    got = synthesize(model, volume, mask, options=EngineOptions(tile=tile))
    assert got.dtype == np.float32
    whole = naive(model, volume.astype(np.float32))
    atol = 1e-4 if kind == "inr" else 2e-5
    np.testing.assert_allclose(got[mask], whole[mask], atol=atol)
    assert not got[~mask].any()
    np.testing.assert_allclose(predict(model, volume, mask), got, atol=atol)


def test_the_first_layer_is_not_rounded_to_bfloat16(model, volume):
    """It reads intensities, on whose digits all later layers live."""
    first = model.encoder.convolutions[0]
    x = torch.from_numpy(volume)[None, None]
    with torch.inference_mode(), products_in_bfloat16(True):
        got = convolve_one_channel(x, first.weight, first.bias)
    exact = torch.nn.functional.conv3d(x.double(), first.weight.double(), first.bias.double())
    np.testing.assert_allclose(got.numpy(), exact.numpy(), atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_bytes_depend_neither_on_the_run_nor_on_the_threads(model, volume, precision):
    volume = volume[:7, :7, :6]  # four tiles
    mask = volume > 0.2
    before = torch.get_num_threads()
    runs = [
        synthesize(
            model, volume, mask, options=EngineOptions(tile=6, threads=n, precision=precision)
        ).tobytes()
        for n in (1, 1, 2, 3)
    ]
    assert len(set(runs)) == 1
    assert torch.get_num_threads() == before
    assert torch.get_float32_matmul_precision() == "highest"


def test_many_points_in_one_cell_and_none(model, volume):
    points = np.full((70_000, 3), 4.25)
    got = synthesize_at(model, volume, points)
    assert np.ptp(got) < 1e-6
    assert got[0] == pytest.approx(synthesize_at(model, volume, points[:1])[0], abs=1e-6)
    assert synthesize_at(model, volume, np.zeros((0, 3))).shape == (0,)


def test_unknown_settings_are_usage_errors():
    for bad in ({"precision": "fp8"}, {"tile": 0}, {"threads": 0}):
        with pytest.raises(UsageError):
            EngineOptions(**bad)


@pytest.mark.parametrize("devices", [["cuda", "cuda"], ["cuda", "cuda", "cpu"]])
def test_a_gpu_out_of_memory_gets_smaller_tiles_then_the_cpu(model, volume, monkeypatch, devices):
    tried = []

    class SmallGpu(Evaluator):
        """Computes on the CPU, and lacks memory on all devices but the last."""

        def __init__(self, model, volume, device, options):
            tried.append([device.type, 0])
            super().__init__(model, volume, torch.device("cpu"), options)

        def at_voxels(self, box, inside):
            tried[-1][1] = max(tried[-1][1], *inside.shape)
            if len(tried) < len(devices):
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().at_voxels(box, inside)

    monkeypatch.setattr(engine, "Evaluator", SmallGpu)
    for module in (engine, engine_options):
        monkeypatch.setattr(module, "resolve_device", lambda name: torch.device("cuda"))
    mask, options = volume > 0.3, EngineOptions(device="cuda", tile=16)
    with warnings.catch_warnings(record=True) as caught, noting_device("cuda") as used:
        warnings.simplefilter("always")
        got = synthesize(model, volume, mask, options=options)
    assert [device for device, _ in tried] == devices
    assert used == [devices[-1]]
    assert tried[1][1] <= 8 < tried[0][1]
    assert ["out of memory" in str(w.message) for w in caught] == [True] * (used == ["cpu"])
    np.testing.assert_allclose(got[mask], naive(model, volume)[mask], atol=2e-5)


def brute_force(model, volume, points):
    """Interpolate the feature field with SciPy, and read it at each position."""
    with torch.no_grad():
        features = model.encoder(torch.from_numpy(volume)[None, None])[0]
    axes, n = [np.arange(n) for n in volume.shape], np.array(volume.shape)
    field = RegularGridInterpolator(axes, features.permute(1, 2, 3, 0).double().numpy())
    found = field(np.clip(points, 0, n - 1))
    at = torch.from_numpy(2 * points / (n - 1) - 1).float()
    with torch.no_grad():
        return model.decode(torch.from_numpy(found).float(), at, volume.shape).numpy()


@pytest.mark.parametrize("kind", ["model", "inr"])
def test_off_grid_queries_equal_brute_force(request, volume, kind):
    operator = request.getfixturevalue(kind)
    points = np.random.default_rng(5).uniform(-2, np.array(volume.shape) + 1, (250, 3))
    points[:50] = np.rint(points[:50]).clip(0, np.array(volume.shape) - 1)
    got = synthesize_at(operator, volume, points, options=EngineOptions(tile=5))
    expected = brute_force(operator, volume, points)
    atol = 5e-5 if kind == "model" else 1e-4 * np.ptp(expected)
    np.testing.assert_allclose(got, expected, atol=atol)
