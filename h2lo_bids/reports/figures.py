"""The figures of a report: one function per picture, and one that makes them all.

Every function takes nibabel images of any orientation and spacing, writes one
SVG per path, atomically, and gives the same bytes for the same input.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from h2lo_bids.imaging.resample import resample_mask
from h2lo_bids.io import atomic_write_text
from h2lo_bids.reports import charts, svg
from h2lo_bids.reports import mosaic as drawing
from h2lo_bids.reports.mosaic import IN_PLANE, Volume, extent, volume_of
from h2lo_bids.reports.records import Figure, figure_paths

if TYPE_CHECKING:
    import nibabel as nib

BINS = 128
_FEW_LEVELS = 1024
UNSTRETCHED = "Both images are shown from 0 (black) to 1 (white) of the model's scale, unstretched."
"""Of pictures with the default window: what the model saw is what is shown."""
_DETAIL = 64.0
_ZOOM = 5.0


def plot_brain_mask(
    image: nib.Nifti1Image, mask: nib.Nifti1Image, path: Path, *, title: str
) -> None:
    """Outline the brain mask on the scan as it came from the scanner; the grids may differ."""
    scan, brain = volume_of(image), volume_of(mask, like=image)
    layout = drawing.layout_of(brain)
    low, high = _head(scan)
    layout = drawing.Layout(
        np.maximum(np.minimum(low, layout.low), scan.low),
        np.minimum(np.maximum(high, layout.high), scan.high),
        layout.cuts,
    )
    bright = float(np.percentile(scan.data, 99.7)) or float(scan.data.max())
    window = (min(float(scan.data.min()), 0.0), bright)
    atomic_write_text(path, drawing.mosaic(scan, layout, window, title=title, mask=brain))


def plot_before_after(
    hf: nib.Nifti1Image,
    lf: nib.Nifti1Image,
    mask: nib.Nifti1Image,
    hf_path: Path,
    lf_path: Path,
    *,
    window: tuple[float, float] = (0.0, 1.0),
    titles: tuple[str, str] = ("High-field scan", "Synthesized low-field image"),
) -> None:
    """Draw two images in [0, 1] as mosaics of the same slices and size, for the flicker.

    `mask` chooses the slices; the three grids may differ.
    """
    layout = drawing.layout_of(volume_of(mask, like=hf))
    for image, path, title in zip((hf, lf), (hf_path, lf_path), titles, strict=True):
        volume = volume_of(image, like=hf)
        atomic_write_text(path, drawing.mosaic(volume, layout, window, title=title))


def plot_detail(
    hf: nib.Nifti1Image,
    lf: nib.Nifti1Image,
    mask: nib.Nifti1Image,
    path: Path,
    *,
    window: tuple[float, float] = (0.0, 1.0),
    title: str = "Enlarged detail, high field above low field",
    labels: tuple[str, str] = ("High field", "Low field"),
) -> None:
    """Enlarge 64 mm around the middle of the brain, `hf` above `lf`, voxels drawn as they are."""
    low, high = extent(volume_of(mask, like=hf))
    middle, half = (low + high) / 2, np.minimum(high - low, _DETAIL) / 2
    cuts = tuple((float(value),) for value in middle)
    layout = drawing.Layout(middle - half, middle + half, cuts)
    parts, y = [], 10.0
    for image, label in zip((hf, lf), labels, strict=True):
        volume, x, tallest = volume_of(image, like=hf), 10.0, 0.0
        for axis in drawing.AXES:
            width, height = layout.size[list(IN_PLANE[axis])]
            inner = drawing.tile(volume, layout, axis, cuts[axis][0], window, rendering="pixelated")
            parts.append(drawing.nested(x, y, width, height, inner, zoom=_ZOOM))
            x, tallest = x + width * _ZOOM + 10, max(tallest, height * _ZOOM)
        parts.append(f'<rect class="back" x="10" y="{svg.number(y)}" width="98" height="26"/>')
        parts.append(svg.text(18, y + 18, label))
        y += tallest + 10
    background = f'<rect width="{svg.number(x)}" height="{svg.number(y)}" fill="#000"/>'
    style = "text{font:600 15px 'Helvetica Neue',Arial,sans-serif;fill:#fff}.back{fill:#000a}"
    content = svg.document(x, y, background + "".join(parts), title=title, style=style)
    atomic_write_text(path, content)


def plot_histograms(
    hf: nib.Nifti1Image,
    lf: nib.Nifti1Image,
    mask: nib.Nifti1Image,
    path: Path,
    *,
    title: str = "Histograms of high-field and low-field intensities inside the brain",
    labels: tuple[str, str] = ("High field", "Low field"),
) -> None:
    """Draw the distributions of both images inside the mask."""
    curves = []
    for css, label, image in zip(("hf", "lf"), labels, (hf, lf), strict=True):
        values = values_inside(image, mask)
        curves.append((css, label + _outside(values), densities(values)))
    drawn = charts.histograms(curves, label=title, inside="inside the brain", alone=True)
    atomic_write_text(path, drawn)


def densities(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the share of `values` in each of ``BINS`` equal bins on [0, 1].

    An image of few grey levels would leave some bins with one level and others with two:
    such levels are spread evenly over their distance.
    """
    counts, _ = np.histogram(_spread(values), bins=BINS, range=(0.0, 1.0))
    return counts / max(values.size, 1)


