"""Tables as they are printed: the cells of a contrast's rows, and Markdown of them and of tests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from h2lo_bids.evaluation.catalogue import CATALOGUE, NOTHING
from h2lo_bids.evaluation.statistics import Comparison

_EMPHASIS = {1: "**{}**", 2: "<u>{}</u>"}
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

    @property
    def groups(self) -> Counter[str]:
        """How many columns stand under each head of a group."""
        return Counter(head.group for head in self.heads if head.group)

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


def paired_md(
    comparisons: Sequence[Comparison], titles: Mapping[str, str], metrics: Sequence[str]
) -> str:
    """Lay out the mean differences, first less second, with the corrected p."""
    chance = CATALOGUE["ncc"].write
    heads, tested = paired_rows(comparisons, titles, metrics, " less ")
    rows = (
        (_escaped(title), *(f"{test.signed} (p = {chance(test.p_holm)})" for test in tests))
        for title, tests in tested
    )
    return _grid(("Methods", *heads), rows) + (
        "\n\nMean difference over participants; two-sided p of Wilcoxon's signed-rank test after "
        "Holm's correction over the methods compared with the same one by one metric."
    )


def paired_rows(
    comparisons: Sequence[Comparison],
    titles: Mapping[str, str],
    metrics: Sequence[str] = (),
    word: str = " against ",
) -> tuple[list[str], list[tuple[str, list[Comparison]]]]:
    """Return heads of metrics, by default of all that have a value, and the tests by methods."""
    pairs: dict[tuple[str, str], dict[str, Comparison]] = {}
    for c in comparisons:
        pairs.setdefault((c.method, c.versus), {})[c.metric] = c
    tested = dict.fromkeys(c.metric for c in comparisons if math.isfinite(c.difference))
    metrics = metrics or list(tested)
    rows = [
        (word.join(titles.get(n, n) for n in names), [tests[m] for m in metrics])
        for names, tests in pairs.items()
    ]
    return [CATALOGUE[m].heading for m in metrics], rows


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


def _escaped(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;")


def _grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
