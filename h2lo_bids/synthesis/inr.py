"""The conditional INR on a volume and between its voxels, in the engine's tiles."""

from __future__ import annotations

import numpy as np

from h2lo_bids.models.inr import ConditionalInr
from h2lo_bids.synthesis.engine import synthesize, synthesize_at
from h2lo_bids.synthesis.options import EngineOptions


def predict_inr(
    model: ConditionalInr,
    volume: np.ndarray,
    mask: np.ndarray,
    *,
    options: EngineOptions | None = None,
    seed: int = 42,
) -> np.ndarray:
    """Evaluate the network at the brain voxels of the model's own grid.

    Parameters
    ----------
    model
        The network.
    volume, mask, options
        As for `h2lo_bids.synthesis.engine.synthesize`.
    seed
        Not used: nothing is drawn.

    Returns
    -------
    numpy.ndarray
        float32 (X, Y, Z), not clipped; exactly 0 outside the mask.
    """
    return synthesize(model, volume, mask, options=options)


def query_inr(
    model: ConditionalInr,
    volume: np.ndarray,
    points: np.ndarray,
    *,
    options: EngineOptions | None = None,
) -> np.ndarray:
    """Evaluate the network anywhere.

    Features are read trilinearly between voxels and held constant beyond the outer
    ones; the decoder sees the position itself, and the frame's own cell.

    Parameters
    ----------
    model
        The network.
    volume, points, options
        As for `h2lo_bids.synthesis.engine.synthesize_at`: points (N, 3) in voxel
        indices of the frame.

    Returns
    -------
    numpy.ndarray
        float32 (N,).
    """
    return synthesize_at(model, volume, points, options=options)
