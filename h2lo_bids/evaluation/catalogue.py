"""What is measured: names, units and which way is better; and the TSV files with their sidecars.

A missing, undefined or infinite number is ``n/a``, as BIDS has it. The same
values give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bids_app_spec
from h2lo_bids.evaluation.realism import FREQUENCIES, HALF_PITCH_MM
from h2lo_bids.io import atomic_write_text, write_json

NOTHING = "\N{EN DASH}"
"""Stands where there is no figure."""


@dataclass(frozen=True)
class Metric:
    """How one metric is to be read."""

    key: str  # as in h2lo_bids.evaluation.scores.SCORED
    title: str  # as in the head of Table 1
    unit: str  # "dB", "%", "nat", or "1" where there is none
    higher: bool  # whether larger is better
    digits: int  # decimals printed
    description: str  # one sentence, for sidecars

    @property
    def sense(self) -> str:
        """Which side is better, in words."""
        return f"{'higher' if self.higher else 'lower'} is better"

    @property
    def heading(self) -> str:
        """The head of its column, as in Table 1; an arrow points to the better side."""
        unit = f" ({self.unit})" if self.unit in ("dB", "%") else ""
        return f"{self.title}{unit} {'↑' if self.higher else '↓'}"

    def write(self, value: float) -> str:
        """Write a figure with the decimals of the paper."""
        if math.isnan(value):
            return NOTHING
        return f"{value:z.{self.digits}f}".replace("-", "\N{MINUS SIGN}")

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is better than `b`; never so for NaN."""
        return a > b if self.higher else a < b


def chance(p: float) -> str:
    """Write a p value with its sign of relation; a small one is never 0."""
    if math.isnan(p):
        return f"= {NOTHING}"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


CATALOGUE = {
    m.key: m
    for m in (
        Metric("psnr", "PSNR", "dB", True, 2, "Peak signal-to-noise ratio, data range 1"),
        Metric("ssim", "SSIM", "%", True, 2,
               "Structural similarity, 7 x 7 windows within slices along the first axis"),
        Metric("ncc", "NCC", "1", True, 4, "Pearson correlation of the voxels"),
        Metric("wass", "WASS", "1", False, 4,
               "Wasserstein-1 distance between the intensity histograms, in intensity (0 to 1)"),
        Metric("hncc", "HNCC", "1", True, 4, "Pearson correlation of the intensity histograms"),
        Metric("bhat", "BHAT", "1", False, 4,
               "Bhattacharyya distance between the intensity histograms"),
        Metric("js", "JS", "nat", False, 4,
               "Jensen-Shannon divergence between the intensity histograms, not its square root"),
        Metric("nmi", "NMI", "1", True, 4,
               "Mutual information divided by the geometric mean of the entropies, 64 bins"),
    )
}  # fmt: skip
"""All metrics by key, in the order of the tables."""

CLIPPED, RELEASE = "clipped", "release"
CONVENTIONS = {
    CLIPPED: "Predictions are clipped to [0, 1] before scoring. The authors' release does not "
    "clip, so its figures cannot be compared with these (use --metrics-convention release to "
    "score as it does).",
    RELEASE: "PSNR, SSIM and NCC are computed without clipping predictions to [0, 1], as in the "
    "authors' release; they cannot be compared with figures of clipped predictions.",
}
"""What is done with predicted values outside [0, 1], as the footnote of every table says it.

Histograms and NMI count them in their outermost bins under both; the brain's surroundings are 0.
"""


Columns = dict[str, dict[str, Any]]
MISSING = "n/a"

_BINS = f"bins at {', '.join(f'{f:g}' for f in FREQUENCIES)} cycles per mm that both grids resolve"
_SPECTRA = f"in-plane power spectrum of the middle of the brain, root mean square over the {_BINS}"


def _bands(who: str, whose: str) -> dict[str, tuple[str, str]]:
    return {
        f"{who}_{fine:g}mm".replace(".", "p"): (
            f"Correlation with {whose} high-field image in the band of half-pitch {coarse:g} to "
            f"{fine:g} mm",
            "1",
        )
        for coarse, fine in HALF_PITCH_MM
    }


