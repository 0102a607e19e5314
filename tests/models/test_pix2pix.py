"""The networks are those of the paper's count, and compute what Pix2Pix computes."""

import pytest
import torch
from problems import TINY as SIZES
from torch.nn import functional

from h2lo_bids.models.pix2pix import Norm, PatchDiscriminator, Pix2Pix, Pix2PixArchitecture

TINY = SIZES["pix2pix"]["architecture"]


def test_forward_is_a_nested_unet() -> None:
    """Against the recursive definition: each level wraps the next and keeps its input."""
    torch.manual_seed(1)
    network = Pix2Pix(TINY).eval()
    for module in network.modules():
        if isinstance(module, Norm):
            module.mean.normal_()
            module.variance.uniform_(0.5, 2)
    state = network.state_dict()

    def normalised(x: torch.Tensor, name: str) -> torch.Tensor:
        if f"{name}.norm.weight" not in state:
            return x
        weight, bias, mean, variance = (
            state[f"{name}.norm.{k}"][:, None, None, None]
            for k in ("weight", "bias", "mean", "variance")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def level(x: torch.Tensor, depth: int) -> torch.Tensor:
        down, up = f"encoder.{depth}", f"decoder.{TINY.downs - 1 - depth}"
        inside = x if depth == 0 else torch.where(x > 0, x, 0.2 * x)
        inside = functional.conv3d(inside, state[f"{down}.convolution.weight"], None, 2, 1)
        inside = normalised(inside, down)
        if depth < TINY.downs - 1:
            inside = level(inside, depth + 1)
        bias = state.get(f"{up}.convolution.bias")
        weight = state[f"{up}.convolution.weight"]
        outside = functional.conv_transpose3d(inside.relu(), weight, bias, 2, 1)
        outside = normalised(outside, up)
        return outside.tanh() if depth == 0 else torch.cat([x, outside], 1)

    assert (TINY.multiple, Pix2PixArchitecture().multiple) == (8, 32)
    image = torch.rand(1, 1, 16, 8, 24) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(network(image), level(image, 0), rtol=1e-4, atol=1e-6)


def test_weights_start_as_published() -> None:
    torch.manual_seed(2)
    for network in (Pix2Pix(), PatchDiscriminator()):
        for name, value in network.named_parameters():
            if name.endswith("bias"):
                assert not value.any()
                continue
            centre = 1.0 if "norm" in name else 0.0
            error = 6 * 0.02 / value.numel() ** 0.5
            assert value.mean().item() == pytest.approx(centre, abs=error)
            assert value.std().item() == pytest.approx(0.02, abs=error)


def test_norm_is_batch_normalisation() -> None:
    torch.manual_seed(3)
    own, known = Norm(3), torch.nn.BatchNorm3d(3)
    for _ in range(3):
        x = torch.randn(2, 3, 4, 5, 6) * 2 + 1
        torch.testing.assert_close(own(x), known(x))
    torch.testing.assert_close(own.mean, known.running_mean)
    torch.testing.assert_close(own.variance, known.running_var)
    torch.testing.assert_close(own.eval()(x), known.eval()(x))
    assert all(value.is_floating_point() for value in own.state_dict().values())
