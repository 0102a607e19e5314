"""The conditional INR's decoder at many positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from h2lo_bids.models.inr import ConditionalInr, cell_scale


class InrRows:
    """Evaluates the decoder row block by row block; the counterpart of `BasisRows`.

    The cell, the scale of the coordinates and the encoder's last bias are the same
    at all positions, so they are folded into the first layer. That layer's
    coordinates and the sum of the last layer are float32 always.

    Parameters
    ----------
    model
        The network.
    rows
        Positions per block.
    device
        Where to compute.
    shape
        Voxels of the frame.
    """

    def __init__(
        self, model: ConditionalInr, rows: int, device: torch.device, shape: Sequence[int]
    ) -> None:
        self._rows, self._device = rows, device
        pairs = [(m.weight.detach().double().t(), m.bias.detach().double()) for m in model.linears]
        (weight, bias), *rest = pairs
        n = model.architecture.n_features
        scale = weight.new_tensor(cell_scale(shape))[:, None]
        cell = weight.new_tensor([2.0 / side for side in shape])
        bias = bias + cell @ weight[n + 3 :]
        last = model.encoder.convolutions[-1].bias
        if last is not None:
            bias = bias + last.detach().double() @ weight[:n]
        self._position = self._put(weight[n : n + 3] * scale)
        self._layers = [(self._put(w), self._put(b)) for w, b in [(weight[:n], bias), *rest]]

    def _put(self, values: torch.Tensor) -> torch.Tensor:
        return values.float().contiguous().to(self._device)

    def __call__(self, coordinates: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Evaluate the network.

        Parameters
        ----------
        coordinates
            (N, 3), float32, the frame's outer voxel centres at -1 and 1.
        features
            (N, n_features), the encoder's at the same positions, without the last bias.

        Returns
        -------
        torch.Tensor
            (N,), float32.
        """
        coordinates = coordinates.to(self._device)
        out = torch.empty(len(coordinates), device=self._device)
        last_weight, last_bias = self._layers[-1]
        for start in range(0, len(coordinates), self._rows):
            block = slice(start, start + self._rows)
            weight, bias = self._layers[0]
            x = torch.addmm(bias, features[block].float(), weight)
            for axis in range(3):
                x.addcmul_(coordinates[block, axis : axis + 1], self._position[axis])
            for weight, bias in self._layers[1:-1]:
                x = torch.addmm(bias, x.relu_(), weight)
            out[block] = (x.relu_() * last_weight[:, 0]).sum(-1)
        return out.add_(last_bias)
