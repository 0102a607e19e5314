"""Means, spreads, bootstrap intervals and exact paired tests over subjects."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from h2lo_bids.errors import UsageError
from h2lo_bids.evaluation.catalogue import CATALOGUE
from h2lo_bids.evaluation.scores import IDENTITY, SCORED, Score, select
from h2lo_bids.wording import counted

_EXACT, _EXACT_TIED = 200, 13  # most differences that are tested exactly; if some are tied


@dataclass(frozen=True)
class Summary:
    """One metric of one method over all subjects, in the regions of the paper's Table 1."""

    method: str
    metric: str
    # By subject (see `Score`) and fold, where it is finite.
    values: Mapping[tuple[str, int | None], float] = field(hash=False)
    mean: float  # of the fold means if there are two folds, as the paper has it; else of people
    std: float = math.nan  # population standard deviation of the same values; NaN for one value
    over: str = ""  # "folds" or "participants": whose mean and deviation these are
    low: float = math.nan  # bootstrap confidence interval of the mean over participants
    high: float = math.nan
    fold_means: tuple[tuple[int, float], ...] = ()  # by fold; empty when not cross-validated

    @property
    def people(self) -> dict[str, float]:
        """Means over each participant's sessions and folds."""
        return _people(self.values)

    @property
    def n(self) -> int:
        """Participants with a finite value."""
        return len(self.people)


@dataclass(frozen=True)
class Comparison:
    """A paired test of two methods by one metric."""

    method: str
    versus: str
    metric: str
    n: int  # participants with finite values of both in one session and fold
    difference: float  # mean of method less versus
    low: float  # bootstrap confidence interval of the difference
    high: float
    better: str  # the method with the better mean; empty if they are equal
    statistic: float  # of Wilcoxon's signed-rank test, two-sided
    p: float
    p_holm: float  # corrected over the methods compared with `versus` by this metric

    @property
    def signed(self) -> str:
        """The difference as tables show it, with its sign."""
        info = CATALOGUE[self.metric]
        return "+" * (round(self.difference, info.digits) > 0) + info.write(self.difference)


