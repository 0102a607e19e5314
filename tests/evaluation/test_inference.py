"""Intervals against theory; the signed-rank test against scipy and the enumeration of all signs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm, rankdata, t, wilcoxon

from h2lo_bids.evaluation.inference import confidence_interval, holm, signed_rank


def by_enumeration(differences: np.ndarray) -> float:
    values = differences[differences != 0]
    ranks = rankdata(np.abs(values))
    centre = ranks.sum() / 2
    seen = abs(ranks[values > 0].sum() - centre)
    signs = itertools.product((0, 1), repeat=len(values))
    sums = np.array([np.dot(chosen, ranks) for chosen in signs])
    return float(np.mean(np.abs(sums - centre) >= seen - 1e-9))


@pytest.mark.parametrize("n", [1, 2, 5, 9, 12])
@pytest.mark.parametrize("ties", [False, True])
def test_exact_p_is_the_share_of_all_signs(n: int, ties: bool) -> None:
    rng = np.random.default_rng(n)
    for _ in range(4):
        values = rng.normal(0.5, 1, n)
        values = np.round(2 * values) / 2 if ties else values
        if values.any():
            assert signed_rank(values)[1] == pytest.approx(by_enumeration(values))


@pytest.mark.parametrize("n", [6, 20, 45])
def test_equals_scipy_where_there_are_no_ties(n: int) -> None:
    values = np.random.default_rng(n).normal(0.2, 1, n)
    expected = wilcoxon(values, method="exact")
    assert signed_rank(values) == pytest.approx((expected.statistic, expected.pvalue))


@pytest.mark.parametrize("ties", [False, True])
def test_many_pairs_are_approximated_as_scipy_does(ties: bool) -> None:
    values = np.random.default_rng(3).normal(0.1, 1, 400)
    values = np.round(values, 1) if ties else values
    expected = wilcoxon(values, method="approx", zero_method="wilcox", correction=False)
    assert signed_rank(values) == pytest.approx((expected.statistic, expected.pvalue))


def test_approximation_joins_the_exact_distribution() -> None:
    values = np.random.default_rng(4).normal(0.15, 1, 200)
    exact = signed_rank(values)
    assert signed_rank(values, exact_up_to=0) == pytest.approx(exact, rel=0.05)


def test_extremes() -> None:
    assert signed_rank(np.array([1.0, 2, 3, 4, 5])) == (0, 2 / 32)
    assert signed_rank(np.array([-1.0, 1, -2, 2]))[1] == 1
    assert signed_rank(np.zeros(3)) == (0, 1)
    assert all(math.isnan(v) for v in signed_rank(np.array([])))


def test_p_is_uniform_or_larger_where_nothing_differs() -> None:
    rng = np.random.default_rng(5)
    p = np.array([signed_rank(rng.standard_normal(10))[1] for _ in range(2000)])
    for level in (0.05, 0.2, 0.5):
        assert (p <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / 2000)


def test_interval_is_seeded_and_degenerate_samples_have_one() -> None:
    values = np.random.default_rng(0).normal(size=9)
    assert confidence_interval(values, seed=3) == confidence_interval(values, seed=3)
    assert confidence_interval(values, seed=3) != confidence_interval(values, seed=4)
    assert confidence_interval(np.full(5, 2.5)) == (2.5, 2.5)
    assert all(math.isnan(v) for v in confidence_interval(np.array([1.0])))


def test_interval_of_many_values_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    expected = norm.interval(0.95, values.mean(), values.std() / 20)
    assert confidence_interval(values) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("n", [6, 12, 23])
def test_interval_covers_as_often_as_theory_says(n: int) -> None:
    # The bootstrap's deviation is that of the sample divided by n: to first order it covers
    # as often as Student's t stays below z sqrt((n - 1) / n).
    rng, trials = np.random.default_rng(n), 1500
    covered = 0
    for trial in range(trials):
        low, high = confidence_interval(rng.standard_normal(n), seed=trial, resamples=999)
        covered += low <= 0 <= high
    expected = 1 - 2 * t.sf(norm.ppf(0.975) * math.sqrt((n - 1) / n), n - 1)
    assert covered / trials == pytest.approx(expected, abs=0.025)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    corrected = holm([0.01, math.nan, 0.6, 0.7])
    assert corrected[0] == pytest.approx(0.03)
    assert math.isnan(corrected[1])
    assert corrected[2:] == (1.0, 1.0)
    assert holm([]) == ()


def test_holm_rejects_what_its_steps_reject() -> None:
    rng = np.random.default_rng(6)
    for _ in range(50):
        p = rng.random(7) ** 3
        order, rejected = np.argsort(p), set()
        for step, i in enumerate(order):
            if p[i] > 0.05 / (7 - step):
                break
            rejected.add(int(i))
        assert {i for i, value in enumerate(holm(p.tolist())) if value <= 0.05} == rejected
