"""Small brains without skull, whose true place is known."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy.ndimage import gaussian_filter, map_coordinates
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
    at = apply_affine(affine, np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1))
    inside = ((at / (50, 60, 50)) ** 2).sum(-1) < 1
    values = np.where(inside, (400 + 100 * texture / texture.std()).clip(20), 0)
    image = nib.Nifti1Image(values.astype(np.int16), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    return image


def seen(brain: nib.Nifti1Image, motion: np.ndarray, shape, spacing) -> nib.Nifti1Image:
    """Return the brain as a scan shows it after a motion, in another contrast."""
    affine = affine_of(shape, spacing)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    there = np.linalg.inv(brain.affine) @ np.linalg.inv(motion) @ affine
    at = np.moveaxis(apply_affine(there, grid), -1, 0)
    values = 20 * np.sqrt(map_coordinates(brain.get_fdata(), at, order=1))
    image = nib.Nifti1Image(values.astype(np.int16), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    return image


def write_scan(root: Path, session: str, image, acq: str | None = None) -> Scan:
    """Write an image as one of a dataset."""
    path = root / anat("01", session, f"acq-{acq}_T1w" if acq else "T1w")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    return scan_at(path, field_strength=3.0, metadata={"Manufacturer": "Nobody (simulated)"})
