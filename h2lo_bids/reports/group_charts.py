"""Charts of the group report: a point per subject, curves of a fit, histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from h2lo_bids.evaluation.columns import OWN, STRANGER
from h2lo_bids.evaluation.realism import HALF_PITCH_MM
from h2lo_bids.evaluation.scores import IDENTITY
from h2lo_bids.reports import svg
from h2lo_bids.reports.group_data import Run
from h2lo_bids.reports.plot import Axes, figure, rule, span, ticks

COLOURS = 8
"""Classes ``m0`` and on of the style sheet; further methods start anew."""

_POINTS = 160
_STRIP = (330.0, 232.0)
_CURVE = (430.0, 262.0)
_HISTOGRAM = (760.0, 300.0)


def colour(method: str, methods: Sequence[str]) -> str:
    """Name the class that gives a method one colour all over the page."""
    if method == IDENTITY:
        return "hf"
    others = [name for name in methods if name != IDENTITY]
    return f"m{others.index(method) % COLOURS}"


def strip_plot(
    subjects: Mapping[str, Mapping[str, float]], titles: Mapping[str, str], *, label: str
) -> str:
    """Draw one metric: a column per method, a point per subject, their mean as a bar.

    Parameters
    ----------
    subjects : mapping
        Of each subject, the value by method; a line joins its points.
    titles : mapping
        Methods in their order, and what is written below them.
    label : str
        For screen readers.
    """
    width, height = _STRIP
    names = list(titles)
    everything = [value for values in subjects.values() for value in values.values()]
    axes = Axes(52, 10, width - 62, height - 62, (-0.5, len(names) - 0.5), span(everything))
    parts = [axes.horizontal()]
    parts += _column_names(axes, [titles[name] for name in names])
    for subject, values in subjects.items():
        places = [
            (axes.across(column), axes.up(values[name]), colour(name, names))
            for column, name in enumerate(names)
            if math.isfinite(values.get(name, math.nan))
        ]
        told = ", ".join(f"{titles[n]} {values[n]:.4g}" for n in names if n in values)
        line = svg.path_of([np.array([[x, y] for x, y, _ in places]).reshape(-1, 2)])
        dots = "".join(
            f'<circle class="{css}" cx="{svg.number(x)}" cy="{svg.number(y)}" r="3.4"/>'
            for x, y, css in places
        )
        parts.append(
            f'<g class="subject" data-subject="{escape(subject)}">'
            f"<title>{escape(f'{subject}: {told}')}</title>"
            f'<path class="wire" d="{line}"/><path class="reach" d="{line}"/>{dots}</g>'
        )
    for column, name in enumerate(names):
        kept = [v[name] for v in subjects.values() if math.isfinite(v.get(name, math.nan))]
        if kept:
            y, x = axes.up(float(np.mean(kept))), axes.across(column)
            reach = min(0.3 * axes.width / len(names), 22)
            parts.append(rule(f"mean {colour(name, names)}", x - reach, y, x + reach, y))
    return figure(width, height, "".join(parts), label=label)


def _column_names(axes: Axes, titles: Sequence[str]) -> list[str]:
    """Write the methods below their columns in two lines, or all aslant where one is too long."""
    room, y = int(axes.width / len(titles) / 5.6), axes.top + axes.height + 16
    halves = [(t, "") if len(t) <= room else t.partition(" ")[::2] for t in titles]
    places = [axes.across(column) for column in range(len(titles))]
    if max(len(half) for pair in halves for half in pair) <= room:
        return [
            svg.text(x, y + 14 * line, half, anchor="middle")
            for x, pair in zip(places, halves, strict=True)
            for line, half in enumerate(pair)
            if half
        ]
    cut = [t if len(t) <= 15 else t[:14] + "\N{HORIZONTAL ELLIPSIS}" for t in titles]
    return [
        f'<g transform="rotate(-28 {svg.number(x)} {svg.number(y)})">'
        + svg.text(x + 5, y - 3, title, anchor="end")
        + "</g>"
        for x, title in zip(places, cut, strict=True)
    ]


@dataclass(frozen=True)
class Curve:
    """A quantity of a fit against its steps."""

    column: str
    title: str
    log: bool
    identity: bool = False


CURVES = (
    Curve("psnr", "Validation PSNR (dB)", log=False, identity=True),
    Curve("l1", "L1 term of the loss", log=True),
    Curve("gradient", "Gradient term, before its weight", log=True),
)


def training_curves(runs: Sequence[Run], methods: Sequence[str], curve: Curve) -> str | None:
    """Draw one quantity of all folds; None when no log has it.

    A fold's thousands of steps are averaged down to what the eye can see; the
    chosen step is marked where the quantity was validated.
    """
    lines = [(run, _thinned(run.history["step"], run.history[curve.column])) for run in runs]
    lines = [(run, line) for run, line in lines if len(line)]
    if curve.log:
        lines = [(run, line[line[:, 1] > 0]) for run, line in lines if (line[:, 1] > 0).any()]
    if not lines:
        return None
    level = _identity_level(runs) if curve.identity else None
    values = [v for _, line in lines for v in line[:, 1]] + ([level] if level else [])
    low, high = _log_span(values) if curve.log else span(values)
    last = max(float(line[-1, 0]) for _, line in lines)
    width, height = _CURVE
    axes = Axes(58, 10, width - 74, height - 58, (0, last), (low, high), curve.log)
    parts = [axes.horizontal(across=ticks(0, last, 4), name="step")]
    for run, line in lines:
        css = colour(run.method, methods)
        end = f"{run.name}: {line[-1, 1]:.4g} at step {line[-1, 0]:.0f}"
        data = axes.line(line)
        dot = _best(axes, run, line, css) if curve.identity else ""
        parts.append(
            f'<g class="run"><title>{escape(end)}</title><path class="line {css}" d="{data}"/>'
            f'<path class="reach" d="{data}"/>{dot}</g>'
        )
    if level is not None:
        y = axes.up(level)
        parts.append(rule("level hf", axes.left, y, axes.left + axes.width, y))
        name = f"HF image {level:.2f}"
        parts.append(svg.text(axes.left + axes.width, y - 5, name, css="note", anchor="end"))
    label = f"{curve.title} against step, {len(lines)} fits"
    return figure(width, height, "".join(parts), label=label)


def _thinned(
    steps: npt.NDArray[np.float64], values: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    kept = np.isfinite(values)
    points = np.column_stack([steps[kept], values[kept]])
    if len(points) <= _POINTS:
        return points
    return np.array([part.mean(axis=0) for part in np.array_split(points, _POINTS)])


def _identity_level(runs: Sequence[Run]) -> float | None:
    told = {
        run.fold: float(value)
        for run in runs
        if isinstance(value := run.record.get("identity_psnr"), int | float)
        and math.isfinite(value)
    }
    return float(np.mean(list(told.values()))) if told else None


def _log_span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low / 1.15, high * 1.15) if high > low else (low / 2, high * 2)


def _best(axes: Axes, run: Run, line: npt.NDArray[np.float64], css: str) -> str:
    step, psnr = (run.record.get(name) for name in ("best_step", "best_psnr"))
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in (step, psnr)):
        return ""
    x, y = axes.across(float(step or 0)), axes.up(float(psnr or 0))
    return f'<circle class="{css}" cx="{svg.number(x)}" cy="{svg.number(y)}" r="3.6"/>'


def bands(lines: Sequence[tuple[str, str, Mapping[str, float]]], *, label: str) -> str | None:
    """Draw the band correlations: with the own high-field image whole, a stranger's broken.

    Parameters
    ----------
    lines : sequence of (class, title, values)
        Values by measure of `h2lo_bids.evaluation.columns.REALISM`.
    label : str
        For screen readers.

    Returns
    -------
    str or None
        None where no image has a value in two bands.
    """
    width, height = _CURVE
    curves = []
    for css, title, values in lines:
        for who, style, columns in (("own", "line", OWN), ("stranger", "level", STRANGER)):
            points = np.array([(n, values[key]) for n, key in enumerate(columns)])
            points = points[np.isfinite(points[:, 1])]
            if len(points) > 1:
                curves.append((f"{style} {css}", f"{title}, {who}", points))
    if not curves:
        return None
    shown = span([0.0, 1.0, *(y for _, _, points in curves for y in points[:, 1])])
    axes = Axes(46, 10, width - 62, height - 58, (0, len(HALF_PITCH_MM) - 1), shown)
    parts = [axes.horizontal(name="half-pitch (mm), coarse to fine")]
    bottom = axes.top + axes.height + 16
    for n, (coarse, fine) in enumerate(HALF_PITCH_MM):
        name = f"{coarse:g}\N{EN DASH}{fine:g}"
        parts.append(svg.text(axes.across(n), bottom, name, anchor="middle"))
    for css, title, points in curves:
        told = "; ".join(f"{HALF_PITCH_MM[int(n)][1]:g} mm {y:.2f}" for n, y in points)
        data = axes.line(points)
        parts.append(
            f'<g class="run"><title>{escape(f"{title}: {told}")}</title>'
            f'<path class="{css}" d="{data}"/><path class="reach" d="{data}"/></g>'
        )
    return figure(width, height, "".join(parts), label=label)


def histograms(curves: Sequence[tuple[str, str, npt.NDArray[np.float64]]], *, label: str) -> str:
    """Draw distributions over [0, 1].

    Parameters
    ----------
    curves : sequence of (class, title, shares)
        Shares of the voxels in equal bins.
    label : str
        For screen readers.
    """
    width, height = _HISTOGRAM
    # Air and clipping leave spikes at both ends that must not flatten everything else.
    tops = [float(np.nanmax(share[2:-2], initial=0.0)) for _, _, share in curves]
    top = max([*tops, 0.0]) * 1.08 or 1.0
    axes = Axes(14, 8, width - 28, height - 54, (0.0, 1.0), (0.0, top))
    bottom, right = axes.top + axes.height, axes.left + axes.width
    parts = []
    for value in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x = axes.across(value)
        parts.append(rule("grid", x, axes.top, x, bottom))
        parts.append(svg.text(x, bottom + 17, f"{value:g}", anchor="middle"))
    parts.append(rule("axis", axes.left, bottom, right, bottom))
    name = "normalised intensity of foreground voxels (height: share of voxels)"
    parts.append(svg.text(axes.left + axes.width / 2, bottom + 37, name, anchor="middle"))
    for css, title, share in curves:
        centres = (np.arange(len(share)) + 0.5) / len(share)
        points = np.column_stack([centres, np.minimum(share, top)])
        data = axes.line(points)
        area = ""
        if css in ("hf", "lf"):
            ends = np.array([[centres[0], 0.0]]), np.array([[centres[-1], 0.0]])
            area = (
                f'<path class="area {css}" d="{axes.line(np.vstack([ends[0], points, ends[1]]))}"/>'
            )
        parts.append(
            f'<g class="run"><title>{escape(title)}</title>{area}'
            f'<path class="line {css}" d="{data}"/></g>'
        )
    return figure(width, height, "".join(parts), label=label)
