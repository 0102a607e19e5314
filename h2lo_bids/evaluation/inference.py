"""Bootstrap intervals, Wilcoxon's signed-rank test, exact with ties too, and Holm's correction."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95


def confidence_interval(
    values: np.ndarray, *, seed: int = 0, resamples: int = 9999
) -> tuple[float, float]:
    """Bound the mean of a population from a sample, by resampling it.

    The bias-corrected and accelerated bootstrap. With few values it is too
    narrow, as every bootstrap of a mean: 12 normal ones are covered in 91 cases
    of 100 and not in 95.

    Parameters
    ----------
    values
        (N,), finite.
    seed, resamples
        Of the resampling, and how often it is done.

    Returns
    -------
    low, high : float
        NaN if there are fewer than two values.

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
            (values,), np.mean, confidence_level=CONFIDENCE, n_resamples=resamples,
            method="BCa", random_state=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
    return float(interval.low), float(interval.high)


def signed_rank(differences: np.ndarray, *, exact_up_to: int = 200) -> tuple[float, float]:
    """Test whether paired differences are symmetric about zero.

    Zero differences are dropped, tied ones share their mean rank. The p value
    is exact: the share of all choices of signs whose rank sum is as extreme. For
    more differences than `exact_up_to`, which takes a few milliseconds, the normal
    approximation is used, with the variance that belongs to the ties.

    Parameters
    ----------
    differences
        (N,), finite.
    exact_up_to
        Most differences of which the whole distribution is counted.

    Returns
    -------
    statistic : float
        The smaller of the rank sums of positive and negative differences.
    p : float
        Two-sided; 1 if all differences are zero, NaN if there are none.

    References
    ----------
    Wilcoxon 1945, Biometrics Bulletin 1:80.
    """
    from scipy.stats import rankdata

    values = np.asarray(differences, np.float64)
    if not values.size:
        return math.nan, math.nan
    values = values[values != 0]
    if not values.size:
        return 0.0, 1.0
    ranks = rankdata(np.abs(values))
    positive, total = float(ranks[values > 0].sum()), float(ranks.sum())
    statistic = min(positive, total - positive)
    if len(ranks) <= exact_up_to:
        return statistic, _exact(ranks, statistic)
    distance = (statistic - total / 2) / math.sqrt(float((ranks**2).sum()) / 4)
    return statistic, min(1.0, math.erfc(-distance / math.sqrt(2)))


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Correct p values for their number.

    Parameters
    ----------
    p
        Of one family of tests; NaN where there was no test.

    Returns
    -------
    tuple of float
        Corrected, in the same order; NaN stays.

    References
    ----------
    Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    known = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    corrected = [math.nan] * len(p)
    largest = 0.0
    for rank, (value, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        corrected[i] = largest
    return tuple(corrected)


def _exact(ranks: np.ndarray, statistic: float) -> float:
    """Count rank sums, doubled so that mean ranks are whole numbers."""
    doubled = np.rint(2 * ranks).astype(int)
    chance = np.zeros(doubled.sum() + 1)
    chance[0] = 1
    for rank in doubled:
        chance[rank:] = (chance[rank:] + chance[:-rank]) / 2
        chance[:rank] /= 2
    return min(1.0, 2 * float(chance[: round(2 * statistic) + 1].sum()))
