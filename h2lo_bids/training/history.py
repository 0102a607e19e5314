"""The log of a fit: one CSV row per step."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from h2lo_bids.errors import InputOutputError
from h2lo_bids.io import atomic_write_text


@dataclass(frozen=True)
class Row:
    """What one step did.

    Parameters
    ----------
    step
        Counted from 1.
    rate
        Learning rate.
    loss, l1, gradient
        The sum and its two terms, the second before its weight.
    psnr
        Validation PSNR in dB, where there was a validation.
    seconds
        Time since the start of the fit, pauses not counted.
    """

    step: int
    rate: float
    loss: float
    l1: float
    gradient: float
    psnr: float | None = None
    seconds: float = 0.0

    def with_psnr(self, psnr: float | None) -> Row:
        """Return a copy that carries a validation."""
        return replace(self, psnr=psnr)

    def with_seconds(self, seconds: float) -> Row:
        """Return a copy that carries the time."""
        return replace(self, seconds=round(seconds, 3))

    def figures(self) -> dict[str, float]:
        """Return the row's figures by name, those that it has."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v for k, v in values.items() if k != "step" and v is not None}

    def describe(self) -> str:
        """Return the row for a person."""
        psnr = "" if self.psnr is None else f", validation PSNR {self.psnr:.2f} dB"
        return f"loss {self.loss:.4f} (L1 {self.l1:.4f}, gradient {self.gradient:.5f}){psnr}"


COLUMNS = tuple(f.name for f in fields(Row))
_STEP = re.compile(r"[0-9]{1,12}")


class History:
    """Appends rows to a CSV file; rows after the resumed step are dropped first.

    Parameters
    ----------
    path
        The file.
    step
        Steps done before; with 0 the file is begun anew.
    columns
        Names of the columns, the step first.
    """

    def __init__(self, path: Path, step: int, columns: Sequence[str] = COLUMNS) -> None:
        self.path, self._columns = path, tuple(columns)
        self._rows: list[Mapping[str, Any]] = []
        kept: list[list[str]] = []
        if step and path.exists():
            kept = _rows_until(path, step, len(self._columns))
        text = io.StringIO(newline="")
        csv.writer(text).writerows([self._columns, *kept])
        atomic_write_text(path, text.getvalue())

    def add(self, row: Row | Mapping[str, Any]) -> None:
        """Remember a row until `flush`; what it lacks, or has as None, stays empty."""
        self._rows.append(asdict(row) if isinstance(row, Row) else row)

    def flush(self) -> None:
        """Append the remembered rows, or raise `InputOutputError`."""
        values = [
            ["" if (v := row.get(name)) is None else v for name in self._columns]
            for row in self._rows
        ]
        try:
            with self.path.open("a", newline="") as stream:
                csv.writer(stream).writerows(values)
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
