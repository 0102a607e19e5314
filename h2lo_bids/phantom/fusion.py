"""Low-field scans put together on the high-field grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from h2lo_bids.phantom.fields import Shape, resample


def fuse(
    scans: Sequence[tuple[np.ndarray, np.ndarray]],
    to_scanner: Sequence[np.ndarray],
    shape: Shape,
    affine: np.ndarray,
    order: int = 1,
) -> np.ndarray:
    """Return the average of scans after resampling each to one grid.

    Parameters
    ----------
    scans
        Images and their affines (voxel indices to mm of their scanner).
    to_scanner
        Per scan the 4 x 4 from mm of the grid to mm of the scanner, as a rigid
        registration would find it.
    shape, affine
        The grid.
    order
        Of the splines that interpolate; see `h2lo_bids.phantom.fields.resample`.

    Returns
    -------
    numpy.ndarray
        float32 of `shape`, 0 outside every scan's field of view.
    """
    total = np.zeros(shape, dtype=np.float32)
    for (data, own), transform in zip(scans, to_scanner, strict=True):
        total += resample(data, np.linalg.inv(own) @ transform @ affine, shape, order=order)
    return total / np.float32(len(scans))
