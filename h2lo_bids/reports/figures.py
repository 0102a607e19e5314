"""The figures of a report, as SVG; the same bytes for the same images.

Every function takes nibabel images of any orientation and spacing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

import bids_app_spec
from h2lo_bids.imaging.resample import resample_mask
from h2lo_bids.io import atomic_write_text
from h2lo_bids.reports import charts
from h2lo_bids.reports import mosaic as drawing
from h2lo_bids.reports.mosaic import IN_PLANE, Volume, element, extent, volume_of
from h2lo_bids.reports.records import Figure, figure_file
from h2lo_bids.vocabulary import ENHANCE, SYNTHESIZE

if TYPE_CHECKING:
    from nibabel import Nifti1Image as Image

BINS = 128
_FEW_LEVELS = 1024
UNSTRETCHED = "Both images are shown from 0 (black) to 1 (white) of the model's scale, unstretched."
"""Of pictures with the default window: what the model saw is what is shown."""
_LEAST_CHANGE = 0.01
_DETAIL = 64.0
_ZOOM = 5.0
_DETAIL_STYLE = (
    "text{font:600 15px 'Helvetica Neue',Arial,sans-serif;fill:#fff;"
    "stroke:#000;stroke-width:3px;paint-order:stroke}.back{fill:#000a}"
)


_GROUPS = {SYNTHESIZE: "scan", ENHANCE: "enhancement"}
# What a task's input and output are called, and the titles of their pictures.
_WORDS = {
    SYNTHESIZE: (
        ("High field", "Low field"),
        ("High-field scan {}", "Low-field image synthesized from {}"),
    ),
    ENHANCE: (("Low field", "Enhanced"), ("Low-field image {}", "Image enhanced from {}")),
}


def draw_brain_mask(image: Image, mask: Image, *, title: str) -> str:
    """Outline the brain mask on the scan as it came from the scanner; the grids may differ."""
    scan, brain = volume_of(image), volume_of(mask, like=image)
    cut, (low, high) = drawing.layout_of(brain), _head(scan)
    low, high = np.minimum(low, cut.low), np.maximum(high, cut.high)
    layout = drawing.Layout(low.clip(scan.low), high.clip(max=scan.high), cut.cuts)
    bright = float(np.percentile(scan.data, 99.7)) or float(scan.data.max())
    window = (min(float(scan.data.min()), 0.0), bright)
    return drawing.mosaic(scan, layout, window, title=title, mask=brain)


def _head(scan: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Bound the head: what is brighter than a tenth of the bright end, stray voxels aside."""
    head = scan.data > 0.1 * float(np.percentile(scan.data, 99))
    for axis in range(3):
        slices = np.moveaxis(head, axis, 0)
        slices[slices.mean(axis=(1, 2)) < 0.01] = False
    low, high = extent(Volume(head.astype(np.float32), scan.origin, scan.spacing))
    return low - 3, high + 3


def draw_detail(before: Image, after: Image, mask: Image, labels: tuple[str, str]) -> str:
    """Enlarge 64 mm around the middle of the brain, one above the other, voxels as they are."""
    low, high = extent(volume_of(mask, like=before))
    middle, half = (low + high) / 2, np.minimum(high - low, _DETAIL) / 2
    layout = drawing.Layout(middle - half, middle + half, ())
    parts, y = [], 10.0
    for image, label in zip((before, after), labels, strict=True):
        volume, x, tallest = volume_of(image, like=before), 10.0, 0.0
        for axis in drawing.AXES:
            width, height = (layout.high - layout.low)[list(IN_PLANE[axis])]
            inner = drawing.tile(
                volume, layout, axis, float(middle[axis]), (0.0, 1.0), rendering="pixelated"
            )
            parts.append(drawing.nested(x, y, width, height, inner, zoom=_ZOOM))
            wide, tall = width * _ZOOM, height * _ZOOM
            parts.append(drawing.sides(axis, x, y, wide, tall))
            x, tallest = x + wide + 10, max(tallest, tall)
        parts.append(element("rect", class_="back", x=10, y=y, width=98, height=26))
        parts.append(drawing.text(18, y + 18, label))
        y += tallest + 10
    title = "Enlarged detail, {} above {}".format(*map(str.lower, labels))
    return drawing.document(x, y, "".join(parts), title=title, style=_DETAIL_STYLE)


