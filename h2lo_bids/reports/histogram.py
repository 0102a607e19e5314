"""Distributions of intensity, drawn so that they read in light and in dark."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from h2lo_bids.reports import svg

BINS = 128
_FEW_LEVELS = 1024
_WIDTH, _HEIGHT = 760.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 20.0, 20.0, 34.0, 46.0
_CLASSES = ("hf", "lf")
_STYLE = (
    "text{font:13px 'Helvetica Neue',Arial,sans-serif;fill:#39434d}"
    ".axis{stroke:#8a96a3;fill:none}.grid{stroke:#d5dbe1;fill:none}"
    ".hf{stroke:#1b62b5;fill:#1b62b5}.lf{stroke:#b5500b;fill:#b5500b}"
    "path{stroke-width:2;fill-opacity:.16;stroke-linejoin:round}"
    "text.hf,text.lf{font-weight:600;stroke:none}"
    "@media(prefers-color-scheme:dark){text{fill:#c9d3dd}.grid{stroke:#36404a}"
    ".hf{stroke:#6db1ff;fill:#6db1ff}.lf{stroke:#ffa55c;fill:#ffa55c}}"
)


def densities(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Give the share of ``values`` in each of ``BINS`` equal bins on [0, 1].

    Values outside are not counted, so the shares sum to less than 1 then. An
    image of few grey levels would leave some bins with one level and others
    with two: such levels are spread evenly over their distance.
    """
    counts, _ = np.histogram(_spread(values), bins=BINS, range=(0.0, 1.0))
    return counts / max(values.size, 1)


def _spread(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    levels = np.unique(values)
    if not 1 < levels.size <= _FEW_LEVELS:
        return values
    # Multiples of the golden ratio fill an interval evenly, without a generator.
    even = (np.arange(values.size) * 0.6180339887498949) % 1 - 0.5
    spread = np.clip(values + even * float(np.diff(levels).min()), 0.0, 1.0)
    return np.where((values >= 0) & (values <= 1), spread, values)


def histogram(curves: dict[str, npt.NDArray[np.floating]], *, title: str) -> str:
    """Draw two distributions over [0, 1] as a standalone SVG.

    Parameters
    ----------
    curves : dict
        Label and values; the first is the high field, the second the low field.
    title : str
        Plain text for screen readers.
    """
    shares = {label: densities(values) for label, values in curves.items()}
    # The spike of zeros that clipping may leave must not flatten everything else.
    top = max(float(share[1:-1].max()) for share in shares.values()) * 1.08 or 1.0
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    parts = [_axis(width, height)]
    centres = _LEFT + (np.arange(BINS) + 0.5) / BINS * width
    for css, share in zip(_CLASSES, shares.values(), strict=False):
        heights = _TOP + height * (1 - np.minimum(share / top, 1))
        line = np.column_stack([centres, heights])
        ends = np.array([[centres[0], _TOP + height]]), np.array([[centres[-1], _TOP + height]])
        parts.append(
            f'<path class="{css}" d="{svg.path_of([np.vstack([ends[0], line, ends[1]])])}"/>'
        )
    x = _LEFT
    for css, (label, values) in zip(_CLASSES, curves.items(), strict=False):
        legend = label + _outside(values)
        parts.append(f'<rect class="{css}" x="{svg.number(x)}" y="10" width="12" height="12"/>')
        parts.append(svg.text(x + 18, 21, legend, css=css))
        x += 40 + 7.6 * len(legend)
    return svg.document(_WIDTH, _HEIGHT, "".join(parts), title=title, style=_STYLE)


def _outside(values: npt.NDArray[np.floating]) -> str:
    beyond = 100 * float(np.mean((values < 0) | (values > 1))) if values.size else 0.0
    return f" ({beyond:.2g} % outside 0 to 1)" if beyond >= 0.01 else ""


def _axis(width: float, height: float) -> str:
    bottom = _TOP + height
    parts = []
    for step in range(6):
        x = _LEFT + width * step / 5
        parts.append(
            f'<line class="grid" x1="{svg.number(x)}" x2="{svg.number(x)}" '
            f'y1="{svg.number(_TOP)}" y2="{svg.number(bottom)}"/>'
        )
        parts.append(svg.text(x, bottom + 18, f"{step / 5:.1f}", anchor="middle"))
    parts.append(
        f'<line class="axis" x1="{svg.number(_LEFT)}" x2="{svg.number(_LEFT + width)}" '
        f'y1="{svg.number(bottom)}" y2="{svg.number(bottom)}"/>'
    )
    label = "normalised intensity inside the brain (height: share of voxels)"
    parts.append(svg.text(_LEFT + width / 2, bottom + 38, label, anchor="middle"))
    return "".join(parts)
