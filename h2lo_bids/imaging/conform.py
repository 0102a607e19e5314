"""Bringing a scan onto the grid that an operator was trained on."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import (
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.imaging.reading import name_of
from h2lo_bids.imaging.resample import resample, spacing_of

SAME_SPACING = 0.01
"""Relative difference of voxel sizes that is left as it is."""


def conform(image: Any, frame: Any, *, mask: Any = None) -> nib.Nifti1Image:
    """Put a scan on a model's frame.

    The scan's axes are re-ordered to the frame's orientation and its own
    obliquity is kept, so that a scan whose voxel size is the frame's (within
    1 %) is flipped, permuted, cropped and padded by whole voxels and never
    interpolated. Any other is resampled once, by cubic splines.

    Parameters
    ----------
    image
        nibabel image, 3-D, with a rigid affine.
    frame
        The model's (`h2lo_bids.models.frame.Frame`). With ``anchor="brain"`` its centre lies on
        the centre of the mask's bounding box (to the nearest voxel where nothing is
        interpolated), or on the centre of the scan when there is no mask. With
        ``anchor="array"`` the frame is the scan's own array.
    mask
        Brain mask on the scan's grid.

    Raises
    ------
    BadDataError
        If the brain does not fit into the frame.
    """
    shape, affine = frame_grid(image, frame, mask=mask)
    return resample(image, shape, affine)


def frame_grid(
    image: Any, frame: Any, *, mask: Any = None
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Place a model's frame in a scan's world."""
    own_shape, own_affine, back = _reoriented(image, frame.orientation)
    own, wanted = spacing_of(own_affine), np.asarray(frame.spacing, dtype=float)
    kept = bool(np.all(np.abs(own / wanted - 1) <= SAME_SPACING))
    scale = np.ones(3) if kept else wanted / own
    low, high = np.zeros(3), np.asarray(own_shape, dtype=float) - 1
    if mask is not None and frame.anchor == "brain":
        low, high = _mask_box(mask, image, back)
    if frame.anchor == "array":
        if kept:
            return own_shape, own_affine
        shape = np.maximum(2, np.rint(np.asarray(own_shape) / scale)).astype(int)
    else:
        shape = np.asarray(frame.shape, dtype=int)
        if mask is not None:
            _check_fit(image, (high - low + 1) / scale, shape, wanted)
    start = (low + high) / 2 - scale * (shape - 1) / 2
    if kept:
        start = np.floor(start + 0.5)
    step = nib.affines.from_matvec(np.diag(scale), start)
    a, b, c = (int(n) for n in shape)
    return (a, b, c), own_affine @ step


def _reoriented(image: Any, codes: str) -> tuple[tuple[int, int, int], np.ndarray, np.ndarray]:
    """Return shape and affine of the re-ordered array, and new voxel to old voxel."""
    change = ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(codes)))
    back = inv_ornt_aff(change, image.shape)
    a, b, c = (int(image.shape[old]) for old in np.argsort(change[:, 0]))
    return (a, b, c), image.affine @ back, back


def _mask_box(mask: Any, image: Any, back: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and last voxels of a mask in the re-ordered array."""
    inside = np.asarray(mask.dataobj) > 0
    if not inside.any():
        raise BadDataError(
            f"{name_of(image)}: its brain mask is empty; look at the image or give a mask"
        )
    ends = [(box.start, box.stop - 1) for box in bounding_box(inside)]
    corners = nib.affines.apply_affine(np.linalg.inv(back), np.array(ends, dtype=float).T)
    return corners.min(0), corners.max(0)


def _check_fit(image: Any, needed: np.ndarray, shape: np.ndarray, spacing: np.ndarray) -> None:
    """Refuse a brain that the frame would cut; its mask is then wrong."""
    if np.any(needed > shape + 1):
        brain = " x ".join(f"{n:.0f}" for n in needed * spacing)
        room = " x ".join(f"{n:.0f}" for n in shape * spacing)
        raise BadDataError(
            f"{name_of(image)}: its brain mask spans {brain} mm, more than the model's"
            f" {room} mm; look at the mask or give another one"
        )
