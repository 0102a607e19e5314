"""The U-Net behind SynthStrip, from its published architecture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class Convolution(nn.Module):
    """A 3x3x3 convolution, and a leaky rectifier unless it is the last."""

    def __init__(self, width_in: int, width_out: int, *, last: bool = False):
        super().__init__()
        self.conv = nn.Conv3d(width_in, width_out, kernel_size=3, padding=1)
        self.last = last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve (B, C, X, Y, Z)."""
        y = self.conv(x)
        return y if self.last else functional.leaky_relu_(y, 0.2)


class DistanceUNet(nn.Module):
    """Two convolutions per level, maximum pooling down, nearest neighbours up.

    The deepest level belongs to the decoder; every decoder level ends by going
    up and meeting the encoder's features. Three convolutions follow at full
    resolution. The attribute names are those of the published checkpoint.
    """

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        down, up = list(widths[:-1]), list(reversed(widths[1:]))
        self.encoder = nn.ModuleList()
        before = 1
        for width in down:
            self.encoder.append(_pair(before, width))
            before = width
        self.decoder = nn.ModuleList()
        for width, skipped in zip(up, reversed(down), strict=True):
            self.decoder.append(_pair(before, width))
            before = width + skipped
        first = widths[0]
        self.remaining = nn.ModuleList(
            [
                Convolution(before, first),
                Convolution(first, first),
                Convolution(first, 1, last=True),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, 1, X, Y, Z), sides divisible by 64, to distances in mm."""
        skipped = []
        for pair in self.encoder:
            for layer in pair:  # type: ignore[attr-defined]
                x = layer(x)
            skipped.append(x)
            x = functional.max_pool3d(x, 2)
        for pair in self.decoder:
            for layer in pair:  # type: ignore[attr-defined]
                x = layer(x)
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = torch.cat([x, skipped.pop()], dim=1)
        for layer in self.remaining:
            x = layer(x)
        return x


def _pair(width_in: int, width_out: int) -> nn.ModuleList:
    """Return the two convolutions of a level."""
    return nn.ModuleList([Convolution(width_in, width_out), Convolution(width_out, width_out)])
