"""Axes of a small chart, drawn as SVG that takes its colours from the page around it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from h2lo_bids.reports import svg

Points = npt.NDArray[np.float64]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Give round numbers from ``low`` to ``high``, about ``count`` of them."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    raw = span / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Give 1, 2 and 5 times powers of ten within a range; only powers when there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    few = (1,) if math.log10(high / low) > 2.2 else (1, 2, 5)
    found = [m * 10.0**k for k in powers for m in few if low <= m * 10.0**k <= high]
    return found or [low, high]


def span(values: Iterable[float], *, margin: float = 0.06) -> tuple[float, float]:
    """Bound the finite values with some room; (0, 1) when there are none."""
    array = np.asarray([v for v in values if math.isfinite(v)], np.float64)
    if not array.size:
        return 0.0, 1.0
    low, high = float(array.min()), float(array.max())
    room = (high - low) * margin or abs(high) * 0.05 or 0.5
    return low - room, high + room


@dataclass(frozen=True)
class Axes:
    """A rectangle of the drawing that shows a rectangle of numbers.

    Attributes
    ----------
    left, top, width, height : float
        In units of the drawing.
    x, y : (float, float)
        Ranges shown.
    log : bool
        Whether the vertical axis is logarithmic; its range is positive then.
    """

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False

    def across(self, value: float) -> float:
        """Place a number horizontally."""
        return self.left + (value - self.x[0]) / (self.x[1] - self.x[0] or 1) * self.width

    def up(self, value: float) -> float:
        """Place a number vertically."""
        low, high, value = (math.log(max(v, 1e-300)) if self.log else v for v in (*self.y, value))
        return self.top + self.height * (1 - (value - low) / (high - low or 1))

    def line(self, points: Points) -> str:
        """Give the path data of a curve, (N, 2); what is not finite is left out."""
        kept = points[np.isfinite(points).all(axis=1)]
        return svg.path_of([np.array([[self.across(x), self.up(y)] for x, y in kept])])

    def horizontal(self, *, across: Sequence[float] = (), name: str = "") -> str:
        """Draw grid lines and numbers of the vertical axis, and of ``across`` below."""
        bottom, right = self.top + self.height, self.left + self.width
        parts = []
        for value in decades(*self.y) if self.log else ticks(*self.y):
            y = self.up(value)
            parts.append(rule("grid", self.left, y, right, y))
            parts.append(svg.text(self.left - 6, y + 4, short(value), anchor="end"))
        parts.append(rule("axis", self.left, bottom, right, bottom))
        parts += [svg.text(self.across(v), bottom + 16, short(v), anchor="middle") for v in across]
        if name:
            parts.append(svg.text(self.left + self.width / 2, bottom + 33, name, anchor="middle"))
        return "".join(parts)


def rule(css: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """Draw one straight line."""
    a, b, c, d = (svg.number(v) for v in (x1, y1, x2, y2))
    return f'<line class="{css}" x1="{a}" y1="{b}" x2="{c}" y2="{d}"/>'


def short(value: float) -> str:
    """Write the number of a tick."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("e-", "e\N{MINUS SIGN}")
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def figure(width: float, height: float, body: str, *, label: str) -> str:
    """Wrap a chart for the page; ``label`` is what a screen reader says."""
    from html import escape

    return (
        f'<svg class="plot" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {svg.number(width)} {svg.number(height)}">{body}</svg>'
    )
