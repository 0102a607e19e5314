"""Pieces of SVG, and pictures as data URIs, so that one HTML file is the whole report."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

MAX_PIXELS = 256
"""Longest side of one embedded slice; keeps the page under its weight."""
# What an attribute and a URI both take as it is; the rest is percent-encoded.
_SAFE = "!$()*+,-./:;=?@_~"
_JPEG = {"quality": 80, "subsampling": 0}


def document(width: float, height: float, body: str, *, title: str, style: str) -> str:
    """Wrap SVG elements into a file on black; `title` is plain text for screen readers."""
    size = f'width="{number(width)}" height="{number(height)}"'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" '
        f'viewBox="0 0 {number(width)} {number(height)}" {size}>'
        f"<title>{escape(title)}</title><style>{style}</style>"
        f'<rect {size} fill="#000"/>{body}</svg>\n'
    )


def image(uri: str, x: float, y: float, width: float, height: float, attributes: str = "") -> str:
    """Place a picture."""
    size = f'width="{number(width)}" height="{number(height)}"'
    return f'<image x="{number(x)}" y="{number(y)}" {size} {attributes}href="{uri}"/>'


def grey_levels(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Turn values, cut to [0, 1], (right, up), into grey levels, rows from top to bottom."""
    levels = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(levels.T[::-1])


def number(value: float) -> str:
    """Write a coordinate with at most two decimals."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def text(x: float, y: float, content: str, *, css: str = "", anchor: str = "start") -> str:
    """Write a line of text; ``content`` is escaped here."""
    return (
        f'<text x="{number(x)}" y="{number(y)}" class="{css}" text-anchor="{anchor}">'
        f"{escape(content)}</text>"
    )


def picture_uri(pixels: npt.NDArray[np.uint8], kind: str = "png") -> str:
    """Encode a picture, rows from top to bottom, averaged down to ``MAX_PIXELS`` a side.

    Of a noisy slice a ``"jpeg"`` is a quarter of a ``"png"``.
    """
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((MAX_PIXELS, MAX_PIXELS), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=True, **(_JPEG if kind == "jpeg" else {}))
    return _base64(kind, buffer.getvalue())


def data_uri(path: Path, root: Path) -> str | None:
    """Embed an SVG, PNG or WebP file; None when there is none below `root`."""
    resolved = path.resolve()
    if not resolved.is_relative_to(root.resolve()) or not resolved.is_file():
        return None
    content, kind = resolved.read_bytes(), path.suffix.lower()
    if kind == ".svg":
        return svg_uri(content.decode("utf-8"))
    return _base64(kind[1:], content) if kind in (".png", ".webp") else None


def svg_uri(drawing: str) -> str:
    """Embed an SVG, percent-encoded: base64 would add a third to the pictures inside of it."""
    return "data:image/svg+xml," + quote(drawing.strip(), safe=_SAFE)


def _base64(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")


def path_of(lines: Iterable[npt.NDArray[np.float64]]) -> str:
    """Join polylines, (N, 2) each, into the data of one SVG path."""
    return "".join(
        "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) for line in lines if len(line) > 1
    )