def confidence_interval(values: np.ndarray) -> tuple[float, float]:
    """Bound the mean of a population from a sample, (N,), by resampling it.

    The bias-corrected and accelerated bootstrap. With few values it is too
    narrow, as every bootstrap of a mean: 12 normal ones are covered in 91 cases
    of 100 and not in 95. NaN is returned for fewer than two values.

    References
    ----------
    Efron 1987, Journal of the American Statistical Association 82:171.
    """
    from scipy.stats import bootstrap

    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of degenerate samples, which give NaN
        interval = bootstrap(
            (values,), np.mean, confidence_level=0.95, n_resamples=9999,
            method="BCa", random_state=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
    return float(interval.low), float(interval.high)


def signed_rank(differences: np.ndarray) -> tuple[float, float]:
    """Test whether paired differences, (N,), are symmetric about zero (`scipy.stats.wilcoxon`).

    Zero differences are dropped. The p value is exact for up to 200 differences, or up to 13 if
    some are tied; for more it is that of the normal approximation.

    Returns
    -------
    statistic : float
        The smaller of the rank sums of positive and negative differences.
    p : float
        Two-sided; 1 if all differences are zero, NaN if there are none.
    """
    from scipy.stats import PermutationMethod, wilcoxon

    values = differences[differences != 0]
    if not values.size:
        return (0.0, 1.0) if len(differences) else (math.nan, math.nan)
    exact, most = "exact", _EXACT
    if len({*np.abs(values)}) < len(values):
        exact, most = PermutationMethod(), _EXACT_TIED
    result = wilcoxon(values, method=exact if len(values) <= most else "approx")
    # Beyond 54 values scipy's smallest p is rounded to 0.
    return float(result.statistic), max(float(result.pvalue), 2.0 ** (1 - len(values)))


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Correct p values for their number (Holm 1979); NaN, where there was no test, stays."""
    corrected = np.array(p, np.float64)
    known = np.argsort(corrected)[: np.isfinite(corrected).sum()]  # NaN comes last
    steps = corrected[known] * np.arange(len(known), 0, -1)
    corrected[known] = np.maximum.accumulate(steps).clip(max=1)
    return tuple(corrected.tolist())


def summarise(scores: Sequence[Score]) -> tuple[Summary, ...]:
    """Summarise every metric of every method, in the regions of the paper's Table 1.

    Sessions of one participant are averaged before anything else: they are not
    independent. Values that are not finite are skipped, duplicates dropped.

    Returns
    -------
    tuple of Summary
        The identity first, then methods in order of appearance, metrics in the
        order of the tables.

    Raises
    ------
    BadDataError
        If a subject lacks a region.
    """
    by_method: dict[str, list[Score]] = {}
    for s in select(scores):
        by_method.setdefault(s.method, []).append(s)
    names = sorted(by_method, key=lambda name: name != IDENTITY)
    return tuple(_summary(by_method[name], metric) for name in names for metric in SCORED)


def compare(rows: Sequence[Summary], *, reference: str | None = None) -> tuple[Comparison, ...]:
    """Test every method against a reference, by default the first one, and against the identity.

    A family of tests, over which p is corrected, is one question asked of several
    methods: one metric against one of the two. Over all metrics, which measure much
    the same, ten participants could never be enough: their smallest p is 0.002. A participant
    counts once: sessions, and folds whose test sets overlap, are averaged first, those
    alone that both methods have.

    Raises
    ------
    UsageError
        If `reference` is not among the methods.
    """
    summary = {(row.method, row.metric): row for row in rows}
    methods = list(dict.fromkeys(row.method for row in rows))
    others = [m for m in methods if m != IDENTITY]
    if reference is not None and reference not in methods:
        raise UsageError(f"no scores of method {reference!r}; there are {', '.join(methods)}")
    compared: list[Comparison] = []
    for versus in dict.fromkeys([reference or [*others, IDENTITY][0], IDENTITY]):
        tested = [m for m in others if m != versus and versus in methods]
        families = []
        for metric in SCORED:
            tests = [_test(summary[m, metric], summary[versus, metric]) for m in tested]
            corrected = holm([test.p for test in tests])
            families.append([replace(t, p_holm=p) for t, p in zip(tests, corrected, strict=True)])
        compared += (test for of_method in zip(*families, strict=True) for test in of_method)
    return tuple(compared)


def _people(values: Mapping[tuple[str, int | None], float]) -> dict[str, float]:
    """Average over each participant's sessions and folds."""
    values_of: dict[str, list[float]] = {}
    for (subject, _), value in values.items():
        values_of.setdefault(subject.partition("_")[0], []).append(value)
    return {name: float(np.mean(values)) for name, values in values_of.items()}


def _summary(scores: Sequence[Score], metric: str) -> Summary:
    found = {(s.subject, s.fold): s.values.get(metric, math.nan) for s in scores}
    values = {key: value for key, value in found.items() if math.isfinite(value)}
    fold_means = []
    for fold in sorted({fold for _, fold in found if fold is not None}):
        inside = _people({key: value for key, value in values.items() if key[1] == fold})
        fold_means.append((fold, float(np.mean([*inside.values()])) if inside else math.nan))
    people = [*_people(values).values()]
    finite = [value for _, value in fold_means if math.isfinite(value)]
    over, averaged = ("folds", finite) if len(fold_means) > 1 else ("participants", people)
    low, high = confidence_interval(np.array(people))
    return Summary(
        scores[0].method, metric, values,
        mean=float(np.mean(averaged)) if averaged else math.nan,
        std=float(np.std(averaged)) if len(averaged) > 1 else math.nan,
        over=over, low=low, high=high, fold_means=tuple(fold_means),
    )  # fmt: skip


def _test(first: Summary, second: Summary) -> Comparison:
    """Compare two methods by one metric, without correction of p."""
    both = [key for key in first.values if key in second.values]
    a, b = (_people({key: row.values[key] for key in both}) for row in (first, second))
    differences = np.array([a[name] - b[name] for name in a])
    mean = float(differences.mean()) if differences.size else math.nan
    info = CATALOGUE[first.metric]
    better = first.method if info.better(mean, 0) else ""
    better = second.method if info.better(0, mean) else better
    low, high = confidence_interval(differences)
    statistic, p = signed_rank(differences)
    return Comparison(
        first.method, second.method, first.metric, len(differences),
        difference=mean, low=low, high=high, better=better,
        statistic=statistic, p=p, p_holm=math.nan,
    )  # fmt: skip


def floor_of(comparisons: Iterable[Comparison]) -> str:
    """Return a sentence if there are too few participants for any test to be significant."""
    people = max((c.n for c in comparisons), default=0)
    families = Counter((c.versus, c.metric) for c in comparisons if c.n)
    lowest = min(families.values(), default=0) * 2.0 ** (1 - people)
    if lowest < 0.05:
        return ""
    return (
        f" With {counted(people, 'participant')} no corrected p can be below "
        f"{min(lowest, 1.0):.2g}: no difference between these methods can be significant."
    )
