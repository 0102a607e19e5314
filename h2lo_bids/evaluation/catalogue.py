"""What each metric is called, its unit, and which way is better: said here only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

NOTHING = "\N{EN DASH}"
"""Stands where there is no figure."""


@dataclass(frozen=True)
class Metric:
    """How one metric is to be read.

    Parameters
    ----------
    key
        As in `h2lo_bids.evaluation.scores.SCORED`.
    title
        As in the head of Table 1.
    unit
        ``"dB"``, ``"%"``, ``"nat"``, or ``"1"`` where there is none.
    higher
        Whether larger is better.
    digits
        Decimals printed.
    description
        One sentence, for sidecars.
    """

    key: str
    title: str
    unit: str
    higher: bool
    digits: int
    description: str

    @property
    def arrow(self) -> str:
        """Points to the better side."""
        return "↑" if self.higher else "↓"

    @property
    def heading(self) -> str:
        """The head of its column, as in Table 1."""
        unit = f" ({self.unit})" if self.unit in ("dB", "%") else ""
        return f"{self.title}{unit} {self.arrow}"

    def write(self, value: float) -> str:
        """Write a figure with the decimals of the paper."""
        if math.isnan(value):
            return NOTHING
        if math.isinf(value):
            return "\N{INFINITY}"
        return f"{value:.{self.digits}f}".replace("-", "\N{MINUS SIGN}")

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is better than `b`; never so for NaN."""
        return a > b if self.higher else a < b


CATALOGUE = {
    m.key: m
    for m in (
        Metric("psnr", "PSNR", "dB", True, 2, "Peak signal-to-noise ratio, data range 1"),
        Metric("ssim", "SSIM", "%", True, 2,
               "Structural similarity, 7 x 7 windows within the slices of the first axis"),
        Metric("ncc", "NCC", "1", True, 4, "Pearson's correlation of the voxels"),
        Metric("wass", "WASS", "1", False, 4,
               "Wasserstein-1 distance of the intensity histograms, in intensity (0 to 1)"),
        Metric("hncc", "HNCC", "1", True, 4, "Pearson's correlation of the intensity histograms"),
        Metric("bhat", "BHAT", "1", False, 4,
               "Bhattacharyya distance of the intensity histograms"),
        Metric("js", "JS", "nat", False, 4,
               "Jensen-Shannon divergence of the intensity histograms, without a square root"),
        Metric("nmi", "NMI", "1", True, 4,
               "Mutual information over the geometric mean of the entropies, 64 bins"),
    )
}  # fmt: skip
"""All metrics by key, in the order of the tables."""

CLIPPED, RELEASE = "clipped", "release"
CONVENTIONS = {
    CLIPPED: "Predictions are clipped to [0, 1] before they are scored; the authors' release does "
    "not clip, so that its figures are not to be compared with these (--metrics-convention "
    "release scores as it does).",
    RELEASE: "PSNR, SSIM and NCC are of predictions as they come, not clipped to [0, 1], as in the "
    "authors' release; figures of clipped predictions are not to be compared with these.",
}
"""What is done with predicted values outside [0, 1], as the footnote of every table says it.

Histograms and NMI count them in their outermost bins under both; the brain's surroundings are 0.
"""


def places(means: Mapping[str, float], *, higher: bool) -> dict[str, int]:
    """Rank the best and, among three or more values, the second.

    Parameters
    ----------
    means
        By method; what is not finite has no place.
    higher
        Whether larger is better.

    Returns
    -------
    dict
        1 for the best and 2 for the second; equal values share a place, and
        nothing is best among equals only.

    Examples
    --------
    >>> places({"a": 1.0, "b": 3.0, "c": 2.0, "d": 3.0}, higher=True)
    {'b': 1, 'c': 2, 'd': 1}
    >>> places({"a": 1.0, "b": 2.0}, higher=False)
    {'a': 1}
    """
    known = {name: value for name, value in means.items() if math.isfinite(value)}
    ordered = sorted(set(known.values()), reverse=higher)
    marked = ordered[: max(min(len(ordered) - 1, 2), 0)]
    return {name: marked.index(value) + 1 for name, value in known.items() if value in marked}
