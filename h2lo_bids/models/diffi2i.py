"""DiffI2I: a transformer steered by a prior that a four-step diffusion estimates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from h2lo_bids.models.restormer import STRIDE, DynamicTransformer

LEVELS = 4
UNSHUFFLE = 4
SLOPE = 0.1
"""Of every LeakyReLU, as in DiffIR's code."""
BETA_FIRST, BETA_LAST = 0.1, 0.99


@dataclass(frozen=True)
class DiffI2IArchitecture:
    """The sizes of a model; the defaults give the 16.39 million of the paper's Table 1.

    Parameters
    ----------
    width
        Channels of the transformer at full resolution; even.
    blocks, heads
        Transformer blocks and attention heads of the four levels.
    refinement
        Transformer blocks behind the last level.
    expansion
        Width of the feed-forward layers relative to their input.
    features
        Width of the extractors; z has four times as many numbers.
    residual
        Residual blocks of the extractors.
    denoiser_layers
        Linear layers of the denoiser behind the first.
    chain
        Steps T of the diffusion.

    Raises
    ------
    ValueError
        If the sizes do not fit each other.
    """

    width: int = 32
    blocks: tuple[int, ...] = (4, 6, 6, 8)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    refinement: int = 3
    expansion: float = 2.0
    features: int = 64
    residual: int = 6
    denoiser_layers: int = 1
    chain: int = 4

    def __post_init__(self) -> None:
        # Metadata holds lists; the sizes must compare and hash all the same.
        for name in ("blocks", "heads"):
            object.__setattr__(self, name, tuple(int(n) for n in getattr(self, name)))
        if len(self.blocks) != LEVELS or len(self.heads) != LEVELS:
            raise ValueError(f"blocks and heads need {LEVELS} numbers: {self.blocks}, {self.heads}")
        if min(self.width, *self.blocks, *self.heads, self.features, self.chain) < 1:
            raise ValueError("width, blocks, heads, features and chain must be at least 1")
        if self.width % 2 or any(self.width * 2**i % h for i, h in enumerate(self.heads)):
            raise ValueError(
                f"width {self.width} is odd or cannot be split into {self.heads} heads"
            )

    @property
    def prior(self) -> int:
        """Length of z."""
        return 4 * self.features

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes as JSON-ready values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def extractor(self, images: int) -> PriorExtractor:
        """Return an untrained extractor that sees so many images."""
        return PriorExtractor(images, self.features, self.residual)


class DiffI2I(nn.Module):
    """What turns a high-field slice into a low-field one; 16,389,619 parameters.

    They are the transformer's 15,091,635, the 1,100,608 of the condition
    extractor (it sees the source) and the denoiser's 197,376: all that stage 2
    trains, and all that synthesis needs. The extractor of stage 1, which sees
    source and target (1,109,824), is not among them. DiffI2I's authors
    publish no count for this task: these sizes were found from the count in the
    paper's Table 1, with the shapes of DiffIR's public code.

    Parameters
    ----------
    architecture
        Sizes; None takes the defaults.

    References
    ----------
    Xia et al. 2023, DiffI2I: Efficient Diffusion Model for Image-to-Image
    Translation, arXiv 2308.13767; and DiffIR (ICCV 2023).
    """

    def __init__(self, architecture: DiffI2IArchitecture | None = None) -> None:
        super().__init__()
        a = architecture or DiffI2IArchitecture()
        self.architecture = a
        self.transformer = DynamicTransformer(
            a.width, a.blocks, a.heads, a.refinement, a.expansion, a.prior
        )
        self.condition = a.extractor(1)
        self.denoiser = Denoiser(a.prior, a.denoiser_layers, a.chain)

    def estimate_prior(self, source: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
        """Run the chain from z_T (B, prior) for slices (B, 1, H, W): z (B, prior)."""
        return reverse_chain(self.denoiser, self.condition(source), noisy)

    def forward(self, source: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
        """Synthesize slices.

        Parameters
        ----------
        source
            (B, 1, H, W), in [0, 1]; sides are multiples of 8 (see `pad_slices`).
        noisy
            (B, prior), standard normal: the start z_T of the chain.

        Returns
        -------
        torch.Tensor
            (B, 1, H, W), without an output activation.
        """
        return self.transformer(source, self.estimate_prior(source, noisy))


def pad_slices(slices: torch.Tensor) -> torch.Tensor:
    """Add zeros, the background, behind both axes of (..., H, W) up to multiples of 8."""
    height, width = slices.shape[-2:]
    return functional.pad(slices, (0, -width % STRIDE, 0, -height % STRIDE))


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
    """Squeezes a slice into one vector z, of 4 x `features` numbers."""

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
    """Estimates the clean vector z_0 from the condition, the time and z_t."""

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
