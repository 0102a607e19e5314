"""Table 1 of the paper, and Table 2: computed from scores, saved, written in any format.

A table is rows of a method's figures, in one block per contrast as the paper
prints them, with further columns that the caller brings. A printout is the texts of a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from h2lo_bids.evaluation import catalogue
from h2lo_bids.evaluation.catalogue import CATALOGUE, CLIPPED, CONVENTIONS, NOTHING
from h2lo_bids.evaluation.metrics import METRICS
from h2lo_bids.evaluation.scores import (
    IDENTITY,
    MARK,
    PAPER,
    Score,
    coverage,
    titles_of,
    under,
    write_scores,
)
from h2lo_bids.evaluation.statistics import Comparison, Summary, compare, summarise
from h2lo_bids.io import atomic_write_text
from h2lo_bids.vocabulary import ENHANCE, SYNTHESIZE

GROUP = "paper (ds006557)"
"""The head of the columns of figures that the paper prints: they appear nowhere else."""

_PAPER = "Subject-Specific Low-Field MRI Synthesis via a Neural Operator, arXiv 2603.24968"
CITATION, CITATION_2 = (f"{_PAPER}, Table {number}" for number in (1, 2))
Printed = dict[tuple[str, str, str], tuple[float, float]]
CAPTION = (
    "Mean ± population standard deviation over the fold means, or over participants if there are "
    "fewer than two folds. The best is bold and the second best underlined; rows marked † lack "
    "folds, participants or values and are not ranked. PSNR, SSIM and NCC are computed over the "
    "whole volume, the other metrics over the foreground, as in the paper."
)
_EMPHASIS = {1: "**{}**", 2: "<u>{}</u>"}
_PLAIN = str.maketrans({NOTHING: "n/a", "\N{MINUS SIGN}": "-"})


@dataclass(frozen=True)
class Column:
    """A column of the printed table."""

    heading: str
    description: str = ""
    # Of a further column: makes a cell's text from Row.values.
    write: Callable[[Mapping[str, Any]], str] = field(default=str, hash=False)
    group: str = ""  # the head that it stands under with others


@dataclass(frozen=True)
class Cell:
    """A cell; `place` is 1 for the best, 2 for the second, else 0."""

    text: str
    std: str = ""
    place: int = 0
    interval: str = ""
    n: int = 0


@dataclass(frozen=True)
class Printout:
    """The rows of one contrast: heads, and per row its title and cells."""

    heads: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]

    def to_md(self, *, plain: bool = False) -> str:
        """Write the grid; plain, with ``n/a`` and ``-`` as programs read them."""

        def text(cell: Cell) -> str:
            figures = f"{cell.text} ± {cell.std}" if cell.std else cell.text
            figures = figures.translate(_PLAIN) if plain else figures
            return _EMPHASIS.get(cell.place, "{}").format(_escaped(figures))

        heads = (f"{h.group}: {h.heading}" if h.group else h.heading for h in self.heads)
        return _grid(
            ("Method", *heads),
            ((_escaped(title), *map(text, cells)) for title, cells in self.rows),
        )


@dataclass(frozen=True)
class Row:
    """One method."""

    name: str
    title: str
    summary: Mapping[str, Summary] = field(hash=False)  # by metric
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)  # of the further columns
    partial: bool = False  # it lacks folds or subjects of others, is marked and takes no place

    @property
    def heading(self) -> str:
        """The title, with the mark of a row that lacks something."""
        return f"{self.title} {MARK}" if self.partial else self.title


@dataclass(frozen=True)
class Block:
    """The rows of one contrast, and their paired tests."""

    contrast: str
    rows: tuple[Row, ...]  # the identity first
    notes: tuple[str, ...] = ()  # one sentence each
    comparisons: tuple[Comparison, ...] = ()
    convention: str = CLIPPED

    @property
    def titles(self) -> dict[str, str]:
        """Titles of the rows, by method."""
        return {row.name: row.title for row in self.rows}

    def places(self, metric: str) -> dict[str, int]:
        """Rank the best 1 and, of three or more, the second 2; what is printed alike shares one."""
        info = CATALOGUE[metric]
        means = ((row.name, row.summary[metric].mean) for row in self.rows if not row.partial)
        known = {name: round(mean, info.digits) for name, mean in means if math.isfinite(mean)}
        ordered = sorted(set(known.values()), reverse=info.higher)
        marked = ordered[: max(min(len(ordered) - 1, 2), 0)]
        return {name: marked.index(value) + 1 for name, value in known.items() if value in marked}

    def people(self, metric: str) -> dict[str, dict[str, float]]:
        """By participant, the mean over folds by method."""
        people: dict[str, dict[str, float]] = {}
        for row in self.rows:
            for name, value in row.summary[metric].people.items():
                people.setdefault(name, {})[row.name] = value
        return people

    def paired(
        self, metrics: Sequence[str] = (), word: str = " against "
    ) -> tuple[list[str], list[tuple[str, list[Comparison]]]]:
        """Return heads of metrics, by default of all with a value, and the tests by methods."""
        pairs: dict[tuple[str, str], dict[str, Comparison]] = {}
        for c in self.comparisons:
            pairs.setdefault((c.method, c.versus), {})[c.metric] = c
        tested = {c.metric for c in self.comparisons if math.isfinite(c.difference)}
        metrics = metrics or [m for m in CATALOGUE if m in tested]
        rows = [
            (word.join(self.titles[name] for name in names), [tests[m] for m in metrics])
            for names, tests in pairs.items()
        ]
        return [CATALOGUE[m].heading for m in metrics], rows

    def write_comparisons(self, path: str | Path) -> None:
        """Write one line per pair of methods and metric as TSV, and the sidecar."""
        rows = [
            [c.method, c.versus, c.metric, PAPER, c.n, c.difference, c.low, c.high,
             c.better or None, c.statistic, c.p, c.p_holm]
            for c in self.comparisons
        ]  # fmt: skip
        names = dict.fromkeys(name for c in self.comparisons for name in (c.method, c.versus))
        titles = {name: self.titles[name] for name in names}
        sidecar = catalogue.of_methods("comparisons", titles, self.convention)
        catalogue.write_table(path, rows, sidecar)


@dataclass(frozen=True)
class Table:
    """A whole table: one block per contrast."""

    blocks: tuple[Block, ...]
    metrics: tuple[str, ...] = METRICS
    name: str = ""  # of its files
    title: str = ""  # a table without one has one block, and no headings in Markdown
    values: catalogue.Columns = field(default_factory=dict, hash=False)  # further ones of the TSV
    shown: tuple[Column, ...] = ()
    printed: Printed = field(default_factory=dict, hash=False)  # the paper's own figures
    notes: tuple[str, ...] = ()  # about all blocks
    citation: str = CITATION  # of the paper's own figures
    task: str = SYNTHESIZE

    def save(self, folder: Path) -> None:
        """Write ``<name>.tsv``, ``.json`` and ``.md``, and ``<name>_<contrast>`` of each block."""
        parts = {f"{self.name}_{block.contrast}": (block,) for block in self.blocks}
        for name, blocks in {self.name: self.blocks, **parts}.items():
            table = replace(self, blocks=blocks)
            sidecar, lines = table._tsv()
            catalogue.write_table(folder / f"{name}.tsv", lines, sidecar)
            atomic_write_text(folder / f"{name}.md", table.to_md())

    @property
    def caption(self) -> str:
        """What stands below the table in every format."""
        return f"{CAPTION} {CONVENTIONS[self.blocks[0].convention]}"

    def lay_out(self, block: Block) -> Printout:
        """Turn a block into texts: metrics, then further columns, then the paper's figures."""
        heads = [Column(CATALOGUE[m].heading, CATALOGUE[m].description) for m in self.metrics]
        heads += self.shown
        names = {row.name for row in block.rows}
        known = {m for contrast, n, m in self.printed if contrast == block.contrast and n in names}
        paper = [m for m in self.metrics if m in known]
        note = "As printed in the paper"
        heads += [Column(CATALOGUE[m].heading, note, group=GROUP) for m in paper]
        rows = []
        for row in block.rows:
            cells = [_cell(row.summary[m], block.places(m).get(row.name, 0)) for m in self.metrics]
            cells += [Cell(column.write(row.values) or NOTHING) for column in self.shown]
            for m in paper:
                figures = self.printed.get((block.contrast, row.name, m), (math.nan, math.nan))
                cells.append(_cell(Summary(row.name, m, {}, *figures)))
            rows.append((row.heading, tuple(cells)))
        return Printout(tuple(heads), tuple(rows))

    def _tsv(self) -> tuple[catalogue.Columns, list[list[Any]]]:
        """Return the described columns of the TSV file, and a line per contrast and method."""
        rows = [(block, row) for block in self.blocks for row in block.rows]
        target = "high" if self.task == ENHANCE else "low"
        told: dict[str, Any] = {
            "contrast": "Contrast of the pairs",
            "method": {
                "Description": f"Method compared with the real {target}-field image",
                "Levels": {row.name: row.title for _, row in rows},
            },
        }
        lines: list[list[Any]] = [[block.contrast, row.name] for block, row in rows]
        for key in self.metrics:
            info = CATALOGUE[key]
            what = {
                "mean": f"{info.description}; {info.sense}; mean over folds, or over "
                "participants if there are fewer than two folds",
                "std": "Population standard deviation of the same values",
                "place": "1 for the best method of this contrast, 2 for the second best, else n/a",
            }
            for part, text in what.items():
                told[f"{key}_{part}"] = {
                    "LongName": f"{info.title}, {part}",
                    "Description": text,
                    "MetricsConvention": self.blocks[0].convention,
                    **({"Units": info.unit} if part != "place" else {}),
                }
            for line, (block, row) in zip(lines, rows, strict=True):
                place = block.places(key).get(row.name)
                line += [row.summary[key].mean, row.summary[key].std, place]
        told |= self.values
        for line, (_, row) in zip(lines, rows, strict=True):
            line += map(row.values.get, self.values)
        for key in (m for m in self.metrics if any(m == metric for *_, metric in self.printed)):
            for part in ("mean", "std"):
                text = f"{CATALOGUE[key].title}, {part}: {self.citation}; not measured here"
                told[f"{GROUP} {key}_{part}"] = text, CATALOGUE[key].unit
            for line, (block, row) in zip(lines, rows, strict=True):
                line += self.printed.get((block.contrast, row.name, key), (None, None))
        return catalogue.columns(**told), lines

    def to_md(self) -> str:
        """Write the blocks with their notes and paired tests."""
        printouts = [self.lay_out(block) for block in self.blocks]
        if not self.title:
            (printout,), (block,) = printouts, self.blocks
            return "\n\n".join([printout.to_md(plain=True), *block.notes]) + "\n"
        parts = [f"# {self.title}", *_list(self.notes)]
        for printout, block in zip(printouts, self.blocks, strict=True):
            parts += [f"## {block.contrast}", printout.to_md(), *_list(block.notes)]
            if block.comparisons:
                parts += ["### Paired tests", _paired_md(block, self.metrics)]
        parts.append(self.caption)
        if any(head.group for printout in printouts for head in printout.heads):
            parts.append(f"Columns “{GROUP}”: {self.citation}; other subjects, not measured here.")
        return "\n\n".join(parts) + "\n"


