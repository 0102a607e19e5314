"""The figures of an enhanced image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from h2lo_bids.io import atomic_write_text
from h2lo_bids.reports import figures
from h2lo_bids.reports import mosaic as drawing
from h2lo_bids.reports.mosaic import Volume, volume_of
from h2lo_bids.reports.records import Figure, figure_paths

if TYPE_CHECKING:
    import nibabel as nib

LABELS = ("Low field", "Enhanced")
_LEAST = 0.01


def plot_difference(
    low: nib.Nifti1Image,
    enhanced: nib.Nifti1Image,
    mask: nib.Nifti1Image,
    path: Path,
    *,
    title: str,
) -> float:
    """Draw what enhancement added and took away, grey where that is nothing.

    Parameters
    ----------
    low, enhanced, mask : nibabel images
        On one grid.
    path : Path
        SVG to write.
    title : str
        Plain text for screen readers.

    Returns
    -------
    float
        The difference that is shown white, and its negative black: the 99.5th
        percentile of its size in the mask, at least 0.01.
    """
    before, after = volume_of(low), volume_of(enhanced)
    brain = volume_of(mask)
    change = after.data - before.data
    inside = np.abs(change[brain.data > 0])
    bright = float(np.percentile(inside, 99.5)) if inside.size else 0.0
    bright = max(_LEAST, float(np.ceil(bright * 100) / 100))
    volume = Volume(change, before.origin, before.spacing)
    layout = drawing.layout_of(brain)
    atomic_write_text(path, drawing.mosaic(volume, layout, (-bright, bright), title=title))
    return bright


def make_enhancement_figures(
    out_dir: Path,
    stem: str,
    *,
    image: nib.Nifti1Image,
    image_mask: nib.Nifti1Image,
    low: nib.Nifti1Image,
    enhanced: nib.Nifti1Image,
    mask: nib.Nifti1Image,
) -> tuple[Figure, ...]:
    """Write every figure of an enhanced image where the report expects it.

    Parameters
    ----------
    out_dir : Path
        Root of the derivatives.
    stem : str
        What the outputs are named after, e.g. ``sub-01_ses-LF_T1w``.
    image, image_mask : nibabel images
        The reference scan as it came, and its brain.
    low, enhanced, mask : nibabel images
        The normalised low-field image, the enhanced image and the brain, on one grid.

    Returns
    -------
    tuple of Figure
        For :class:`h2lo_bids.reports.records.ScanReport`.
    """
    paths = figure_paths(out_dir, stem, "enhancement")
    figures.plot_brain_mask(image, image_mask, paths["brainmask"], title=f"Brain mask of {stem}")
    figures.plot_before_after(
        low, enhanced, mask, paths["lowfieldinput"], paths["enhanced"],
        titles=(f"Low-field image {stem}", f"Image enhanced from {stem}"),
    )  # fmt: skip
    bright = plot_difference(
        low, enhanced, mask, paths["difference"], title=f"What enhancement changed in {stem}"
    )
    figures.plot_detail(
        low, enhanced, mask, paths["enhanceddetail"], labels=LABELS,
        title="Enlarged detail, low field above enhanced",
    )  # fmt: skip
    figures.plot_histograms(
        low, enhanced, mask, paths["enhancedhistogram"], labels=LABELS,
        title="Histograms of low-field and enhanced intensities inside the brain",
    )  # fmt: skip
    notes = dict.fromkeys(("lowfieldinput", "enhanced", "enhanceddetail"), figures.UNSTRETCHED)
    notes["difference"] = f"Shown from -{bright:g} (black) to {bright:g} (white)."
    return tuple(
        figures.figure_record(out_dir, kind, path, notes.get(kind, ""))
        for kind, path in paths.items()
    )
