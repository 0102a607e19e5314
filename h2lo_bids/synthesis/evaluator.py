"""An operator on one box, at its voxels or between them."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from h2lo_bids.models.frame import normalised_coordinates
from h2lo_bids.models.inr import ConditionalInr, Operator
from h2lo_bids.synthesis.basis import BasisRows
from h2lo_bids.synthesis.features import FeatureTiles
from h2lo_bids.synthesis.inr import InrRows
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.tiles import Box

_POINTS = 32768
"""Points interpolated at once: 16 MB of features."""


class Evaluator:
    """An operator and a volume, ready to be evaluated box by box.

    It holds nothing that changes, so threads can share one.
    """

    def __init__(
        self, model: Operator, volume: np.ndarray, device: torch.device, options: EngineOptions
    ) -> None:
        self._shape = volume.shape
        # PyTorch warns of memory that it may not write to.
        grid = torch.from_numpy(np.require(volume, requirements=["C", "W"]))
        self._features = FeatureTiles(model.encoder, grid, device, options.dtype)
        self._rows: BasisRows | InrRows
        if isinstance(model, ConditionalInr):
            self._rows = InrRows(model, options.rows, device, volume.shape)
        else:
            self._rows = BasisRows(model, options.rows, device)

    def at_voxels(self, box: Box, inside: np.ndarray) -> np.ndarray:
        """Evaluate at those voxels of a box where `inside` is true: (N,) float32."""
        features = self._features(box)
        features = features.view(-1, features.shape[-1])
        rows = np.flatnonzero(inside)
        voxels = np.stack(np.unravel_index(rows, box.shape), axis=-1) + np.array(box.start)
        if rows.size < len(features):
            features = features[torch.from_numpy(rows).to(features.device)]
        return self._rows(self._coordinates(voxels), features).cpu().numpy()

    def at_points(self, box: Box, points: np.ndarray) -> np.ndarray:
        """Evaluate at points (N, 3) in voxels whose cells start in the box: (N,) float32."""
        last = np.array(self._shape) - 1
        stop = np.minimum(np.array(box.stop) + 1, self._shape)
        features = self._features(Box(box.start, (int(stop[0]), int(stop[1]), int(stop[2]))))
        out = np.empty(len(points), dtype=np.float32)
        for first in range(0, len(points), _POINTS):
            block = points[first : first + _POINTS]
            local = np.clip(block, 0, last) - np.array(box.start)
            values = self._rows(self._coordinates(block), interpolate(features, local))
            out[first : first + _POINTS] = values.cpu().numpy()
        return out

    def _coordinates(self, voxels: np.ndarray) -> torch.Tensor:
        shape = (self._shape[0], self._shape[1], self._shape[2])
        return torch.from_numpy(normalised_coordinates(voxels, shape).astype(np.float32))


def interpolate(features: torch.Tensor, positions: np.ndarray) -> torch.Tensor:
    """Read a feature field between its voxels, trilinearly.

    Parameters
    ----------
    features
        (a, b, c, P), contiguous.
    positions
        (N, 3), voxel indices from 0 to the last one of each axis.

    Returns
    -------
    torch.Tensor
        (N, P), float32.
    """
    sides = features.shape[:3]
    table = features.view(-1, features.shape[-1])
    low = np.clip(np.floor(positions), 0, np.maximum(np.array(sides) - 2, 0)).astype(np.int64)
    fraction = positions - low
    out = torch.zeros(len(positions), table.shape[1], device=table.device)
    for corner in itertools.product((0, 1), repeat=3):
        weight = np.prod(np.where(corner, fraction, 1.0 - fraction), axis=1)
        if not weight.any():
            continue
        at = np.minimum(low + np.array(corner), np.array(sides) - 1)
        rows = torch.from_numpy(np.ravel_multi_index(tuple(at.T), sides)).to(table.device)
        weights = torch.from_numpy(weight.astype(np.float32)).to(table.device)
        out.addcmul_(table[rows].float(), weights[:, None])
    return out
