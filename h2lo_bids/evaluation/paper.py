"""The figures that the paper prints, to stand beside ours under their own name."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

GROUP = "paper (ds006557)"
"""The head of the columns that hold them: they appear nowhere else."""

CITATION = (
    "Subject-Specific Low-Field MRI Synthesis via a Neural Operator, arXiv 2603.24968, Table 1"
)

Printed = dict[tuple[str, str, str], tuple[float, float]]


@cache
def paper_figures() -> Printed:
    """Return Table 1 of the paper.

    Returns
    -------
    dict
        Mean and population standard deviation over the folds of ds006557, by
        contrast, method and metric.
    """
    text = (files("h2lo_bids") / "data/paper/table1.tsv").read_text(encoding="utf-8")
    return {
        (row["contrast"], row["method"], key.removesuffix("_mean")): (
            float(value),
            float(row[key.replace("_mean", "_std")]),
        )
        for row in csv.DictReader(text.splitlines(), delimiter="\t")
        for key, value in row.items()
        if key.endswith("_mean")
    }
