"""Say in one line what the demo's model gained over the unchanged image.

python tests/data/tell_gain.py TRAINED/group_T1w_summary.tsv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from h2lo_bids.evaluation.catalogue import CATALOGUE
from h2lo_bids.evaluation.metrics import METRICS


def gain(summary: Path) -> str:
    """Compare the model's means with those of the high-field image itself."""
    with summary.open(encoding="utf-8") as stream:
        rows = csv.DictReader(stream, delimiter="\t")
        means = {(row["method"], row["metric"]): float(row["mean"]) for row in rows}
    better = [m for m in METRICS if CATALOGUE[m].better(means["h2lo", m], means["identity", m])]
    before, after = means["identity", "psnr"], means["h2lo", "psnr"]
    return (
        f"On people it had not seen, the model's images come {after - before:+.2f} dB closer to "
        f"the low-field scans than the high-field image itself (PSNR {before:.2f} -> "
        f"{after:.2f} dB), and are better in {len(better)} of {len(METRICS)} metrics."
    )


if __name__ == "__main__":
    print(gain(Path(sys.argv[1])))
