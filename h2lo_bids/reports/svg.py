"""Small pieces of SVG: pictures that need no renderer and have the same bytes every time."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape

import numpy as np
import numpy.typing as npt

MAX_PIXELS = 256
"""Longest side of one embedded slice; keeps the page under its weight."""


def document(width: float, height: float, body: str, *, title: str, style: str = "") -> str:
    """Wrap drawing commands into a standalone SVG file.

    Parameters
    ----------
    width, height : float
        Of the drawing, in its own units.
    body : str
        Already escaped SVG.
    title : str
        Plain text, for screen readers.
    style : str, optional
        CSS.
    """
    css = f"<style>{style}</style>" if style else ""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" '
        f'viewBox="0 0 {number(width)} {number(height)}" '
        f'width="{number(width)}" height="{number(height)}">'
        f"<title>{escape(title)}</title>{css}{body}</svg>\n"
    )


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


def png_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """Encode a grey image, rows from top to bottom, as a data URI.

    Images with a side above ``MAX_PIXELS`` are averaged down to it.
    """
    from PIL import Image

    picture = Image.fromarray(pixels)
    scale = MAX_PIXELS / max(picture.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def path_of(lines: Iterable[npt.NDArray[np.float64]]) -> str:
    """Join polylines, (N, 2) each, into the data of one SVG path."""
    return "".join(
        "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) for line in lines if len(line) > 1
    )
