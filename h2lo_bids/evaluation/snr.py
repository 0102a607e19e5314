"""Signal-to-noise ratio of a brain image, tissue by tissue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from h2lo_bids.imaging.voxels import slice_axis

TISSUES = {
    "T1w": ("CerebrospinalFluid", "GreyMatter", "WhiteMatter"),
    "T2w": ("WhiteMatter", "GreyMatter", "CerebrospinalFluid"),
}
"""The tissues of a contrast, darkest first."""
_ERODED = 3
"""Voxels next to the brain's border that are left out, as far as enough remain."""
_ENOUGH = 200
_BINS = 4096
_ROUNDS = 100


def signal_to_noise(
    levels: Sequence[float], noise: float, contrast: str
) -> dict[str, dict[str, float] | float]:
    """Give noise, signal and their ratio as a sidecar has them.

    Parameters
    ----------
    levels
        Mean intensities of the three tissues, low to high.
    noise
        Standard deviation of the noise, in the same units.
    contrast
        ``"T1w"`` or ``"T2w"``: says which tissue is the darkest.

    Returns
    -------
    dict
        ``NoiseStandardDeviation``, and by tissue ``TissueSignal`` and
        ``TissueSignalToNoiseRatio``; empty if the noise is 0 or no number.
    """
    if not noise > 0 or not math.isfinite(noise):
        return {}
    signal = dict(zip(TISSUES[contrast], levels, strict=True))
    return {
        "NoiseStandardDeviation": float(f"{noise:.4g}"),
        "TissueSignal": {name: round(level, 4) for name, level in signal.items()},
        "TissueSignalToNoiseRatio": {
            name: float(f"{level / noise:.3g}") for name, level in signal.items()
        },
    }


def snr_of(image: Any, mask: Any, contrast: str) -> dict[str, dict[str, float] | float]:
    """Measure an image in its brain mask, both nibabel's; see `signal_to_noise`."""
    inside = np.asarray(mask.dataobj) > 0
    if not inside.any():
        return {}
    hits = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(int(at[0]), int(at[-1]) + 1) for at in hits)
    values, inside = np.asarray(image.dataobj, dtype=np.float32)[box], inside[box]
    spacing = [float(side) for side in image.header.get_zooms()[:3]]
    noise = noise_deviation(values, inside, spacing)
    return signal_to_noise(tissue_levels(values, inside), noise, contrast)


def tissue_levels(image: np.ndarray, mask: np.ndarray) -> tuple[float, float, float]:
    """Return the mean intensities of three classes of brain voxels, low to high.

    Lloyd's three means, begun at the 10th, 50th and 85th percentile of the values
    cut to their 0.1th and 99.9th, so that a few bright voxels do not form a class.
    """
    values = np.asarray(image, dtype=np.float64)[mask]
    values = np.clip(values, *np.percentile(values, (0.1, 99.9)))
    means = np.percentile(values, (10, 50, 85))
    if np.ptp(values) == 0:
        return float(means[0]), float(means[1]), float(means[2])
    counts, edges = np.histogram(values, _BINS)
    centres = (edges[1:] + edges[:-1]) / 2
    for _ in range(_ROUNDS):
        nearest = np.abs(centres[:, None] - means).argmin(axis=1)
        sizes = np.bincount(nearest, counts, 3)
        moved = np.bincount(nearest, counts * centres, 3) / np.maximum(sizes, 1)
        moved = np.sort(np.where(sizes > 0, moved, means))
        if np.allclose(moved, means, rtol=1e-6):
            break
        means = moved
    return float(means[0]), float(means[1]), float(means[2])


def noise_deviation(image: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> float:
    """Estimate the standard deviation of the noise from in-plane second differences.

    The image is filtered by the outer product of (1, -2, 1) with itself, over 6, in the
    plane of the slices: that keeps the variance of white noise and removes what is
    linear along either axis [1]_. Of the values inside the eroded mask 1.4826 times the
    median absolute deviation is taken, which edges hardly move [2]_. Noise that is
    smooth from voxel to voxel is underestimated, and fine anatomy counts as noise.

    Parameters
    ----------
    image, mask
        (X, Y, Z), any units; the brain.
    spacing
        Of the voxels, mm: slices lie across the longest side.

    Returns
    -------
    float
        In units of the image; NaN if the mask is too thin.

    References
    ----------
    .. [1] Immerkaer 1996, Computer Vision and Image Understanding 64:300-302.
    .. [2] Rousseeuw and Croux 1993, J. Am. Stat. Assoc. 88:1273-1283.
    """
    from scipy.ndimage import binary_erosion, convolve1d

    plane = [axis for axis in range(3) if axis != slice_axis(spacing)]
    filtered = np.asarray(image, dtype=np.float32)
    for axis in plane:
        filtered = convolve1d(filtered, [1.0, -2.0, 1.0], axis=axis)
    padded = np.pad(mask, 1)
    for steps in range(_ERODED, 1, -1):  # after one, corners would still see the outside
        eroded = binary_erosion(padded, iterations=steps)[1:-1, 1:-1, 1:-1]
        values = filtered[eroded] / 6
        if values.size >= _ENOUGH:
            return 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return math.nan