def draw_histograms(before: Image, after: Image, mask: Image, labels: tuple[str, str]) -> str:
    """Draw the distributions of both images inside the mask, which may have another grid."""
    curves = []
    for css, label, image in zip(("hf", "lf"), labels, (before, after), strict=True):
        data = np.asarray(image.dataobj, dtype=np.float32)
        values = data[np.asarray(resample_mask(mask, data.shape, image.affine).dataobj) > 0]
        beyond = 100 * float(np.mean((values < 0) | (values > 1))) if values.size else 0.0
        outside = f" ({beyond:.2g} % outside 0 to 1)" if beyond >= 0.01 else ""
        curves.append((css, label + outside, densities(values)))
    words = " and ".join(labels).lower().replace(" field", "-field")
    title = f"Histograms of {words} intensities inside the brain"
    return charts.histograms(curves, label=title, alone=True)


def densities(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the share of `values` in each of ``BINS`` equal bins on [0, 1]."""
    # Of few grey levels some bins would hold one and others two: they are spread evenly.
    levels, shown = np.unique(values), values
    if 1 < levels.size <= _FEW_LEVELS:
        # Multiples of the golden ratio fill an interval evenly, without a generator.
        even = (np.arange(values.size) * 0.6180339887498949) % 1 - 0.5
        spread = np.clip(values + even * float(np.diff(levels).min()), 0.0, 1.0)
        shown = np.where((values >= 0) & (values <= 1), spread, values)
    counts, _ = np.histogram(shown, bins=BINS, range=(0.0, 1.0))
    return counts / max(values.size, 1)


def draw_difference(low: Image, enhanced: Image, mask: Image, stem: str) -> tuple[str, str]:
    """Draw what enhancement added and took away, grey for nothing; return also a note on it."""
    before, after, brain = volume_of(low), volume_of(enhanced), volume_of(mask)
    change = after.data - before.data
    inside = np.abs(change[brain.data > 0])
    bright = float(np.percentile(inside, 99.5)) if inside.size else 0.0
    bright = max(_LEAST_CHANGE, float(np.ceil(bright * 100) / 100))
    volume = Volume(change, before.origin, before.spacing)
    window, title = (-bright, bright), f"What enhancement changed in {stem}"
    drawn = drawing.mosaic(volume, drawing.layout_of(brain), window, title=title)
    return drawn, f"Shown from -{bright:g} (black) to {bright:g} (white)."


def make_figures(
    out_dir: Path,
    stem: str,
    task: str,
    *,
    image: Image,
    image_mask: Image,
    before: Image,
    after: Image,
    mask: Image,
) -> tuple[Figure, ...]:
    """Write every figure of one result, atomically, where the report expects it."""
    kinds = bids_app_spec.load("io_spec.json")["figures"][_GROUPS[task]]
    labels, titles = _WORDS[task]
    layout = drawing.layout_of(volume_of(mask, like=before))
    drawn = [(draw_brain_mask(image, image_mask, title=f"Brain mask of {stem}"), "")]
    for shown, title in zip((before, after), titles, strict=True):
        volume = volume_of(shown, like=before)
        picture = drawing.mosaic(volume, layout, (0.0, 1.0), title=title.format(stem))
        drawn.append((picture, UNSTRETCHED))
    if task == ENHANCE:
        drawn.append(draw_difference(before, after, mask, stem))
    drawn.append((draw_detail(before, after, mask, labels), UNSTRETCHED))
    drawn.append((draw_histograms(before, after, mask, labels), ""))
    return tuple(
        save_figure(out_dir, stem, kind, *item) for kind, item in zip(kinds, drawn, strict=True)
    )


def make_registration_figures(
    out_dir: Path, stem: str, *, template: Image, moved: Image, mask: Image, space: str
) -> tuple[Figure, ...]:
    """Write a template and the scan brought to it, both with the outline of the mask."""
    shown = {
        "template": (template, f"Template {space}"),
        "registered": (moved, f"{stem} registered to {space}"),
    }
    brain = volume_of(mask, like=template)
    layout = drawing.layout_of(brain, margin=12.0)
    figures = []
    for kind, (image, title) in shown.items():
        volume = volume_of(image, like=template)
        inside = volume.data[volume.data > 0]
        bright = float(np.percentile(inside, 99.5, method="nearest")) if inside.size else 1.0
        content = drawing.mosaic(volume, layout, (0.0, bright), title=title, mask=brain)
        figures.append(save_figure(out_dir, stem, kind, content, space=space))
    return tuple(figures)


def save_figure(
    out_dir: Path, stem: str, kind: str, content: str, note: str = "", space: str = ""
) -> Figure:
    """Write a picture of a scan, atomically, and return its record."""
    path = figure_file(out_dir, stem, kind, ".svg", space or None)
    atomic_write_text(path, content)
    return Figure(kind, path.relative_to(out_dir).as_posix(), note, space)
