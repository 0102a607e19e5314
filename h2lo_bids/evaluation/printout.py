"""Tables as they are printed: Markdown and HTML of a contrast's rows and of its paired tests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from h2lo_bids.evaluation.catalogue import CATALOGUE, NOTHING
from h2lo_bids.evaluation.statistics import Comparison

_EMPHASIS = {1: "**{}**", 2: "<u>{}</u>"}
_CSS = {1: "first", 2: "second"}
_PLAIN = str.maketrans({NOTHING: "n/a", "\N{MINUS SIGN}": "-"})


@dataclass(frozen=True)
class Head:
    """The head of a column, and of the group that it stands in."""

    heading: str
    description: str = ""
    group: str = ""


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

    heads: tuple[Head, ...]
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

    def to_html(self) -> Markup:
        """Write a ``<table>``; what comes from data is escaped."""
        groups = Counter(head.group for head in self.heads if head.group)
        above = Markup("").join(
            Markup('<th scope="colgroup" colspan="{}">{}</th>').format(span, name)
            for name, span in groups.items()
        )
        if above:
            span = 1 + len(self.heads) - groups.total()
            above = Markup('<tr><td colspan="{}"></td>{}</tr>').format(span, above)
        rows = ((title, *map(_cell_html, cells)) for title, cells in self.rows)
        heads = (Head("Method"), *self.heads)
        return _table(above, [(h.heading, h.description) for h in heads], rows)


def tests_md(
    comparisons: Sequence[Comparison], titles: Mapping[str, str], metrics: Sequence[str]
) -> str:
    """Lay out the mean differences, first less second, with the corrected p."""
    rows = []
    for names, tests in _by_pair(comparisons).items():
        cells = (
            f"{_signed(tests[m])} (p = {CATALOGUE['ncc'].write(tests[m].p_holm)})" for m in metrics
        )
        rows.append((" less ".join(_escaped(titles.get(n, n)) for n in names), *cells))
    return _grid(("Methods", *(CATALOGUE[m].heading for m in metrics)), rows) + (
        "\n\nMean difference over participants; two-sided p of Wilcoxon's signed-rank test after "
        "Holm's correction over the methods compared with the same one by one metric."
    )


def tests_html(comparisons: Sequence[Comparison], titles: Mapping[str, str]) -> Markup:
    """Write the paired tests as a ``<table>``: a row per two methods, a cell per metric."""
    metrics = dict.fromkeys(c.metric for c in comparisons if math.isfinite(c.difference))
    cell = Markup(
        '<td class="{}" title="n = {}, p = {} before correction"><span class="{}">{}</span>'
        '<span class="p">p {}</span></td>'
    )
    rows: list[tuple[Any, ...]] = []
    for names, tests in _by_pair(comparisons).items():
        cells = []
        for c in (tests[m] for m in metrics):
            clear = "clear" if c.p_holm < 0.05 else ""
            first = "first" if clear and c.better == c.method else ""
            p = _probability(c.p_holm)
            p = p if p.startswith("<") else f"= {p}"
            cells.append(cell.format(clear, c.n, _probability(c.p), first, _signed(c), p))
        rows.append((" against ".join(titles.get(n, n) for n in names), *cells))
    heads = [("Methods", ""), *((CATALOGUE[m].heading, "") for m in metrics)]
    return _table(Markup(""), heads, rows, css="results tests")


def floor_of(comparisons: Iterable[Comparison]) -> str:
    """Return a sentence if there are too few participants for any test to be significant."""
    people = max((c.n for c in comparisons), default=0)
    families = Counter((c.versus, c.metric) for c in comparisons)
    lowest = min(families.values(), default=0) * 2.0 ** (1 - people)
    if lowest < 0.05:
        return ""
    return (
        f" With {people} participants no corrected p can be below {min(lowest, 1.0):.2g}: "
        "no difference between these methods can be significant."
    )


def _by_pair(comparisons: Iterable[Comparison]) -> dict[tuple[str, str], dict[str, Comparison]]:
    pairs: dict[tuple[str, str], dict[str, Comparison]] = {}
    for c in comparisons:
        pairs.setdefault((c.method, c.versus), {})[c.metric] = c
    return pairs


def _signed(c: Comparison) -> str:
    return ("+" if c.difference > 0 else "") + CATALOGUE[c.metric].write(c.difference)


def _probability(p: float) -> str:
    if math.isnan(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _escaped(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;")


def _grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _cell_html(cell: Cell) -> Markup:
    hint = f"n = {cell.n} participants" if cell.n else ""
    if cell.interval:
        hint = f"95 % confidence interval of the mean over participants: {cell.interval}; {hint}"
    return Markup('<td title="{}"><span class="{}">{}</span>{}</td>').format(
        hint,
        _CSS.get(cell.place, ""),
        cell.text,
        Markup('<span class="std"> ±&nbsp;{}</span>').format(cell.std) if cell.std else "",
    )


def _table(
    above: Markup,
    heads: Iterable[tuple[str, str]],
    rows: Iterable[tuple[Any, ...]],
    css: str = "results",
) -> Markup:
    """Join heads, with their descriptions, and rows, whose first cell is plain text."""

    def join(parts: Iterable[Markup]) -> Markup:
        return Markup("").join(parts)

    column = Markup('<th scope="col" title="{}">{}</th>')
    row = Markup('<tr><th scope="row">{}</th>{}</tr>\n')
    whole = '<table class="{}"><thead>{}<tr>{}</tr></thead><tbody>\n{}</tbody></table>'
    return Markup(whole).format(  # noqa: S704 - ours
        css,
        above,
        join(column.format(text, head) for head, text in heads),
        join(row.format(title, join(cells)) for title, *cells in rows),
    )
