"""The trunk at many positions, joined with the coefficients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from h2lo_bids.models.h2lo import H2lo, SirenTrunk


class BasisRows:
    """Evaluates sum_k b_k t_k(x) + beta row block by row block.

    The sine's frequency is folded into the weights, and a block is small enough
    to stay in a core's cache. Everything here is float32; with
    `products_in_bfloat16` the matrix products alone round what they multiply, not
    the phases of the sines, which need more digits than bfloat16 has.

    Parameters
    ----------
    model
        The operator.
    rows
        Positions per block.
    device
        Where to compute.
    """

    def __init__(self, model: H2lo, rows: int, device: torch.device) -> None:
        self._rows, self._device = rows, device
        self._bias = float(model.bias.detach())
        self._sine = isinstance(model.trunk, SirenTrunk)
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        linears = [m for m in model.trunk.net.modules() if isinstance(m, torch.nn.Linear)]
        for index, linear in enumerate(linears):
            omega = model.architecture.omega if self._sine and index < len(linears) - 1 else 1.0
            weight = (linear.weight.detach().double() * omega).float().t().contiguous()
            bias = (linear.bias.detach().double() * omega).float()
            self._layers.append((weight.to(device), bias.to(device)))
        last = model.encoder.convolutions[-1].bias
        self._offset = torch.zeros(()) if last is None else last.detach().float()
        self._offset = self._offset.to(device)

    def __call__(self, coordinates: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """Evaluate Equation 1.

        Parameters
        ----------
        coordinates
            (N, 3), float32, the frame's outer voxel centres at -1 and 1.
        coefficients
            (N, P), the branch's features at the same positions, without the last bias.

        Returns
        -------
        torch.Tensor
            (N,), float32.
        """
        n = min(self._rows, len(coordinates))
        sizes = [weight.shape[1] for weight, _ in self._layers]
        buffers = [torch.empty(n, size, device=self._device) for size in sizes]
        shifted = torch.empty_like(buffers[-1])
        coordinates = coordinates.to(self._device)
        out = torch.empty(len(coordinates), device=self._device)
        for start in range(0, len(coordinates), self._rows):
            block = slice(start, start + self._rows)
            basis = self._basis(coordinates[block], buffers)
            given = torch.add(self._offset, coefficients[block], out=shifted[: len(basis)])
            torch.sum(basis.mul_(given), dim=-1, out=out[block])
        return out.add_(self._bias)

    def _basis(self, coordinates: torch.Tensor, buffers: list[torch.Tensor]) -> torch.Tensor:
        n = len(coordinates)
        weight, bias = self._layers[0]
        # Written out, since a product of matrices may round the coordinates.
        x = torch.addcmul(bias, coordinates[:, 0:1], weight[0], out=buffers[0][:n])
        for axis in range(1, len(weight)):
            x.addcmul_(coordinates[:, axis : axis + 1], weight[axis])
        for (weight, bias), buffer in zip(self._layers[1:], buffers[1:], strict=True):
            x = x.sin_() if self._sine else x.relu_()
            x = torch.addmm(bias, x, weight, out=buffer[:n])
        return x


@contextlib.contextmanager
def products_in_bfloat16(wanted: bool) -> Iterator[None]:
    """Let float32 matrix products round their factors to bfloat16, or forbid it.

    The sums stay float32. The switch belongs to the process, as PyTorch has it.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if wanted else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
