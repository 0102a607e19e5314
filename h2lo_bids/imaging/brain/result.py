"""What brain extraction hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.imaging.resample import placed

VOLUME_RANGE_ML = (500.0, 2500.0)
"""Volumes between which a brain is plausible, from a newborn's to a large adult's with CSF."""


@dataclass(frozen=True)
class BrainMask:
    """A brain mask and how it came about.

    Parameters
    ----------
    image
        uint8, 0 or 1, on the scan's grid.
    method
        ``"deepbet"``, ``"synthstrip"``, ``"stripped"`` (the scan had no skull),
        ``"skip"``, ``"given"`` or ``"shared"``.
    notes
        One line each: what a user should look at.
    """

    image: nib.Nifti1Image
    method: str
    notes: tuple[str, ...] = ()

    @property
    def volume_ml(self) -> float:
        """Return the mask's volume in ml."""
        voxel = abs(float(np.linalg.det(self.image.affine[:3, :3])))
        return float(np.count_nonzero(np.asarray(self.image.dataobj))) * voxel / 1000


def make_result(
    mask: np.ndarray, image: Any, method: str, name: str, notes: tuple[str, ...] = ()
) -> BrainMask:
    """Wrap a mask, and warn of a volume that no brain has.

    Parameters
    ----------
    mask
        Boolean, on the image's grid.
    image
        The scan, for its affine.
    method, notes
        As in `BrainMask`.
    name
        The scan's file, or that of a given mask, for messages.

    Returns
    -------
    BrainMask
        With a note added where the volume is implausible.
    """
    result = BrainMask(placed(mask.astype(np.uint8), image.affine, image), method, notes)
    low, high = VOLUME_RANGE_ML
    if not low <= result.volume_ml <= high:
        what, remedy = ("this", "another mask") if method == "given" else ("its", "a mask")
        volume = f"{result.volume_ml:.0f} ml"
        note = f"{name}: {what} brain mask has {volume}; look at it or give {remedy}"
        result = BrainMask(result.image, method, (*notes, note))
    return result
