"""How a scanner samples a head: grid, pose, slice profile, k-space, noise, magnitude."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.affines import from_matvec

from h2lo_bids.imaging.voxels import slice_axis, slice_profile

Shape = tuple[int, int, int]


def centred(shape: Sequence[int], zooms: Sequence[float]) -> np.ndarray:
    """Return the affine of a grid whose centre is the origin."""
    sides = np.array(zooms, dtype=float)
    return from_matvec(np.diag(sides), -sides * (np.array(shape) - 1) / 2)


@dataclass(frozen=True)
class Grid:
    """Voxels of a scan, sides in mm, axes along right, anterior, superior, centred on 0 mm."""

    shape: Shape
    zooms: tuple[float, float, float]

    @property
    def affine(self) -> np.ndarray:
        """Voxel indices to mm of the scanner."""
        return centred(self.shape, self.zooms)


def millimetres(shape: Sequence[int], affine: np.ndarray) -> list[np.ndarray]:
    """Return the coordinates of a grid without rotation along each axis, float32, to broadcast."""
    axes = [affine[a, a] * np.arange(n) + affine[a, 3] for a, n in enumerate(shape)]
    return list(np.meshgrid(*(a.astype(np.float32) for a in axes), indexing="ij", sparse=True))


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


def truncate_kspace(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the complex image of the centre of k-space (last two axes) of this shape.

    Sample (0, 0) stays where it was, and the mean is kept. What lies beyond the
    coarser matrix' band is lost, and edges ring.
    """
    from scipy import fft

    kspace = fft.fftshift(fft.fft2(image), axes=(-2, -1))
    sizes = [*zip(image.shape[-2:], shape, strict=True)]
    band = [slice(n // 2 - kept // 2, n // 2 - kept // 2 + kept) for n, kept in sizes]
    scale = math.prod(kept / n for n, kept in sizes)
    return fft.ifft2(fft.ifftshift(kspace[..., *band], axes=(-2, -1))) * scale


def complex_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return white noise with standard deviation `sigma` in each of two channels."""
    parts = rng.standard_normal((2, *shape), dtype=np.float32) * np.float32(sigma)
    return parts[0] + 1j * parts[1]


def acquire(
    signal: np.ndarray,
    affine: np.ndarray,
    grid: Grid,
    pose: np.ndarray,
    *,
    profile: str,
    sigma: float,
    rng: np.random.Generator,
    fine: tuple[int, int] = (2, 5),
) -> np.ndarray:
    """Scan a head; float32 magnitude image of the grid.

    Parameters
    ----------
    signal, affine
        Signal of the head (X, Y, Z), and its voxel indices to mm of the head.
    grid, pose
        The scan's voxels; 4 x 4 from mm of the head to mm of the scanner.
    profile
        See `slice_profile`.
    sigma, rng
        Standard deviation of the noise per channel, and its source.
    fine
        Samples per voxel in the plane and across the slice before the band limit.
    """
    factor, across = [fine[0]] * 3, slice_axis(grid.zooms)
    factor[across] = fine[1]
    shape = [n * f for n, f in zip(grid.shape, factor, strict=True)]
    to_head = np.linalg.inv(affine) @ np.linalg.inv(pose) @ grid.affine
    dense = resample(signal, to_head @ np.diag([*(1 / np.array(factor)), 1.0]), shape)
    # Every so many dense planes, one lies at the centre of a slice.
    slices, thickness = grid.shape[across], grid.zooms[across]
    planes = np.arange(slices * fine[1]) * (thickness / fine[1])
    offsets = planes - (np.arange(slices) * thickness)[:, None]
    weights = slice_profile(profile, offsets, thickness)
    weights /= weights.sum(axis=1, keepdims=True)
    stack = np.tensordot(weights.astype(np.float32), dense, axes=(1, across))
    plane = [n for axis, n in enumerate(grid.shape) if axis != across]
    image = truncate_kspace(stack, (plane[0], plane[1]))
    image = image + complex_noise(image.shape, sigma, rng)
    return np.moveaxis(np.abs(image), 0, across).astype(np.float32)
