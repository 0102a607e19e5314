"""Wilcoxon's signed-rank test, exact with ties too, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_EXACT_UP_TO = 200
"""Pairs up to which the whole distribution is counted: a few milliseconds."""


def signed_rank(differences: np.ndarray) -> tuple[float, float]:
    """Test whether paired differences are symmetric about zero.

    Zero differences are left out, tied ones share their mean rank. The p value
    is exact: the share of all choices of signs whose rank sum is as extreme. For
    more than 200 differences the normal approximation is used, with the
    variance that belongs to the ties.

    Parameters
    ----------
    differences
        (N,), finite.

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
    if len(ranks) <= _EXACT_UP_TO:
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
