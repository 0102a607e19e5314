"""Figures as data URIs, so that one HTML file is the whole report."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import quote

# What an attribute and a URI both take as it is; the rest is percent-encoded.
_SAFE = "!$()*+,-./:;=?@_~"


def data_uri(path: Path, root: Path) -> str | None:
    """Embed a picture.

    SVG is percent-encoded and not put into base64: its own pictures are in
    base64 already, and twice would add a third to the page.

    Parameters
    ----------
    path : Path
        SVG, PNG or WebP.
    root : Path
        The picture must lie below this folder.

    Returns
    -------
    str or None
        None when there is no such picture there.
    """
    resolved = path.resolve()
    if not resolved.is_relative_to(root.resolve()) or not resolved.is_file():
        return None
    content = resolved.read_bytes()
    match path.suffix.lower():
        case ".svg":
            return svg_uri(content.decode("utf-8"))
        case ".png" | ".webp" as suffix:
            encoded = base64.b64encode(content).decode("ascii")
            return f"data:image/{suffix[1:]};base64,{encoded}"
    return None


def svg_uri(drawing: str) -> str:
    """Embed an SVG that is at hand; see :func:`data_uri`."""
    return "data:image/svg+xml," + quote(drawing.strip(), safe=_SAFE)
