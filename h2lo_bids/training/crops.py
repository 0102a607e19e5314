"""Evaluate an operator on crops, exactly as on the whole volume."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch.nn import functional

from h2lo_bids.models.branch import HALO, Branch
from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.models.inr import ConditionalInr
from h2lo_bids.models.operators import Operator
from h2lo_bids.models.trunk import SineLayer

ROWS = 8192
"""Trunk rows at a time: small enough for the cache, where sines are three times faster."""

Corner = tuple[int, int, int]


def read_crop(volume: np.ndarray, start: tuple[int, ...], size: int) -> np.ndarray:
    """Copy a cube out of a volume, with zeros where it reaches over the border.

    Parameters
    ----------
    volume
        (X, Y, Z).
    start
        First voxel of the cube; may be negative.
    size
        Side of the cube in voxels.

    Returns
    -------
    numpy.ndarray
        (size, size, size), of the volume's type.
    """
    out = np.zeros((size,) * 3, volume.dtype)
    low = [max(0, s) for s in start]
    high = [min(n, s + size) for s, n in zip(start, volume.shape, strict=True)]
    if all(a < b for a, b in zip(low, high, strict=True)):
        source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        place = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        out[place] = volume[source]
    return out


def crop_coordinates(corner: Corner, size: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the trunk's coordinates of a crop's voxels, (size^3, 3) float32."""
    axes = [
        torch.linspace(-1.0, 1.0, n)[torch.arange(c, c + size).clamp(0, n - 1)]
        for c, n in zip(corner, shape, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def encode_crop(
    branch: Branch, crops: torch.Tensor, corner: Corner, shape: tuple[int, ...]
) -> torch.Tensor:
    """Run the branch without padding on crops that bring their halo.

    Every layer of the whole-volume branch sees zeros outside the volume, not
    what its bias makes of zeros. So where a crop's halo reaches over the border,
    each layer's output is set to 0 there: the result equals the whole-volume
    features everywhere, at the border too.

    Parameters
    ----------
    branch
        The encoder.
    crops
        (B, 1, S + 10, S + 10, S + 10), zero outside the volume.
    corner
        First voxel of the crop proper in the volume, halo not counted.
    shape
        Voxels of the volume.

    Returns
    -------
    torch.Tensor
        (B, n_basis, S, S, S).
    """
    size = crops.shape[-1] - 2 * HALO
    inside = all(c >= HALO and c + size + HALO <= n for c, n in zip(corner, shape, strict=True))
    x, last = crops, len(branch.convolutions) - 1
    for i, layer in enumerate(branch.convolutions):
        x = functional.conv3d(x, layer.weight, layer.bias)
        if i < last:
            x = functional.relu(x)
            if not inside:
                x = x * _inside(corner, shape, size, HALO - 1 - i).to(x)
    return x


def _inside(corner: Corner, shape: tuple[int, ...], size: int, halo: int) -> torch.Tensor:
    axes = []
    for c, n in zip(corner, shape, strict=True):
        at = torch.arange(c - halo, c + size + halo)
        axes.append((at >= 0) & (at < n))
    return axes[0][:, None, None] & axes[1][:, None] & axes[2]


def predict_crop(
    model: Operator, crops: torch.Tensor, corner: Corner, shape: tuple[int, ...]
) -> torch.Tensor:
    """Evaluate an operator on crops that lie at one place of the frame.

    H2LO's basis functions depend on the place alone, so its trunk, the dearer
    half, runs once for all crops.

    Parameters
    ----------
    model
        The operator.
    crops
        (B, 1, S + 10, S + 10, S + 10) in [0, 1]: each crop with its halo of 5.
    corner
        First voxel of the crops proper.
    shape
        Voxels of the frame.

    Returns
    -------
    torch.Tensor
        float32, (B, 1, S, S, S).
    """
    size = crops.shape[-1] - 2 * HALO
    crops = crops.to(memory_format=torch.channels_last_3d)
    features = encode_crop(model.encoder, crops, corner, shape)
    coefficients = features.permute(0, 2, 3, 4, 1).reshape(len(crops), size**3, -1)
    coordinates = crop_coordinates(corner, size, shape).to(crops.device)
    parts = []
    for start in range(0, size**3, ROWS):
        rows = slice(start, start + ROWS)
        parts.append(read_features(model, coefficients[:, rows], coordinates[rows], shape))
    return torch.cat(parts, 1).reshape(len(crops), 1, size, size, size)


def read_features(
    model: Operator, features: torch.Tensor, coordinates: torch.Tensor, shape: tuple[int, ...]
) -> torch.Tensor:
    """Evaluate an operator where its encoder has been evaluated, safely under autocast.

    Parameters
    ----------
    model
        The operator.
    features
        (..., N, P), the encoder's.
    coordinates
        (N, 3), the frame's outer voxel centres at -1 and 1.
    shape
        Voxels of the frame.

    Returns
    -------
    torch.Tensor
        float32 (..., N).
    """
    if isinstance(model, ConditionalInr):
        return model.decode(features, coordinates, shape)
    basis = basis_functions(model, coordinates)
    return (features * basis).sum(-1, dtype=torch.float32) + model.bias


def basis_functions(model: H2lo, coordinates: torch.Tensor) -> torch.Tensor:
    """Evaluate the trunk at (N, 3) coordinates, safely under autocast.

    The first layer stays in float32: its phases reach 50 radians, of which
    bfloat16 would keep one decimal.
    """
    first = model.trunk.net[0]
    if not isinstance(first, SineLayer):
        return model.trunk(coordinates)
    with torch.autocast(coordinates.device.type, enabled=False):
        x = cast("torch.Tensor", first(coordinates.float()))
    for layer in list(model.trunk.net)[1:]:
        x = layer(x)
    return x
