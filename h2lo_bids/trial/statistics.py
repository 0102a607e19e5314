"""Study figures of a trial, from the ratings that observers gave.

Subjects are the units that a study draws: realisations of one lesion, and lesions of one
person, are not independent.
"""

from __future__ import annotations

import bisect
import math
import warnings
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05
_LEAST_SPREAD = 1e-9
_MOST_SUBJECTS = 10**6


@dataclass(frozen=True)
class Area:
    """Area under the ROC curve, with two 95 % confidence intervals.

    Parameters
    ----------
    auc
        Mean over realisations.
    error
        Standard error by DeLong; cases are lesions and healthy places.
    low, high
        ``auc`` plus and minus 1.96 errors, cut to [0, 1].
    boot_low, boot_high
        Percentiles of the bootstrap over subjects.
    """

    auc: float
    error: float
    low: float
    high: float
    boot_low: float = math.nan
    boot_high: float = math.nan


def delong(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate areas under ROC curves of the same cases, and their covariance.

    Parameters
    ----------
    positive
        Ratings (K, M): of M cases with a lesion by each of K readings.
    negative
        Ratings (K, N): of N cases without.

    Returns
    -------
    areas : numpy.ndarray
        (K,): the share of pairs that are in order; half for ties.
    covariance : numpy.ndarray
        (K, K); NaN with fewer than two cases of a class.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44:837; by midranks as Sun and Xu
    2014, IEEE Signal Processing Letters 21:1389.
    """
    from scipy.stats import rankdata

    positive, negative = np.atleast_2d(positive), np.atleast_2d(negative)
    m, n = positive.shape[1], negative.shape[1]
    ranks = rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    of_positive = (ranks[:, :m] - rankdata(positive, axis=1)) / n
    of_negative = 1 - (ranks[:, m:] - rankdata(negative, axis=1)) / m
    areas: np.ndarray = of_positive.mean(axis=1)
    if min(m, n) < 2:
        return areas, np.full((len(areas), len(areas)), np.nan)
    covariance = np.atleast_2d(np.cov(of_positive)) / m + np.atleast_2d(np.cov(of_negative)) / n
    return areas, covariance


def area(
    positive: np.ndarray,
    negative: np.ndarray,
    positive_subjects: np.ndarray,
    negative_subjects: np.ndarray,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Area:
    """Estimate the mean area of several realisations, and bound it twice.

    Parameters
    ----------
    positive, negative
        As for `delong`; the realisations are the readings.
    positive_subjects, negative_subjects
        (M,), (N,): whose each case is.
    resamples
        Of the bootstrap over subjects; with one subject there is no such interval.
    seed
        Of the bootstrap.
    """
    areas, covariance = delong(positive, negative)
    value = float(areas.mean())
    error = float(np.sqrt(max(covariance.mean(), 0))) if np.isfinite(covariance).all() else math.nan
    low, high = max(value - 1.959964 * error, 0.0), min(value + 1.959964 * error, 1.0)
    names, codes = np.unique(
        np.concatenate([positive_subjects, negative_subjects]), return_inverse=True
    )
    if len(names) < 2:
        return Area(value, error, low, high)
    m = np.atleast_2d(positive).shape[1]
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    drawn = weighted_areas(positive, negative, codes[:m], codes[m:], counts)
    drawn = drawn[np.isfinite(drawn)]
    bounds = np.percentile(drawn, (2.5, 97.5)) if len(drawn) else (math.nan, math.nan)
    return Area(value, error, low, high, float(bounds[0]), float(bounds[1]))


def weighted_areas(
    positive: np.ndarray,
    negative: np.ndarray,
    of_positive: np.ndarray,
    of_negative: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """Return the mean area for each row of weights of the subjects (B, S): one sort for all."""
    total = np.zeros(len(counts))
    for mine, theirs in zip(np.atleast_2d(positive), np.atleast_2d(negative), strict=True):
        order = np.argsort(theirs, kind="stable")
        below = np.searchsorted(theirs[order], mine, "left")
        upto = np.searchsorted(theirs[order], mine, "right")
        for row, weights in enumerate(counts):
            sums = np.concatenate([[0.0], np.cumsum(weights[of_negative[order]])])
            own = weights[of_positive]
            with np.errstate(invalid="ignore"):
                share = own @ (sums[below] + sums[upto]) / 2 / (own.sum() * sums[-1])
            total[row] += share
    return total / len(np.atleast_2d(positive))


def hotelling_ratings(
    channels: np.ndarray, lesion: np.ndarray, groups: np.ndarray, *, folds: int = 5
) -> np.ndarray:
    """Rate cases by a channelized Hotelling observer that never saw their group.

    The Hotelling template of channel outputs is Fisher's linear discriminant: the inverse of
    the covariance within the classes, with Ledoit and Wolf's shrinkage, times the
    difference of their means. It is trained on the other groups' cases.

    Parameters
    ----------
    channels
        (N, C), of all cases and realisations.
    lesion
        (N,), bool.
    groups
        (N,): whose each case is; subjects, or lesions where there is one subject.
    folds
        At most; as many as there are groups if they are fewer.

    Returns
    -------
    numpy.ndarray
        (N,); NaN where no fold could be trained.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import GroupKFold

    ratings = np.full(len(channels), np.nan)
    count = min(folds, len(np.unique(groups)))
    if count < 2:
        return ratings
    for train, test in GroupKFold(count).split(channels, lesion, groups):
        if len(np.unique(lesion[train])) == 2:
            observer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
            observer.fit(channels[train], lesion[train])
            ratings[test] = observer.decision_function(channels[test])
    return ratings


def detectability(auc: float) -> float:
    """Return the d' of two normal classes of equal variance with this area under the curve."""
    from scipy.stats import norm

    return float(math.sqrt(2) * norm.ppf(auc)) if 0 < auc < 1 else math.nan


def threshold(negative: np.ndarray, specificity: float = 0.9) -> float:
    """Return the rating that this share of the cases without a lesion does not exceed."""
    return float(np.quantile(negative, specificity, method="higher"))


def sensitivity(seen: np.ndarray) -> tuple[float, float, float]:
    """Return the mean share seen, and Wilson's 95 % interval for as many cases as lesions.

    `seen` (L,) holds of each lesion the share of realisations in which it is seen.
    """
    from statsmodels.stats.proportion import proportion_confint

    if not len(seen):
        return math.nan, math.nan, math.nan
    low, high = proportion_confint(float(seen.sum()), len(seen), alpha=ALPHA, method="wilson")
    return float(seen.mean()), float(low), float(high)


@dataclass(frozen=True)
class Psychometric:
    """Probability of seeing a lesion: logistic in the logarithm of its diameter.

    Parameters
    ----------
    intercept, slope
        Of the logit, in log mm.
    diameter
        Seen with 80 % probability, mm; NaN if the fit has no rising slope.
    low, high
        Its 95 % interval by the delta method on log mm, errors clustered by subject.
    """

    intercept: float
    slope: float
    diameter: float = math.nan
    low: float = math.nan
    high: float = math.nan


def diameter_seen(
    diameters: np.ndarray, seen: np.ndarray, groups: np.ndarray, probability: float = 0.8
) -> Psychometric:
    """Fit the probability of seeing a lesion to its diameter.

    Parameters
    ----------
    diameters
        (L,), mm.
    seen
        (L,), share of realisations.
    groups
        (L,), whose each lesion is.
    probability
        At which the diameter is wanted.
    """
    import statsmodels.api as sm

    nothing = Psychometric(math.nan, math.nan)
    if len(diameters) < 4 or np.ptp(diameters) < _LEAST_SPREAD or np.ptp(seen) < _LEAST_SPREAD:
        return nothing
    design = sm.add_constant(np.log(diameters))
    codes = np.unique(groups, return_inverse=True)[1]
    how = {"cov_type": "cluster", "cov_kwds": {"groups": codes}} if codes.max() > 0 else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of separation: the slope is then too steep to bound
        fit = sm.GLM(seen, design, family=sm.families.Binomial()).fit(**how)
    a, b = map(float, fit.params)
    covariance = np.asarray(fit.cov_params())
    if not np.isfinite([a, b]).all() or b <= 0 or abs(b) > 100:
        return Psychometric(a, b)
    wanted = (math.log(probability / (1 - probability)) - a) / b
    gradient = np.array([-1 / b, -wanted / b])
    error = math.sqrt(max(float(gradient @ covariance @ gradient), 0.0))
    ends = [math.exp(min(wanted + side * 1.959964 * error, 50)) for side in (0, -1, 1)]
    return Psychometric(a, b, *ends)


@dataclass(frozen=True)
class Agreement:
    """Agreement of two measurements of the same things.

    Parameters
    ----------
    n, bias, low, high
        Bland and Altman's mean difference and 95 % limits of agreement.
    icc
        Intraclass correlation of single measurements, absolute agreement: ICC(2,1).
    """

    n: int
    bias: float
    low: float
    high: float
    icc: float


def agreement(truth: np.ndarray, measured: np.ndarray) -> Agreement:
    """Compare measured with true values, (N,) each; NaN where N is less than 2."""
    difference = measured - truth
    if len(truth) < 2:
        return Agreement(len(truth), math.nan, math.nan, math.nan, math.nan)
    spread = 1.959964 * float(difference.std(ddof=1))
    bias = float(difference.mean())
    icc = intraclass_correlation(np.column_stack([truth, measured]))
    return Agreement(len(truth), bias, bias - spread, bias + spread, icc)


def intraclass_correlation(ratings: np.ndarray) -> float:
    """Return ICC(2,1) of ratings (targets, raters).

    References
    ----------
    Shrout and Fleiss 1979, Psychological Bulletin 86:420.
    """
    n, k = ratings.shape
    mean = ratings.mean()
    targets = k * ((ratings.mean(axis=1) - mean) ** 2).sum() / (n - 1)
    raters = n * ((ratings.mean(axis=0) - mean) ** 2).sum() / (k - 1)
    rest = ratings - ratings.mean(axis=1, keepdims=True) - ratings.mean(axis=0) + mean
    error = (rest**2).sum() / ((n - 1) * (k - 1))
    total = targets + (k - 1) * error + k * (raters - error) / n
    return float((targets - error) / total) if total > 0 else math.nan


def subjects_needed(differences: np.ndarray, power: float) -> int | None:
    """Return how many subjects a paired t-test of two conditions needs.

    Parameters
    ----------
    differences
        Of each subject, one condition less the other.
    power
        Wanted at a two-sided level of 5 %.

    Returns
    -------
    int or None
        None where the differences have no mean, fewer than two are given, or a million do
        not suffice.
    """
    from statsmodels.stats.power import TTestPower

    mean = float(np.mean(differences)) if len(differences) > 1 else 0.0
    if abs(mean) < _LEAST_SPREAD:
        return None
    spread = float(np.std(differences, ddof=1))
    if spread < _LEAST_SPREAD or abs(mean) / spread > 10:
        return 2
    effect, test = abs(mean) / spread, TTestPower()

    def enough(n: int) -> bool:
        # Far beyond what is needed it gives NaN.
        return not test.power(effect, n, ALPHA) < power

    # Its own solver fails where two or three subjects are enough.
    needed = bisect.bisect_left(range(2, _MOST_SUBJECTS), True, key=enough) + 2
    return None if needed >= _MOST_SUBJECTS else needed


@dataclass(frozen=True)
class Dose:
    """Odds of seeing a lesion per unit of what differs, and 95 % interval."""

    odds: float
    low: float
    high: float
    p: float


def dose_response(
    seen: np.ndarray, dose: np.ndarray, diameters: np.ndarray, groups: np.ndarray
) -> Dose | None:
    """Fit what one quantity of the conditions does to seeing lesions, whatever their size.

    Generalised estimating equations, binomial, exchangeable within subjects; the
    logarithm of the diameter is a covariate.

    Parameters
    ----------
    seen
        (K,): of each lesion in each condition, the share of realisations.
    dose
        (K,): for example the noise scale.
    diameters, groups
        (K,): mm, and whose the lesion is.

    Returns
    -------
    Dose or None
        None where the dose or what is seen does not vary, or there is one subject.
    """
    import statsmodels.api as sm

    if min(np.ptp(dose), np.ptp(seen)) < _LEAST_SPREAD or len(np.unique(groups)) < 2:
        return None
    columns = [np.ones(len(seen)), dose]
    if np.ptp(diameters) > _LEAST_SPREAD:
        columns.append(np.log(diameters))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = sm.GEE(
            seen, np.column_stack(columns), groups=groups, family=sm.families.Binomial(),
            cov_struct=sm.cov_struct.Exchangeable(),
        ).fit()  # fmt: skip
    b, error = float(fit.params[1]), float(fit.bse[1])
    if not np.isfinite([b, error]).all() or abs(b) > 100:
        return None
    mean, low, high = (math.exp(np.clip(b + s * 1.959964 * error, -300, 300)) for s in (0, -1, 1))
    return Dose(mean, low, high, float(fit.pvalues[1]))
