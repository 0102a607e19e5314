"""H2LO: the high-to-low-field neural operator (Equation 1 of the paper)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from h2lo_bids.models.branch import Branch
from h2lo_bids.models.trunk import MlpTrunk, SirenTrunk

TRUNKS = ("siren", "mlp")


@dataclass(frozen=True)
class H2loArchitecture:
    """The sizes of an operator; the defaults are the paper's.

    Parameters
    ----------
    channels
        Width of the branch's first layer.
    n_basis
        Number of basis functions, P in Equation 1.
    width
        Width of the trunk's hidden layers.
    omega
        Frequency of the sine layers, without a unit; unused by the MLP trunk.
    trunk
        ``"siren"``, or ``"mlp"`` for the ablation "w/o SIREN".
    """

    channels: int = 32
    n_basis: int = 128
    width: int = 256
    omega: float = 30.0
    trunk: str = "siren"

    def __post_init__(self) -> None:
        if self.trunk not in TRUNKS:
            raise ValueError(f"trunk is one of {TRUNKS}, not {self.trunk!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes as JSON-ready values."""
        return asdict(self)


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
        self.trunk: SirenTrunk | MlpTrunk
        if a.trunk == "siren":
            self.trunk = SirenTrunk(a.width, a.n_basis, a.omega)
        else:
            self.trunk = MlpTrunk(a.width, a.n_basis)
        self.bias = nn.Parameter(torch.zeros(()))

    def combine(self, coefficients: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
        """Evaluate Equation 1 for coefficients (N, P) at coordinates (N, 3): (N,)."""
        return (coefficients * self.trunk(coordinates)).sum(-1) + self.bias

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Evaluate the operator on the volume's own grid.

        The plain whole-volume form, which needs about 1 kB per voxel; the
        engine in `h2lo_bids.synthesis` gives the same numbers in less.

        Parameters
        ----------
        volume
            (B, 1, X, Y, Z), in [0, 1].

        Returns
        -------
        torch.Tensor
            (B, 1, X, Y, Z), without an output activation.
        """
        features = self.encoder(volume)
        axes = [
            torch.linspace(-1, 1, n, dtype=volume.dtype, device=volume.device)
            for n in volume.shape[2:]
        ]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        basis = self.trunk(grid.reshape(-1, 3)).reshape(*volume.shape[2:], -1)
        out = torch.einsum("bpxyz,xyzp->bxyz", features, basis) + self.bias
        return out[:, None]
