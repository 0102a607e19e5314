"""Means, spreads, confidence intervals and paired tests over subjects."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from h2lo_bids.errors import UsageError
from h2lo_bids.evaluation import catalogue
from h2lo_bids.evaluation.catalogue import CATALOGUE, CLIPPED
from h2lo_bids.evaluation.inference import confidence_interval, holm, signed_rank
from h2lo_bids.evaluation.scores import IDENTITY, PAPER, SCORED, Score, select, titles_of
from h2lo_bids.io import read_text, table_rows


@dataclass(frozen=True)
class Summary:
    """One metric of one method over all subjects.

    Parameters
    ----------
    method, metric, region
        What was summarised.
    n
        Participants with a finite value.
    mean
        Of the fold means where there are at least two folds, as the paper
        prints it; else over participants.
    std
        Population standard deviation (divided by the count) of the same values;
        NaN if there is one value.
    over
        ``"folds"`` or ``"participants"``: whose mean and deviation these are.
    low, high
        Bootstrap confidence interval of the mean over participants.
    fold_means
        By fold; empty when not cross-validated.
    """

    method: str
    metric: str
    region: str
    n: int
    mean: float
    std: float
    over: str
    low: float
    high: float
    fold_means: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Comparison:
    """A paired test of two methods by one metric.

    Parameters
    ----------
    method, versus, metric, region
        What was compared.
    n
        Participants with finite values of both.
    difference
        Mean of `method` less `versus`.
    low, high
        Bootstrap confidence interval of `difference`.
    better
        The method with the better mean, or ``""`` if they are equal.
    statistic, p
        Of Wilcoxon's signed-rank test, two-sided.
    p_holm
        Corrected over the methods that are compared with `versus` by this metric.
    """

    method: str
    versus: str
    metric: str
    region: str
    n: int
    difference: float
    low: float
    high: float
    better: str
    statistic: float
    p: float
    p_holm: float


_Row = TypeVar("_Row", Summary, Comparison)
_COLUMNS = {"over": "std_over", "low": "ci_low", "high": "ci_high"}
"""Columns that are not called as their fields."""


def summarise(
    scores: Sequence[Score], region: str = PAPER, *, seed: int = 0, intervals: bool = True
) -> tuple[Summary, ...]:
    """Summarise every metric of every method.

    Sessions of one participant are averaged before anything else: they are not
    independent. Values that are not finite are skipped.

    Parameters
    ----------
    scores
        Of both regions, in any order; duplicates are dropped.
    region
        ``"foreground"``, ``"whole"`` or ``"paper"``.
    seed
        Of the resampling; every row draws the same participants.
    intervals
        Whether to bound the means, which takes nearly all of the time; else NaN.

    Returns
    -------
    tuple of Summary
        The identity first, then methods in order of appearance, metrics in the
        order of the tables.

    Raises
    ------
    BadDataError
        If a subject lacks a region that is needed.
    """
    chosen = select(scores, region)
    rows = []
    for method in scored_methods(chosen):
        mine = [s for s in chosen if s.method == method]
        rows += [_summary(mine, metric, region, seed if intervals else None) for metric in SCORED]
    return tuple(rows)


def compare(
    scores: Sequence[Score],
    region: str = PAPER,
    *,
    reference: str | None = None,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Test every method against a reference and against the identity.

    A family of tests, over which p is corrected, is one question asked of several
    methods: one metric against one of the two. Over all metrics, which measure much
    the same, ten participants could never be enough: their smallest p is 0.002.

    Parameters
    ----------
    scores
        As for `summarise`. A participant counts once: folds whose test sets
        overlap, and sessions, are averaged first.
    region
        As for `summarise`.
    reference
        The method to compare with; None takes the first that is not the identity.
    seed
        Of the resampling.

    Returns
    -------
    tuple of Comparison
        One per pair of methods and metric; empty if there is one method only.

    Raises
    ------
    UsageError
        If `reference` is not among the methods.
    BadDataError
        If a subject lacks a region that is needed.
    """
    chosen = select(scores, region)
    methods = scored_methods(chosen)
    if reference is not None and reference not in methods:
        raise UsageError(f"no scores of method {reference!r}; there are {', '.join(methods)}")
    rows = []
    for method, versus in _pairs(methods, reference):
        a, b = ([s for s in chosen if s.method == name] for name in (method, versus))
        rows += [_test(a, b, metric, seed) for metric in SCORED]
    corrected: dict[Comparison, float] = {}
    for question in dict.fromkeys((row.versus, row.metric) for row in rows):
        family = [row for row in rows if (row.versus, row.metric) == question]
        corrected |= zip(family, holm([row.p for row in family]), strict=True)
    return tuple(replace(row, p_holm=corrected[row]) for row in rows)


def _pairs(methods: Sequence[str], reference: str | None) -> list[tuple[str, str]]:
    """List who is compared with whom."""
    others = [m for m in methods if m != IDENTITY]
    reference = reference or (others[0] if others else None)
    pairs = [(m, reference) for m in others if reference and m != reference]
    if IDENTITY in methods:
        pairs += [(m, IDENTITY) for m in others if (m, IDENTITY) not in pairs]
    return pairs


def scored_methods(scores: Iterable[Score]) -> tuple[str, ...]:
    """List the methods, the identity first and the others in order of appearance."""
    names = dict.fromkeys(s.method for s in scores)
    return tuple(sorted(names, key=lambda name: name != IDENTITY))


