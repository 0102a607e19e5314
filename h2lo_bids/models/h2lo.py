"""Operators, asked at any position: H2LO (Equation 1 of the paper) and the conditional INR."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

HALO = 5
"""Voxels on each side that one output voxel depends on: five 3x3x3 layers."""
TRUNKS = ("siren", "mlp")
_POSITION = 6
"""Three coordinates and the three sides of a cell."""


@dataclass(frozen=True)
class H2loArchitecture:
    """The sizes of an operator; the defaults are the paper's."""

    channels: int = 32  # of the branch's first layer
    n_basis: int = 128  # basis functions, P in Equation 1
    width: int = 256  # of the trunk's hidden layers
    omega: float = 30.0  # frequency of the sine layers, without a unit
    trunk: str = "siren"  # or "mlp", the ablation "w/o SIREN"

    def __post_init__(self) -> None:
        if self.trunk not in TRUNKS:
            raise ValueError(f"trunk is one of {TRUNKS}, not {self.trunk!r}")


class Branch(nn.Module):
    """The image encoder b_k(u, x): five 3x3x3 convolutions, 1-32-32-64-64-128, ReLU between them.

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


class SineLayer(nn.Module):
    """One layer sin(omega (W x + b)) of a SIREN.

    Weights are drawn as in Sitzmann et al. 2020 (NeurIPS), section 3.2: from
    U(-1/n, 1/n) in a first layer and U(-sqrt(6/n)/omega, sqrt(6/n)/omega)
    elsewhere, n being the number of inputs.
    """

    def __init__(self, n_in: int, n_out: int, omega: float, *, first: bool) -> None:
        super().__init__()
        self.omega, self.first = omega, first
        self.linear = nn.Linear(n_in, n_out)
        bound = 1.0 / n_in if first else math.sqrt(6.0 / n_in) / omega
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., n_in) to (..., n_out), values in [-1, 1]."""
        if self.first:  # its phases reach 50 radians, of which bfloat16 would keep one decimal
            with torch.autocast(x.device.type, enabled=False):
                return torch.sin(self.omega * self.linear(x))
        return torch.sin(self.omega * self.linear(x))


class Trunk(nn.Module):
    """The basis functions t_k(x): three hidden layers and a linear one, 3-256-256-256-128.

    Hidden layers are sines, with the state-dict names of the authors' release, or ReLU.
    """

    def __init__(self, a: H2loArchitecture) -> None:
        super().__init__()
        self.sine = a.trunk == "siren"
        inputs = (3, a.width, a.width)
        layers: list[nn.Module]
        if self.sine:
            out = nn.Linear(a.width, a.n_basis)
            bound = math.sqrt(6.0 / a.width) / a.omega
            nn.init.uniform_(out.weight, -bound, bound)
            layers = [SineLayer(n, a.width, a.omega, first=i == 0) for i, n in enumerate(inputs)]
        else:
            layers = [part for n in inputs for part in (nn.Linear(n, a.width), nn.ReLU())]
            out = nn.Linear(a.width, a.n_basis)
        self.net = nn.Sequential(*layers, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map coordinates (N, 3) in [-1, 1] to basis values (N, n_basis)."""
        return self.net(x)


class H2lo(nn.Module):
    """G(u)(x) = sum_k b_k(u, x) t_k(x) + beta, 581,409 parameters in the paper.

    Notes
    -----
    State-dict names are ``bias``, ``encoder.net.*`` and ``trunk.net.*``, as in
    the authors' release, so that its weights load without renaming.

    References
    ----------
    Subject-Specific Low-Field MRI Synthesis via a Neural Operator,
    arXiv 2603.24968, section 2.2.
    """

    def __init__(self, architecture: H2loArchitecture | None = None) -> None:
        super().__init__()
        a = architecture or H2loArchitecture()
        self.architecture = a
        self.encoder = Branch(a.channels, a.n_basis)
        self.trunk = Trunk(a)
        self.bias = nn.Parameter(torch.zeros(()))

    def decode(
        self, features: torch.Tensor, coordinates: torch.Tensor, shape: Sequence[int] = ()
    ) -> torch.Tensor:
        """Evaluate Equation 1 for features (..., N, P) at coordinates (N, 3): float32 (..., N)."""
        return (features * self.trunk(coordinates)).sum(-1, dtype=torch.float32) + self.bias

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Evaluate the operator on the grid of a volume (B, 1, X, Y, Z) in [0, 1]: the same shape.

        The plain form, which needs about 1 kB per voxel; the engine in
        `h2lo_bids.synthesis` gives the same numbers in less.
        """
        features, grid = self.encoder(volume), own_grid(volume)
        basis = self.trunk(grid.reshape(-1, 3)).reshape(*volume.shape[2:], -1)
        out = torch.einsum("bpxyz,xyzp->bxyz", features, basis) + self.bias
        return out[:, None]


def own_grid(volume: torch.Tensor) -> torch.Tensor:
    """Return the coordinates (X, Y, Z, 3) of the voxels of a volume (B, 1, X, Y, Z)."""
    axes = [
        torch.linspace(-1, 1, n, dtype=volume.dtype, device=volume.device) for n in volume.shape[2:]
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


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
