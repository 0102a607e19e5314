"""Charts of the reports: a point per subject, curves of a fit, bands and histograms.

They are drawn by Matplotlib, have the same bytes for the same data, and take
their colours from the page around them.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from h2lo_bids.evaluation.catalogue import OWN, STRANGER
from h2lo_bids.evaluation.realism import HALF_PITCH_MM
from h2lo_bids.evaluation.scores import IDENTITY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from h2lo_bids.reports.group_data import Run

_POINTS = 160
_COLOURS = 8  # ``m0`` and on of the style sheet; further methods start anew
# The style sheets' names for colours, and what they are on a light page.
_LIGHT = {
    "text": "#1d2733", "dim": "#53606e", "line": "#d4dae1", "wire": "#8a96a3",
    "hf": "#1b62b5", "lf": "#b5500b", "m0": "#0b7a6f", "m1": "#7a3fb5", "m2": "#b5246b",
    "m3": "#667300", "m4": "#7d4a17", "m5": "#475569", "m6": "#b3261e", "m7": "#0369a1",
}  # fmt: skip
_PAINTS = ("fill", "stroke")
# On a dark page, for a drawing that stands alone.
_DARK = {"text": "#c9d3dd", "dim": "#8a96a3", "line": "#36404a", "hf": "#6db1ff", "lf": "#ffa55c"}
_RULES = (f'[{s}="{_LIGHT[n]}"]{{{s}:{dark}}}' for n, dark in _DARK.items() for s in _PAINTS)
_ALONE = (
    ".plot{font:13px 'Helvetica Neue',Arial,sans-serif;stroke-linejoin:round}"
    f"@media(prefers-color-scheme:dark){{{''.join(_RULES)}}}"
)
_DASHES = (0, (6, 4))

Array = npt.NDArray[np.float64]
Curves = Sequence[tuple[str, str, Array]]
"""The class of a colour, a title, and points (N, 2), or the shares of a histogram (N,)."""

_SETTINGS: dict[Any, Any] = {
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), _LIGHT["text"]
    ),
    **dict.fromkeys(
        ("axes.spines.left", "axes.spines.right", "axes.spines.top", "xtick.bottom", "ytick.left"),
        False,
    ),
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.size": 12,
    "axes.edgecolor": _LIGHT["dim"],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _LIGHT["line"],
    "lines.linewidth": 1.8,
}


@contextmanager
def _style() -> Iterator[None]:
    """Draw alike whatever Matplotlib's settings are on this machine."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def _axes(width: float, height: float, left: float, bottom: float) -> Axes:
    """Return the axes of a new chart; sizes and margins in pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72, frameon=False)
    sides = (1 - (left + 16) / width, 1 - (bottom + 10) / height)
    axes = figure.add_axes((left / width, bottom / height, *sides))
    axes.patch.set_visible(False)
    return axes


def _plain(text: str) -> str:
    """Drop what XML cannot hold."""
    return "".join(letter for letter in text if letter.isprintable())


def _svg(axes: Axes, label: str, *, alone: bool = False) -> Markup:
    """Write a chart without styles, which the page refuses; an id becomes a class and a title."""
    import matplotlib

    figure = axes.figure
    for artist in figure.findobj():
        artist.set_clip_on(False)
    buffer = io.StringIO()
    matplotlib.rcParams["svg.hashsalt"] = label
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)  # type: ignore[arg-type,union-attr]
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314 - Matplotlib's
    root.remove(root[0])  # its style sheet
    for element in reversed(list(root.iter())):  # children first
        element.tag = element.tag.rpartition("}")[2]
        if element.tag != "text":
            element.text = None
        element.tail = None
        element.attrib = dict(_attributes(element.attrib))
        kind, _, words = element.get("id", "").partition(" ")
        if words:
            _annotate(element, kind, words)
    box, label = root.attrib["viewBox"], _plain(label)
    root.attrib = {"class": "plot", "viewBox": box, "role": "img", "aria-label": label}
    if alone:
        size = dict(zip(("width", "height"), box.split()[2:], strict=True))
        root.attrib |= {"xmlns": "http://www.w3.org/2000/svg", **size}
        for tag, text in (("style", _ALONE), ("title", label)):
            element = ElementTree.Element(tag)
            element.text = text
            root.insert(0, element)
    drawing = ElementTree.tostring(root, encoding="unicode")
    for name, colour_ in () if alone else _LIGHT.items():
        drawing = drawing.replace(f'"{colour_}"', f'"var(--{name})"')
    return Markup(drawing)  # noqa: S704 - ElementTree escapes


def _attributes(given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Turn styles into attributes, and drop ids that nothing refers to and needless digits."""
    for name, value in given.items():
        name = name.rpartition("}")[2]
        if name == "style":
            for part in value.split("; "):
                key, _, content = part.partition(": ")
                if not key.startswith("font"):
                    yield key, content
        elif name != "id":
            yield name, re.sub(r"\d+\.\d+", lambda m: f"{float(m[0]):.1f}", " ".join(value.split()))
        elif " " in value or re.search(r"[0-9a-f]{10}$", value):
            yield name, value


