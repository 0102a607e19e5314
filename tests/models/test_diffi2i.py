"""DiffI2I: its size, its chain and its blocks against formulas written out in NumPy."""

import numpy as np
import pytest
import torch
from problems import TINY as SIZES
from scipy.special import erf
from torch import nn

from h2lo_bids.models.diffi2i import (
    Denoiser,
    DiffI2I,
    PriorExtractor,
    TransformerBlock,
    diffuse,
    pad_slices,
    reverse_chain,
)

TINY = SIZES["diffi2i"]["architecture"]


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


@pytest.fixture
def conv(convolved):
    """Return what a layer of convolutions makes, by the weights that it has."""

    def by_layer(x: np.ndarray, layer: nn.Conv2d) -> np.ndarray:
        offset = 0.0 if layer.bias is None else array(layer.bias)
        return convolved(x, array(layer.weight), offset, layer.groups)

    return by_layer


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.1 * x)


def test_reverse_chain_follows_the_posterior() -> None:
    """Against Bayes' rule: the product of the two Gaussians that z_{t-1} obeys."""
    seen = []

    class Linear(Denoiser):
        def forward(self, condition: torch.Tensor, step: int, noisy: torch.Tensor) -> torch.Tensor:
            seen.append(step)
            return 0.3 * condition + 0.5 * noisy + 0.1 * step

    condition, start = torch.randn(2, 5, 6, dtype=torch.float64)
    found = reverse_chain(Linear(6, 1, 4), condition, start)

    beta = np.linspace(np.sqrt(0.1), np.sqrt(0.99), 4) ** 2
    alpha_bar = np.cumprod(1 - beta)
    z = start.numpy()
    for t in (3, 2, 1, 0):
        clean = 0.3 * condition.numpy() + 0.5 * z + 0.1 * t
        if t == 0:
            z = clean  # nothing but z_0 itself is left
            continue
        # q(z_t | z_{t-1}): z_{t-1} = z_t / sqrt(1 - beta), precision (1 - beta) / beta
        likelihood = (1 - beta[t]) / beta[t]
        # q(z_{t-1} | z_0): mean sqrt(alpha_bar) z_0, precision 1 / (1 - alpha_bar)
        prior = 1 / (1 - alpha_bar[t - 1])
        means = z / np.sqrt(1 - beta[t]), np.sqrt(alpha_bar[t - 1]) * clean
        z = (likelihood * means[0] + prior * means[1]) / (likelihood + prior)
    assert seen == [3, 2, 1, 0]
    np.testing.assert_allclose(found.numpy(), z, rtol=1e-12)


def test_forward_diffusion_adds_up_its_steps() -> None:
    mean, variance = 1.0, 0.0
    for beta in np.linspace(np.sqrt(0.1), np.sqrt(0.99), 4) ** 2:
        mean, variance = mean * np.sqrt(1 - beta), variance * (1 - beta) + beta
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    assert diffuse(one, zero).item() == pytest.approx(mean, rel=1e-12)
    assert diffuse(zero, one).item() ** 2 == pytest.approx(variance, rel=1e-12)
    assert variance == pytest.approx(1 - mean**2)


def test_denoiser_reads_condition_time_and_vector() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(3, 1, 4).double()
    condition, noisy = torch.randn(2, 2, 3, dtype=torch.float64)
    x = np.concatenate([condition.numpy(), np.full((2, 1), 2 / 40), noisy.numpy()], 1)
    for layer in (denoiser.net[0], denoiser.net[2]):
        x = leaky(x @ array(layer.weight).T + array(layer.bias))
    np.testing.assert_allclose(array(denoiser(condition, 2, noisy)), x, rtol=1e-12)


def test_extractor_equals_brute_force(conv) -> None:
    torch.manual_seed(0)
    extractor = PriorExtractor(2, features=2, blocks=1).double()
    images = torch.rand(1, 2, 8, 12, dtype=torch.float64)
    x = images[0].numpy().reshape(2, 2, 4, 3, 4).transpose(0, 2, 4, 1, 3).reshape(32, 2, 3)
    layers = [m for m in extractor.modules() if isinstance(m, nn.Conv2d)]
    x = leaky(conv(x, layers[0]))
    x = x + conv(leaky(conv(x, layers[1])), layers[2])
    for layer in layers[3:]:
        x = leaky(conv(x, layer))
    z = x.mean((1, 2))
    for linear in (m for m in extractor.modules() if isinstance(m, nn.Linear)):
        z = leaky(array(linear.weight) @ z + array(linear.bias))
    np.testing.assert_allclose(array(extractor(images))[0], z, rtol=1e-10)


def block_by_hand(block: TransformerBlock, x: np.ndarray, z: np.ndarray, conv) -> np.ndarray:
    """A block of the transformer, channel by channel."""

    def entered(x: np.ndarray, norm: nn.LayerNorm, kernel: nn.Linear) -> np.ndarray:
        y = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
        y = y * array(norm.weight)[:, None, None] + array(norm.bias)[:, None, None]
        scale, shift = np.split(array(kernel.weight) @ z, 2)
        return y * scale[:, None, None] + shift[:, None, None]

    attention, mixed = block.attention, np.zeros_like(x)
    y = entered(x, block.norm1, attention.kernel)
    q, k, v = np.split(conv(conv(y, attention.project), attention.depthwise), 3)
    heads = np.array_split(range(len(x)), attention.heads)
    for own, temperature in zip(heads, array(attention.temperature).ravel(), strict=True):
        for i in own:
            lengths = np.sqrt((q[i] ** 2).sum() * (k[own] ** 2).sum((1, 2)))
            score = np.exp(temperature * (q[i] * k[own]).sum((1, 2)) / lengths)
            mixed[i] = np.tensordot(score / score.sum(), v[own], 1)
    x = x + conv(mixed, attention.out)

    feed = block.feed_forward
    y = entered(x, block.norm2, feed.kernel)
    gate, value = np.split(conv(conv(y, feed.project), feed.depthwise), 2)
    return x + conv(gate * 0.5 * (1 + erf(gate / np.sqrt(2))) * value, feed.out)


def test_transformer_block_equals_brute_force(conv) -> None:
    torch.manual_seed(1)
    block = TransformerBlock(4, 2, 1.5, 3).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x, z = torch.randn(2, 4, 5, 6, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    found = array(block(x, z))
    for n in range(2):
        by_hand = block_by_hand(block, x[n].numpy(), z[n].numpy(), conv)
        np.testing.assert_allclose(found[n], by_hand)


def test_slices_padded_to_multiples_of_8_come_back_as_those_and_what_the_prior_adds() -> None:
    torch.manual_seed(0)
    model, prior = DiffI2I(TINY), torch.randn(2, 1, TINY.prior)
    for shape, expected in (((8, 16), (8, 16)), ((9, 15), (16, 16)), ((1, 23), (8, 24))):
        slices = torch.rand(1, 1, *shape)
        padded = pad_slices(slices)
        assert padded.shape[2:] == expected
        assert torch.equal(padded[..., : shape[0], : shape[1]], slices)
        assert padded.sum() == pytest.approx(slices.sum().item())
    with torch.inference_mode():
        a, b = (model.transformer(padded, z) for z in prior)
        assert not torch.equal(a, b)
        nn.init.zeros_(model.transformer.out.weight)
        assert torch.equal(model(padded, prior[0]), padded)
