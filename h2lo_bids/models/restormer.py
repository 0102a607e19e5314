"""The dynamic transformer of DiffI2I: Restormer's U shape, steered by a prior vector."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

STRIDE = 8
"""Sides must be multiples of this: three halvings."""


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

    References
    ----------
    Zamir et al. 2022, Restormer (CVPR), section 3.1.
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
    """Two depthwise branches, one of which gates the other through a GELU.

    References
    ----------
    Zamir et al. 2022, Restormer (CVPR), section 3.2.
    """

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

    def __init__(
        self, channels: int, blocks: int, heads: int, expansion: float, prior: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TransformerBlock(channels, heads, expansion, prior) for _ in range(blocks)
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

    Parameters
    ----------
    width
        Channels at full resolution.
    blocks, heads
        Transformer blocks and attention heads of each of the four levels.
    refinement
        Further blocks at full resolution.
    expansion
        Width of the feed-forward layers relative to their input.
    prior
        Length of z.

    References
    ----------
    Xia et al. 2023, DiffIR (ICCV), section 4.1; Zamir et al. 2022, Restormer (CVPR).
    """

    def __init__(
        self,
        width: int = 32,
        blocks: Sequence[int] = (4, 6, 6, 8),
        heads: Sequence[int] = (1, 2, 4, 8),
        refinement: int = 3,
        expansion: float = 2.0,
        prior: int = 256,
    ) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.embed = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            Stage(n, b, h, expansion, prior) for n, b, h in zip(widths, blocks, heads, strict=True)
        )
        self.shrink = nn.ModuleList(_halve(n) for n in widths[:3])
        self.grow = nn.ModuleList(_double(n) for n in widths[:0:-1])
        self.merge = nn.ModuleList(
            nn.Conv2d(2 * n, n, 1, bias=False) for n in (widths[2], widths[1])
        )
        ups = [(widths[2], blocks[2], heads[2]), (widths[1], blocks[1], heads[1])]
        ups.append((widths[1], blocks[0], heads[0]))
        self.up = nn.ModuleList(Stage(n, b, h, expansion, prior) for n, b, h in ups)
        self.refine = Stage(widths[1], refinement, heads[0], expansion, prior)
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


def _halve(channels: int) -> nn.Sequential:
    """Half the resolution, twice the channels, nothing thrown away by the shuffle."""
    return nn.Sequential(
        nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2)
    )


def _double(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False), nn.PixelShuffle(2)
    )
