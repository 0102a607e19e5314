"""The conditional implicit representation of Table 1: one network reads features and position."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from h2lo_bids.models.h2lo import Branch, H2lo, own_grid

_POSITION = 6
"""Three coordinates and the three sides of a cell."""


@dataclass(frozen=True)
class InrArchitecture:
    """The sizes of a conditional INR; with the defaults it has the paper's 0.85 M weights."""

    channels: int = 32  # of the encoder's first layer, as in H2LO
    n_features: int = 128  # that the encoder gives each voxel
    width: int = 256  # of the decoder's hidden layers
    layers: int = 8  # linear ones of the decoder

    def __post_init__(self) -> None:
        if self.layers < 2:
            raise ValueError(f"the decoder needs at least 2 layers, not {self.layers}")


class ConditionalInr(nn.Module):
    """f(z(u, x), x, cell): H2LO's encoder z and a ReLU network; 845,473 parameters.

    Where H2LO multiplies features with basis functions of the position, here one
    network mixes both. The paper names the method and its 0.85 M parameters; the
    sizes that give this number are our choice, after ArSSR and LIIF.

    References
    ----------
    Wu et al. 2023, An arbitrary scale super-resolution approach for 3D MR images
    via implicit neural representation (ArSSR), IEEE JBHI 27(2).
    Chen et al. 2021, Learning continuous image representation with local implicit
    image function (LIIF), CVPR: cell-centred coordinates and cell decoding.
    """

    def __init__(self, architecture: InrArchitecture | None = None) -> None:
        super().__init__()
        a = architecture or InrArchitecture()
        self.architecture = a
        self.encoder = Branch(a.channels, a.n_features)
        widths = [a.n_features + _POSITION, *[a.width] * (a.layers - 1), 1]
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        self.decoder = nn.Sequential(*layers[:-1])

    @property
    def linears(self) -> list[nn.Linear]:
        """The decoder's linear layers in order."""
        return [layer for layer in self.decoder if isinstance(layer, nn.Linear)]

    def decode(
        self, features: torch.Tensor, coordinates: torch.Tensor, shape: Sequence[int]
    ) -> torch.Tensor:
        """Evaluate the decoder for features (..., n_features) at coordinates: float32 (...,).

        Coordinates, to be broadcast to (..., 3), have the outer voxel centres of a frame of
        this shape at -1 and 1, as in H2LO. The network sees them from cell to cell
        (``align_corners=False``): -1 and 1 are the faces of the grid.
        """
        first, *rest = self.decoder
        position = cell_positions(coordinates, shape).expand(*features.shape[:-1], -1)
        # bfloat16 resolves but half a voxel of 256, so this layer stays float32.
        with torch.autocast(features.device.type, enabled=False):
            x = first(torch.cat([features.to(position.dtype), position], -1))
        for layer in rest:
            x = layer(x)
        return x[..., 0].to(position.dtype)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Evaluate the network at the voxels of a volume (B, 1, X, Y, Z): the same shape.

        The plain form, which needs some 10 kB per voxel; the engine in
        `h2lo_bids.synthesis` gives the same numbers in less.
        """
        features = self.encoder(volume).permute(0, 2, 3, 4, 1)
        return self.decode(features, own_grid(volume), volume.shape[2:])[:, None]


def cell_scale(shape: Sequence[int]) -> list[float]:
    """Return what turns coordinates from voxel centres into those from faces, per axis.

    Voxel i of n has 2i / (n - 1) - 1 in the one and (2i + 1) / n - 1 in the other.
    """
    return [(n - 1) / n for n in shape]


def cell_positions(coordinates: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return cell-centred coordinates and the cell's sides, 2 / n: (..., 6)."""
    scale = coordinates.new_tensor(cell_scale(shape))
    cell = coordinates.new_tensor([2.0 / n for n in shape])
    return torch.cat([coordinates * scale, cell.expand_as(coordinates)], -1)


Operator = H2lo | ConditionalInr
"""The models that can be asked at any position: an encoder, and what reads its features."""
