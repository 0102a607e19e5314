"""Study figures of a trial, from the ratings that observers gave.

Subjects are the units that a study draws: realisations of one lesion, and lesions of one
person, are not independent. Intervals are of 95 %. Keys of results are columns of the tables.
"""

from __future__ import annotations

import bisect
import math
import warnings

import numpy as np

ALPHA = 0.05
_Z = 1.959964
SEVERAL = 5
"""Least number of participants for the bootstrap, and for Hotelling's training, over participants.

Its 95 % interval held the true area in 48 of 100 simulated studies of two people, in 67 of three.
"""
_LEAST_SPREAD = 1e-9
_RESAMPLES, _FOLDS = 1000, 20
_LARGEST = math.log(1000)
"""Beyond a metre a diameter has no bound."""
_MOST_SUBJECTS = 10**6


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
    return areas, np.atleast_2d(np.cov(of_positive) / m + np.cov(of_negative) / n)


def area(
    ratings: np.ndarray, lesion: np.ndarray, subjects: np.ndarray, *, seed: int = 0
) -> dict[str, float]:
    """Estimate the mean area of several realisations; bound it by DeLong and by the bootstrap.

    Parameters
    ----------
    ratings
        (K, N), of N cases in each of K realisations, the readings of `delong`.
    lesion, subjects
        (N,): which cases have a lesion, and whose each case is.
    seed
        Of the bootstrap over subjects; with fewer than `SEVERAL` there is no such interval.
    """
    areas, covariance = delong(ratings[:, lesion], ratings[:, ~lesion])
    value = float(areas.mean())
    result = {"auc": value}
    error = _Z * math.sqrt(max(float(covariance.mean()), 0))
    if error > _LEAST_SPREAD:  # no interval is known where all pairs are in order
        result |= {"delong_low": max(value - error, 0.0), "delong_high": min(value + error, 1.0)}
    names, codes = np.unique(subjects, return_inverse=True)
    if (count := len(names)) < SEVERAL:
        return result
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    resampled = weighted_areas(ratings, lesion, codes, drawn)
    low, high = np.nanpercentile(resampled, (2.5, 97.5)).tolist()
    return result | ({"boot_low": low, "boot_high": high} if high - low > _LEAST_SPREAD else {})


