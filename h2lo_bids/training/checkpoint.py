"""Checkpoints of a fit: written whole, and read without running code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from h2lo_bids.errors import BadDataError, InputOutputError

FORMAT = "h2lo-bids fit 2"
LAST, PREVIOUS = "last.pt", "previous.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a fit; the checkpoint before it is kept.

    Parameters
    ----------
    folder
        The fit's work folder; it must exist.
    state
        Tensors and plain values only, so that `torch.load` needs no unpickling.

    Raises
    ------
    InputOutputError
        If the file cannot be written; the older checkpoints stay as they are.
    """
    partial = folder / f".{LAST}.{os.getpid()}"
    try:
        with partial.open("wb") as stream:
            torch.save({"format": FORMAT, **state}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        if (folder / LAST).exists():
            # A link first: at no moment is there no checkpoint at all.
            spare = folder / f".{PREVIOUS}.{os.getpid()}"
            spare.unlink(missing_ok=True)
            os.link(folder / LAST, spare)
            spare.replace(folder / PREVIOUS)
        partial.replace(folder / LAST)
    except (OSError, RuntimeError) as err:
        # torch reports a full disk as a RuntimeError.
        partial.unlink(missing_ok=True)
        raise InputOutputError(f"{folder / LAST}: cannot write the checkpoint: {err}") from err


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read the newest checkpoint that is whole, or None if there is none.

    Raises
    ------
    BadDataError
        If there are checkpoints and none can be read.
    """
    found = [folder / name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    for path in found:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # noqa: S112  (a damaged file raises any of a dozen types)
            continue
        if isinstance(state, dict) and state.get("format") == FORMAT:
            return state
    if found:
        raise BadDataError(
            f"{found[0]}: damaged or not a checkpoint of a fit; remove {folder} to start anew"
        )
    return None
