"""Tables in the paper's layout as TSV with its sidecar, and as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from h2lo_bids.evaluation.catalogue import CATALOGUE
from h2lo_bids.evaluation.layout import Block, Cell, Head, Row, Table, lay_out, number
from h2lo_bids.evaluation.paper import GROUP
from h2lo_bids.evaluation.scores import CONVENTIONS
from h2lo_bids.evaluation.tables import EMPHASIS, write_table
from h2lo_bids.io import atomic_write_text

Columns = dict[str, dict[str, Any]]

CAPTION = (
    "Mean ± population standard deviation over the means of the folds, or over participants "
    "where there are not two folds. Best in bold, second underlined; rows with † lack folds or "
    "participants and take no place. PSNR, SSIM and NCC run over the whole volume, the other "
    "metrics over the foreground, as in the paper."
)


def caption_of(table: Table) -> str:
    """Return what stands below a table, in every format."""
    return f"{CAPTION} {CONVENTIONS[table.convention]}"


def write_layout(folder: Path, table: Table) -> tuple[Path, ...]:
    """Write a table as ``<name>.tsv``, ``.json`` and ``.md``, and so each of several contrasts.

    Parameters
    ----------
    folder
        Where to.
    table
        What is written; the same table gives the same bytes.

    Returns
    -------
    tuple of Path
        The Markdown files, that of all contrasts first.
    """
    parts = {table.name: table.blocks}
    parts |= {f"{table.name}_{block.contrast}": (block,) for block in table.blocks}
    paths = []
    for name, blocks in parts.items():
        lines = [row for block in blocks for row in _lines(table, block)]
        write_table(folder / f"{name}.tsv", tuple(columns(table)), lines, columns(table))
        atomic_write_text(folder / f"{name}.md", markdown(table, blocks))
        paths.append(folder / f"{name}.md")
    return tuple(paths)


def columns(table: Table) -> Columns:
    """Describe the columns of the TSV file, in their order."""
    target = "high" if table.task == "enhance" else "low"
    found: Columns = {
        "contrast": {"Description": "Contrast of both images"},
        "method": {
            "Description": f"What was compared with the {target}-field image",
            "Levels": {row.name: row.title for block in table.blocks for row in block.rows},
        },
    }
    for key in table.metrics:
        info = CATALOGUE[key]
        sense = f"{'higher' if info.higher else 'lower'} is better"
        what = {
            "mean": f"{info.description}; {sense}; mean over folds or, without two of them, over "
            "participants",
            "std": "Population standard deviation of the same values",
            "place": "1 for the best method of this contrast, 2 for the second, else n/a",
        }
        for part, text in what.items():
            found[f"{key}_{part}"] = {"LongName": f"{info.title}, {part}", "Description": text}
            found[f"{key}_{part}"]["MetricsConvention"] = table.convention
            if part != "place":
                found[f"{key}_{part}"]["Units"] = info.unit
    for value in table.values:
        found[value.key] = {"Description": value.description}
        if value.unit:
            found[value.key]["Units"] = value.unit
    for key in _printed_metrics(table):
        for part in ("mean", "std"):
            found[f"{GROUP} {key}_{part}"] = {
                "Description": f"{CATALOGUE[key].title}, {part}: {table.citation}; "
                "not measured here",
                "Units": CATALOGUE[key].unit,
            }
    return found


def markdown(table: Table, blocks: tuple[Block, ...] | None = None) -> str:
    """Write blocks of a table, all unless told which, with their notes and paired tests."""
    blocks = table.blocks if blocks is None else blocks
    parts = [f"# {table.title}", *_list(table.notes)]
    for block in blocks:
        laid = lay_out(table, block)
        lines = ["| Method | " + " | ".join(_head(head) for head in laid.heads) + " |"]
        lines.append("|---" * (len(laid.heads) + 1) + "|")
        for title, cells in laid.rows:
            lines.append(f"| {_plain(title)} | " + " | ".join(map(_cell, cells)) + " |")
        parts += [f"## {block.contrast}", "\n".join(lines), *_list(block.notes)]
        if block.comparisons:
            parts += ["### Paired tests", _tests(table, block)]
    parts.append(caption_of(table))
    if any(head.group == GROUP for b in blocks for head in lay_out(table, b).heads):
        parts.append(f"Columns “{GROUP}”: {table.citation}; other subjects, not measured here.")
    return "\n\n".join(parts) + "\n"


def _lines(table: Table, block: Block) -> list[list[Any]]:
    laid = lay_out(table, block)
    lines = []
    for row, (_, cells) in zip(block.rows, laid.rows, strict=True):
        values: list[Any] = [block.contrast, row.name]
        for key, cell in zip(table.metrics, cells, strict=False):
            values += [*_figures(row, key), cell.place or None]
        values += [row.values.get(value.key) for value in table.values]
        for key in _printed_metrics(table):
            values += table.printed.get((block.contrast, row.name, key), (None, None))
        lines.append(values)
    return lines


def _figures(row: Row, key: str) -> tuple[float | None, float | None]:
    found = row.summary.get(key)
    return (None, None) if found is None else (found.mean, found.std)


def _printed_metrics(table: Table) -> tuple[str, ...]:
    return tuple(m for m in table.metrics if any(key[2] == m for key in table.printed))


def _tests(table: Table, block: Block) -> str:
    """Lay out the mean differences, first less second, with the corrected p."""
    titles = {row.name: row.title for row in block.rows}
    found = {(c.method, c.versus, c.metric): c for c in block.comparisons}
    lines = ["| Methods | " + " | ".join(CATALOGUE[m].heading for m in table.metrics) + " |"]
    lines.append("|---" * (len(table.metrics) + 1) + "|")
    for first, second in dict.fromkeys((c.method, c.versus) for c in block.comparisons):
        cells = []
        for metric in table.metrics:
            c = found[first, second, metric]
            sign = "+" if c.difference > 0 else ""
            cells.append(f"{sign}{number(metric, c.difference)} (p = {number('ncc', c.p_holm)})")
        names = " less ".join(_plain(titles.get(name, name)) for name in (first, second))
        lines.append(f"| {names} | " + " | ".join(cells) + " |")
    lines.append(
        "\nMean difference over participants; two-sided p of Wilcoxon's signed-rank test after "
        "Holm's correction over the methods compared with the same one by one metric."
    )
    return "\n".join(lines)


def _head(head: Head) -> str:
    return f"{head.group}: {head.heading}" if head.group else head.heading


def _cell(cell: Cell) -> str:
    text = f"{cell.text} ± {cell.std}" if cell.std else cell.text
    return EMPHASIS.get(cell.place, "{}").format(_plain(text))


def _plain(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;")


def _list(notes: tuple[str, ...]) -> list[str]:
    return ["\n".join(f"- {note}" for note in notes)] if notes else []
