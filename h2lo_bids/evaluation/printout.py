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


def tests_md(
    comparisons: Sequence[Comparison], titles: Mapping[str, str], metrics: Sequence[str]
) -> str:
    """Lay out the mean differences, first less second, with the corrected p."""
    rows = []
    for names, tests in _by_pair(comparisons).items():
        cells = (
            f"{tests[m].signed} (p = {CATALOGUE['ncc'].write(tests[m].p_holm)})" for m in metrics
        )
        rows.append((" less ".join(_escaped(titles.get(n, n)) for n in names), *cells))
    return _grid(("Methods", *(CATALOGUE[m].heading for m in metrics)), rows) + (
        "\n\nMean difference over participants; two-sided p of Wilcoxon's signed-rank test after "
        "Holm's correction over the methods compared with the same one by one metric."
    )


def test_rows(
    comparisons: Sequence[Comparison], titles: Mapping[str, str]
) -> tuple[list[str], list[tuple[str, list[Comparison]]]]:
    """Return the heads of the metrics that were tested, and the tests of each two methods."""
    metrics = list(dict.fromkeys(c.metric for c in comparisons if math.isfinite(c.difference)))
    rows = [
        (" against ".join(titles.get(n, n) for n in names), [tests[m] for m in metrics])
        for names, tests in _by_pair(comparisons).items()
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


def _by_pair(comparisons: Iterable[Comparison]) -> dict[tuple[str, str], dict[str, Comparison]]:
    pairs: dict[tuple[str, str], dict[str, Comparison]] = {}
    for c in comparisons:
        pairs.setdefault((c.method, c.versus), {})[c.metric] = c
    return pairs


def _escaped(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;")


def _grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
