"""The operators against the paper's counts and voxel-by-voxel evaluations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from h2lo_bids.models.h2lo import (
    ConditionalInr,
    H2lo,
    H2loArchitecture,
    InrArchitecture,
    cell_positions,
    own_grid,
)

PARTS = ("weight", "bias")
ENCODER = {f"encoder.net.{i}.{part}" for i in (0, 2, 4, 6, 8) for part in PARTS}
TRUNKS = {
    "siren": {f"trunk.net.{i}.{p}" for i in ("0.linear", "1.linear", "2.linear", 3) for p in PARTS},
    "mlp": {f"trunk.net.{i}.{part}" for i in (0, 2, 4, 6) for part in PARTS},
}


@pytest.mark.parametrize("trunk", TRUNKS)
def test_parameter_counts_and_names_are_those_of_the_paper_and_its_release(trunk):
    model = H2lo(H2loArchitecture(trunk=trunk))
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.trunk)]
    assert counts == [415_904, 165_504]
    assert set(model.state_dict()) == {"bias"} | ENCODER | TRUNKS[trunk]


def test_siren_initialisation_fills_its_bounds():
    torch.manual_seed(0)
    trunk = H2lo().trunk
    hidden = math.sqrt(6 / 256) / 30
    layers = [trunk.net[0].linear, trunk.net[1].linear, trunk.net[2].linear, trunk.net[3]]
    for layer, bound in zip(layers, (1 / 3, hidden, hidden, hidden), strict=True):
        largest = float(layer.weight.detach().abs().max())
        assert 0.98 * bound < largest <= bound
        # A uniform law's standard deviation is its bound over the root of three.
        assert float(layer.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("trunk", ["siren", "mlp"])
def test_equation_1_voxel_by_voxel(trunk, convolved):
    """Loops over voxels and channels, in SciPy and NumPy."""
    torch.manual_seed(3)
    model = H2lo(H2loArchitecture(channels=2, n_basis=5, width=6, trunk=trunk)).double().eval()
    model.bias.data.fill_(0.25)
    volume = np.random.default_rng(3).random((4, 5, 3))
    weights = {key: value.detach().numpy() for key, value in model.state_dict().items()}

    def of(name):
        return (weights[f"{name}.{part}"] for part in PARTS)

    features = volume[None]
    for index in (0, 2, 4, 6, 8):
        features = convolved(features, *of(f"encoder.net.{index}"))
        if index < 8:
            features = np.maximum(features, 0)

    def basis(x):
        siren = trunk == "siren"
        for name in ("0.linear", "1.linear", "2.linear") if siren else (0, 2, 4):
            w, b = of(f"trunk.net.{name}")
            x = np.sin(30.0 * (w @ x + b)) if siren else np.maximum(w @ x + b, 0)
        w, b = of("trunk.net.3" if siren else "trunk.net.6")
        return w @ x + b

    got = model(torch.from_numpy(volume)[None, None])[0, 0].detach().numpy()
    for voxel in np.ndindex(volume.shape):
        x = np.array([-1 + 2 * i / (n - 1) for i, n in zip(voxel, volume.shape, strict=True)])
        expected = features[(slice(None), *voxel)] @ basis(x) + 0.25
        assert got[voxel] == pytest.approx(expected, abs=1e-12)


def test_coordinates_run_from_face_to_face():
    shape = (4, 5, 8)
    grid = own_grid(torch.zeros(1, 1, *shape, dtype=torch.float64))
    position = cell_positions(grid, shape).numpy()
    for voxel in np.ndindex(shape):
        centres = [-1 + (2 * i + 1) / n for i, n in zip(voxel, shape, strict=True)]
        np.testing.assert_allclose(position[voxel], [*centres, 2 / 4, 2 / 5, 2 / 8], atol=1e-12)


@pytest.mark.parametrize("siren", [False, True])
def test_parts_of_a_voxel_count_under_bfloat16(siren):
    torch.manual_seed(0)
    inr, h2lo = ConditionalInr(InrArchitecture(2, 4, 8, 2)), H2lo(H2loArchitecture(2, 4, 8))
    model, first = (h2lo, h2lo.trunk.net[0].linear) if siren else (inr, inr.linears[0])
    seen: list[torch.Tensor] = []
    first.register_forward_hook(lambda module, given, out: seen.append(out))
    shape, at = (256, 256, 256), torch.tensor([[0.703125, 0.1, 0.4]])
    features = torch.zeros(1, 4)
    moved = at + torch.tensor([1.0 / 1024, 0, 0])
    assert at.bfloat16()[0, 0] == moved.bfloat16()[0, 0]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = [model.decode(features, p, shape) for p in (at, moved)]
    assert found[0].dtype == torch.float32
    assert (seen[0] != seen[1]).all()
