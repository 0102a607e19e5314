"""DiffI2I: a transformer steered by a prior that a four-step diffusion estimates.

Xia et al. 2023, DiffI2I: Efficient Diffusion Model for Image-to-Image Translation, arXiv
2308.13767; DiffIR (Xia et al. 2023, ICCV), section 4.1, for the transformer; and for its blocks
Restormer (Zamir et al. 2022, CVPR), sections 3.1 and 3.2.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

STRIDE = 8
"""Sides of slices must be multiples of this: three halvings."""
UNSHUFFLE = 4
SLOPE = 0.1
"""Of every LeakyReLU, as in DiffIR's code."""
BETA_FIRST, BETA_LAST = 0.1, 0.99


@dataclass(frozen=True)
class DiffI2IArchitecture:
    """The sizes of a model; the defaults give the 16.39 million of the paper's Table 1."""

    width: int = 32  # channels of the transformer at full resolution; even
    blocks: tuple[int, ...] = (4, 6, 6, 8)  # of the transformer's four levels
    heads: tuple[int, ...] = (1, 2, 4, 8)
    refinement: int = 3  # blocks behind the last level
    expansion: float = 2.0  # width of the feed-forward layers relative to their input
    features: int = 64  # width of the extractors; z has four times as many numbers
    residual: int = 6  # residual blocks of the extractors
    denoiser_layers: int = 1  # linear ones behind the first
    chain: int = 4  # steps T of the diffusion

    def __post_init__(self) -> None:
        # Metadata holds lists; the sizes must compare and hash all the same.
        for name in ("blocks", "heads"):
            object.__setattr__(self, name, tuple(int(n) for n in getattr(self, name)))
        if not len(self.blocks) == len(self.heads) == 4:
            raise ValueError(f"blocks and heads need 4 numbers: {self.blocks}, {self.heads}")
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
    """

    def __init__(self, architecture: DiffI2IArchitecture | None = None) -> None:
        super().__init__()
        a = architecture or DiffI2IArchitecture()
        self.architecture = a
        self.transformer = DynamicTransformer(a)
        self.condition = a.extractor(1)
        self.denoiser = Denoiser(a.prior, a.denoiser_layers, a.chain)

    def estimate_prior(self, source: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
        """Run the chain from z_T (B, prior) for slices (B, 1, H, W): z (B, prior)."""
        return reverse_chain(self.denoiser, self.condition(source), noisy)

    def forward(self, source: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
        """Synthesize slices (B, 1, H, W) in [0, 1], sides multiples of 8, from normal z_T."""
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
            *_convolution(features, features), nn.Conv2d(features, features, 3, padding=1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, features, H, W) to the same shape."""
        return x + self.net(x)


class PriorExtractor(nn.Module):
    """Squeezes a slice into one vector z, of 4 x `features` numbers."""

    def __init__(self, images: int, features: int = 64, blocks: int = 6) -> None:
        super().__init__()
        n = features
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(UNSHUFFLE),
            *_convolution(images * UNSHUFFLE**2, n),
            *(ResidualBlock(n) for _ in range(blocks)),
            *_convolution(n, 2 * n),
            *_convolution(2 * n, 2 * n),
            *_convolution(2 * n, 4 * n),
        )
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


def variances(steps: int) -> tuple[list[float], list[float]]:
    """Return the noise's variances in a chain, and the signal's in each z_t.

    The former are beta, squares of evenly spaced roots from 0.1 to 0.99; the latter are the
    cumulative products of 1 - beta.
    """
    first, last = math.sqrt(BETA_FIRST), math.sqrt(BETA_LAST)
    betas = [(first + (last - first) * i / max(1, steps - 1)) ** 2 for i in range(steps)]
    return betas, list(itertools.accumulate((1.0 - beta for beta in betas), operator.mul))


def diffuse(prior: torch.Tensor, noise: torch.Tensor, steps: int = 4) -> torch.Tensor:
    """Draw z_T from z_0 in one step: sqrt(a) z_0 + sqrt(1 - a) noise, a the product of 1 - beta.

    Ho et al. 2020 (NeurIPS), Equation 4.
    """
    left = variances(steps)[1][-1]
    return math.sqrt(left) * prior + math.sqrt(1.0 - left) * noise


