"""The branch on a box of voxels, exactly as on the whole volume."""

from __future__ import annotations

import torch
from torch.nn import functional

from h2lo_bids.models.h2lo import HALO, Branch
from h2lo_bids.synthesis.tiles import Box


class FeatureTiles:
    """Evaluates the encoder box by box.

    Each box is read with a halo that every convolution shortens by a voxel, so
    that the deep, costly layers see no halo. Where a halo leaves the volume, the
    whole-volume pass would pad each layer with zeros; the same is done here.

    Parameters
    ----------
    branch
        The encoder.
    volume
        (X, Y, Z), float32, in [0, 1], on the CPU.
    device
        Where to compute.
    dtype
        Type of the products; the first layer stays float32.
    """

    def __init__(
        self, branch: Branch, volume: torch.Tensor, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._volume, self._device = volume, device
        self._layers: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        layers = branch.convolutions
        for index, layer in enumerate(layers):
            kind = torch.float32 if index == 0 else dtype
            weight = layer.weight.detach().to(device, kind, memory_format=torch.channels_last_3d)
            last = index == len(layers) - 1
            bias = None if last or layer.bias is None else layer.bias.detach().to(device, kind)
            self._layers.append((weight, bias))

    def __call__(self, box: Box) -> torch.Tensor:
        """Return the features (a, b, c, P) of the box's voxels, contiguous.

        The last layer's bias is left out: added in float32 by what reads the features, it
        does not cost a bfloat16 feature its digits.
        """
        x = self._read(box)
        for index, (weight, bias) in enumerate(self._layers, start=1):
            convolve = _convolve_one_channel if index == 1 else functional.conv3d
            x = convolve(x, weight, bias)
            margin = HALO - index
            if margin:
                dtype = self._layers[index][0].dtype
                x = x.to(dtype, memory_format=torch.channels_last_3d).relu_()
                self._clear_outside(x, box, margin)
        return x[0].permute(1, 2, 3, 0).contiguous()

    def _read(self, box: Box) -> torch.Tensor:
        """Cut the box and its halo out of the volume, zeros beyond its border."""
        pads: list[int] = []
        cut: list[slice] = []
        for start, stop, n in zip(box.start, box.stop, self._volume.shape, strict=True):
            low, high = max(start - HALO, 0), min(stop + HALO, n)
            cut.append(slice(low, high))
            # functional.pad counts axes from the last one.
            pads = [low - start + HALO, stop + HALO - high, *pads]
        return functional.pad(self._volume[tuple(cut)], pads).to(self._device)[None, None]

    def _clear_outside(self, x: torch.Tensor, box: Box, margin: int) -> None:
        for axis in range(3):
            before = margin - box.start[axis]
            after = box.stop[axis] + margin - self._volume.shape[axis]
            length = x.shape[axis + 2]
            if before > 0:
                x.narrow(axis + 2, 0, before).zero_()
            if after > 0:
                x.narrow(axis + 2, length - after, after).zero_()


def _convolve_one_channel(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Convolve without padding, in float32 whatever `products_in_bfloat16` says.

    On a CPU PyTorch would turn a convolution of one channel into a product of
    matrices, which that switch rounds, and which takes two to three times as long.
    """
    if x.device.type == "cpu" and torch.backends.mkldnn.is_available():
        return torch.mkldnn_convolution(x, weight, bias, (0, 0, 0), (1, 1, 1), (1, 1, 1), 1)
    return functional.conv3d(x, weight, bias)