OWN, STRANGER = _bands("own", "the subject's own"), _bands("stranger", "another subject's")
REALISM = {
    **OWN,
    **STRANGER,
    "level_low": ("Mean of the darkest of three classes of brain voxels over the brightest", "1"),
    "level_mid": ("The same for the middle class", "1"),
    "noise": ("In-plane noise: standard deviation divided by the median of the brain", "1"),
    **{f"snr_{level}": (f"Mean of the {level} class divided by the noise", "1")
       for level in ("low", "mid", "high")},
    "cnr_low_mid": ("Mean of the middle class minus the low one, divided by the noise", "1"),
    "cnr_mid_high": ("Mean of the high class minus the middle one, divided by the noise", "1"),
    "spectrum_db": (f"Distance from the target in the {_SPECTRA}", "dB"),
    "reference_spectrum_db": ("The same distance from the nearest other reference", "dB"),
    "reference_histogram": (
        "Wasserstein-1 distance from the nearest other reference, of the brain's values divided by "
        "their 99.5th percentile", "1"),
}  # fmt: skip
"""Description and unit of each measure of a `Realism`, in the order of the table."""


def columns(**given: str | tuple[str, str] | dict[str, Any]) -> Columns:
    """Describe the columns of a table by their meaning, by meaning and unit, or in full."""

    def full(what: str | tuple[str, str] | dict[str, Any]) -> dict[str, Any]:
        if isinstance(what, tuple):
            return {"Description": what[0], "Units": what[1]}
        # A copy: `of_methods` adds to it, and the specification is shared.
        return {"Description": what} if isinstance(what, str) else dict(what)

    return {name: full(what) for name, what in given.items()}


def columns_of(table: str, **more: Any) -> Columns:
    """Describe the columns of a table of ``bids_app_spec/columns.yml``, and more behind them."""
    return columns(**bids_app_spec.load("columns.yml")[table], **more)


def write_table(path: str | Path, rows: Iterable[Sequence[Any]], sidecar: Columns) -> Path:
    """Write rows as TSV, and the description of the columns as JSON; return the TSV file."""
    path = Path(path)
    lines = ["\t".join(sidecar), *("\t".join(map(_text, row)) for row in rows)]
    atomic_write_text(path, "\n".join(lines) + "\n")
    write_json(path.with_suffix(".json"), sidecar)
    return path


def number(text: str) -> float:
    """Read a cell that `write_table` wrote; ``n/a`` is NaN."""
    return math.nan if text == MISSING else float(text)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    return repr(float(value)) if isinstance(value, float) else " ".join(str(value).split())


def of_scores(titles: Mapping[str, str], unclipped: Sequence[str] = ()) -> Columns:
    """Describe the columns of the scores; `titles` are the methods', `unclipped` metrics."""
    described: dict[str, Any] = {
        key: {
            "LongName": m.title,
            "Description": f"{m.description}; {m.sense}; n/a if it is undefined or infinite",
            "Units": m.unit,
        }
        for key, m in CATALOGUE.items()
    }
    for m in (CATALOGUE[key] for key in unclipped):
        described[f"{m.key}_{RELEASE}"] = {
            "LongName": f"{m.title}, not clipped",
            "Description": f"{m.description}; {CONVENTIONS[RELEASE]}",
            "Units": m.unit,
        }
    return of_methods("scores", titles, **described)


def of_methods(table: str, titles: Mapping[str, str], convention: str = "", **more: Any) -> Columns:
    """Describe the columns of a table that compares methods, of these titles."""
    found = columns_of(table, **more)
    for name in found.keys() & {"method", "versus", "image"}:
        found[name]["Levels"] = dict(titles)
    if "metric" in found:
        found["metric"] = {
            "Description": f"{found['metric']['Description']} {CONVENTIONS[convention]}",
            "Levels": {
                key: f"{m.description} (unit: {m.unit}; {m.sense})" for key, m in CATALOGUE.items()
            },
            "MetricsConvention": convention,
        }
    return found
