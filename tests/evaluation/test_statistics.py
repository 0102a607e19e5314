"""Intervals, exact tests and summaries against theory, scipy and enumeration."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from samples import cohort, made_up
from scipy.stats import norm, rankdata, wilcoxon
from statsmodels.stats.multitest import multipletests

from h2lo_bids.errors import UsageError
from h2lo_bids.evaluation.scores import SCORED
from h2lo_bids.evaluation.statistics import (
    Summary,
    compare,
    confidence_interval,
    holm,
    signed_rank,
    summarise,
)


def by_enumeration(differences: np.ndarray) -> float:
    values = differences[differences != 0]
    ranks = rankdata(np.abs(values))
    centre = ranks.sum() / 2
    seen = abs(ranks[values > 0].sum() - centre)
    signs = itertools.product((0, 1), repeat=len(values))
    sums = np.array([np.dot(chosen, ranks) for chosen in signs])
    return float(np.mean(np.abs(sums - centre) >= seen - 1e-9))


@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize("ties", [False, True])
def test_exact_p_is_the_share_of_all_signs(n: int, ties: bool) -> None:
    values = np.random.default_rng(n).normal(0.8, 1, n)
    values = np.round(2 * values) / 2 if ties else values
    assert signed_rank(values)[1] == pytest.approx(by_enumeration(values))


@pytest.mark.parametrize(("n", "digits"), [(400, 9), (400, 1), (30, 0)])
def test_p_of_many_or_tied_pairs_is_the_normal_law_s(n: int, digits: int) -> None:
    values = np.round(np.random.default_rng(3).normal(0.1, 1, n), digits)
    values = values[values != 0]
    ranks = rankdata(np.abs(values))
    off = ranks[values > 0].sum() - ranks.sum() / 2
    expected = 2 * norm.sf(abs(off) / math.sqrt((ranks**2).sum() / 4))
    assert signed_rank(values)[1] == pytest.approx(expected)


def test_extremes() -> None:
    assert signed_rank(np.array([1.0, 2, 3, 4, 5])) == (0, 2 / 32)
    assert signed_rank(np.array([-1.0, 1, -2, 2]))[1] == 1
    assert signed_rank(np.zeros(3)) == (0, 1)
    assert signed_rank(np.arange(1.0, 121))[1] == 2 / 2**120
    assert np.isnan(signed_rank(np.array([]))).all()


def test_interval_is_that_of_the_normal_law_and_known_of_degenerate_samples() -> None:
    for n, tolerance in ((400, 0.02), (12, 0.1)):
        values = norm.ppf((np.arange(n) + 0.5) / n, 5, 2)  # without a skew
        expected = norm.interval(0.95, values.mean(), values.std() / math.sqrt(n))
        assert confidence_interval(values) == pytest.approx(expected, abs=tolerance)
    assert confidence_interval(values) == confidence_interval(values)  # in every run
    assert confidence_interval(np.full(5, 2.5)) == (2.5, 2.5)
    assert np.isnan(confidence_interval(np.array([1.0]))).all()


def test_holm_equals_statsmodels_and_keeps_what_was_not_tested() -> None:
    p = np.random.default_rng(6).random(7) ** 3
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    first, none, *others = holm([0.01, math.nan, 0.6, 0.7])
    assert (first, *others) == pytest.approx((0.03, 1, 1))
    assert math.isnan(none)
    assert holm([]) == ()


def of(rows: tuple[Summary, ...], metric: str) -> Summary:
    (row,) = (row for row in rows if row.metric == metric)
    return row


def test_mean_and_population_deviation_of_folds_as_the_paper_prints() -> None:
    values = {"00": 1.0, "01": 3.0, "10": 5.0, "11": 6.0, "12": 10.0}
    scores = [s for who, v in values.items() for s in made_up(who, "h2lo", int(who[0]), v)]
    rows = summarise(scores)
    assert tuple(row.metric for row in rows) == SCORED
    js = of(rows, "js")
    assert js.fold_means == ((0, 2.0), (1, 7.0))
    assert (js.mean, js.std, js.over, js.n) == (4.5, 2.5, "folds", 5)
    assert js.low < 5 < js.high
    assert of(rows, "psnr").mean == 5.5  # of the whole volume


def test_without_folds_the_participants_are_averaged_however_many_sessions_they_have() -> None:
    values = {"1_A": 0.0, "1_B": 2.0, "2": 2.0, "3": 6.0}
    row = of(summarise([s for who, v in values.items() for s in made_up(who, "a", None, v)]), "js")
    assert (row.n, row.mean, row.over, row.fold_means) == (3, 3.0, "participants", ())
    assert row.std == np.std([1.0, 2.0, 6.0])
    one = of(summarise(made_up("1", "a", 0, 2.0)), "js")
    assert (one.mean, one.over, one.fold_means) == (2.0, "participants", ((0, 2.0),))
    assert np.isnan([one.std, one.low, one.high]).all()


def test_values_that_are_not_finite_are_left_out() -> None:
    values = enumerate((math.inf, 30.0, math.nan))
    row = of(summarise([s for n, v in values for s in made_up(f"{n}", "a", n, 1, psnr=v)]), "psnr")
    assert (row.n, row.mean) == (1, 30.0)
    expected = (row.std, *(v for _, v in row.fold_means))
    assert expected == pytest.approx((math.nan, math.nan, 30, math.nan), nan_ok=True)


def test_comparisons_are_paired_and_corrected_together() -> None:
    scores = cohort()
    rows = {(r.method, r.versus, r.metric): r for r in compare(summarise(scores))}
    pairs = [("h2lo-mlp", "h2lo"), ("h2lo", "identity"), ("h2lo-mlp", "identity")]
    assert [*rows] == [(*pair, metric) for pair in pairs for metric in SCORED]
    value = {(s.method, s.subject): s.values["js"] for s in scores if s.region == "foreground"}
    subjects = {subject for _, subject in value}
    differences = [value["h2lo", s] - value["identity", s] for s in subjects]
    row = rows["h2lo", "identity", "js"]
    expected = wilcoxon(differences, method="exact")
    assert (row.statistic, row.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert row.difference == pytest.approx(np.mean(differences))
    assert row.low < row.difference < row.high
    db = rows["h2lo", "identity", "psnr"]
    signs = {-0.004: "0.00", 0.004: "0.00", -0.006: "\N{MINUS SIGN}0.01", 0.006: "+0.01"}
    assert {d: replace(db, difference=d).signed for d in signs} == signs
    assert (row.n, row.better, db.better) == (12, "identity", "h2lo")  # JS is better when small
    # All have the smallest possible p; two methods are compared with the identity, one with h2lo.
    assert row.p_holm == pytest.approx(2 * 2 / 2**12)
    assert rows["h2lo-mlp", "h2lo", "js"].p_holm == pytest.approx(2 / 2**12)


def test_overlapping_test_sets_count_a_participant_once() -> None:
    scores = []
    for fold, value in ((0, 2.0), (1, 4.0)):
        scores += made_up("1", "a", fold, value) + made_up("1", "identity", fold, 1.0)
    scores += made_up("2", "a", 0, 5.0) + made_up("2", "identity", 0, 5.0)
    scores += made_up("3", "a", 0, 9.0)  # of one method alone: left out
    row = compare(summarise(scores))[0]
    assert (row.n, row.difference, row.p) == (2, 1.0, 1.0)
    scores = [*made_up("1", "a", None, 2.0), *made_up("2", "identity", None, 1.0)]
    nobody = compare(summarise(scores))[0]
    assert (nobody.n, nobody.better) == (0, "")
    assert math.isnan(nobody.p_holm)


def test_only_sessions_and_folds_that_both_have_are_compared() -> None:
    """Every participant's second session is harder by 10, and b, worse by 1, lacks some of them."""
    scores = []
    for n in range(6):
        for method, better in (("a", 1.0), ("b", 0.0)):
            scores += made_up(f"{n}_A", method, None, 20 + better)
            if method == "a" or n > 2:
                scores += made_up(f"{n}_B", method, None, 10 + better)
    rows = summarise(scores)
    assert (of(rows[-8:], "js").n, of(rows[-8:], "js").mean) == (6, 17.5)
    row = compare(rows)[0]
    assert (row.method, row.metric, row.better) == ("b", "psnr", "a")
    assert (row.n, row.difference, row.p) == (6, -1, 2 / 2**6)


def test_reference_and_single_methods(refused) -> None:
    summary = summarise(cohort())
    rows = compare(summary, reference="h2lo-mlp")
    assert (rows[0].method, rows[0].versus) == ("h2lo", "h2lo-mlp")
    assert len(compare(summary, reference="identity")) == 2 * len(SCORED)
    assert compare(summarise(made_up("1", "identity", None, 1.0))) == ()
    assert "no scores of method 'gan'" in refused(UsageError, compare, summary, reference="gan")