def by_participant(scores: Iterable[Score], metric: str) -> dict[str, float]:
    """Average a metric over each participant's sessions and folds, skipping what is not finite.

    A participant is the part of `Score.subject` before ``_``.
    """
    values_of: dict[str, list[float]] = {}
    for s in scores:
        value = s.values.get(metric, math.nan)
        if math.isfinite(value):
            values_of.setdefault(s.subject.partition("_")[0], []).append(value)
    return {name: float(np.mean(values)) for name, values in values_of.items()}


def write_summary(
    path: str | Path,
    summary: Sequence[Summary],
    titles: Mapping[str, str] | None = None,
    convention: str = CLIPPED,
) -> Path:
    """Write one line per method and metric, with the fold means, as TSV, and the sidecar."""
    folds = sorted({fold for row in summary for fold, _ in row.fold_means})
    lines = [[*_cells(row), *map(dict(row.fold_means).get, folds)] for row in summary]
    titles = titles_of((row.method for row in summary), titles)
    return catalogue.write_table(path, lines, catalogue.of_summary(titles, folds, convention))


def write_comparisons(
    path: str | Path,
    comparisons: Sequence[Comparison],
    titles: Mapping[str, str] | None = None,
    convention: str = CLIPPED,
) -> Path:
    """Write one line per pair of methods and metric as TSV, and the sidecar."""
    titles = titles_of((name for c in comparisons for name in (c.method, c.versus)), titles)
    sidecar = catalogue.of_comparisons(titles, convention)
    return catalogue.write_table(path, map(_cells, comparisons), sidecar)


def read_statistics(
    stem: str | Path, scores: Sequence[Score], reference: str | None = None
) -> tuple[tuple[Summary, ...], tuple[Comparison, ...]] | None:
    """Read what `h2lo_bids.evaluation.table.write_tables` wrote, to spare the resampling.

    None if a file is absent or damaged, or is of other scores or another reference.
    """
    try:
        summary = tuple(_rows(f"{stem}_summary.tsv", Summary))
        comparisons = tuple(_rows(f"{stem}_comparisons.tsv", Comparison))
    except (OSError, ValueError, KeyError):
        return None
    now, then = (
        [(row.method, row.metric, row.n, row.over, repr(row.mean), repr(row.std)) for row in rows]
        for rows in (summarise(scores, intervals=False), summary)
    )
    pairs = list(dict.fromkeys((c.method, c.versus) for c in comparisons))
    known = reference is None or pairs == _pairs(scored_methods(scores), reference)
    return (summary, comparisons) if now == then and known else None


def _cells(row: Summary | Comparison) -> list[Any]:
    """List the values of a row in the order of its columns, which is that of the fields."""
    values = [getattr(row, f.name) for f in fields(row) if f.name != "fold_means"]
    return [None if value == "" else value for value in values]


def _rows(path: str, kind: type[_Row]) -> Iterator[_Row]:
    read: dict[str, Callable[[str], Any]] = {
        "int": int,
        "float": catalogue.number,
        "str": lambda text: "" if text == catalogue.MISSING else text,
    }
    for row in table_rows(read_text(Path(path)), quoting=csv.QUOTE_NONE):
        values = {
            f.name: read[str(f.type)](row[_COLUMNS.get(f.name, f.name)])
            for f in fields(kind)  # type: ignore[arg-type]
            if f.name != "fold_means"
        }
        if kind is Summary:
            values["fold_means"] = tuple(
                (int(key[5:]), mean)
                for key, text in row.items()
                if key.startswith("fold_") and math.isfinite(mean := catalogue.number(text))
            )
        yield kind(**values)


def _summary(scores: Sequence[Score], metric: str, region: str, seed: int | None) -> Summary:
    folds = sorted({s.fold for s in scores if s.fold is not None})
    fold_means = []
    for fold in folds:
        inside = by_participant([s for s in scores if s.fold == fold], metric)
        fold_means.append((fold, float(np.mean([*inside.values()])) if inside else math.nan))
    people = [*by_participant(scores, metric).values()]
    finite = [value for _, value in fold_means if math.isfinite(value)]
    over, averaged = ("folds", finite) if len(folds) > 1 else ("participants", people)
    low, high = math.nan, math.nan
    if seed is not None:
        low, high = confidence_interval(np.array(people), seed=seed)
    return Summary(
        scores[0].method, metric, region, len(people),
        mean=float(np.mean(averaged)) if averaged else math.nan,
        std=float(np.std(averaged)) if len(averaged) > 1 else math.nan,
        over=over, low=low, high=high, fold_means=tuple(fold_means),
    )  # fmt: skip


def _test(scores: Sequence[Score], versus: Sequence[Score], metric: str, seed: int) -> Comparison:
    """Compare two methods by one metric, without correction of p."""
    first, second = scores[0], versus[0]
    a, b = by_participant(scores, metric), by_participant(versus, metric)
    differences = np.array([a[name] - b[name] for name in a if name in b])
    mean = float(differences.mean()) if differences.size else math.nan
    info = CATALOGUE[metric]
    better = first.method if info.better(mean, 0) else ""
    better = second.method if info.better(0, mean) else better
    low, high = confidence_interval(differences, seed=seed)
    statistic, p = signed_rank(differences)
    return Comparison(
        first.method, second.method, metric, first.region, len(differences),
        difference=mean, low=low, high=high, better=better,
        statistic=statistic, p=p, p_holm=math.nan,
    )  # fmt: skip
