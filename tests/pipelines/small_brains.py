"""Small brains without skull, whose true place is known."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy.ndimage import gaussian_filter, map_coordinates
from shapes import ellipsoid, stored
from skeletons import anat, scan_at

from h2lo_bids.bids.scan import Scan

SHAPE = (44, 52, 44)
GRIDS = {
    "axi": ((64, 76, 28), (2, 2, 5)),
    "cor": ((64, 32, 70), (2, 5, 2)),
    "sag": ((28, 76, 70), (5, 2, 2)),
}


def affine_of(shape, spacing) -> np.ndarray:
    """Return the affine of a grid around the origin."""
    spacing = np.broadcast_to(np.asarray(spacing, float), 3)
    return from_matvec(np.diag(spacing), -spacing * (np.asarray(shape) - 1) / 2)


def make_brain() -> nib.Nifti1Image:
    """Make a brain without skull, with texture enough to be registered."""
    affine = affine_of(SHAPE, 3.0)
    texture = gaussian_filter(np.random.default_rng(4).normal(size=SHAPE), 1.6)
    inside = ellipsoid((50, 60, 50), affine=affine, shape=SHAPE)
    values = (400 + 100 * texture / texture.std()).clip(20).astype(int)
    return stored(np.where(inside, values, 0), affine)


def seen_at(brain: nib.Nifti1Image, points: np.ndarray) -> np.ndarray:
    """Return the brain in another contrast at positions (..., 3) in mm."""
    voxels = np.moveaxis(apply_affine(np.linalg.inv(brain.affine), points), -1, 0)
    return 20 * np.sqrt(map_coordinates(brain.get_fdata(), voxels, order=1))


def seen(brain: nib.Nifti1Image, motion: np.ndarray, shape, spacing) -> nib.Nifti1Image:
    """Return the brain as a scan shows it after a motion, in another contrast."""
    affine = affine_of(shape, spacing)
    grid = np.moveaxis(np.indices(shape), 0, -1)
    return stored(seen_at(brain, apply_affine(np.linalg.inv(motion) @ affine, grid)), affine)


def write_scan(root: Path, session: str, image, acq: str | None = None) -> Scan:
    """Write an image as one of a dataset."""
    path = root / anat("01", session, f"acq-{acq}_T1w" if acq else "T1w")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    return scan_at(path, field_strength=3.0, metadata={"Manufacturer": "Nobody (simulated)"})
