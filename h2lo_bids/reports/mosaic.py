"""Slices in three orientations, side by side, at their true proportions.

Images are seen along their own axes, in millimetres, so that thick slices keep their shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.imaging.resample import resample
from h2lo_bids.reports import svg

if TYPE_CHECKING:
    import nibabel as nib

IN_PLANE = {0: (1, 2), 1: (0, 2), 2: (0, 1)}
"""Axes drawn to the right and upwards in a slice across each axis."""

AXES = (2, 1, 0)
"""Rows of a mosaic: axial, coronal, sagittal."""

_AXIS_NAMES = "xyz"
_SIDES = {0: ("P", "A"), 1: ("L", "R"), 2: ("L", "R")}
_GAP = 4.0
_PARALLEL = 1e-2
STYLE = (
    "text{font:600 9px 'Helvetica Neue',Arial,sans-serif;fill:#e8edf2;"
    "stroke:#000;stroke-width:2px;paint-order:stroke}"
    ".pos{font-weight:400;fill:#b9c7d4}"
    "path{fill:none;stroke-width:1.3;stroke-linejoin:round}"
)


@dataclass(frozen=True)
class Volume:
    """A 3-D image whose axes run to the right, to the front and upwards; lengths in mm."""

    data: npt.NDArray[np.float32]
    origin: npt.NDArray[np.float64]  # of the centre of voxel (0, 0, 0), along the axes
    spacing: npt.NDArray[np.float64]

    @property
    def low(self) -> npt.NDArray[np.float64]:
        """Outer border of the first voxel of each axis."""
        return self.origin - self.spacing / 2

    @property
    def high(self) -> npt.NDArray[np.float64]:
        """Outer border of the last voxel of each axis."""
        return self.low + self.spacing * self.data.shape

    def index(self, axis: int, position: float) -> int:
        """Find the slice that holds a position, or the nearest one."""
        nearest = round((position - self.origin[axis]) / self.spacing[axis])
        return int(np.clip(nearest, 0, self.data.shape[axis] - 1))

    def slice(self, axis: int, position: float) -> npt.NDArray[np.float32]:
        """Cut across an axis: (right, up)."""
        where = [slice(None)] * 3
        where[axis] = slice(self.index(axis, position), self.index(axis, position) + 1)
        return self.data[tuple(where)].squeeze(axis)


def volume_of(image: nib.Nifti1Image, like: nib.Nifti1Image | None = None) -> Volume:
    """Bring an image of any orientation to axes that run right, front and up.

    With `like`, positions are along that image's axes, so that both share one frame; an image
    that is tilted against it is interpolated onto its grid.
    """
    import nibabel as nib

    canonical = nib.as_closest_canonical(image)
    rotation, _ = _axes(canonical if like is None else nib.as_closest_canonical(like))
    local = np.linalg.inv(rotation) @ canonical.affine[:3]
    spacing = np.diag(local[:, :3])
    tilt = np.abs(local[:, :3] - np.diag(spacing)) / np.abs(spacing)
    if like is not None and tilt.max() > _PARALLEL:
        grid = nib.as_closest_canonical(like)
        return volume_of(resample(canonical, grid.shape[:3], grid.affine, order=1))
    data = np.asarray(canonical.dataobj, dtype=np.float32)
    return Volume(np.nan_to_num(data), local[:, 3].copy(), spacing.copy())


def extent(mask: Volume) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the bounds of what is not zero, in mm; of the whole image when all is zero."""
    low, high = mask.low.copy(), mask.high.copy()
    inside = mask.data > 0
    for axis, used in enumerate(bounding_box(inside) if inside.any() else ()):
        low[axis] = mask.low[axis] + used.start * mask.spacing[axis]
        high[axis] = mask.low[axis] + used.stop * mask.spacing[axis]
    return low, high


def _axes(image: nib.Nifti1Image) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    linear = np.asarray(image.affine, dtype=np.float64)[:3, :3]
    spacing = np.linalg.norm(linear, axis=0)
    return linear / spacing, spacing


@dataclass(frozen=True)
class Layout:
    """Which box of space is drawn, mm, and where it is cut across axes 0, 1 and 2."""

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    cuts: tuple[tuple[float, ...], ...]

    @property
    def size(self) -> npt.NDArray[np.float64]:
        """Sides of the box, millimetres."""
        return self.high - self.low


def layout_of(mask: Volume, *, columns: int = 6, margin: float = 4.0) -> Layout:
    """Cut evenly through what the mask covers, sparing its thin ends; `margin` in mm."""
    low, high = extent(mask)
    share = np.linspace(0.14, 0.86, columns)
    cuts = tuple(
        tuple(float(low[axis] + part * (high[axis] - low[axis])) for part in share)
        for axis in range(3)
    )
    return Layout(np.maximum(low - margin, mask.low), np.minimum(high + margin, mask.high), cuts)


