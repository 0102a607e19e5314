"""The image encoder: the coefficients b_k(u, x) of Equation 1."""

from __future__ import annotations

import itertools

import torch
from torch import nn

HALO = 5
"""Voxels on each side that one output voxel depends on: five 3x3x3 layers."""


class Branch(nn.Module):
    """Five 3x3x3 convolutions, 1-32-32-64-64-128, ReLU between them.

    Its state-dict names are those of the authors' release. Zero padding of one
    voxel in every layer keeps the grid, as in the paper.
    """

    def __init__(self, channels: int = 32, n_basis: int = 128) -> None:
        super().__init__()
        widths = (1, channels, channels, 2 * channels, 2 * channels, n_basis)
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [nn.Conv3d(n_in, n_out, 3, padding=1), nn.ReLU()]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Map a volume (B, 1, X, Y, Z) in [0, 1] to features (B, n_basis, X, Y, Z)."""
        return self.net(volume)

    @property
    def convolutions(self) -> list[nn.Conv3d]:
        """The five convolutions in order."""
        return [layer for layer in self.net if isinstance(layer, nn.Conv3d)]
