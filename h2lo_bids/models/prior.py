"""DiffI2I's image prior: a vector per slice, and the diffusion that estimates it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import torch
from torch import nn

UNSHUFFLE = 4
SLOPE = 0.1
"""Of every LeakyReLU, as in DiffIR's code."""
BETA_FIRST, BETA_LAST = 0.1, 0.99


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a LeakyReLU between them, added to their input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(features, features, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(features, features, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, features, H, W) to the same shape."""
        return x + self.net(x)


class PriorExtractor(nn.Module):
    """Squeezes a slice into one vector z, of 4 x `features` numbers.

    Parameters
    ----------
    images
        Images it sees: 2 (source and target) in stage 1, 1 (source) in stage 2.
    features
        Width n of the residual blocks; convolutions n-2n-2n-4n follow.
    blocks
        Residual blocks.

    References
    ----------
    Xia et al. 2023, DiffIR (ICCV), section 4.1; sizes after its public code.
    """

    def __init__(self, images: int, features: int = 64, blocks: int = 6) -> None:
        super().__init__()
        n = features
        layers: list[nn.Module] = [nn.PixelUnshuffle(UNSHUFFLE)]
        layers += _convolution(images * UNSHUFFLE**2, n)
        layers += [ResidualBlock(n) for _ in range(blocks)]
        layers += [
            *_convolution(n, 2 * n),
            *_convolution(2 * n, 2 * n),
            *_convolution(2 * n, 4 * n),
        ]
        self.encoder = nn.Sequential(*layers)
        self.head = _perceptron([4 * n] * 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, images, H, W), sides multiples of 4, to z (B, 4 x features)."""
        return self.head(self.encoder(images).mean((2, 3)))


class Denoiser(nn.Module):
    """Estimates the clean vector z_0 from the condition, the time and z_t.

    Parameters
    ----------
    size
        Length of the vectors; 256 in the paper.
    layers
        Linear layers behind the first one, which takes 2 x 256 + 1 numbers.
    steps
        Length T of the chain: the time enters as t / (10 T).
    """

    def __init__(self, size: int = 256, layers: int = 1, steps: int = 4) -> None:
        super().__init__()
        self.steps = steps
        self.net = _perceptron([2 * size + 1, *[size] * (layers + 1)])

    def forward(self, condition: torch.Tensor, step: int, noisy: torch.Tensor) -> torch.Tensor:
        """Map condition and z_t, both (B, size), at index `step` (0 to T - 1) to z_0."""
        time = noisy.new_full((len(noisy), 1), step / (10.0 * self.steps))
        return self.net(torch.cat([condition, time, noisy], 1))


def betas(steps: int = 4) -> list[float]:
    """Return the chain's noise variances: squares of evenly spaced roots, 0.1 to 0.99."""
    first, last = math.sqrt(BETA_FIRST), math.sqrt(BETA_LAST)
    gaps = max(1, steps - 1)
    return [(first + (last - first) * i / gaps) ** 2 for i in range(steps)]


def kept_signal(steps: int = 4) -> list[float]:
    """Return the cumulative products of 1 - beta: the signal's variance in each z_t."""
    products, product = [], 1.0
    for beta in betas(steps):
        product *= 1.0 - beta
        products.append(product)
    return products


def diffuse(prior: torch.Tensor, noise: torch.Tensor, steps: int = 4) -> torch.Tensor:
    """Draw z_T from z_0 in one step: sqrt(a) z_0 + sqrt(1 - a) noise, a the product of 1 - beta.

    Ho et al. 2020 (NeurIPS), Equation 4.
    """
    left = kept_signal(steps)[-1]
    return math.sqrt(left) * prior + math.sqrt(1.0 - left) * noise


def reverse_chain(denoiser: Denoiser, condition: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
    """Run the whole chain from z_T to the estimate of z_0.

    Each step asks the denoiser for z_0 and takes the mean of q(z_{t-1} | z_t, z_0)
    (Ho et al. 2020, Equation 7), without adding noise: with four steps the chain
    is an estimator and can be trained through as a whole.

    Parameters
    ----------
    denoiser
        Estimates z_0; its `steps` is the chain's length.
    condition
        (B, size), what the condition extractor saw in the source.
    noisy
        (B, size), z_T.

    Returns
    -------
    torch.Tensor
        (B, size).
    """
    noise, kept = betas(denoiser.steps), kept_signal(denoiser.steps)
    z = noisy
    for t in reversed(range(denoiser.steps)):
        before = kept[t - 1] if t else 1.0
        clean = denoiser(condition, t, z)
        of_clean = math.sqrt(before) * noise[t] / (1.0 - kept[t])
        of_noisy = math.sqrt(1.0 - noise[t]) * (1.0 - before) / (1.0 - kept[t])
        z = of_clean * clean + of_noisy * z
    return z


def _convolution(n_in: int, n_out: int) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, 3, padding=1), nn.LeakyReLU(SLOPE)]


def _perceptron(sizes: Iterable[int]) -> nn.Sequential:
    """Linear layers of the given sizes, each followed by a LeakyReLU."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)
