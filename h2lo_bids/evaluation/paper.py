"""The figures that the paper prints, for columns next to those measured here."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

GROUP = "paper (ds006557)"
"""The head of the columns that hold them: they appear nowhere else."""

_PAPER = "Subject-Specific Low-Field MRI Synthesis via a Neural Operator, arXiv 2603.24968"
CITATION, CITATION_2 = (f"{_PAPER}, Table {number}" for number in (1, 2))

Printed = dict[tuple[str, str, str], tuple[float, float]]


@cache
def paper_figures(table: str = "table1") -> Printed:
    """Return Table 1 or Table 2 of the paper.

    Parameters
    ----------
    table
        ``"table1"`` or ``"table2"``, which prints no deviations.

    Returns
    -------
    dict
        Mean and population standard deviation, or NaN, over the folds of ds006557, by
        contrast, method and metric.
    """
    text = (files("h2lo_bids") / f"data/paper/{table}.tsv").read_text(encoding="utf-8")
    return {
        (row["contrast"], row["method"], key.removesuffix("_mean")): (
            float(value),
            float(row.get(key.replace("_mean", "_std"), "nan")),
        )
        for row in csv.DictReader(text.splitlines(), delimiter="\t")
        for key, value in row.items()
        if key.endswith("_mean")
    }