def _spread(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    levels = np.unique(values)
    if not 1 < levels.size <= _FEW_LEVELS:
        return values
    # Multiples of the golden ratio fill an interval evenly, without a generator.
    even = (np.arange(values.size) * 0.6180339887498949) % 1 - 0.5
    spread = np.clip(values + even * float(np.diff(levels).min()), 0.0, 1.0)
    return np.where((values >= 0) & (values <= 1), spread, values)


def _outside(values: npt.NDArray[np.floating]) -> str:
    beyond = 100 * float(np.mean((values < 0) | (values > 1))) if values.size else 0.0
    return f" ({beyond:.2g} % outside 0 to 1)" if beyond >= 0.01 else ""


def plot_registration(
    template: nib.Nifti1Image,
    moved: nib.Nifti1Image,
    mask: nib.Nifti1Image,
    template_path: Path,
    moved_path: Path,
    *,
    titles: tuple[str, str] = ("Template", "Registered scan"),
) -> None:
    """Draw a template and the scan brought to it, both with the outline of `mask`."""
    brain = volume_of(mask, like=template)
    layout = drawing.layout_of(brain, margin=12.0)
    for image, path, title in zip(
        (template, moved), (template_path, moved_path), titles, strict=True
    ):
        volume = volume_of(image, like=template)
        bright = (
            float(np.percentile(volume.data[volume.data > 0], 99.5, method="nearest"))
            if (volume.data > 0).any()
            else 1.0
        )
        content = drawing.mosaic(volume, layout, (0.0, bright), title=title, mask=brain)
        atomic_write_text(path, content)


def make_figures(
    out_dir: Path,
    stem: str,
    *,
    image: nib.Nifti1Image,
    mask: nib.Nifti1Image,
    hf: nib.Nifti1Image,
    lf: nib.Nifti1Image,
) -> tuple[Figure, ...]:
    """Write every figure of one scan: `image` as it came, `hf` and `lf` in [0, 1]."""
    paths = figure_paths(out_dir, stem, "scan")
    plot_brain_mask(image, mask, paths["brainmask"], title=f"Brain mask of {stem}")
    titles = (f"High-field scan {stem}", f"Low-field image synthesized from {stem}")
    plot_before_after(hf, lf, mask, paths["highfield"], paths["lowfield"], titles=titles)
    plot_detail(hf, lf, mask, paths["detail"])
    plot_histograms(hf, lf, mask, paths["histogram"])
    notes = dict.fromkeys(("highfield", "lowfield", "detail"), UNSTRETCHED)
    return tuple(
        figure_record(out_dir, kind, path, notes.get(kind, "")) for kind, path in paths.items()
    )


def make_registration_figures(
    out_dir: Path,
    stem: str,
    *,
    template: nib.Nifti1Image,
    moved: nib.Nifti1Image,
    mask: nib.Nifti1Image,
    space: str,
) -> tuple[Figure, ...]:
    """Write the figures of the registration of a scan to one space."""
    paths = figure_paths(out_dir, stem, "registration", space)
    titles = (f"Template {space}", f"{stem} registered to {space}")
    plot_registration(template, moved, mask, *paths.values(), titles=titles)
    return tuple(figure_record(out_dir, kind, path, space=space) for kind, path in paths.items())


def figure_record(out_dir: Path, kind: str, path: Path, note: str = "", space: str = "") -> Figure:
    """Return the record of a picture."""
    return Figure(kind, path.relative_to(out_dir).as_posix(), note, space)


def values_inside(image: nib.Nifti1Image, mask: nib.Nifti1Image) -> np.ndarray:
    """Return the voxels of an image whose centres lie in a mask on any grid."""
    data = np.asarray(image.dataobj, dtype=np.float32)
    return data[np.asarray(resample_mask(mask, data.shape, image.affine).dataobj) > 0]


def _head(scan: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Bound the head: what is brighter than a tenth of the bright end, stray voxels aside."""
    bright = float(np.percentile(scan.data, 99))
    head = scan.data > 0.1 * bright
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        thin = head.mean(axis=others) < 0.01
        head[(slice(None),) * axis + (thin,)] = False
    low, high = extent(Volume(head.astype(np.float32), scan.origin, scan.spacing))
    return low - 3, high + 3
