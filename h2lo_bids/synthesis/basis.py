"""The trunk at many positions, joined with the coefficients."""

from __future__ import annotations

import torch

from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.models.trunk import SirenTrunk


class BasisRows:
    """Evaluates sum_k b_k t_k(x) + beta row block by row block.

    The sine's frequency is folded into the weights, and a block is small enough
    to stay in a core's cache. The first layer and every sine are float32 in any
    precision: phases reach 30 radians, which bfloat16 cannot tell apart.

    Parameters
    ----------
    model
        The operator.
    rows
        Positions per block.
    device
        Where to compute.
    dtype
        Type of the hidden layers' products.
    """

    def __init__(self, model: H2lo, rows: int, device: torch.device, dtype: torch.dtype) -> None:
        self._rows, self._device, self._dtype = rows, device, dtype
        self._bias = float(model.bias.detach())
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        trunk = model.trunk
        self._sine = isinstance(trunk, SirenTrunk)
        linears = [m for m in trunk.net.modules() if isinstance(m, torch.nn.Linear)]
        for index, linear in enumerate(linears):
            omega = model.architecture.omega if self._sine and index < len(linears) - 1 else 1.0
            kind = torch.float32 if index == 0 else dtype
            weight = (linear.weight.detach().double() * omega).to(device, kind)
            bias = (linear.bias.detach().double() * omega).to(device, kind)
            self._layers.append((weight.t(), bias))

    def __call__(self, coordinates: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """Evaluate Equation 1.

        Parameters
        ----------
        coordinates
            (N, 3), float32, the frame's outer voxel centres at -1 and 1.
        coefficients
            (N, P), the branch's features at the same positions.

        Returns
        -------
        torch.Tensor
            (N,), float32.
        """
        out = torch.empty(len(coordinates), device=self._device)
        for start in range(0, len(coordinates), self._rows):
            block = slice(start, start + self._rows)
            basis = self._basis(coordinates[block])
            out[block] = basis.float().mul_(coefficients[block]).sum(-1)
        return out.add_(self._bias)

    def _basis(self, coordinates: torch.Tensor) -> torch.Tensor:
        x = coordinates.to(self._device, torch.float32)
        for weight, bias in self._layers[:-1]:
            x = torch.addmm(bias, x.to(weight.dtype), weight).float()
            x = x.sin_() if self._sine else x.relu_()
        weight, bias = self._layers[-1]
        return torch.addmm(bias, x.to(weight.dtype), weight)
