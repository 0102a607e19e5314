"""A made-up table of a benchmark, from the scores of `group_samples`."""

from __future__ import annotations

from pathlib import Path

from group_samples import METHODS

from h2lo_bids.evaluation.metrics import METRICS
from h2lo_bids.evaluation.scores import read_scores
from h2lo_bids.evaluation.statistics import compare, summarise
from h2lo_bids.evaluation.table import Block, Row, Shown, Table, Value, paper_figures

TITLES = {"identity": "HF image", **METHODS}


def sample_table(out: Path, *, more: str = "") -> Table:
    """Give a table of what a made-up training has left, with one more method of that name."""
    blocks = []
    for path in sorted(out.glob("group_*_scores.tsv")):
        scores = read_scores(path)
        rows = []
        for name, title in {**TITLES, **({more: more} if more else {})}.items():
            mine = [s for s in scores if s.method == (name if name in TITLES else "h2lo")]
            summary = {row.metric: row for row in summarise(mine)}
            rows.append(Row(name, title, summary, {"seconds": 1.5}, partial=name == more))
        notes = (f"{more}: 1 of 3 folds.",) if more else ()
        contrast = path.name.split("_")[1]
        blocks.append(Block(contrast, tuple(rows), notes, compare(scores, reference="h2lo")))
    return Table(
        name="table1",
        title="A made-up comparison",
        metrics=METRICS,
        blocks=tuple(blocks),
        values=(Value("seconds", "Time of training", "s"),),
        shown=(Shown("Training (s)", lambda values: str(values.get("seconds", ""))),),
        printed=paper_figures(),
    )
