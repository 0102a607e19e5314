"""One door to every way of finding the brain."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.brain.synthstrip import find_weights, synthstrip_mask
from h2lo_bids.imaging.masks import bounding_box, cut_bridges, largest_component, within
from h2lo_bids.imaging.reading import name_of
from h2lo_bids.imaging.resample import placed, resample, resample_mask, spacing_of

THRESHOLD = 0.5
BRIDGE_MM = 5.0
"""Optic nerves and nasal leaks of low-field T2w scans are narrower than twice this."""
NEAR_1_MM = (0.8, 1.25)
"""Spacings in mm that the networks take as they are."""

THICK_MM = 4.0
"""Slices thicker than this are low-field ones, for which deepbet sees the head mirrored too."""
VOLUME_RANGE_ML = (500.0, 2500.0)
"""Volumes between which a brain is plausible, from a newborn's to a large adult's with CSF."""
MIN_ZERO_SHARE = 0.25
"""A brain fills about half of its own box; a raw scan's background is noise, not 0."""
STRIPPED_RANGE_ML = (300.0, 2300.0)
"""An adult's head with a zeroed background has 3 litres or more."""
MAX_CUT_SHARE = 0.15
"""Share of the box's face that may be cut: the brain stem's, not the neck's (a third)."""
_CLOSE_MM = 3.0


@dataclass(frozen=True)
class BrainMask:
    """A brain mask and how it came about."""

    image: nib.Nifti1Image  # uint8, 0 or 1, on the scan's grid
    # "deepbet", "synthstrip", "stripped" (the scan had no skull), "skip", "given" or "shared"
    method: str
    notes: tuple[str, ...] = ()  # one line each: what a user should look at

    @property
    def volume_ml(self) -> float:
        """Return the mask's volume in ml."""
        voxel = abs(float(np.linalg.det(self.image.affine[:3, :3])))
        return float(np.count_nonzero(np.asarray(self.image.dataobj))) * voxel / 1000


def extract_brain(
    image: Any,
    *,
    method: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> BrainMask:
    """Find the brain in a head scan of any contrast and spacing.

    Parameters
    ----------
    image
        nibabel image, 3-D, checked.
    method
        ``"auto"``: a scan that has no skull keeps what is not 0; any other goes
        to SynthStrip where its weights are present, or else to deepbet.
        ``"skip"``: the scan has no skull. ``"deepbet"``, ``"synthstrip"``: that
        tool.
    weights
        SynthStrip's ``synthstrip.1.pt``; looked for in ``$FREESURFER_HOME``
        when not given.
    threads
        CPU threads for the network; torch's own choice when not given.

    Raises
    ------
    MissingInputError
        If SynthStrip is asked for and its weights are absent.
    BadDataError
        If no brain is found.
    """
    name = name_of(image)
    stripped = method in ("skip", "auto") and looks_stripped(image)
    if method == "skip" or stripped:
        notes = []
        if method == "auto":
            notes = [f"{name}: not skull-stripped, as it has no skull"]
        elif not stripped:
            what = "does not look like a brain alone; was --skull-strip skip meant for it?"
            notes = [f"{name}: not skull-stripped, as asked, but {what}"]
        kind = "skip" if method == "skip" else "stripped"
        return make_result(stripped_mask(image), image, kind, name, tuple(notes))
    file = None if method == "deepbet" else find_weights(weights, required=method == "synthstrip")
    with _torch_threads(threads):
        if file is not None:
            return make_result(synthstrip_mask(image, file), image, "synthstrip", name)
        return make_result(_with_deepbet(image, name), image, "deepbet", name)


def _with_deepbet(image: Any, name: str) -> np.ndarray:
    """Run deepbet on a 1 mm copy in RAS order and bring its mask back."""
    canonical = nib.as_closest_canonical(image)
    spacing = spacing_of(canonical.affine)
    if not np.all((spacing >= NEAR_1_MM[0]) & (spacing <= NEAR_1_MM[1])):
        shape = np.maximum(2, np.ceil(np.asarray(canonical.shape) * spacing)).astype(int)
        start = (np.asarray(canonical.shape) - 1) / 2 - (shape - 1) / 2 / spacing
        step = nib.affines.from_matvec(np.diag(1 / spacing), start)
        canonical = resample(canonical, tuple(int(n) for n in shape), canonical.affine @ step)
    volume = np.asarray(canonical.dataobj, dtype=np.float32)
    mask = deepbet_mask(volume, mirror=bool(spacing.max() > THICK_MM), name=name)
    found = nib.Nifti1Image(mask.astype(np.uint8), canonical.affine)
    return np.asarray(resample_mask(found, image.shape, image.affine).dataobj) > 0


def deepbet_mask(
    volume: np.ndarray, *, mirror: bool = False, name: str = "the image"
) -> np.ndarray:
    """Find the brain in a head with deepbet's network, which comes with its weights.

    Fisch et al. 2024, deepbet (MIT). Called in memory: the package's own file interface refuses
    small files and writes reoriented copies.
    """
    with warnings.catch_warnings():  # of its own deprecations
        warnings.simplefilter("ignore")
        from deepbet import BrainExtraction

        network = BrainExtraction(no_gpu=True)
    try:
        probability = network.run_model(np.array(volume, dtype=np.float32, order="C"))
        if mirror:
            flipped = network.run_model(np.array(volume[::-1], dtype=np.float32, order="C"))
            probability = (probability + flipped[::-1]) / 2
    except (AssertionError, ValueError) as err:  # deepbet's "not enough foreground", or nothing
        raise BadDataError(
            f"{name}: deepbet finds no brain; check the image and its orientation, or give a mask"
        ) from err
    mask = cut_bridges(probability > THRESHOLD, BRIDGE_MM, (1.0, 1.0, 1.0))
    if not mask.any():
        raise BadDataError(f"{name}: deepbet finds no brain; check the image or give a mask")
    return mask


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """Set torch's threads for a while."""
    import torch

    before = torch.get_num_threads()
    try:
        if threads:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)