def reverse_chain(denoiser: Denoiser, condition: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
    """Run the whole chain from z_T to the estimate of z_0.

    Each step asks the denoiser for z_0 and takes the mean of q(z_{t-1} | z_t, z_0)
    (Ho et al. 2020, Equation 7), without adding noise: with four steps the chain
    is an estimator and can be trained through as a whole.
    """
    noise, kept = variances(denoiser.steps)
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


class Modulated(nn.Module):
    """Base of what z steers: x <- x * k1 + k2 with (k1, k2) a linear map of z."""

    def __init__(self, channels: int, prior: int) -> None:
        super().__init__()
        self.kernel = nn.Linear(prior, 2 * channels, bias=False)

    def modulate(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Scale and shift the channels of x (B, C, H, W) by what z (B, prior) says."""
        scale, shift = self.kernel(z)[:, :, None, None].chunk(2, 1)
        return x * scale + shift


class ChannelAttention(Modulated):
    """Attention between channels, whose cost grows linearly with the voxels.

    Queries and keys are normalised along space, so that their products are
    correlations of channels; a learned temperature per head scales them.
    """

    def __init__(self, channels: int, heads: int, prior: int) -> None:
        super().__init__(channels, prior)
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.project = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.depthwise = _depthwise(3 * channels)
        self.out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Map x (B, C, H, W) and z (B, prior) to (B, C, H, W)."""
        b, c, h, w = x.shape
        joint = self.depthwise(self.project(self.modulate(x, z)))
        q, k, v = joint.reshape(b, 3, self.heads, c // self.heads, h * w).unbind(1)
        q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        weights = ((q @ k.transpose(-1, -2)) * self.temperature).softmax(-1)
        return self.out((weights @ v).reshape(b, c, h, w))


class GatedFeedForward(Modulated):
    """Two depthwise branches, one of which gates the other through a GELU."""

    def __init__(self, channels: int, expansion: float, prior: int) -> None:
        super().__init__(channels, prior)
        hidden = int(channels * expansion)
        self.project = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.depthwise = _depthwise(2 * hidden)
        self.out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Map x (B, C, H, W) and z (B, prior) to (B, C, H, W)."""
        gate, value = self.depthwise(self.project(self.modulate(x, z))).chunk(2, 1)
        return self.out(functional.gelu(gate) * value)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (B, C, H, W)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise each voxel's channels."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), both steered by z."""

    def __init__(self, channels: int, heads: int, expansion: float, prior: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.attention = ChannelAttention(channels, heads, prior)
        self.feed_forward = GatedFeedForward(channels, expansion, prior)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Map x (B, C, H, W) and z (B, prior) to (B, C, H, W)."""
        x = x + self.attention(self.norm1(x), z)
        return x + self.feed_forward(self.norm2(x), z)


class Stage(nn.Module):
    """Transformer blocks of one resolution."""

    def __init__(self, channels: int, blocks: int, heads: int, a: DiffI2IArchitecture) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TransformerBlock(channels, heads, a.expansion, a.prior) for _ in range(blocks)
        )

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Map x (B, C, H, W) and z (B, prior) to (B, C, H, W)."""
        for block in self.blocks:
            x = block(x, z)
        return x


class DynamicTransformer(nn.Module):
    """Four levels of `width` to 8 x `width` channels; the output is added to the input.

    The way up joins each level with what the way down left there. A 1x1
    convolution then halves the channels, except at full resolution, where the
    2 x `width` channels stay through the refinement blocks.
    """

    def __init__(self, a: DiffI2IArchitecture) -> None:
        super().__init__()
        widths, blocks, heads = [a.width * n for n in (1, 2, 4, 8)], a.blocks, a.heads
        self.embed = nn.Conv2d(1, a.width, 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            Stage(*sizes, a) for sizes in zip(widths, blocks, heads, strict=True)
        )
        # Half the resolution with twice the channels, and back: a shuffle throws nothing away.
        self.shrink = nn.ModuleList(_shuffled(n, n // 2, nn.PixelUnshuffle(2)) for n in widths[:3])
        self.grow = nn.ModuleList(_shuffled(n, 2 * n, nn.PixelShuffle(2)) for n in widths[:0:-1])
        self.merge = nn.ModuleList(
            nn.Conv2d(2 * n, n, 1, bias=False) for n in (widths[2], widths[1])
        )
        ups = [(widths[2], blocks[2], heads[2]), (widths[1], blocks[1], heads[1])]
        ups.append((widths[1], blocks[0], heads[0]))
        self.up = nn.ModuleList(Stage(*sizes, a) for sizes in ups)
        self.refine = Stage(widths[1], a.refinement, heads[0], a)
        self.out = nn.Conv2d(widths[1], 1, 3, padding=1, bias=False)

    def forward(self, image: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Map slices (B, 1, H, W), sides multiples of 8, and z (B, prior) to (B, 1, H, W)."""
        x = self.embed(image)
        left = []
        for stage, shrink in itertools.zip_longest(self.down, self.shrink):
            x = stage(x, z)
            if shrink is not None:
                left.append(x)
                x = shrink(x)
        for stage, grow, merge in itertools.zip_longest(self.up, self.grow, self.merge):
            x = torch.cat([grow(x), left.pop()], 1)
            x = stage(x if merge is None else merge(x), z)
        return image + self.out(self.refine(x, z))


def _depthwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)


def _shuffled(n_in: int, n_out: int, shuffle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), shuffle)
