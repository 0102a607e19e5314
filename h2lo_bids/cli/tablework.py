"""Table 1 or 2 of a benchmark, in a child process, from the folds that are done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from h2lo_bids.cli.collectwork import gather_scores, reference_of
from h2lo_bids.cli.planwork import SPLITS, read_splits
from h2lo_bids.cli.tablearms import TABLE_2, arms_of
from h2lo_bids.cli.tablecosts import SHOWN, VALUES, budget_notes, costs_of
from h2lo_bids.cli.tasks import TableTask
from h2lo_bids.errors import NoMatchError
from h2lo_bids.evaluation.coverage import coverage_notes, incomplete
from h2lo_bids.evaluation.layout import Block, Row, Table
from h2lo_bids.evaluation.layout_text import write_layout
from h2lo_bids.evaluation.metrics import METRICS
from h2lo_bids.evaluation.paper import paper_figures
from h2lo_bids.evaluation.scores import IDENTITY, IDENTITY_TITLES, Score, under
from h2lo_bids.evaluation.statistics import compare, summarise
from h2lo_bids.evaluation.tables import write_comparisons
from h2lo_bids.reports.table_page import write_table_page
from h2lo_bids.settings import Settings
from h2lo_bids.training.foldjob import fold_folder, read_record
from h2lo_bids.training.folds import Fold
from h2lo_bids.vocabulary import Send

TITLE = "Low-field synthesis: every method on the same pairs and folds"


def make_table(task: TableTask, send: Send) -> dict[str, Any]:
    """Write ``table1``, or ``table2`` of the enhancers, in every format.

    Parameters
    ----------
    task
        Of which output folder.
    send
        Takes ``note`` events.

    Returns
    -------
    dict
        ``{"event": "table written", "path": path of the page}``.

    Raises
    ------
    NoMatchError
        If no fold is done.
    """
    settings = task.settings
    splits = read_splits(settings.out_dir / SPLITS)
    wanted = settings.contrast or tuple(sorted(splits))
    blocks = [
        block
        for contrast in wanted
        if (block := _block(settings, contrast, splits.get(contrast, ()), send)) is not None
    ]
    if not blocks:
        raise NoMatchError(
            f"{settings.out_dir}: no fold of any method is done; run the benchmark once without "
            "--reports-only, and see its failures"
        )
    own: dict[str, Any] = {"name": "table1", "title": TITLE, "values": VALUES, "shown": SHOWN}
    if settings.fits_enhancer:
        own = TABLE_2
    how = settings.metrics_convention
    own = {**own, "blocks": tuple(blocks), "convention": how}
    table = Table(metrics=METRICS, printed=paper_figures(own["name"]), **own)
    for block in blocks:
        titles = {row.name: row.title for row in block.rows}
        path = settings.out_dir / f"{table.name}_{block.contrast}_comparisons.tsv"
        write_comparisons(path, block.comparisons, titles, how)
    write_layout(settings.out_dir, table)
    return {"event": "table written", "path": str(write_table_page(settings.out_dir, table))}


def _block(settings: Settings, contrast: str, folds: tuple[Fold, ...], send: Send) -> Block | None:
    scores, named = gather_scores(settings, contrast, folds, send)
    if not scores:
        return None
    scores = list(under(scores, settings.metrics_convention))
    titles = {IDENTITY: IDENTITY_TITLES[settings.task], **named}
    records = _records(settings.out_dir, contrast, scores)
    partial = incomplete(scores)
    summary: dict[str, dict[str, Any]] = {}
    for row in summarise(scores):
        summary.setdefault(row.method, {})[row.metric] = row
    order = sorted(summary, key=lambda name: (name != IDENTITY, list(titles).index(name)))
    rows = tuple(
        Row(
            name=name,
            title=titles[name],
            summary=summary[name],
            values=_values(name, scores, records.get(name, ()), len(folds)),
            partial=name in partial,
        )
        for name in order
    )
    planned = [fold.index for fold in folds]
    notes = [
        *coverage_notes(scores, titles, planned, settings.arms),
        *budget_notes({titles[name]: records[name] for name in order if name in records}),
    ]
    if any(record.get("simulated") for own in records.values() for record in own):
        notes.insert(0, "Simulated pairs: the figures show how the methods work, not a scanner.")
    tests = compare(scores, reference=reference_of(settings, named))
    return Block(contrast, rows, tuple(notes), tests)


def _records(
    out_dir: Path, contrast: str, scores: Sequence[Score]
) -> dict[str, list[dict[str, Any]]]:
    """Read what the folds recorded that the scores are of."""
    found: dict[str, list[dict[str, Any]]] = {}
    for method, fold in sorted({(s.method, s.fold) for s in scores if s.fold is not None}):
        record = read_record(fold_folder(out_dir, contrast, method, fold))
        if record is not None:
            found.setdefault(method, []).append(record)
    return found


def _values(
    name: str, scores: Sequence[Score], records: Sequence[dict[str, Any]], planned: int
) -> dict[str, Any]:
    own = [s for s in scores if s.method == name]
    covered = {
        "folds": len({s.fold for s in own}),
        "folds_planned": planned,
        "participants": len({s.subject.partition("_")[0] for s in own}),
    }
    return {**covered, **costs_of(name, records), **arms_of(records)}