def mosaic(
    volume: Volume,
    layout: Layout,
    window: tuple[float, float],
    *,
    title: str,
    mask: Volume | None = None,
    colour: str = "#ff9d2e",
) -> str:
    """Draw a mosaic as a standalone SVG, one unit is 1 mm, with the outline of `mask`.

    Pictures of one layout lie exactly on top of each other; `window` is shown black to white.
    """
    size, columns = layout.size, len(layout.cuts[0])
    cell = max(size[IN_PLANE[axis][0]] for axis in AXES) + _GAP
    parts, y = [], _GAP
    for axis in AXES:
        right, up = IN_PLANE[axis]
        for column, position in enumerate(layout.cuts[axis]):
            x = _GAP + column * cell + (cell - _GAP - size[right]) / 2
            inner = tile(volume, layout, axis, position, window)
            if mask is not None:
                inner += outline(mask, layout, axis, position, colour)
            parts.append(nested(x, y, size[right], size[up], inner))
            parts.append(_labels(layout, axis, column, x, y))
        y += size[up] + _GAP
    width = _GAP + columns * cell
    return svg.document(width, y, "".join(parts), title=title, style=STYLE)


def nested(
    x: float, y: float, width: float, height: float, inner: str, *, zoom: float = 1.0
) -> str:
    """Place a drawing in millimetres at ``(x, y)``, clipped and enlarged."""
    w, h = svg.number(width), svg.number(height)
    size = f'width="{svg.number(width * zoom)}" height="{svg.number(height * zoom)}"'
    return (
        f'<svg x="{svg.number(x)}" y="{svg.number(y)}" {size} viewBox="0 0 {w} {h}" '
        f'overflow="hidden">{inner}</svg>'
    )


def tile(
    volume: Volume,
    layout: Layout,
    axis: int,
    position: float,
    window: tuple[float, float],
    *,
    rendering: str = "auto",
) -> str:
    """Draw one slice in the layout's box: voxels as they are, stretched to millimetres."""
    right, up = IN_PLANE[axis]
    plane = volume.slice(axis, position)
    ranges, box = [], []
    for side, count in zip((right, up), plane.shape, strict=True):
        edges = (np.array([layout.low[side], layout.high[side]]) - volume.low[side]) / (
            volume.spacing[side]
        )
        first = int(np.clip(np.floor(edges[0] + 1e-6), 0, count))
        last = int(np.clip(np.ceil(edges[1] - 1e-6), 0, count))
        ranges.append(slice(first, last))
        box.append(volume.low[side] + np.array([first, last]) * volume.spacing[side])
    part = plane[ranges[0], ranges[1]]
    if part.size == 0:
        return ""
    low, high = window
    grey = np.clip((part - low) / max(high - low, 1e-12), 0, 1)
    x, y = box[0][0] - layout.low[right], layout.high[up] - box[1][1]
    looks = f'preserveAspectRatio="none" style="image-rendering:{rendering}" '
    uri = svg.png_uri(svg.grey_levels(grey))
    return svg.image(uri, x, y, float(np.ptp(box[0])), float(np.ptp(box[1])), looks)


def outline(mask: Volume, layout: Layout, axis: int, position: float, colour: str) -> str:
    """Draw the border of a mask in one slice."""
    from contourpy import contour_generator

    right, up = IN_PLANE[axis]
    plane = np.pad((mask.slice(axis, position) > 0).astype(float), 1)
    coordinates = [
        mask.origin[side] + mask.spacing[side] * np.arange(-1, count - 1)
        for side, count in zip((right, up), plane.shape, strict=True)
    ]
    lines = contour_generator(
        x=coordinates[0] - layout.low[right], y=layout.high[up] - coordinates[1], z=plane.T
    ).lines(0.5)
    data = svg.path_of(np.asarray(line) for line in lines)
    return f'<path d="{data}" stroke="{colour}"/>' if data else ""


def _labels(layout: Layout, axis: int, column: int, x: float, y: float) -> str:
    right, up = IN_PLANE[axis]
    width, height = layout.size[right], layout.size[up]
    position = f"{_AXIS_NAMES[axis]} {round(layout.cuts[axis][column]):+d}"
    parts = svg.text(x + 2, y + height - 3, position, css="pos")
    if column == 0:
        left, opposite = _SIDES[axis]
        parts += svg.text(x + 2, y + height / 2, left)
        parts += svg.text(x + width - 2, y + height / 2, opposite, anchor="end")
    return parts