def _annotate(group: ElementTree.Element, kind: str, words: str) -> None:
    """Give a curve its title and, except in histograms, a wide invisible path to point at."""
    group.attrib = {"class": kind}
    if kind == "subject":
        group.set("data-subject", words.partition(": ")[0])
    title = ElementTree.Element("title")
    title.text = words
    for path in [] if kind == "share" else list(group):
        ElementTree.SubElement(group, "path", {"class": "reach", "d": path.get("d", "")})
    group.insert(0, title)


def colour(method: str, methods: Sequence[str]) -> str:
    """Name the class that gives a method one colour all over the page."""
    if method == IDENTITY:
        return "hf"
    others = [name for name in methods if name != IDENTITY]
    return f"m{others.index(method) % _COLOURS}"


@_style()
def strip_plot(
    subjects: Mapping[str, Mapping[str, float]], titles: Mapping[str, str], *, label: str
) -> Markup:
    """Draw one metric: a column per method, a point per subject, their mean as a bar."""
    axes = _axes(330, 232, 52, 52)
    axes.margins(y=0.06)
    names = list(titles)
    _name_columns(axes, [_plain(title) for title in titles.values()])
    for subject, values in subjects.items():
        figures = ", ".join(f"{titles[n]} {values[n]:.4g}" for n in names if n in values)
        places = [(n, values[name]) for n, name in enumerate(names) if name in values]
        _curve(axes, "subject", f"{subject}: {figures}", np.array(places).reshape(-1, 2),
               color=_LIGHT["wire"], linewidth=0.9, alpha=0.55)  # fmt: skip
    for n, name in enumerate(names):
        kept = [v[name] for v in subjects.values() if math.isfinite(v.get(name, math.nan))]
        if kept:
            looks: dict[str, Any] = {"color": _LIGHT[colour(name, names)], "zorder": 3}
            axes.scatter([n] * len(kept), kept, 42, alpha=0.75, linewidths=0, **looks)
            axes.hlines(float(np.mean(kept)), n - 0.3, n + 0.3, linewidth=3.5, **looks)
    return _svg(axes, label)


def _name_columns(axes: Axes, titles: Sequence[str]) -> None:
    """Write the methods below their columns, all slanted where one is too long."""
    aslant = max(map(len, titles)) > 48 / len(titles)
    cut = [t if len(t) <= 15 else t[:14] + "\N{HORIZONTAL ELLIPSIS}" for t in titles]
    axes.set_xlim(-0.5, len(titles) - 0.5)
    axes.set_xticks(
        range(len(titles)), cut, rotation=28 if aslant else 0, rotation_mode="anchor",
        ha="right" if aslant else "center",
    )  # fmt: skip
    axes.locator_params(axis="y", nbins=5)
    axes.yaxis.set_major_formatter("{x:g}")


def _curve(axes: Axes, kind: str, words: str, points: Array, **looks: Any) -> None:
    """Draw the finite points of a curve, (N, 2), titled by ``words``."""
    x, y = points[np.isfinite(points).all(axis=1)].T
    axes.plot(x, y, gid=f"{kind} {_plain(words)}", **looks)


CURVES = {
    "psnr": "Validation PSNR (dB)",
    "l1": "L1 term of the loss",
    "gradient": "Gradient term, before its weight",
}
"""Columns of a fit's log that are drawn; losses on a logarithmic scale."""


@_style()
def training_curves(runs: Sequence[Run], titles: Mapping[str, str], column: str) -> Markup | None:
    """Draw one of `CURVES` of all folds, the chosen step marked; None when no log has it."""
    validated = column == "psnr"
    lines = [(run, _thinned(run.history["step"], run.history[column])) for run in runs]
    lines = [(run, line if validated else line[line[:, 1] > 0]) for run, line in lines]
    lines = [(run, line) for run, line in lines if len(line)]
    if not lines:
        return None
    axes = _axes(430, 262, 58, 48)
    for run, line in lines:
        shade = _LIGHT[colour(run.method, tuple(titles))]
        end = f"{run.name}: {line[-1, 1]:.4g} at step {line[-1, 0]:.0f}"
        _curve(axes, "run", end, line, color=shade)
        if validated and {"best_step", "best_psnr"} <= run.record.keys():
            best = run.record["best_step"], run.record["best_psnr"]
            axes.scatter(*best, 42, color=shade, linewidths=0, zorder=3)
    known = [run for run in runs if validated and "identity_psnr" in run.record]
    if levels := {run.fold: run.record["identity_psnr"] for run in known}:
        level = float(np.mean([*levels.values()]))
        axes.axhline(level, color=_LIGHT["hf"], linewidth=1.5, linestyle=_DASHES)
        axes.annotate(f"{titles[IDENTITY]} {level:.2f}", (1, level), (0, 5), ha="right",
                      color=_LIGHT["dim"], xycoords=("axes fraction", "data"),
                      textcoords="offset points")  # fmt: skip
    _number_steps(axes, max(float(line[-1, 0]) for _, line in lines), log=not validated)
    return _svg(axes, f"{CURVES[column]} against step, {len(lines)} fits")


