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

    def slice(self, axis: int, position: float) -> npt.NDArray[np.float32]:
        """Cut across an axis, (right, up), where a position is, or as near as can be."""
        nearest = round((position - self.origin[axis]) / self.spacing[axis])
        index = int(np.clip(nearest, 0, self.data.shape[axis] - 1))
        # np.take would copy all of an image whose axes were turned.
        return np.moveaxis(self.data, axis, 0)[index].copy()


def volume_of(image: nib.Nifti1Image, like: nib.Nifti1Image | None = None) -> Volume:
    """Bring an image of any orientation to axes that run right, front and up.

    With `like`, positions are along that image's axes, so that both share one frame; an image
    that is tilted against it is interpolated onto its grid.
    """
    import nibabel as nib

    canonical = nib.as_closest_canonical(image)
    frame = canonical if like is None else nib.as_closest_canonical(like)
    linear = np.asarray(frame.affine, dtype=np.float64)[:3, :3]
    local = np.linalg.inv(linear / np.linalg.norm(linear, axis=0)) @ canonical.affine[:3]
    spacing = np.diag(local[:, :3])
    tilt = np.abs(local[:, :3] - np.diag(spacing)) / np.abs(spacing)
    if like is not None and tilt.max() > _PARALLEL:
        return volume_of(resample(canonical, frame.shape[:3], frame.affine, order=1))
    data = np.asarray(canonical.dataobj, dtype=np.float32)
    return Volume(np.nan_to_num(data), local[:, 3].copy(), spacing.copy())


def extent(mask: Volume) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the bounds of what is not zero, in mm; of the whole image when all is zero."""
    inside = mask.data > 0
    if not inside.any():
        return mask.low, mask.high
    box = bounding_box(inside)
    low, high = (np.array([getattr(s, end) for s in box]) for end in ("start", "stop"))
    return mask.low + low * mask.spacing, mask.low + high * mask.spacing


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
    cuts = low + np.linspace(0.14, 0.86, columns)[:, None] * (high - low)
    within = np.maximum(low - margin, mask.low), np.minimum(high + margin, mask.high)
    return Layout(*within, tuple(map(tuple, cuts.T.tolist())))


def mosaic(
    volume: Volume,
    layout: Layout,
    window: tuple[float, float],
    *,
    title: str,
    mask: Volume | None = None,
) -> str:
    """Draw a mosaic as a standalone SVG, one unit is 1 mm, with the outline of `mask`.

    Pictures of one layout lie exactly on top of each other; `window` is shown black to white.
    """
    size, columns = layout.size, len(layout.cuts[0])
    cell = max(size[IN_PLANE[axis][0]] for axis in AXES) + _GAP
    parts, y = [], _GAP
    for axis in AXES:
        wide, tall = size[list(IN_PLANE[axis])]
        for column, position in enumerate(layout.cuts[axis]):
            x = _GAP + column * cell + (cell - _GAP - wide) / 2
            inner = tile(volume, layout, axis, position, window)
            if mask is not None:
                inner += _outline(mask, layout, axis, position)
            parts.append(nested(x, y, wide, tall, inner))
            label = f"{_AXIS_NAMES[axis]} {round(position):+d}"
            parts.append(svg.text(x + 2, y + tall - 3, label, css="pos"))
            if column == 0:
                left, opposite = _SIDES[axis]
                parts.append(svg.text(x + 2, y + tall / 2, left))
                parts.append(svg.text(x + wide - 2, y + tall / 2, opposite, anchor="end"))
        y += tall + _GAP
    return svg.document(_GAP + columns * cell, y, "".join(parts), title=title, style=STYLE)


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
    sides = list(IN_PLANE[axis])
    low, step = volume.low[sides], volume.spacing[sides]
    plane = volume.slice(axis, position)
    first = np.clip(np.floor((layout.low[sides] - low) / step + 1e-6), 0, plane.shape).astype(int)
    last = np.clip(np.ceil((layout.high[sides] - low) / step - 1e-6), 0, plane.shape).astype(int)
    part = plane[first[0] : last[0], first[1] : last[1]]
    if part.size == 0:
        return ""
    black, white = window
    grey = (part - black) / max(white - black, 1e-12)
    left, top = (low + first * step)[0], (low + last * step)[1]
    x, y = left - layout.low[sides[0]], layout.high[sides[1]] - top
    looks = f'preserveAspectRatio="none" style="image-rendering:{rendering}" '
    uri = svg.picture_uri(svg.grey_levels(grey))
    width, height = (last - first) * step
    return svg.image(uri, x, y, width, height, looks)


def _outline(mask: Volume, layout: Layout, axis: int, position: float) -> str:
    """Draw the border of a mask in one slice."""
    from contourpy import contour_generator

    right, up = IN_PLANE[axis]
    plane = np.pad((mask.slice(axis, position) > 0).astype(float), 1)
    x, y = (
        mask.origin[side] + mask.spacing[side] * np.arange(-1, count - 1)
        for side, count in zip((right, up), plane.shape, strict=True)
    )
    generator = contour_generator(x=x - layout.low[right], y=layout.high[up] - y, z=plane.T)
    data = svg.path_of(np.asarray(line) for line in generator.lines(0.5))
    return f'<path d="{data}" stroke="#ff9d2e"/>' if data else ""
