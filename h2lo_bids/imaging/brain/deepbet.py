"""The embedded default: deepbet's network, which comes with its weights.

Fisch et al. 2024, deepbet (MIT). Called in memory: the package's own file
interface refuses small files and writes reoriented copies.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.masks import cut_bridges

THRESHOLD = 0.5
BRIDGE_MM = 5.0
"""Optic nerves and nasal leaks of low-field T2w scans are narrower than twice this."""


def deepbet_mask(
    volume: np.ndarray, *, mirror: bool = False, name: str = "the image"
) -> np.ndarray:
    """Find the brain in a head."""
    network = _network()
    try:
        probability = network.run_model(np.array(volume, dtype=np.float32, order="C"))
        if mirror:
            flipped = network.run_model(np.array(volume[::-1], dtype=np.float32, order="C"))
            probability = (probability + flipped[::-1]) / 2
    except (AssertionError, ValueError) as err:  # deepbet's "not enough foreground", or nothing
        raise BadDataError(
            f"{name}: deepbet finds no brain; check the image and its orientation, or give a mask"
        ) from err
    mask = cut_bridges(probability > THRESHOLD, BRIDGE_MM, (1.0, 1.0, 1.0))
    if not mask.any():
        raise BadDataError(f"{name}: deepbet finds no brain; check the image or give a mask")
    return mask


def _network() -> Any:
    """Load both of deepbet's networks on the CPU, without its deprecation noise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from deepbet import BrainExtraction

        return BrainExtraction(no_gpu=True)