def _number_steps(axes: Axes, last: float, *, log: bool) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set(xlabel="step", xlim=(0, last or 1), yscale="log" if log else "linear")
    low, high = axes.get_ylim()
    # A scale of less than a decade may hold none of 1, 2 and 5.
    wide = log and high / low > 10
    locator = LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(5, steps=(1, 2, 2.5, 5, 10))
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(4))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")


def _thinned(steps: Array, values: Array) -> Array:
    parts = np.array_split(np.column_stack([steps, values])[np.isfinite(values)], _POINTS)
    return np.array([part.mean(axis=0) for part in parts if len(part)]).reshape(-1, 2)


@_style()
def bands(lines: Sequence[tuple[str, str, Mapping[str, float]]], *, label: str) -> Markup | None:
    """Draw the correlation with high-field images by band; that of another subject is dashed."""
    axes = _axes(430, 262, 46, 48)
    for css, title, values in lines:
        for who, style, columns in (("own", "solid", OWN), ("stranger", _DASHES, STRANGER)):
            points = np.array([(n, values[key]) for n, key in enumerate(columns)])
            kept = points[np.isfinite(points[:, 1])]
            if len(kept) > 1:
                figures = "; ".join(f"{HALF_PITCH_MM[int(n)][1]:g} mm {y:.2f}" for n, y in kept)
                _curve(axes, "run", f"{title}, {who}: {figures}", kept, color=_LIGHT[css],
                       linestyle=style)  # fmt: skip
    if not axes.lines:
        return None
    low, high = axes.get_ylim()
    axes.set(xlabel="half-pitch (mm), coarse to fine", ylim=(min(low, -0.06), max(high, 1.06)))
    names = [f"{coarse:g}\N{EN DASH}{fine:g}" for coarse, fine in HALF_PITCH_MM]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(0, len(names) - 1)
    return _svg(axes, label)


@_style()
def probabilities(curves: Curves, *, label: str) -> str | None:
    """Draw the probability of seeing a lesion against its diameter."""
    if not curves:
        return None
    axes = _axes(430, 262, 46, 48)
    for css, title, points in curves:
        _curve(axes, "run", title, points, color=_LIGHT[css])
    axes.axhline(0.8, color=_LIGHT["dim"], linewidth=1, linestyle=_DASHES)
    axes.set(xlabel="diameter of the lesion (mm)", ylim=(0, 1.02), xlim=(2, 20))
    return _svg(axes, label)


@_style()
def intervals(
    rows: Sequence[tuple[str, str, tuple[float, float, float]]], *, label: str
) -> str | None:
    """Draw values with their intervals, one column each: class, title, (value, low, high)."""
    if not rows:
        return None
    axes = _axes(430, 262, 52, 62)
    _name_columns(axes, [_plain(title) for _, title, _ in rows])
    for n, (css, _, (value, low, high)) in enumerate(rows):
        axes.vlines(n, low, high, color=_LIGHT[css], linewidth=2)
        axes.scatter(n, value, 42, color=_LIGHT[css], linewidths=0, zorder=3)
    axes.axhline(0.5, color=_LIGHT["dim"], linewidth=1, linestyle=_DASHES)
    lowest = [low for _, _, (_, low, _) in rows]
    axes.set_ylim(np.nanmin([0.4, *lowest]), 1.02)
    return _svg(axes, label)


@_style()
def histograms(curves: Curves, *, label: str, alone: bool = False) -> Markup:
    """Draw distributions over [0, 1]; `alone` as a file with a legend."""
    axes = _axes(760, 300, 14, 46)
    axes.grid(visible=False)
    axes.grid(axis="x")
    # Air and clipping leave spikes at both ends that must not flatten everything else.
    tops = [float(np.nanmax(share[2:-2], initial=0.0)) for _, _, share in curves]
    top = max([*tops, 0.0]) * 1.08 or 1.0
    for css, title, share in curves:
        centres = (np.arange(len(share)) + 0.5) / len(share)
        heights = np.minimum(share, top)
        if css in ("hf", "lf"):
            x, y = np.r_[centres[0], centres, centres[-1]], np.r_[0, heights, 0]
            axes.fill(x, y, color=_LIGHT[css], alpha=0.14, linewidth=0)
        points = np.column_stack([centres, heights])
        _curve(axes, "share", title, points, color=_LIGHT[css], label=_plain(title))
    axes.set(xlim=(0, 1), ylim=(0, top), yticks=[])
    inside = "inside the brain" if alone else "of foreground voxels"
    axes.set_xlabel(f"normalised intensity {inside} (height: share of voxels)")
    axes.xaxis.set_major_formatter("{x:g}")
    if alone:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(curves), frameon=False,
                    borderaxespad=0, labelcolor="linecolor")  # fmt: skip
        axes.set_position((0.02, 0.16, 0.96, 0.73))
    return _svg(axes, label, alone=alone)