def tabulate(
    scores: Sequence[Score],
    titles: Mapping[str, str] | None = None,
    *,
    contrast: str = "",
    reference: str | None = None,
    folds: Sequence[int] = (),
    wanted: Sequence[str] = (),
    convention: str = CLIPPED,
) -> Block:
    """Summarise and compare the scores of a contrast, and note missing folds and subjects."""
    scores = under(scores, convention)
    titles = titles_of((s.method for s in scores), titles)
    partial, notes = coverage(scores, titles, folds, wanted)
    summary = summarise(scores)
    tests = compare(summary, reference=reference)
    return Block(contrast, rows_of(summary, titles, partial), notes, tests, convention)


def rows_of(
    summary: Sequence[Summary],
    titles: Mapping[str, str] | None = None,
    partial: Sequence[str] = (),
) -> tuple[Row, ...]:
    """Return the rows of a summary, the identity first."""
    by_method: dict[str, dict[str, Summary]] = {}
    for row in sorted(summary, key=lambda row: row.method != IDENTITY):
        by_method.setdefault(row.method, {})[row.metric] = row
    title_of = titles_of(by_method, titles)
    return tuple(Row(n, title_of[n], own, partial=n in partial) for n, own in by_method.items())


def write_tables(stem: str | Path, scores: Sequence[Score], block: Block) -> Table:
    """Write the scores of one contrast, of both conventions, and what `tabulate` made of them."""
    table = Table((replace(block, notes=(*block.notes, CONVENTIONS[block.convention])),))
    write_scores(f"{stem}_scores.tsv", scores, block.titles)
    block.write_comparisons(f"{stem}_comparisons.tsv")
    summary = [row.summary[metric] for row in block.rows for metric in row.summary]
    folds = sorted({fold for s in summary for fold, _ in s.fold_means})
    lines = [
        [s.method, s.metric, PAPER, s.n, s.mean, s.std, s.over, s.low, s.high,
         *map(dict(s.fold_means).get, folds)]
        for s in summary
    ]  # fmt: skip
    by_fold = {f"fold_{fold}": f"Mean over the test subjects of fold {fold}" for fold in folds}
    sidecar = catalogue.of_methods("summary", block.titles, block.convention, **by_fold)
    catalogue.write_table(f"{stem}_summary.tsv", lines, sidecar)
    atomic_write_text(f"{stem}_table.md", table.to_md())
    return table


def _cell(summary: Summary, place: int = 0) -> Cell:
    write = CATALOGUE[summary.metric].write
    std = "" if math.isnan(summary.mean + summary.std) else write(summary.std)
    bounded = math.isfinite(summary.low)
    interval = f"{write(summary.low)} to {write(summary.high)}" if bounded else ""
    return Cell(write(summary.mean), std, place, interval, summary.n)


def _list(notes: tuple[str, ...]) -> list[str]:
    return ["\n".join(f"- {note}" for note in notes)] if notes else []


def _paired_md(block: Block, metrics: Sequence[str]) -> str:
    """Lay out the mean differences, first minus second, with the corrected p."""
    heads, tested = block.paired(metrics, " minus ")
    rows = (
        (_escaped(title), *(f"{test.signed} (p {catalogue.chance(test.p_holm)})" for test in tests))
        for title, tests in tested
    )
    return _grid(("Methods", *heads), rows) + (
        "\n\nMean difference over participants and two-sided p of Wilcoxon's signed-rank test with "
        "Holm's correction over all methods compared with the same method, for each metric."
    )


def _escaped(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;")


def _grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
