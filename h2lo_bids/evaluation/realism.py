"""How real a low-field image looks: whose detail it keeps, its contrast, noise and spectrum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.imaging.voxels import slice_axis

HALF_PITCH_MM = ((16, 8), (8, 5), (5, 4), (4, 3), (3, 2), (2, 1.5), (1.5, 1))
"""Bands of spatial frequency f by their half-pitch 1 / (2 f), as in arXiv 2609.36837."""

TAPER_MM = 8.0
"""Depth over which the brain's border fades; 12 mm changed no correlation by 0.03 on phantoms."""

FREQUENCIES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Borders of the bins of in-plane spectra, cycles per mm."""

SLICES = (0.45, 0.75)
"""Part of the brain's extent across the plane from which spectra are taken."""

TISSUES = {
    "T1w": ("CerebrospinalFluid", "GreyMatter", "WhiteMatter"),
    "T2w": ("WhiteMatter", "GreyMatter", "CerebrospinalFluid"),
}
"""The tissues of a contrast, darkest first."""
_ERODED = 3
"""Voxels next to the brain's border that are not counted, as far as enough remain."""
_ENOUGH = 200
_BINS = 4096
_ROUNDS = 100
_PERCENTILES = np.linspace(0.5, 99.5, 200)
_SAME = 1e-6


@dataclass(frozen=True)
class Appearance:
    """What an image shows by itself."""

    levels: tuple[float, float, float]  # of tissue_levels
    noise: float  # of noise_deviation
    median: float  # of the brain, in the image's units
    spectrum: np.ndarray = field(hash=False, compare=False, repr=False)  # of plane_spectrum
    # Of the brain's values divided by their 99.5th percentile.
    quantiles: np.ndarray = field(hash=False, compare=False, repr=False)

    def values(self) -> dict[str, float]:
        """Return levels over the highest, noise over the median, SNR and CNR."""
        low, mid, high = self.levels
        noise = {"snr_low": low, "snr_mid": mid, "snr_high": high}
        noise |= {"cnr_low_mid": mid - low, "cnr_mid_high": high - mid}
        top = high if high > 0 else math.nan
        levels = {"level_low": low / top, "level_mid": mid / top}
        share = self.noise / self.median if self.median > 0 else math.nan
        over = {key: v / self.noise if self.noise > 0 else math.nan for key, v in noise.items()}
        return {**levels, "noise": share, **over}


