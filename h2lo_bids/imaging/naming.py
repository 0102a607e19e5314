"""How an image in memory is called in a message."""

from __future__ import annotations

from typing import Any


def name_of(image: Any) -> str:
    """Return the file an image was read from, or a stand-in.

    Parameters
    ----------
    image
        A nibabel image; `h2lo_bids.imaging.check.load_checked` remembers its file.

    Returns
    -------
    str
        The path, or ``"the image"`` for one made in memory.
    """
    return str(image.get_filename() or "the image")
