"""What each metric is called, its unit, and which way is better: said here only."""

from __future__ import annotations

from dataclasses import dataclass


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
