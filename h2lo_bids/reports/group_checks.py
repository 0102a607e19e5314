"""How well the two images of a prepared pair lie on each other: one small figure a pair."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from h2lo_bids.bids.derivatives import find_records, paths_of_record, record_end
from h2lo_bids.reports import svg
from h2lo_bids.reports.group_data import read_json
from h2lo_bids.reports.group_pictures import box_of

Plane = npt.NDArray[np.float32]

_GAP = 4.0
_STYLE = "path{fill:none;stroke:#ffa02e;stroke-width:.9;stroke-linejoin:round}"
_SHORTEST = 14
_CUTS = (0.4, 0.5, 0.5)


@dataclass(frozen=True)
class PairView:
    """One prepared pair as the page shows it."""

    name: str
    flagged: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    figures: tuple[tuple[str, str], ...]
    fusion: str
    simulated: bool
    picture: str | None = None


def read_pairs(
    out_dir: Path, contrast: str, problems: list[str], *, limit: int
) -> tuple[PairView, ...]:
    """Read the records of a contrast's pairs, flagged ones first, and draw the first `limit`."""
    views = [
        (_view(path, contrast, content), path)
        for path in find_records(out_dir, contrast)
        if (content := read_json(path, problems))
    ]
    views.sort(key=lambda item: (not item[0].flagged, item[0].name))
    return tuple(
        replace(view, picture=_picture(path, contrast, problems)) if number < limit else view
        for number, (view, path) in enumerate(views)
    )


def _view(path: Path, contrast: str, content: dict[str, Any]) -> PairView:
    check = content.get("RegistrationCheck")
    check = check if isinstance(check, dict) else {}
    figures = check.get("Figures")
    numbers = figures.items() if isinstance(figures, dict) else ()
    return PairView(
        name=f"{path.name.removesuffix(record_end(contrast))}_{contrast}",
        flagged=bool(check.get("Flagged")),
        reasons=_lines(check.get("Reasons")),
        notes=_lines(content.get("Warnings")),
        figures=tuple(
            _named(str(key), value) for key, value in numbers if isinstance(value, int | float)
        ),
        fusion=str(content.get("Fusion", "none")),
        simulated=content.get("Simulated") is True,
    )


def _lines(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _named(key: str, value: float) -> tuple[str, str]:
    """Write a figure with its unit, which the key ends with."""
    name, _, unit = key.rpartition("_")
    text = f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
    if unit not in ("mm", "deg") or not name:
        return key.replace("_", " "), text
    return name.replace("_", " "), text + (" mm" if unit == "mm" else "\N{DEGREE SIGN}")


def _picture(record: Path, contrast: str, problems: list[str]) -> str | None:
    """Draw the figure of a pair."""
    import nibabel as nib

    stem = record.name.removesuffix(".json")
    try:
        planes, paths = [], paths_of_record(record, contrast)
        for kind in ("hf", "lf"):
            image = nib.as_closest_canonical(nib.load(paths[kind]))  # type: ignore[attr-defined]
            planes.append(_middle(np.asarray(image.dataobj, np.float32)))
        drawing = overlay(*planes, title=f"High-field edges on the low-field image of {stem}")
    except Exception as error:
        # gzip, zlib, nibabel and the system each raise their own.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        problems.append(f"{stem}: the prepared pair cannot be drawn ({reason}); prepare it again")
        return None
    return svg.svg_uri(drawing)


def _middle(volume: npt.NDArray[np.float32]) -> tuple[Plane, Plane, Plane]:
    """Cut through the middle of the grid, sagittally a little off the cleft between the halves."""
    x, y, z = (round(side * share) for side, share in zip(volume.shape, _CUTS, strict=True))
    return volume[:, :, z], volume[:, y, :], volume[x, :, :]


def overlay(hf: tuple[Plane, Plane, Plane], lf: tuple[Plane, Plane, Plane], *, title: str) -> str:
    """Draw the edges of one image upon the other: axial, coronal and sagittal slices."""
    # Grids of 2 mm and more are enlarged, so that lines keep their weight.
    zoom = max(1.0, 110.0 / max(max(plane.shape) for plane in lf))
    top = max(float(np.percentile(plane[plane > 0], 99.5)) for plane in lf if (plane > 0).any())
    x, tallest, parts = 0.0, 0.0, []
    for high, low in zip(hf, lf, strict=True):
        left, right, bottom, upper = box_of(high, low)
        grey = np.clip(low[left:right, bottom:upper] / top, 0, 1)
        wide, tall = (right - left) * zoom, (upper - bottom) * zoom
        parts.append(svg.image(svg.jpeg_uri(svg.grey_levels(grey)), x, 0, wide, tall))
        for line in _edges(high[left:right, bottom:upper]):
            placed = np.column_stack(
                [x + (line[:, 0] + 0.5) * zoom, tall - (line[:, 1] + 0.5) * zoom]
            )
            parts.append(f'<path d="{svg.path_of([placed])}"/>')
        x, tallest = x + wide + _GAP, max(tallest, tall)
    return svg.document(x - _GAP, tallest, "".join(parts), title=title, style=_STYLE)


def _edges(plane: Plane) -> list[npt.NDArray[np.float64]]:
    """Trace the brain's border and its main border of tissue, without small islands."""
    from contourpy import contour_generator
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.pad(plane.astype(np.float64), 1), 0.8)
    values = plane[plane > 0.01]
    if not values.size:
        return []
    generator = contour_generator(z=smooth.T)
    lines = []
    for level in (float(np.percentile(values, 50)) * 0.4, _otsu(values)):
        for line in generator.lines(level):
            if len(line) >= _SHORTEST:
                # Every third point is enough for the eye, and a third of the page.
                points = np.asarray(line) - 1
                lines.append(np.vstack([points[:-1:3], points[-1:]]))
    return lines


def _otsu(values: npt.NDArray[np.floating]) -> float:
    """Split intensities where two classes differ most (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=64)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1].astype(float)
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)[:-1]
    total = float((counts * centres).sum())
    between = (
        below * above * (sums / np.maximum(below, 1) - (total - sums) / np.maximum(above, 1)) ** 2
    )
    return float(edges[1:-1][int(np.argmax(between))])
