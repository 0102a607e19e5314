"""Images seen along their own axes, in millimetres, so that thick slices keep their shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import nibabel as nib

IN_PLANE = {0: (1, 2), 1: (0, 2), 2: (0, 1)}
"""Axes drawn to the right and upwards in a slice across each axis."""

_PARALLEL = 1e-2


@dataclass(frozen=True)
class Volume:
    """A 3-D image whose axes run to the right, to the front and upwards.

    Attributes
    ----------
    data : ndarray, float32, (I, J, K)
        Intensities.
    origin : ndarray, (3,)
        Millimetres along the axes, of the centre of voxel (0, 0, 0).
    spacing : ndarray, (3,)
        Millimetres.
    """

    data: npt.NDArray[np.float32]
    origin: npt.NDArray[np.float64]
    spacing: npt.NDArray[np.float64]

    @property
    def low(self) -> npt.NDArray[np.float64]:
        """Outer border of the first voxel of each axis."""
        return self.origin - self.spacing / 2

    @property
    def high(self) -> npt.NDArray[np.float64]:
        """Outer border of the last voxel of each axis."""
        return self.low + self.spacing * self.data.shape

    def index(self, axis: int, position: float) -> int:
        """Find the slice that holds a position, or the nearest one."""
        nearest = round((position - self.origin[axis]) / self.spacing[axis])
        return int(np.clip(nearest, 0, self.data.shape[axis] - 1))

    def slice(self, axis: int, position: float) -> npt.NDArray[np.float32]:
        """Cut across an axis: (right, up)."""
        where = [slice(None)] * 3
        where[axis] = slice(self.index(axis, position), self.index(axis, position) + 1)
        return self.data[tuple(where)].squeeze(axis)


def volume_of(image: nib.Nifti1Image, like: nib.Nifti1Image | None = None) -> Volume:
    """Bring an image of any orientation to axes that run right, front and up.

    Parameters
    ----------
    image : nibabel image
        3-D.
    like : nibabel image, optional
        Measure along this image's axes instead, so that both can share one
        frame. An image that is tilted against it is interpolated onto its grid.
    """
    import nibabel as nib

    canonical = nib.as_closest_canonical(image)
    rotation, _ = _axes(canonical if like is None else nib.as_closest_canonical(like))
    local = np.linalg.inv(rotation) @ canonical.affine[:3]
    spacing = np.diag(local[:, :3])
    tilt = np.abs(local[:, :3] - np.diag(spacing)) / np.abs(spacing)
    if like is not None and tilt.max() > _PARALLEL:
        return volume_of(_resample(canonical, nib.as_closest_canonical(like)))
    data = np.asarray(canonical.dataobj, dtype=np.float32)
    return Volume(np.nan_to_num(data), local[:, 3].copy(), spacing.copy())


def extent(mask: Volume) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Bound what is not zero, in millimetres; the whole image when all is zero."""
    low, high = mask.low.copy(), mask.high.copy()
    inside = mask.data > 0
    if not inside.any():
        return low, high
    for axis in range(3):
        used = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        low[axis] = mask.low[axis] + used[0] * mask.spacing[axis]
        high[axis] = mask.low[axis] + (used[-1] + 1) * mask.spacing[axis]
    return low, high


def _axes(image: nib.Nifti1Image) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    linear = np.asarray(image.affine, dtype=np.float64)[:3, :3]
    spacing = np.linalg.norm(linear, axis=0)
    return linear / spacing, spacing


def _resample(image: nib.Nifti1Image, like: nib.Nifti1Image) -> nib.Nifti1Image:
    import nibabel as nib
    from scipy.ndimage import affine_transform

    to_image = np.linalg.inv(image.affine) @ like.affine
    data = affine_transform(
        np.asarray(image.dataobj, dtype=np.float32), to_image, output_shape=like.shape[:3], order=1
    )
    return nib.Nifti1Image(data, like.affine)
