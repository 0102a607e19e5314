"""What a fit keeps in its work folder: checkpoints, and a CSV row per step."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from h2lo_bids.errors import BadDataError, InputOutputError
from h2lo_bids.io import atomic_write_text

FORMAT = "h2lo-bids fit 3"
LAST, PREVIOUS = "last.pt", "previous.pt"
HISTORY = "history.csv"
_STEP = re.compile(r"[0-9]{1,12}")


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a fit (tensors and plain values); the checkpoint before it is kept."""
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
    """Read the newest checkpoint that is whole, or None if there is none."""
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
            f"{found[0]}: damaged or not a checkpoint of this version; remove {folder} "
            "to start anew"
        )
    return None


class History:
    """Appends rows to a CSV file, whose rows after `step`, the resumed one, are dropped first."""

    def __init__(self, path: Path, step: int, columns: Sequence[str]) -> None:
        self.path, self._columns = path, tuple(columns)
        self._rows: list[Mapping[str, Any]] = []
        kept: list[list[str]] = []
        if step and path.exists():
            kept = _rows_until(path, step, len(self._columns))
        text = io.StringIO(newline="")
        csv.writer(text).writerows([self._columns, *kept])
        atomic_write_text(path, text.getvalue())

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row until `flush`; what it lacks, or has as None, stays empty."""
        self._rows.append(row)

    def flush(self) -> None:
        """Append the kept rows."""
        try:
            with self.path.open("a", newline="") as stream:
                csv.DictWriter(stream, self._columns, restval="").writerows(self._rows)
        except OSError as err:
            raise InputOutputError(f"{self.path}: cannot write: {err.strerror}") from err
        self._rows.clear()


def _rows_until(path: Path, step: int, columns: int) -> list[list[str]]:
    """Read the whole rows of a log up to a step: a crash may have left anything at its end."""
    kept: list[list[str]] = []
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        rows = csv.reader(stream)
        with contextlib.suppress(csv.Error):
            for row in rows:
                if len(row) == columns and _STEP.fullmatch(row[0]) and int(row[0]) <= step:
                    kept.append(row)
    return kept
