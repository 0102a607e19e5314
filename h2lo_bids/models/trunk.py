"""Coordinate networks: the basis functions t_k(x) of Equation 1."""

from __future__ import annotations

import math

import torch
from torch import nn


class SineLayer(nn.Module):
    """One layer sin(omega (W x + b)) of a SIREN.

    Weights are drawn as in Sitzmann et al. 2020 (NeurIPS), section 3.2: from
    U(-1/n, 1/n) in a first layer and U(-sqrt(6/n)/omega, sqrt(6/n)/omega)
    elsewhere, n being the number of inputs.
    """

    def __init__(self, n_in: int, n_out: int, omega: float, *, first: bool) -> None:
        super().__init__()
        self.omega = omega
        self.linear = nn.Linear(n_in, n_out)
        bound = 1.0 / n_in if first else math.sqrt(6.0 / n_in) / omega
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., n_in) to (..., n_out), values in [-1, 1]."""
        return torch.sin(self.omega * self.linear(x))


class SirenTrunk(nn.Module):
    """Three sine layers and one linear layer, 3-256-256-256-128 in the paper.

    Its state-dict names are those of the authors' release.
    """

    def __init__(self, width: int = 256, n_basis: int = 128, omega: float = 30.0) -> None:
        super().__init__()
        out = nn.Linear(width, n_basis)
        bound = math.sqrt(6.0 / width) / omega
        nn.init.uniform_(out.weight, -bound, bound)
        self.net = nn.Sequential(
            SineLayer(3, width, omega, first=True),
            SineLayer(width, width, omega, first=False),
            SineLayer(width, width, omega, first=False),
            out,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map coordinates (N, 3) in [-1, 1] to basis values (N, n_basis)."""
        return self.net(x)


class MlpTrunk(nn.Module):
    """The same sizes with ReLU: the paper's ablation "w/o SIREN"."""

    def __init__(self, width: int = 256, n_basis: int = 128) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, n_basis),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map coordinates (N, 3) in [-1, 1] to basis values (N, n_basis)."""
        return self.net(x)
