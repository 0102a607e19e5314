"""Say in one line what the demo's model gained over the unchanged image."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

LARGER_IS_BETTER = ("psnr", "ssim", "ncc", "hncc")


def gain(summary: Path) -> str:
    """Compare the model's means with those of the high-field image itself.

    Parameters
    ----------
    summary
        ``group_T1w_summary.tsv`` of a run of `h2lo ... group`.
    """
    with summary.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    region = rows[0]["region"]
    means = {(r["method"], r["metric"]): float(r["mean"]) for r in rows if r["region"] == region}
    metrics = [metric for method, metric in means if method == "identity" and metric != "nmi"]
    better = [
        m for m in metrics
        if (means["h2lo", m] > means["identity", m]) == (m in LARGER_IS_BETTER)
    ]  # fmt: skip
    before, after = means["identity", "psnr"], means["h2lo", "psnr"]
    return (
        f"On people it had not seen, the model's images come {after - before:+.2f} dB closer to "
        f"the low-field scans than the high-field image itself (PSNR {before:.2f} -> "
        f"{after:.2f} dB), and are better in {len(better)} of {len(metrics)} metrics."
    )


if __name__ == "__main__":
    print(gain(Path(sys.argv[1])))
