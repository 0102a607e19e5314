"""Slices in three orientations, side by side, at their true proportions, as SVG.

Images are seen along their own axes, in millimetres, so that thick slices keep their shape.
Pictures are embedded as data URIs, so that one HTML file is the whole report.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.imaging.resample import resample

if TYPE_CHECKING:
    import nibabel as nib

MAX_PIXELS = 256
"""Longest side of one embedded slice; keeps the page under its weight."""
# What an attribute and a URI both take as it is; the rest is percent-encoded.
_SAFE = "!$()*+,-./:;=?@_~"
_JPEG = {"quality": 80, "subsampling": 0}

IN_PLANE = {0: (1, 2), 1: (0, 2), 2: (0, 1)}
"""Axes drawn to the right and upwards in a slice across each axis."""

AXES = (2, 1, 0)
"""Rows of a mosaic: axial, coronal, sagittal."""

_AXIS_NAMES = "xyz"
_GAP = 4.0
_COLUMNS = 6
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
    """Bring an image to axes that run right, front and up: its own, or those of `like`."""
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
    low, high = np.array([(side.start, side.stop) for side in bounding_box(inside)]).T
    return mask.low + low * mask.spacing, mask.low + high * mask.spacing


@dataclass(frozen=True)
class Layout:
    """Which box of space is drawn, mm, and where it is cut across axes 0, 1 and 2."""

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    cuts: tuple[tuple[float, ...], ...]


def layout_of(mask: Volume, *, margin: float = 4.0) -> Layout:
    """Cut evenly through what the mask covers, sparing its thin ends; `margin` in mm."""
    low, high = extent(mask)
    cuts = low + np.linspace(0.14, 0.86, _COLUMNS)[:, None] * (high - low)
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
    """Draw a mosaic as a standalone SVG, one unit is 1 mm, with the outline of `mask`."""
    size, columns = layout.high - layout.low, max(map(len, layout.cuts))
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
            parts.append(text(x + 2, y + tall - 3, label, css="pos"))
            if column == 0:
                parts.append(sides(axis, x, y, wide, tall))
        y += tall + _GAP
    return document(_GAP + columns * cell, y, "".join(parts), title=title, style=STYLE)


def sides(axis: int, x: float, y: float, wide: float, tall: float, *, css: str = "") -> str:
    """Write the letters of a slice across an axis at its left and right border."""
    (left, right), middle = "PA" if axis == 0 else "LR", y + tall / 2
    return text(x + 2, middle, left, css=css) + text(
        x + wide - 2, middle, right, css=css, anchor="end"
    )


def nested(
    x: float, y: float, width: float, height: float, inner: str, *, zoom: float = 1.0
) -> str:
    """Place a drawing in millimetres at ``(x, y)``, clipped and enlarged."""
    box = f"0 0 {number(width)} {number(height)}"
    size = {"width": width * zoom, "height": height * zoom}
    return element("svg", inner, x=x, y=y, **size, viewBox=box, overflow="hidden")


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
    width, height = (last - first) * step
    return element(
        "image", x=x, y=y, width=width, height=height, preserveAspectRatio="none",
        style=f"image-rendering:{rendering}", href=picture_uri(grey_levels(grey)),
    )  # fmt: skip


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
    data = path_of(np.asarray(line) for line in generator.lines(0.5))
    return element("path", d=data, stroke="#ff9d2e") if data else ""


def element(tag: str, content: str = "", /, **attributes: str | float) -> str:
    """Write an element of SVG; ``class_`` and ``text_anchor`` become ``class``, ``text-anchor``."""
    words = ""
    for name, value in attributes.items():
        shown = value if isinstance(value, str) else number(value)
        words += f' {name.rstrip("_").replace("_", "-")}="{shown}"'
    return f"<{tag}{words}>{content}</{tag}>" if content else f"<{tag}{words}/>"


def text(x: float, y: float, content: str, *, css: str = "", anchor: str = "start") -> str:
    """Write a line of text; ``content`` is escaped here."""
    return element("text", escape(content), x=x, y=y, class_=css, text_anchor=anchor)


def document(width: float, height: float, body: str, *, title: str, style: str) -> str:
    """Wrap SVG elements into a file on black; `title` is plain text for screen readers."""
    size = {"width": width, "height": height}
    ground = element("rect", **size, fill="#000")
    content = element("title", escape(title)) + element("style", style) + ground + body
    box = f"0 0 {number(width)} {number(height)}"
    space = "http://www.w3.org/2000/svg"
    return element("svg", content, xmlns=space, role="img", viewBox=box, **size) + "\n"


def number(value: float) -> str:
    """Write a coordinate with at most two decimals."""
    return f"{value:z.2f}".rstrip("0").rstrip(".")


def grey_levels(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Turn values, cut to [0, 1], (right, up), into grey levels, rows from top to bottom."""
    levels = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(levels.T[::-1])


def picture_uri(pixels: npt.NDArray[np.uint8], kind: str = "png") -> str:
    """Encode a picture, rows from top to bottom, averaged down to ``MAX_PIXELS`` a side."""
    from PIL import Image, ImageFile

    # Pillow gives up on a JPEG that is larger, as of noise.
    ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, 4 * MAX_PIXELS**2)
    picture = Image.fromarray(pixels)
    picture.thumbnail((MAX_PIXELS, MAX_PIXELS), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=True, **(_JPEG if kind == "jpeg" else {}))
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def data_uri(path: Path, root: Path) -> str | None:
    """Embed an SVG file; None when there is none below `root`."""
    resolved = path.resolve()
    inside = resolved.is_relative_to(root.resolve()) and path.suffix.lower() == ".svg"
    return svg_uri(resolved.read_text("utf-8")) if inside and resolved.is_file() else None


def svg_uri(drawing: str) -> str:
    """Embed an SVG, percent-encoded: base64 would add a third to the pictures inside of it."""
    return "data:image/svg+xml," + quote(drawing.strip(), safe=_SAFE)


def path_of(lines: Iterable[npt.NDArray[np.float64]]) -> str:
    """Join polylines, (N, 2) each, into the data of one SVG path."""
    return "".join(
        "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) for line in lines if len(line) > 1
    )
