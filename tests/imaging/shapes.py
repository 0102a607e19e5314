"""Shapes on a grid of 4 mm for the tests of masks."""

from __future__ import annotations

import numpy as np
from nibabel.affines import apply_affine, from_matvec

SPACING = 4.0
AFFINE = from_matvec(np.diag([SPACING] * 3), [-100, -120, -100])


def ellipsoid(radii, centre=(0.0, 0.0, 0.0), affine=AFFINE, shape=(50, 60, 50)) -> np.ndarray:
    """Mark the voxels of a grid that lie in an ellipsoid, in mm."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return (((apply_affine(affine, grid) - centre) / radii) ** 2).sum(-1) < 1
