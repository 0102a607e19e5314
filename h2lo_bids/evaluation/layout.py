"""A table of methods in the paper's layout, before it is written in any format.

A table is rows of a method's figures, in one block per contrast as the paper
prints them, with further columns that the caller brings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from h2lo_bids.evaluation.catalogue import CATALOGUE
from h2lo_bids.evaluation.coverage import MARK
from h2lo_bids.evaluation.paper import CITATION, GROUP, Printed
from h2lo_bids.evaluation.places import places
from h2lo_bids.evaluation.scores import CLIPPED
from h2lo_bids.evaluation.statistics import Comparison, Summary

NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Value:
    """A further column of the TSV file.

    Parameters
    ----------
    key
        Its head; also the key in `Row.values`.
    description, unit
        For the sidecar.
    """

    key: str
    description: str
    unit: str = ""


@dataclass(frozen=True)
class Shown:
    """A further column of the printed table.

    Parameters
    ----------
    heading
        Its head.
    write
        Makes a cell's text from `Row.values`.
    description
        What it means, for who points at it.
    """

    heading: str
    write: Callable[[Mapping[str, Any]], str]
    description: str = ""


@dataclass(frozen=True)
class Row:
    """One method.

    Parameters
    ----------
    name, title
        The method, and how the table calls it.
    summary
        By metric.
    values
        Of the further columns; None stands for what is not known.
    partial
        Whether it lacks folds or subjects of others: it is marked, and takes no place.
    """

    name: str
    title: str
    summary: Mapping[str, Summary] = field(hash=False)
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)
    partial: bool = False


@dataclass(frozen=True)
class Block:
    """The rows of one contrast.

    Parameters
    ----------
    contrast
        ``"T1w"`` or ``"T2w"``.
    rows
        The methods, the identity first.
    notes
        What the reader must know, one sentence each.
    comparisons
        Paired tests.
    """

    contrast: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True)
class Table:
    """A whole table.

    Parameters
    ----------
    name
        What its files are called, for example ``"table1"``.
    title
        One line.
    metrics
        Keys of `CATALOGUE`.
    blocks
        One per contrast.
    values, shown
        The further columns, as numbers and as text.
    printed
        The paper's own figures; their columns are left out where it is empty.
    notes
        About all blocks.
    citation
        Of the paper's own figures.
    task
        What the methods are for.
    convention
        A key of `h2lo_bids.evaluation.scores.CONVENTIONS`.
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    blocks: tuple[Block, ...]
    values: tuple[Value, ...] = ()
    shown: tuple[Shown, ...] = ()
    printed: Printed = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()
    citation: str = CITATION
    task: str = "synthesize"
    convention: str = CLIPPED


@dataclass(frozen=True)
class Head:
    """The head of a printed column, and of the group that it stands in."""

    heading: str
    description: str = ""
    group: str = ""


@dataclass(frozen=True)
class Cell:
    """A printed cell; `place` is 1 for the best, 2 for the second, else 0."""

    text: str
    std: str = ""
    place: int = 0
    hint: str = ""


@dataclass(frozen=True)
class Printout:
    """A block as it is printed: heads, and per row its title and cells."""

    heads: tuple[Head, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def lay_out(table: Table, block: Block) -> Printout:
    """Turn a block into texts and places.

    Parameters
    ----------
    table
        Decides the columns.
    block
        One of its blocks.

    Returns
    -------
    Printout
        Metrics first, then the further columns, then the paper's own figures.
    """
    heads = [Head(CATALOGUE[m].heading, CATALOGUE[m].description) for m in table.metrics]
    heads += [Head(column.heading, column.description) for column in table.shown]
    paper = paper_metrics(table, block)
    heads += [Head(CATALOGUE[m].heading, "As the paper prints it", GROUP) for m in paper]
    ranked = {metric: _places(block.rows, metric) for metric in table.metrics}
    rows = []
    for row in block.rows:
        cells = [_cell(row.summary.get(m), m, ranked[m].get(row.name, 0)) for m in table.metrics]
        cells += [Cell(column.write(row.values) or NOTHING) for column in table.shown]
        cells += [_printed(table.printed.get((block.contrast, row.name, m)), m) for m in paper]
        rows.append((f"{row.title} {MARK}" if row.partial else row.title, tuple(cells)))
    return Printout(tuple(heads), tuple(rows))


def paper_metrics(table: Table, block: Block) -> tuple[str, ...]:
    """List the metrics for which the paper has a figure of a method in this block."""
    names = {row.name for row in block.rows}
    found = {m for contrast, n, m in table.printed if contrast == block.contrast and n in names}
    return tuple(metric for metric in table.metrics if metric in found)


def number(metric: str, value: float) -> str:
    """Write a figure with the decimals of the paper."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "\N{INFINITY}"
    return f"{value:.{CATALOGUE[metric].digits}f}".replace("-", "\N{MINUS SIGN}")


def _places(rows: Sequence[Row], metric: str) -> dict[str, int]:
    whole = [row for row in rows if not row.partial and metric in row.summary]
    return places(
        {row.name: row.summary[metric].mean for row in whole}, higher=CATALOGUE[metric].higher
    )


def _cell(summary: Summary | None, metric: str, place: int) -> Cell:
    if summary is None:
        return Cell(NOTHING)
    std = "" if math.isnan(summary.std) else number(metric, summary.std)
    hint = f"n = {summary.n} participants"
    if math.isfinite(summary.low):
        low, high = number(metric, summary.low), number(metric, summary.high)
        hint = f"95 % confidence interval of the mean over participants: {low} to {high}; {hint}"
    return Cell(number(metric, summary.mean), std, place, hint)


def _printed(figures: tuple[float, float] | None, metric: str) -> Cell:
    if figures is None:
        return Cell(NOTHING)
    mean, std = figures
    return Cell(number(metric, mean), "" if math.isnan(std) else number(metric, std))
