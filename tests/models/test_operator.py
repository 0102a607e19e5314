"""The operators against the paper's counts and voxel-by-voxel evaluations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from h2lo_bids.models.frame import Frame, normalised_coordinates
from h2lo_bids.models.h2lo import (
    ConditionalInr,
    H2lo,
    H2loArchitecture,
    InrArchitecture,
    cell_positions,
)

RELEASE_KEYS = {
    "bias",
    *(f"encoder.net.{i}.{kind}" for i in (0, 2, 4, 6, 8) for kind in ("weight", "bias")),
    *(f"trunk.net.{i}.linear.{kind}" for i in (0, 1, 2) for kind in ("weight", "bias")),
    *(f"trunk.net.3.{kind}" for kind in ("weight", "bias")),
}


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_parameter_counts_are_the_papers():
    model = H2lo()
    assert count_parameters(model.encoder) == 415_904
    assert count_parameters(model.trunk) == 165_504
    mlp = H2lo(H2loArchitecture(trunk="mlp"))
    assert count_parameters(model) == count_parameters(mlp) == 581_409


def test_state_dict_names_are_the_releases():
    assert set(H2lo().state_dict()) == RELEASE_KEYS
    mlp = {key for key in H2lo(H2loArchitecture(trunk="mlp")).state_dict() if "trunk" in key}
    assert mlp == {f"trunk.net.{i}.{kind}" for i in (0, 2, 4, 6) for kind in ("weight", "bias")}


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
def test_equation_1_voxel_by_voxel(trunk):
    rng = np.random.default_rng(3)
    torch.manual_seed(3)
    model = H2lo(H2loArchitecture(channels=2, n_basis=5, width=6, trunk=trunk)).double().eval()
    model.bias.data.fill_(0.25)
    volume = rng.random((4, 5, 3))
    expected = _equation_1(model, volume)
    got = model(torch.from_numpy(volume)[None, None])[0, 0].detach().numpy()
    np.testing.assert_allclose(got, expected, atol=1e-12)


def _equation_1(model, volume):
    """Loops over voxels, channels and taps, in NumPy."""
    weights = {key: value.detach().numpy() for key, value in model.state_dict().items()}
    features = volume[None]
    for index in (0, 2, 4, 6, 8):
        kernel, offset = (weights[f"encoder.net.{index}.{k}"] for k in ("weight", "bias"))
        features = _convolve(features, kernel, offset)
        if index < 8:
            features = np.maximum(features, 0)
    out = np.zeros(volume.shape)
    for voxel in np.ndindex(volume.shape):
        x = np.array([-1 + 2 * i / (n - 1) for i, n in zip(voxel, volume.shape, strict=True)])
        out[voxel] = features[(slice(None), *voxel)] @ _basis(model, weights, x) + 0.25
    return out


def _convolve(features, kernel, offset):
    padded = np.pad(features, [(0, 0), (1, 1), (1, 1), (1, 1)])
    out = np.zeros((len(kernel), *features.shape[1:]))
    for channel in range(len(kernel)):
        for x, y, z in np.ndindex(features.shape[1:]):
            window = padded[:, x : x + 3, y : y + 3, z : z + 3]
            out[channel, x, y, z] = (window * kernel[channel]).sum() + offset[channel]
    return out


def _basis(model, weights, x):
    if model.architecture.trunk == "siren":
        for i in range(3):
            w, b = (weights[f"trunk.net.{i}.linear.{k}"] for k in ("weight", "bias"))
            x = np.sin(30.0 * (w @ x + b))
        return weights["trunk.net.3.weight"] @ x + weights["trunk.net.3.bias"]
    for i in (0, 2, 4):
        x = np.maximum(weights[f"trunk.net.{i}.weight"] @ x + weights[f"trunk.net.{i}.bias"], 0)
    return weights["trunk.net.6.weight"] @ x + weights["trunk.net.6.bias"]


def test_coordinates_are_linspace_along_each_axis():
    shape = (3, 5, 9)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    expected = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    np.testing.assert_allclose(normalised_coordinates(grid, shape), np.stack(expected, -1))
    assert normalised_coordinates(np.array([-1.0, 0, 0]), shape)[0] == -2.0


def test_a_frame_survives_json():
    frame = Frame((10, 20, 30), (1.0, 1.5, 2.0), "LPS", "array")
    assert Frame.from_dict(frame.to_dict()) == frame
    for field, value in (("anchor", "nose"), ("shape", [1, 2, 3]), ("spacing", [1, 1, 0])):
        with pytest.raises(ValueError):
            Frame.from_dict({**frame.to_dict(), field: value})
    with pytest.raises(ValueError):
        Frame.from_dict({"shape": [4, 4, 4]})


def test_coordinates_run_from_face_to_face():
    shape = (4, 5, 8)
    grid = torch.stack(
        torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape),
                       indexing="ij"), -1
    )  # fmt: skip
    position = cell_positions(grid, shape).numpy()
    for voxel in np.ndindex(shape):
        centres = [-1 + (2 * i + 1) / n for i, n in zip(voxel, shape, strict=True)]
        np.testing.assert_allclose(position[voxel], [*centres, 2 / 4, 2 / 5, 2 / 8], atol=1e-12)
    # The same as PyTorch's own grid of that convention; its axes run the other way.
    theirs = torch.nn.functional.affine_grid(
        torch.eye(3, 4, dtype=torch.float64)[None], [1, 1, *shape], align_corners=False
    )
    np.testing.assert_allclose(position[..., :3], theirs[0].flip(-1).numpy(), atol=1e-12)


def test_parts_of_a_voxel_count_under_bfloat16():
    torch.manual_seed(0)
    model = ConditionalInr(InrArchitecture(2, 4, 8, 2))
    seen: list[torch.Tensor] = []
    model.linears[0].register_forward_hook(lambda module, given, out: seen.append(out))
    shape, at = (256, 256, 256), torch.tensor([[0.703125, 0.1, 0.4]])
    features = torch.zeros(1, 4)
    moved = at + torch.tensor([1.0 / 1024, 0, 0])
    assert at.bfloat16()[0, 0] == moved.bfloat16()[0, 0]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = [model.decode(features, p, shape) for p in (at, moved)]
    assert found[0].dtype == torch.float32
    assert (seen[0] != seen[1]).all()