def tapered(
    mask: np.ndarray, spacing: Sequence[float] | np.ndarray, taper: float = TAPER_MM
) -> np.ndarray:
    """Fade a mask out towards its border: a raised cosine over `taper` mm.

    Cut sharply, two masked heads share an edge, and correlate at the finest bands.
    """
    from scipy.ndimage import distance_transform_edt

    out, box = np.zeros(mask.shape), _box(mask)
    depth = distance_transform_edt(np.pad(mask[box], 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    out[box] = 0.5 - 0.5 * np.cos(np.pi * np.minimum(depth / taper, 1))
    return out


def band_correlation(
    image: np.ndarray, other: np.ndarray, window: np.ndarray, spacing: Sequence[float]
) -> tuple[float, ...]:
    """Correlate two images band by band of spatial frequency.

    With a subject's own high-field image as `other` this says how much of the person an
    image keeps; with a stranger's, what any two heads share. Values are cut to their 0.5th
    and 99.5th percentile, and the window multiplies what differs from their mean.
    Band-passed images correlate as their Fourier coefficients in the band do (Parseval).

    Parameters
    ----------
    image, other
        (X, Y, Z), any units.
    window
        (X, Y, Z), 0 to 1: of voxels that both images show, as `tapered` makes it.
    spacing
        Of the voxels, mm.

    Returns
    -------
    tuple of float
        -1 to 1, one per band of `HALF_PITCH_MM`; NaN where the grid does not carry
        the whole band, or an image has no power in it.

    References
    ----------
    arXiv 2609.36837.
    """
    from scipy import fft

    box = _box(window > 0)
    a, b = (fft.fftn(_windowed(x[box], window[box])) for x in (image, other))
    axes = np.ix_(*(np.fft.fftfreq(n, side) for n, side in zip(a.shape, spacing, strict=True)))
    pitch = 0.5 / np.sqrt(np.maximum(axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2, 1e-12))
    correlations = []
    for coarse, fine in HALF_PITCH_MM:
        inside = (pitch <= coarse) & (pitch > fine)
        x, y = a[inside], b[inside]
        power = math.sqrt(float(np.vdot(x, x).real) * float(np.vdot(y, y).real))
        carried = fine >= max(spacing) - _SAME and power > 0
        correlations.append(float(np.vdot(x, y).real) / power if carried else math.nan)
    return tuple(correlations)


def plane_spectrum(image: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Return the radial power spectrum of slices of the brain, dB re 1 mm^2.

    Slices (`SLICES`) lie across the longest voxel side, or else the third axis. Each is
    divided by its mean in the brain, less 1, and 0 outside. Power is per area, so that grids
    compare: a value per bin of `FREQUENCIES`, NaN where the grid does not carry all of it.
    """
    from scipy import fft

    axis = slice_axis(spacing)
    sides = np.delete(np.asarray(spacing, np.float64), axis)
    planes, insides = (np.moveaxis(x, axis, 0) for x in (image, mask))
    shown = np.flatnonzero(insides.any((1, 2)))
    first, last = (int(share * len(shown)) for share in SLICES)
    power, count = np.zeros(planes.shape[1:]), 0
    for k in shown[first:last]:
        inside, mean = insides[k], float(planes[k][insides[k]].mean())
        if mean > 0:
            plane = np.where(inside, planes[k].astype(np.float64) / mean - 1, 0)
            power += np.abs(fft.fft2(plane)) ** 2 / inside.sum() * sides.prod()
            count += 1
    radius = np.hypot(*np.ix_(*(np.fft.fftfreq(power.shape[k], sides[k]) for k in (0, 1))))
    spectrum = np.full(len(FREQUENCIES) - 1, np.nan)
    for n, (low, high) in enumerate(pairwise(FREQUENCIES)):
        values = power[(radius >= low) & (radius < high)]
        if count and values.any() and high <= 0.5 / sides.max() + _SAME:
            spectrum[n] = 10 * math.log10(values.mean() / count)
    return spectrum


def appearance(image: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> Appearance:
    """Measure an image, (X, Y, Z) in any units, by itself, inside a mask.

    All is NaN where the 99.5th percentile of the brain is not positive, or the mask is empty.
    """
    values = image[mask].astype(np.float64)
    top = float(np.percentile(values, 99.5)) if values.size else 0.0
    if not top > 0:
        none, many = math.nan, np.full(len(FREQUENCIES) - 1, math.nan)
        return Appearance((none,) * 3, none, none, many, _PERCENTILES * none)
    box = _box(mask)
    image, mask = image[box], mask[box]
    return Appearance(
        tissue_levels(image, mask),
        noise_deviation(image, mask, spacing),
        float(np.median(values)),
        plane_spectrum(image, mask, spacing),
        np.percentile(values, _PERCENTILES) / top,
    )


def spectrum_distance(a: Appearance, b: Appearance) -> float:
    """Return the root mean square difference of two spectra over the bins of both, dB."""
    differences = a.spectrum - b.spectrum
    differences = differences[np.isfinite(differences)]
    return float(np.sqrt(np.mean(differences**2))) if differences.size else math.nan


def histogram_distance(a: Appearance, b: Appearance) -> float:
    """Return the Wasserstein-1 distance of two brains' values over their 99.5th percentile."""
    return float(np.abs(a.quantiles - b.quantiles).mean())


def snr_of(image: Any, mask: Any, contrast: str) -> dict[str, dict[str, float] | float]:
    """Measure an image in its brain mask, both nibabel's, as a sidecar has it.

    Returns
    -------
    dict
        ``NoiseStandardDeviation``, and by tissue ``TissueSignal`` and
        ``TissueSignalToNoiseRatio``; empty if the mask is, or the noise is 0 or no number.
    """
    values, inside, spacing = _upright(image, mask)
    noise = noise_deviation(values, inside, spacing)
    if not noise > 0:
        return {}
    signal = dict(zip(TISSUES[contrast], tissue_levels(values, inside), strict=True))
    return {
        "NoiseStandardDeviation": float(f"{noise:.4g}"),
        "TissueSignal": {name: round(level, 4) for name, level in signal.items()},
        "TissueSignalToNoiseRatio": {
            name: float(f"{level / noise:.3g}") for name, level in signal.items()
        },
    }


def scan_noise(image: Any, mask: Any) -> tuple[float, list[float]]:
    """Return a scan's noise over its brain's median, and its voxels' sides along RAS in mm.

    The noise is NaN where the mask is too thin or the median not positive.

    Parameters
    ----------
    image, mask
        nibabel images on one grid; see `noise_deviation`.
    """
    values, brain, voxel = _upright(image, mask)
    middle = float(np.median(values[brain]))
    deviation = noise_deviation(values, brain, voxel) / middle if middle > 0 else math.nan
    return round(deviation, 6), [round(side, 4) for side in voxel]


def _upright(image: Any, mask: Any) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Return values, brain and voxel sides along RAS: slices of equal sides are then axial."""
    import nibabel as nib

    image, mask = nib.as_closest_canonical(image), nib.as_closest_canonical(mask)  # type: ignore[attr-defined]
    values, brain = np.asarray(image.dataobj, dtype=np.float32), np.asarray(mask.dataobj) > 0
    return values, brain, [float(side) for side in image.header.get_zooms()[:3]]


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

    plane, box = [axis for axis in range(3) if axis != slice_axis(spacing)], _box(mask)
    filtered = np.asarray(image[box], dtype=np.float32)
    for axis in plane:
        filtered = convolve1d(filtered, [1.0, -2.0, 1.0], axis=axis)
    padded = np.pad(mask[box], 1)
    for steps in range(_ERODED, 1, -1):  # after one, corners would still see the outside
        eroded = binary_erosion(padded, iterations=steps)[1:-1, 1:-1, 1:-1]
        values = filtered[eroded] / 6
        if values.size >= _ENOUGH:
            return 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return math.nan


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the box around a mask, the whole array if it is empty."""
    return bounding_box(mask) if mask.any() else (slice(None),) * 3


def _windowed(image: np.ndarray, window: np.ndarray) -> np.ndarray:
    out, where = np.zeros(image.shape), window > 0
    if where.any():
        inside = image[where].astype(np.float64)
        inside = np.clip(inside, *np.percentile(inside, (0.5, 99.5)))
        out[where] = window[where] * (inside - np.average(inside, weights=window[where]))
    return out
