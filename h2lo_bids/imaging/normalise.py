"""Intensities as the operators expect them."""

from __future__ import annotations

import numpy as np

from h2lo_bids.errors import BadDataError


def max_normalise(data: np.ndarray, mask: np.ndarray, *, name: str = "the image") -> np.ndarray:
    """Divide a brain by its largest value, as the paper does.

    Parameters
    ----------
    data
        Intensities, any real type.
    mask
        True in the brain, same shape.
    name
        What to call the image in an error.

    Returns
    -------
    numpy.ndarray
        float32 in [0, 1], exactly 0 outside the mask; negative values become 0.

    Raises
    ------
    BadDataError
        If the mask is empty or the brain has no positive value.
    ValueError
        If the shapes differ.
    """
    if data.shape != mask.shape:
        raise ValueError(f"image and mask differ in shape: {data.shape} and {mask.shape}")
    inside = np.asarray(mask, dtype=bool)
    if not inside.any():
        raise BadDataError(f"{name}: its brain mask is empty; look at the image or give a mask")
    top = float(np.max(data[inside]))
    if not (np.isfinite(top) and top > 0):
        raise BadDataError(f"{name}: no positive value in its brain mask; check the mask")
    scaled = np.zeros(data.shape, dtype=np.float32)
    scaled[inside] = np.clip(data[inside].astype(np.float64) / top, 0.0, 1.0)
    return scaled
