"""How close a synthesized volume is to a real one: the seven metrics of Table 1, and NMI.

All take arrays in [0, 1] and count the voxels of ``where``, or all when given
none. Table 1 takes the image metrics over the whole volume and the histogram
metrics over the foreground that `foreground` returns.
"""

from __future__ import annotations

import math

import numpy as np

from h2lo_bids.errors import BadDataError

BINS = 128
"""Histogram bins on [0, 1] in the authors' release."""

JOINT_BINS = 64
"""Bins per axis of the joint histogram of NMI in the authors' release."""

WINDOW = 7
"""Side of the window of SSIM in the authors' release."""

FOREGROUND = 0.01
"""Intensity of the high-field image above which a voxel is foreground (paper, section 3.1)."""

METRICS = ("psnr", "ssim", "ncc", "wass", "hncc", "bhat", "js")
"""In the order of Table 1; larger is better for the first three and ``hncc``."""


def psnr(predicted: np.ndarray, target: np.ndarray, where: np.ndarray | None = None) -> float:
    """Return the peak signal-to-noise ratio in dB, data range 1; infinity if equal."""
    a, b = _pair(predicted, target, where)
    error = float(np.mean((a - b) ** 2))
    return math.inf if error == 0 else -10.0 * math.log10(error)


def ssim_map(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the structural similarity around each pixel of each slice along axis 0.

    A uniform square window, data range 1, K1 = 0.01, K2 = 0.03, sample covariances, as in the
    authors' release.

    Parameters
    ----------
    predicted, target
        (X, Y, Z), in [0, 1]; Y and Z at least `WINDOW`.

    Returns
    -------
    numpy.ndarray
        float64 (X, Y, Z), at most 1; NaN where the window leaves the slice.

    Raises
    ------
    BadDataError
        If the images differ in shape or a slice is smaller than the window.

    References
    ----------
    Wang et al. 2004, IEEE Transactions on Image Processing 13:600.
    """
    from scipy.ndimage import uniform_filter

    a, b = _pair(predicted, target)
    if a.ndim != 3 or min(a.shape[1:]) < WINDOW:
        raise BadDataError(f"SSIM needs slices of at least {WINDOW} voxels, not {a.shape}")
    c1, c2 = 0.01**2, 0.03**2
    scale = WINDOW**2 / (WINDOW**2 - 1)
    inner = (slice(WINDOW // 2, -(WINDOW // 2)),) * 2
    values = np.full(a.shape, np.nan)
    for x, y, out in zip(a, b, values, strict=True):
        mx, my, xx, yy, xy = (uniform_filter(v, WINDOW) for v in (x, y, x * x, y * y, x * y))
        vx, vy, vxy = scale * (xx - mx * mx), scale * (yy - my * my), scale * (xy - mx * my)
        top = (2 * mx * my + c1) * (2 * vxy + c2)
        bottom = (mx * mx + my * my + c1) * (vx + vy + c2)
        out[inner] = (top / bottom)[inner]
    return values


def mean_ssim(values: np.ndarray, where: np.ndarray | None = None) -> float:
    """Average a map of `ssim_map` over some pixels, in per cent; NaN if there are none."""
    counted = np.isfinite(values) if where is None else np.isfinite(values) & where
    return 100.0 * float(values[counted].mean()) if counted.any() else math.nan


def ncc(predicted: np.ndarray, target: np.ndarray, where: np.ndarray | None = None) -> float:
    """Return Pearson's correlation of voxels, or of two histograms; NaN if one is constant."""
    a, b = (v.ravel() for v in _pair(predicted, target, where))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        # The mean of equal numbers is rounded, and would leave a remainder to correlate.
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0 else math.nan


def nmi(predicted: np.ndarray, target: np.ndarray, where: np.ndarray | None = None) -> float:
    """Return the normalised mutual information, MI / sqrt(H H), 0 to 1.

    Entropies are those of a joint histogram on [0, 1]; values outside are
    counted in its outermost bins. NaN if an image falls in one bin.

    References
    ----------
    Strehl and Ghosh 2002, Journal of Machine Learning Research 3:583.
    """
    a, b = (np.clip(v.ravel(), 0, 1) for v in _pair(predicted, target, where))
    i, j = (np.minimum((v * JOINT_BINS).astype(np.int64), JOINT_BINS - 1) for v in (a, b))
    joint = np.bincount(i * JOINT_BINS + j, minlength=JOINT_BINS**2) / a.size
    joint = joint.reshape(JOINT_BINS, JOINT_BINS)
    single = [_entropy(joint.sum(axis)) for axis in (0, 1)]
    if min(single) <= 0:
        return math.nan
    return max(0.0, sum(single) - _entropy(joint.ravel())) / math.sqrt(single[0] * single[1])


def foreground(high_field: np.ndarray) -> np.ndarray:
    """Return the voxels that the histogram metrics count: high-field above 0.01."""
    return np.asarray(high_field) > FOREGROUND


def histogram(image: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Return the share of voxels in each bin of [0, 1]; the shares sum to 1.

    Values outside are counted in the outermost bins; numpy skips them, so that they
    would vanish from the distribution unnoticed.
    """
    values = np.asarray(image, np.float64)
    values = values.ravel() if where is None else values[where]
    if not values.size:
        raise BadDataError("a histogram needs at least one foreground voxel")
    counts, _ = np.histogram(np.clip(values, 0, 1), bins=BINS, range=(0, 1))
    return counts / counts.sum()


def wasserstein(p: np.ndarray, q: np.ndarray) -> float:
    """Return the Wasserstein-1 distance of two histograms on [0, 1], in intensity."""
    return float(np.abs(np.cumsum(p) - np.cumsum(q)).sum() / len(p))


def bhattacharyya(p: np.ndarray, q: np.ndarray) -> float:
    """Return the Bhattacharyya distance -ln sum sqrt(p q); infinity if disjoint."""
    overlap = float(np.sqrt(p * q).sum())
    return math.inf if overlap == 0 else max(0.0, -math.log(overlap))


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Return the Jensen-Shannon divergence in nats, 0 to ln 2, without a square root."""
    middle = (p + q) / 2
    return 0.5 * (_relative_entropy(p, middle) + _relative_entropy(q, middle))


def image_metrics(
    image: np.ndarray,
    target: np.ndarray,
    where: np.ndarray | None,
    similar: np.ndarray,
) -> dict[str, float]:
    """Return PSNR, SSIM and NCC; `similar` is their `ssim_map`."""
    return {
        "psnr": psnr(image, target, where),
        "ssim": mean_ssim(similar, where),
        "ncc": ncc(image, target, where),
    }


def histogram_metrics(
    image: np.ndarray, target: np.ndarray, where: np.ndarray | None
) -> dict[str, float]:
    """Return the four metrics of intensity histograms."""
    p, q = histogram(image, where), histogram(target, where)
    return {
        "wass": wasserstein(p, q),
        "hncc": ncc(p, q),
        "bhat": bhattacharyya(p, q),
        "js": jensen_shannon(p, q),
    }


def evaluate(predicted: np.ndarray, target: np.ndarray, high_field: np.ndarray) -> dict[str, float]:
    """Return the seven metrics of one subject, in the regions of Table 1.

    Parameters
    ----------
    predicted
        Synthesized (or, for the identity baseline, high-field) volume; it is
        clipped to [0, 1] first.
    target
        The real low-field volume.
    high_field
        Decides the foreground of the histogram metrics.

    Returns
    -------
    dict
        Keys as in `METRICS`.

    Raises
    ------
    BadDataError
        If the images differ in shape, or one of those to compare has NaN voxels.
    """
    image = np.clip(np.asarray(predicted, np.float64), 0, 1)
    if np.isnan(image).any() or np.isnan(target).any():
        raise BadDataError("an image to compare has NaN voxels; set what is outside the brain to 0")
    of_image = image_metrics(image, target, None, ssim_map(image, target))
    return of_image | histogram_metrics(image, target, foreground(high_field))


def _pair(
    predicted: np.ndarray, target: np.ndarray, where: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return both images, or as flat arrays the voxels to count."""
    a, b = np.asarray(predicted, np.float64), np.asarray(target, np.float64)
    if a.shape != b.shape:
        raise BadDataError(f"images to compare need one shape, not {a.shape} and {b.shape}")
    if where is None:
        return a, b
    a, b = a[where], b[where]
    if not a.size:
        raise BadDataError("images to compare need at least one foreground voxel")
    return a, b


def _entropy(p: np.ndarray) -> float:
    some = p[p > 0]
    return -float((some * np.log(some)).sum())


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> float:
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())
