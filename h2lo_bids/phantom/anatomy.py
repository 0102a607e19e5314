"""Heads as label maps on a grid, and their random deformation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.phantom.fields import Shape, resample, smooth_field
from h2lo_bids.phantom.tissues import FIRST_OUTSIDE, FLUID_AROUND_BRAIN

CLOSING = 8.0
"""Sulci narrower than twice this many mm count as brain, as in SynthStrip's masks."""


@dataclass(frozen=True)
class Anatomy:
    """A head as FreeSurfer labels.

    Parameters
    ----------
    labels
        int16, shape (X, Y, Z), axes towards right, anterior, superior.
    spacing
        Isotropic voxel size in mm.
    source
        Where the labels come from, for the record.
    """

    labels: np.ndarray
    spacing: float
    source: str

    @property
    def affine(self) -> np.ndarray:
        """Voxel indices to mm, with the grid's centre at the origin."""
        affine = np.diag([self.spacing] * 3 + [1.0])
        affine[:3, 3] = -self.spacing * (np.array(self.labels.shape) - 1) / 2
        return affine


def load_labels(path: Path) -> Anatomy:
    """Read a whole-head label map with FreeSurfer ids.

    Parameters
    ----------
    path
        NIfTI file with isotropic voxels, in any orientation.

    Raises
    ------
    MissingInputError
        If the file cannot be read.
    BadDataError
        If it is not a 3-D map of integers with brain labels and isotropic voxels.
    """
    import nibabel as nib

    path = Path(path)
    try:
        image = nib.as_closest_canonical(nib.load(path))
        values = np.asarray(image.dataobj)  # type: ignore[attr-defined]
    except (OSError, EOFError, nib.filebasedimages.ImageFileError, ValueError) as err:
        raise MissingInputError(f"{path}: not a readable NIfTI label map; give another") from err
    zooms = np.asarray(image.header.get_zooms()[:3], dtype=float)  # type: ignore[attr-defined]
    if values.ndim != 3 or np.ptp(zooms) > 0.01 * zooms[0]:
        raise BadDataError(f"{path}: a label map has 3 axes and isotropic voxels; resample it")
    labels = np.nan_to_num(values).round().astype(np.int16)
    if labels.min() < 0 or not np.isin([2, 3, 41, 42], labels).all():
        raise BadDataError(f"{path}: holds no FreeSurfer brain labels (2, 3, 41, 42)")
    return Anatomy(labels, float(zooms[0]), path.name)


def brain_mask(anatomy: Anatomy) -> np.ndarray:
    """Return the mask that a brain extraction would: tissue, sulci and 1 mm around.

    Parameters
    ----------
    anatomy
        The head.

    Returns
    -------
    numpy.ndarray
        bool, of the labels' shape.
    """
    from scipy.ndimage import (
        binary_fill_holes,
        distance_transform_edt,
        gaussian_filter,
        label,
    )

    labels, step = anatomy.labels, anatomy.spacing
    inside = _tissue(labels)
    if not inside.any():
        raise BadDataError("the anatomy holds no brain; choose another label map or seed")
    box = bounding_box(inside, margin=int(np.ceil((CLOSING + 2) / step)))
    part = np.pad(inside[box], 1)
    grown = distance_transform_edt(~part, sampling=step) <= CLOSING
    closed = distance_transform_edt(grown, sampling=step) > CLOSING - 1.0
    skull = ((labels[box] >= FIRST_OUTSIDE) | (labels[box] == 0)).astype(np.float32)
    closed &= np.pad(gaussian_filter(skull, 2.0 / step, truncate=2.0) < 0.5, 1)
    pieces, count = label(closed | part)
    largest = 1 + np.argmax(np.bincount(pieces.ravel(), minlength=count + 1)[1:])
    mask = np.zeros_like(inside)
    mask[box] = binary_fill_holes(pieces == largest)[1:-1, 1:-1, 1:-1]
    return mask


def _tissue(labels: np.ndarray) -> np.ndarray:
    return (labels > 0) & (labels < FIRST_OUTSIDE) & (labels != FLUID_AROUND_BRAIN)


def rigid(rotations: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Return a 4 x 4 rotation about the origin, then a shift.

    Parameters
    ----------
    rotations
        Angles in degrees about the three axes, applied in order x, y, z.
    translation
        Shift in mm.
    """
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", rotations, degrees=True).as_matrix()
    matrix[:3, 3] = translation
    return matrix


def vary(
    anatomy: Anatomy,
    rng: np.random.Generator,
    *,
    shape: Shape = (208, 256, 256),
    spacing: float = 1.0,
    strength: float = 1.0,
) -> tuple[Anatomy, np.ndarray]:
    """Return another person's head: turned, scaled and smoothly deformed.

    Parameters
    ----------
    anatomy
        The head to start from.
    rng
        The subject's own generator.
    shape, spacing
        Grid of the result, in voxels and mm. The centre of the brain mask's
        bounding box lies in the middle of it, to the voxel.
    strength
        Scale of the variation; 0 keeps the head's shape and pose.

    Returns
    -------
    Anatomy
        The new head.
    numpy.ndarray
        Its brain mask, bool.
    """
    start = bounding_box(_tissue(anatomy.labels))
    middle = np.array([(s.start + s.stop - 1) / 2 for s in start])
    turn = rigid(strength * rng.normal(0, [4.0, 2.5, 3.0]), np.zeros(3))
    turn[:3, :3] = turn[:3, :3] @ np.diag(np.exp(strength * rng.normal(0, 0.04, 3)))
    displacement = np.stack(
        [
            smooth_field(rng, shape, spacing, sigma) * (size * strength / anatomy.spacing)
            for sigma, size in ((24.0, 2.5), (24.0, 2.5), (24.0, 2.5))
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn[:3, :3] * (spacing / anatomy.spacing)
    matrix[:3, 3] = middle - matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    warped = resample(
        anatomy.labels, matrix, shape, displacement=displacement if strength else None, order=0
    )
    head = Anatomy(warped.astype(np.int16), spacing, anatomy.source)
    return _centred(head, brain_mask(head))


def _centred(head: Anatomy, mask: np.ndarray) -> tuple[Anatomy, np.ndarray]:
    """Shift a head by whole voxels until its brain lies in the middle."""
    moved, labels = mask, head.labels
    for axis, box in enumerate(bounding_box(mask)):
        shift = round((mask.shape[axis] - 1) / 2 - (box.start + box.stop - 1) / 2)
        moved, labels = (_shifted(a, shift, axis) for a in (moved, labels))
    return Anatomy(labels, head.spacing, head.source), moved


def _shifted(array: np.ndarray, shift: int, axis: int) -> np.ndarray:
    rolled = np.roll(array, shift, axis)
    edge = [slice(None)] * 3
    edge[axis] = slice(0, shift) if shift >= 0 else slice(shift, None)
    if shift:
        rolled[tuple(edge)] = 0
    return rolled
