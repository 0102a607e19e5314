"""Shapes for the tests of images, and the same image along other axes."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec

from h2lo_bids.phantom.anatomy import Anatomy

SPACING = 4.0
AFFINE = from_matvec(np.diag([SPACING] * 3), [-100, -120, -100])


def stored(data, affine=AFFINE) -> nib.Nifti1Image:
    """Store an array as images are stored: a mask as whole numbers, all else in float32."""
    data = np.asarray(data)
    return nib.Nifti1Image(data.astype(np.uint8 if data.dtype == bool else np.float32), affine)


def ellipsoid(radii, centre=(0.0, 0.0, 0.0), affine=AFFINE, shape=(50, 60, 50)) -> np.ndarray:
    """Mark the voxels of a grid that lie in an ellipsoid, in mm."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return (((apply_affine(affine, grid) - centre) / radii) ** 2).sum(-1) < 1


def ball(shape, radius: float) -> np.ndarray:
    """Mark the voxels of a grid that lie in a ball around its middle, in voxels."""
    at = np.stack(np.mgrid[tuple(slice(n) for n in shape)], -1) - (np.array(shape) - 1) / 2
    return (at**2).sum(-1) < radius**2


def shelled(shells: dict[float, int], sides: int, spacing: float) -> Anatomy:
    """Make a head of shells on a cube: the label within each radius in mm, from the inside."""
    at = (np.indices((sides,) * 3) - (sides - 1) / 2) * spacing
    radius = np.linalg.norm(at, axis=0)
    labels = np.select([radius < r for r in shells], [*shells.values()], 0).astype(np.int16)
    labels[(at[0] > 0) & np.isin(labels, (2, 3, 4))] += 39  # the other half of the brain
    return Anatomy(labels, spacing, "ball")


def reoriented(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    """Store the same content along other axes, by nibabel."""
    own, wanted = nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
    return image.as_reoriented(nib.orientations.ornt_transform(own, wanted))
