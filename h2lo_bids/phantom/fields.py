"""Smooth random fields: bias, texture, displacement, vessels, and resampling."""

from __future__ import annotations

import numpy as np

Shape = tuple[int, int, int]


def smooth_field(
    rng: np.random.Generator, shape: Shape, spacing: float, sigma: float
) -> np.ndarray:
    """Return a random field with mean about 0 and standard deviation 1.

    White noise on a coarse grid, Gaussian smoothing, then trilinear refinement:
    the cost does not grow with `sigma`.

    Parameters
    ----------
    rng
        Source of the noise.
    shape
        Voxels along each axis.
    spacing
        Voxel size in mm.
    sigma
        Standard deviation of the smoothing in mm.

    Returns
    -------
    numpy.ndarray
        float32 of `shape`.
    """
    from scipy.ndimage import gaussian_filter

    step = max(sigma / 2.0, spacing)
    coarse: Shape = tuple(int(np.ceil(n * spacing / step)) + 1 for n in shape)  # type: ignore[assignment]
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


def vessels(rng: np.random.Generator, shape: Shape, spacing: float, radius: float) -> np.ndarray:
    """Return random filaments: curves on which two smooth fields both vanish.

    Parameters
    ----------
    rng
        Source of the fields.
    shape
        Voxels along each axis.
    spacing
        Voxel size in mm.
    radius
        About the radius of a filament in mm.

    Returns
    -------
    numpy.ndarray
        float32 weights from 0 (outside) to 1 (on the curve).
    """
    sigma = 5.0
    width = radius / (sigma * np.sqrt(2.0))
    energy = smooth_field(rng, shape, spacing, sigma) ** 2
    energy += smooth_field(rng, shape, spacing, sigma) ** 2
    return np.exp(-energy / (2 * width**2))


def resample(
    volume: np.ndarray,
    matrix: np.ndarray,
    shape: Shape,
    *,
    displacement: np.ndarray | None = None,
    order: int = 1,
) -> np.ndarray:
    """Read a volume at the affinely mapped voxels of another grid, 0 outside.

    Parameters
    ----------
    volume
        Values of shape (X, Y, Z), read as float32.
    matrix
        4 x 4, from voxel indices of the new grid to those of `volume`.
    shape
        The new grid.
    displacement
        Added to the mapped indices, shape (3, X, Y, Z), in voxels of `volume`.
    order
        Of the splines: 0 for labels (nearest neighbour), 1 trilinear, 3 cubic.

    Returns
    -------
    numpy.ndarray
        float32 of `shape`.
    """
    from scipy.ndimage import affine_transform, map_coordinates, spline_filter

    source = np.asarray(volume, dtype=np.float32)
    matrix = np.asarray(matrix, dtype=np.float64)
    if order > 1:
        source = spline_filter(source, order, output=np.float32)
    if displacement is None:
        return affine_transform(
            source, matrix[:3, :3], matrix[:3, 3], shape,
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
