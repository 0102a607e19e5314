"""How a scanner samples a head: pose, slice profile, k-space, noise, magnitude."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from h2lo_bids.imaging.voxels import slice_profile
from h2lo_bids.phantom.fields import Shape, resample


@dataclass(frozen=True)
class Grid:
    """Voxels of a scan with axes along right, anterior, superior, centred on 0 mm.

    Parameters
    ----------
    shape, zooms
        Voxels and voxel size in mm along each axis.
    slice_axis
        The axis across the (thick) slices.
    """

    shape: Shape
    zooms: tuple[float, float, float]
    slice_axis: int

    @property
    def affine(self) -> np.ndarray:
        """Voxel indices to mm of the scanner."""
        affine = np.diag([*self.zooms, 1.0])
        affine[:3, 3] = -np.array(self.zooms) * (np.array(self.shape) - 1) / 2
        return affine


def profile_matrix(kind: str, slices: int, thickness: float, per_slice: int) -> np.ndarray:
    """Return the weights that make slices from a finer stack; rows sum to 1.

    Fine plane ``i * per_slice`` lies at the centre of slice ``i``; the stack has
    ``slices * per_slice`` planes.

    Parameters
    ----------
    kind
        See `h2lo_bids.imaging.voxels.slice_profile`.
    slices
        Number of slices.
    thickness
        Distance between slices and nominal thickness, mm.
    per_slice
        Fine planes per slice.
    """
    fine = np.arange(slices * per_slice) * (thickness / per_slice)
    offsets = fine[None, :] - (np.arange(slices) * thickness)[:, None]
    weights = slice_profile(kind, offsets, thickness)
    return weights / weights.sum(axis=1, keepdims=True)


def truncate_kspace(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the image of the centre of k-space, as a coarser matrix measures it.

    Sample (0, 0) stays where it was, and the mean is kept. What lies beyond the
    coarser matrix' band is lost, and edges ring.

    Parameters
    ----------
    image
        Real or complex, k-space over the last two axes.
    shape
        Samples kept along these axes, at most those of `image`.

    Returns
    -------
    numpy.ndarray
        Complex, with `shape` as its last two axes.

    Raises
    ------
    ValueError
        If more samples are asked for than there are.
    """
    from scipy import fft

    if shape[0] > image.shape[-2] or shape[1] > image.shape[-1]:
        raise ValueError(f"k-space of {image.shape[-2:]} holds no {shape}")
    kspace = fft.fftshift(fft.fft2(image), axes=(-2, -1))
    scale = 1.0
    for axis, kept in zip((-2, -1), shape, strict=True):
        full = image.shape[axis]
        first = full // 2 - kept // 2
        kspace = np.take(kspace, np.arange(first, first + kept), axis=axis)
        scale *= kept / full
    return fft.ifft2(fft.ifftshift(kspace, axes=(-2, -1))) * scale


def taper_kspace(image: np.ndarray, taper: float) -> np.ndarray:
    """Return an image after a raised-cosine window over its k-space.

    Parameters
    ----------
    image
        Real or complex, k-space over the last two axes.
    taper
        0 for none; 0.46 for a Hamming window, which rings less and blurs more.
    """
    from scipy import fft

    kspace = fft.fft2(image)
    for axis in (-2, -1):
        window = 1 - taper + taper * np.cos(2 * np.pi * fft.fftfreq(image.shape[axis]))
        kspace = kspace * (window[:, None] if axis == -2 else window)
    return fft.ifft2(kspace)


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
    taper: float,
    sigma: float,
    rng: np.random.Generator,
    fine: tuple[int, int] = (2, 5),
) -> np.ndarray:
    """Scan a head.

    Parameters
    ----------
    signal
        Signal of the head, float32 (X, Y, Z).
    affine
        Voxel indices of `signal` to mm of the head.
    grid
        The scan's voxels.
    pose
        4 x 4, from mm of the head to mm of the scanner.
    profile, taper
        See `profile_matrix` and `taper_kspace`; the taper smooths the noise too.
    sigma
        Standard deviation of the noise per channel before the taper, in units of
        `signal`.
    rng
        Source of the noise.
    fine
        Samples per voxel in the plane and across the slice before the
        scanner's band limit is applied.

    Returns
    -------
    numpy.ndarray
        float32 magnitude image of ``grid.shape``.
    """
    factor = [fine[0]] * 3
    factor[grid.slice_axis] = fine[1]
    shape: Shape = tuple(n * f for n, f in zip(grid.shape, factor, strict=True))  # type: ignore[assignment]
    to_head = np.linalg.inv(affine) @ np.linalg.inv(pose) @ grid.affine
    dense = resample(signal, to_head @ np.diag([*(1 / np.array(factor)), 1.0]), shape)
    slices = grid.shape[grid.slice_axis]
    weights = profile_matrix(profile, slices, grid.zooms[grid.slice_axis], fine[1])
    stack = np.tensordot(weights.astype(np.float32), dense, axes=(1, grid.slice_axis))
    plane = [n for axis, n in enumerate(grid.shape) if axis != grid.slice_axis]
    image = truncate_kspace(stack, (plane[0], plane[1]))
    image = image + complex_noise(image.shape, sigma, rng)
    return np.moveaxis(np.abs(taper_kspace(image, taper)), 0, grid.slice_axis).astype(np.float32)
