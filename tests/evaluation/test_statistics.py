"""Means, deviations, intervals and comparisons over subjects."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from samples import cohort, made_up
from scipy.stats import wilcoxon

from h2lo_bids.errors import UsageError
from h2lo_bids.evaluation.scores import SCORED
from h2lo_bids.evaluation.statistics import compare, summarise


def test_mean_and_population_deviation_of_folds_as_the_paper_prints() -> None:
    scores = []
    for fold, values in enumerate(([1.0, 3.0], [5.0, 6.0, 10.0])):
        for number, value in enumerate(values):
            scores += made_up(f"{fold}{number}", "h2lo", fold, value)
    rows = {row.metric: row for row in summarise(scores)}
    assert tuple(rows) == SCORED
    js = rows["js"]
    assert js.fold_means == ((0, 2.0), (1, 7.0))
    assert (js.mean, js.over, js.n) == (4.5, "folds", 5)
    assert js.std == statistics.pstdev([2.0, 7.0])
    assert js.low < 5 < js.high
    assert rows["psnr"].mean == 5.5  # of the whole volume
    assert summarise(scores, "foreground")[0].mean == 4.5


def test_without_folds_the_participants_are_averaged() -> None:
    scores = [s for n, v in enumerate((1.0, 2.0, 6.0)) for s in made_up(f"{n}", "a", None, v)]
    row = summarise(scores, "foreground")[0]
    assert (row.mean, row.over, row.fold_means) == (3.0, "participants", ())
    assert row.std == statistics.pstdev([1.0, 2.0, 6.0])
    one = summarise(made_up("1", "a", 0, 2.0), "foreground")[0]
    assert (one.mean, one.over, one.fold_means) == (2.0, "participants", ((0, 2.0),))
    assert all(math.isnan(v) for v in (one.std, one.low, one.high))


def test_sessions_of_a_participant_count_once() -> None:
    scores = [*made_up("1_A", "a", None, 0.0), *made_up("1_B", "a", None, 2.0)]
    scores += made_up("2", "a", None, 4.0)
    row = summarise(scores, "foreground")[0]
    assert (row.n, row.mean) == (2, 2.5)


def test_values_that_are_not_finite_are_left_out() -> None:
    scores = [*made_up("1", "a", 0, 1.0, psnr=math.inf), *made_up("2", "a", 1, 1.0, psnr=30.0)]
    scores += made_up("3", "a", 2, 1.0, psnr=math.nan)
    row = summarise(scores)[0]
    assert (row.metric, row.n, row.mean) == ("psnr", 1, 30.0)
    assert math.isnan(row.std)
    assert [math.isnan(v) for _, v in row.fold_means] == [True, False, True]


def test_identity_stands_first() -> None:
    methods = list(dict.fromkeys(row.method for row in summarise(cohort())))
    assert methods == ["identity", "h2lo", "h2lo-mlp"]


def test_comparisons_are_paired_and_corrected_together() -> None:
    scores = cohort()
    rows = compare(scores)
    assert len(rows) == 3 * len(SCORED)
    assert [(r.method, r.versus) for r in rows[:: len(SCORED)]] == [
        ("h2lo-mlp", "h2lo"), ("h2lo", "identity"), ("h2lo-mlp", "identity"),
    ]  # fmt: skip
    value = {(s.method, s.subject): s.values["js"] for s in scores if s.region == "foreground"}
    subjects = sorted({subject for _, subject in value})
    differences = [value["h2lo", s] - value["identity", s] for s in subjects]
    row = next(r for r in rows if (r.method, r.metric) == ("h2lo", "js"))
    expected = wilcoxon(differences, method="exact")
    assert (row.statistic, row.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert row.difference == pytest.approx(np.mean(differences))
    assert row.low < row.difference < row.high
    assert (row.n, row.better) == (12, "identity")  # JS is better when small
    assert next(r for r in rows if (r.method, r.metric) == ("h2lo", "psnr")).better == "h2lo"
    # All have the smallest possible p; two methods are compared with the identity, one with h2lo.
    assert row.p_holm == pytest.approx(2 * 2 / 2**12)
    alone = next(r for r in rows if (r.versus, r.metric) == ("h2lo", "js"))
    assert alone.p_holm == pytest.approx(2 / 2**12)


def test_overlapping_test_sets_count_a_participant_once() -> None:
    scores = []
    for fold, value in ((0, 2.0), (1, 4.0)):
        scores += made_up("1", "a", fold, value) + made_up("1", "identity", fold, 1.0)
    scores += made_up("2", "a", 0, 5.0) + made_up("2", "identity", 0, 5.0)
    row = compare(scores)[0]
    assert (row.n, row.difference, row.p) == (2, 1.0, 1.0)


def test_subjects_of_one_method_alone_are_left_out() -> None:
    scores = [*made_up("1", "a", None, 2.0), *made_up("2", "identity", None, 1.0)]
    row = compare(scores)[0]
    assert (row.n, row.better) == (0, "")
    assert math.isnan(row.p_holm)


def test_reference_and_single_methods() -> None:
    rows = compare(cohort(), reference="h2lo-mlp")
    assert (rows[0].method, rows[0].versus) == ("h2lo", "h2lo-mlp")
    rows = compare(cohort(), reference="identity")
    assert len(rows) == 2 * len(SCORED)
    assert compare(made_up("1", "identity", None, 1.0)) == ()
    with pytest.raises(UsageError, match="no scores of method 'gan'"):
        compare(cohort(), reference="gan")