def weighted_areas(
    ratings: np.ndarray, lesion: np.ndarray, codes: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Return the mean area for each row of weights of the subjects, (B, S)."""
    people, of_lesion, of_healthy = counts.shape[1], codes[lesion], codes[~lesion]
    # How many pairs of one's lesion and another's healthy place are in order; half for ties.
    ordered = np.zeros((people, people))
    for values in ratings:
        for other in range(people):
            healthy = np.sort(values[~lesion][of_healthy == other])
            below, upto = (np.searchsorted(healthy, values[lesion], s) for s in ("left", "right"))
            ordered[:, other] += np.bincount(of_lesion, (below + upto) / 2, people)
    lesions, places = (counts @ np.bincount(of, minlength=people) for of in (of_lesion, of_healthy))
    with np.errstate(invalid="ignore"):  # NaN where a draw has no lesion or no healthy place
        return ((counts @ ordered) * counts).sum(axis=1) / (len(ratings) * lesions * places)


def hotelling_ratings(
    channels: np.ndarray, lesion: np.ndarray, groups: np.ndarray, diameters: np.ndarray
) -> np.ndarray:
    """Rate cases by a channelized Hotelling observer that never saw their group.

    The Hotelling template of channel outputs is Fisher's linear discriminant: the inverse of
    the covariance within the classes, with Ledoit and Wolf's shrinkage, times the
    difference of their means. It is trained on the other groups' cases. The observer knows
    the size: outputs are in units of the standard deviation of healthy places of that size
    (log-linear in the diameter), and the template is linear in the logarithm of the diameter,
    since what large lesions look like is not what small ones do.

    Parameters
    ----------
    channels
        (N, C), of all cases and realisations.
    lesion
        (N,), bool.
    groups
        (N,): whose each case is; subjects, or lesions where there are few subjects.
    diameters
        (N,), mm.

    Returns
    -------
    numpy.ndarray
        (N,); NaN where no fold could be trained.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import GroupKFold

    ratings, sizes = np.full(len(channels), np.nan), np.log(diameters)
    count = min(_FOLDS, len(np.unique(groups)))  # of few groups each is left out alone
    for train, test in GroupKFold(count).split(channels, lesion, groups) if count > 1 else ():
        healthy = train[~lesion[train]]
        if len(train) < 3 or not 0 < len(healthy) < len(train):
            continue
        first = channels[healthy, 0]
        spread = np.log(np.abs(first - first.mean()) + 1e-12)
        degree = int(np.ptp(sizes[healthy]) > _LEAST_SPREAD)
        scale = np.exp(np.polyval(np.polyfit(sizes[healthy], spread, degree), sizes))
        outputs = channels / scale[:, None]
        features = np.hstack([outputs, outputs * (sizes - sizes[train].mean())[:, None]])
        observer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a class of one case, which does not vary
            observer.fit(features[train], lesion[train])
        ratings[test] = observer.decision_function(features[test])
    return ratings


def detectability(auc: float) -> float:
    """Return the d' of two normal classes of equal variance with this area under the curve."""
    from scipy.stats import norm

    return float(math.sqrt(2) * norm.ppf(auc)) if 0 < auc < 1 else math.nan


def sensitivity(seen: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Average the share of realisations in which each lesion is seen; errors clustered by group.

    The interval is on the logit scale, as that of a proportion in a clustered survey: of a
    logistic fit without covariates, with the sandwich's errors and Student's t over groups.
    Where all groups have one share, as when all lesions are seen, there are no such errors, and
    the interval is Wilson's of as many cases as groups. There is none for a single group.

    Parameters
    ----------
    seen, groups
        (L,): share of realisations; whose each lesion is.

    References
    ----------
    Method "logit" of svyciprop in R's package survey: Lumley 2004, J. Stat. Softw. 9.
    """
    from scipy.special import expit, logit
    from statsmodels.stats.proportion import proportion_confint

    names, codes = np.unique(groups, return_inverse=True)
    count, share = len(names), float(seen.mean())
    if count < 2:
        return {"sensitivity": share}
    low = high = share
    if 0 < share < 1:
        squares = np.square(np.bincount(codes, seen - share)).sum() * count / (count - 1)
        error = math.sqrt(squares) / (len(seen) * share * (1 - share))
        low, high = expit(logit(share) + np.array([-1, 1]) * _quantile(count) * error)
    if high - low < _LEAST_SPREAD:
        low, high = proportion_confint(share * count, count, alpha=ALPHA, method="wilson")
    low, high = (round(float(end), 12) for end in (low, high))
    return {"sensitivity": share, "sensitivity_low": low, "sensitivity_high": high}


def _quantile(groups: int) -> float:
    """Return how many errors wide an interval is on either side; NaN for a single group."""
    # Student's t with groups - 1 degrees (Cameron and Miller 2015, J. Hum. Resour. 50:317).
    from scipy.stats import t

    return float(t.ppf(1 - ALPHA / 2, groups - 1))


def diameter_seen(diameters: np.ndarray, seen: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Fit the probability of seeing a lesion to its diameter; find where it is 80 %.

    The logit is linear in the logarithm of the diameter; the interval is by the delta
    method and Student's t over groups; there is none for a single group, or where a diameter
    separates the lesions seen from those missed. There is no diameter if the fit has no rising
    slope; it and its bounds are infinite beyond a metre.

    Parameters
    ----------
    diameters, seen, groups
        (L,): mm; share of realisations; whose each lesion is.
    """
    import statsmodels.genmod.api as sm

    if len(diameters) < 4 or np.ptp(diameters) < _LEAST_SPREAD or np.ptp(seen) < _LEAST_SPREAD:
        return {}
    design = np.column_stack([np.ones(len(diameters)), np.log(diameters)])
    names, codes = np.unique(groups, return_inverse=True)
    count = 1 if _separates(design, seen) else len(names)
    how = {"cov_type": "cluster", "cov_kwds": {"groups": codes}} if count > 1 else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of separation
        fit = sm.GLM(seen, design, family=sm.families.Binomial()).fit(**how)
    a, b = map(float, fit.params)
    if not np.isfinite([a, b]).all() or b <= 0 or abs(b) > 100:
        return {"intercept": a, "slope": b}
    wanted = (math.log(0.8 / (1 - 0.8)) - a) / b
    gradient = np.array([-1 / b, -wanted / b])
    error = math.sqrt(max(float(gradient @ np.asarray(fit.cov_params()) @ gradient), 0.0))
    wide = _quantile(count) * error
    ends = (wanted, wanted - wide, wanted + wide)
    size, low, high = (math.inf if end > _LARGEST else math.exp(end) for end in ends)
    return {
        "diameter80": size, "diameter80_low": low, "diameter80_high": high,
        "intercept": a, "slope": b,
    }  # fmt: skip


def _separates(design: np.ndarray, seen: np.ndarray) -> bool:
    """Return whether a plane separates the lesions seen from those missed."""
    # The likelihood then has no maximum (Albert and Anderson 1984, Biometrika 71:1). A lesion
    # seen in some realisations alone counts as seen and as missed.
    from scipy.optimize import linprog

    rows = np.vstack([design[seen > 0], -design[seen < 1]])
    best = linprog(-rows.sum(axis=0), -rows, np.zeros(len(rows)), bounds=(-1, 1))
    return bool(best.fun < -_LEAST_SPREAD)


def agreement(truth: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Compare measured with true values, (N,) each; nothing is known where N is less than 2.

    Bland and Altman's bias and limits of agreement, and the intraclass correlation ICC(2,1).
    """
    if len(truth) < 2:
        return {}
    difference = measured - truth
    bias, spread = float(difference.mean()), _Z * float(difference.std(ddof=1))
    result = {"bias": bias, "loa_low": bias - spread, "loa_high": bias + spread}
    if np.ptp(truth) < _LEAST_SPREAD:  # nothing to agree on
        return result
    return result | {"icc": intraclass_correlation(np.column_stack([truth, measured]))}


def intraclass_correlation(ratings: np.ndarray) -> float:
    """Return ICC(2,1) of ratings (targets, raters): Shrout and Fleiss 1979, Psychol Bull 86:420."""
    n, k = ratings.shape
    mean = ratings.mean()
    targets = k * ((ratings.mean(axis=1) - mean) ** 2).sum() / (n - 1)
    raters = n * ((ratings.mean(axis=0) - mean) ** 2).sum() / (k - 1)
    rest = ratings - ratings.mean(axis=1, keepdims=True) - ratings.mean(axis=0) + mean
    error = (rest**2).sum() / ((n - 1) * (k - 1))
    total = targets + (k - 1) * error + k * (raters - error) / n
    return float((targets - error) / total) if total > 0 else math.nan


def subjects_needed(differences: np.ndarray, power: float) -> int | None:
    """Return how many subjects a paired t-test of two conditions needs, at 5 % two-sided.

    `differences` are of each subject, one condition less the other. None where they have no
    mean, fewer than two are given, or a million do not suffice.
    """
    from scipy.stats import ncf

    mean = float(np.mean(differences)) if len(differences) > 1 else 0.0
    if abs(mean) < _LEAST_SPREAD:
        return None
    effect = mean / max(float(np.std(differences, ddof=1)), _LEAST_SPREAD)

    def enough(n: int) -> bool:
        # By F = t^2: the noncentral t of scipy, and so statsmodels, is NaN for some large effects.
        return not ncf.sf(_quantile(n) ** 2, 1, n - 1, n * effect**2) < power

    needed = bisect.bisect_left(range(2, _MOST_SUBJECTS), True, key=enough) + 2
    return None if needed >= _MOST_SUBJECTS else needed


def dose_response(
    seen: np.ndarray,
    dose: np.ndarray,
    diameters: np.ndarray,
    groups: np.ndarray,
    strata: np.ndarray,
) -> dict[str, float]:
    """Fit what one quantity of the conditions does to seeing lesions, whatever their size.

    Generalised estimating equations, binomial, exchangeable within subjects; the
    logarithm of the diameter is a covariate, and each stratum has a level of its own.

    Parameters
    ----------
    seen
        (K,): of each lesion in each condition, the share of realisations.
    dose, diameters, groups, strata
        (K,): for example the noise scale; mm; whose the lesion is; one for conditions that are
        alike but for the dose.

    Returns
    -------
    dict
        Odds of seeing a lesion per unit of the quantity, their interval, and p of no effect;
        empty where dose and what is seen vary in no stratum, a plane separates the lesions seen
        from those missed, or there is one subject.
    """
    import statsmodels.genmod.api as sm
    from scipy.stats import t

    told = np.zeros(len(seen), bool)
    for stratum in np.unique(strata):
        inside = strata == stratum
        told |= inside & (min(np.ptp(dose[inside]), np.ptp(seen[inside])) >= _LEAST_SPREAD)
    seen, dose, diameters, groups, strata = (
        of[told] for of in (seen, dose, diameters, groups, strata)
    )
    if (count := len(np.unique(groups))) < 2:
        return {}
    columns = [dose, *(strata == stratum for stratum in np.unique(strata))]
    if np.ptp(diameters) > _LEAST_SPREAD:
        columns.append(np.log(diameters))
    if _separates(design := np.column_stack(columns), seen):
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = sm.GEE(
            seen, design, groups=groups, family=sm.families.Binomial(),
            cov_struct=sm.cov_struct.Exchangeable(),
        ).fit()  # fmt: skip
        b, error = float(fit.params[0]), float(fit.bse[0])
    if not np.isfinite([b, error]).all() or abs(b) > 100 or not error > 0:
        return {}
    wide = _quantile(count) * error
    odds, low, high = (math.exp(np.clip(b + s * wide, -300, 300)) for s in (0, -1, 1))
    p = 2 * float(t.sf(abs(b) / error, count - 1))
    return {"odds": odds, "low": low, "high": high, "p": p}