def make_result(
    mask: np.ndarray, image: Any, method: str, name: str, notes: tuple[str, ...] = ()
) -> BrainMask:
    """Wrap a mask, and warn of a volume that no brain has."""
    result = BrainMask(placed(mask.astype(np.uint8), image.affine, image), method, notes)
    low, high = VOLUME_RANGE_ML
    if not low <= result.volume_ml <= high:
        what, remedy = ("this", "another mask") if method == "given" else ("its", "a mask")
        volume = f"{result.volume_ml:.0f} ml"
        note = f"{name}: {what} brain mask has {volume}; look at it or give {remedy}"
        result = BrainMask(result.image, method, (*notes, note))
    return result


def looks_stripped(image: Any) -> bool:
    """Check whether a scan is a brain on an exactly zero background.

    All three must hold: at least a quarter of the voxels are exactly 0; the
    rest have a brain's volume (0.3 to 2.3 litres); and no border of the array
    cuts the rest over more than 15 % of the face of its bounding box, as a neck
    does in a small head. Defaced heads and heads whose background was zeroed
    fail the second, small ones the third.
    """
    nonzero = np.asarray(image.dataobj) != 0
    if 1 - nonzero.mean() < MIN_ZERO_SHARE or not nonzero.any():
        return False
    volume = nonzero.sum() * abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000
    return (
        STRIPPED_RANGE_ML[0] <= volume <= STRIPPED_RANGE_ML[1]
        and cut_share(nonzero) <= MAX_CUT_SHARE
    )


def stripped_mask(image: Any) -> np.ndarray:
    """Return the brain of a stripped scan: what is not 0, closed by 3 mm and filled."""
    from scipy.ndimage import binary_fill_holes

    nonzero = largest_component(np.asarray(image.dataobj) != 0)
    spacing = spacing_of(image.affine).tolist()
    margin = [int(np.ceil(_CLOSE_MM / s)) + 1 for s in spacing]
    padded = np.pad(nonzero, [(m, m) for m in margin])
    closed = ~within(~within(padded, _CLOSE_MM, spacing), _CLOSE_MM, spacing)
    inner = tuple(slice(m, -m) for m in margin)
    return binary_fill_holes(closed[inner] | nonzero)


def cut_share(inside: np.ndarray) -> float:
    """Return the largest share of a bounding box's face that an array border cuts."""
    sides = [ends.stop - ends.start for ends in bounding_box(inside)]
    shares = []
    for axis in range(3):
        face = np.prod([side for other, side in enumerate(sides) if other != axis])
        shares += [np.take(inside, end, axis).sum() / face for end in (0, -1)]
    return float(max(shares))
