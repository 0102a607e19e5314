"""One door to every way of finding the brain."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.errors import UsageError
from h2lo_bids.imaging.brain.deepbet import deepbet_mask
from h2lo_bids.imaging.brain.result import BrainMask, make_result
from h2lo_bids.imaging.brain.stripped import looks_stripped, stripped_mask
from h2lo_bids.imaging.brain.synthstrip import find_weights, synthstrip_mask
from h2lo_bids.imaging.naming import name_of
from h2lo_bids.imaging.resample import resample, resample_mask, spacing_of
from h2lo_bids.vocabulary import SKULL_STRIP

NEAR_1_MM = (0.8, 1.25)
"""Spacings in mm that the networks take as they are."""

THICK_MM = 4.0
"""Slices thicker than this are low-field ones, for which deepbet sees the head mirrored too."""


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

    Returns
    -------
    BrainMask
        On the scan's grid.

    Raises
    ------
    UsageError
        If the method is unknown.
    MissingInputError
        If SynthStrip is asked for and its weights are absent.
    BadDataError
        If no brain is found.
    """
    if method not in SKULL_STRIP:
        raise UsageError(
            f"skull-strip method {method!r} is unknown; use one of {', '.join(SKULL_STRIP)}"
        )
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
