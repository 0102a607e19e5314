"""Smooth random fields: bias, texture, displacement, vessels; and resampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Shape = tuple[int, int, int]


def smooth_field(
    rng: np.random.Generator, shape: Sequence[int], spacing: float, sigma: float
) -> np.ndarray:
    """Return a float32 field with mean about 0 and deviation 1, smoothed by `sigma` mm.

    White noise on a coarse grid, Gaussian smoothing, then trilinear refinement:
    the cost does not grow with `sigma`.
    """
    from scipy.ndimage import gaussian_filter

    step = max(sigma / 2.0, spacing)
    coarse = [int(np.ceil(n * spacing / step)) + 1 for n in shape]
    noise = rng.standard_normal(coarse, dtype=np.float32)
    noise = gaussian_filter(noise, sigma / step, mode="wrap", truncate=3.0)
    # The kernel's energy, not the sample's deviation: a slow field may lie to one side.
    offsets = np.arange(-int(3 * sigma / step) - 1, int(3 * sigma / step) + 2)
    kernel = np.exp(-0.5 * (offsets * step / sigma) ** 2)
    noise /= np.sqrt(np.sum((kernel / kernel.sum()) ** 2)) ** 3
    if step == spacing:
        return noise[: shape[0], : shape[1], : shape[2]]
    for axis, count in enumerate(shape):
        noise = _refine(noise, axis, count, spacing / step)
    return noise


def _refine(values: np.ndarray, axis: int, n: int, step: float) -> np.ndarray:
    """Interpolate linearly along one axis at 0, step, 2 step, ... (n samples)."""
    where = np.arange(n) * step
    low = np.minimum(where.astype(int), values.shape[axis] - 2)
    share = (where - low).astype(np.float32)
    share = share.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    first = np.take(values, low, axis=axis)
    first += share * (np.take(values, low + 1, axis=axis) - first)
    return first


def vessels(
    rng: np.random.Generator, shape: Sequence[int], spacing: float, radius: float
) -> np.ndarray:
    """Return weights, from 0 to 1, of random filaments: curves on which two fields vanish."""
    sigma = 5.0
    width = radius / (sigma * np.sqrt(2.0))
    energy = smooth_field(rng, shape, spacing, sigma) ** 2
    energy += smooth_field(rng, shape, spacing, sigma) ** 2
    return np.exp(-energy / (2 * width**2))


def resample(
    volume: np.ndarray,
    matrix: np.ndarray,
    shape: Sequence[int],
    *,
    displacement: np.ndarray | None = None,
    order: int = 1,
) -> np.ndarray:
    """Read a volume at the affinely mapped voxels of another grid; float32, 0 outside.

    `matrix` leads from voxels of the new grid to those of `volume`; `displacement`,
    (3, X, Y, Z) in voxels of `volume`, is added; `order` is that of the splines.
    """
    from scipy.ndimage import affine_transform, map_coordinates, spline_filter

    source = np.asarray(volume, dtype=np.float32)
    matrix = np.asarray(matrix, dtype=np.float64)
    if order > 1:
        source = spline_filter(source, order, output=np.float32)
    if displacement is None:
        return affine_transform(
            source, matrix[:3, :3], matrix[:3, 3], tuple(shape),
            order=order, output=np.float32, prefilter=False,
        )  # fmt: skip
    out = np.empty(shape, dtype=np.float32)
    for i in range(shape[0]):
        # One plane at a time: coordinates of a whole volume take gigabytes.
        index = np.indices((1, *shape[1:]), dtype=np.float32)[:, 0]
        index[0] = i
        where = np.tensordot(matrix[:3, :3].astype(np.float32), index, axes=1)
        where += matrix[:3, 3, None, None].astype(np.float32) + displacement[:, i]
        map_coordinates(source, where, output=out[i], order=order, prefilter=False)
    return out


def fuse(
    scans: Sequence[tuple[np.ndarray, np.ndarray]],
    to_scanner: Sequence[np.ndarray],
    shape: Sequence[int],
    affine: np.ndarray,
    order: int = 1,
) -> np.ndarray:
    """Average scans (image, affine) on one grid, given each pose from its mm to the scanner's."""
    total = np.zeros(shape, dtype=np.float32)
    for (data, own), transform in zip(scans, to_scanner, strict=True):
        total += resample(data, np.linalg.inv(own) @ transform @ affine, shape, order=order)
    return total / np.float32(len(scans))
