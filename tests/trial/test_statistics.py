"""Study figures against published examples, closed forms and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import norm, t
from statsmodels.stats.power import TTestPower

from h2lo_bids.trial import statistics as st

# Albumin, total protein, K-G score and whether the patient benefits: DeLong and others 1988.
OVARY = np.fromstring(
    """3.0 5.8 10 0 3.2 6.3 5 1 3.9 6.8 3 1 2.8 4.8 6 0 3.2 5.8 3 1 0.9 4.0 5 0 2.5 5.7 8 0
    1.6 5.6 5 1 3.8 5.7 5 1 3.7 6.7 6 1 3.2 5.4 4 1 3.8 6.6 6 1 4.1 6.6 5 1 3.6 5.7 5 1
    4.3 7.0 4 1 3.6 6.7 4 0 2.3 4.4 6 1 4.2 7.6 4 0 4.0 6.6 6 0 3.5 5.8 6 1 3.8 6.8 7 1
    3.0 4.7 8 0 4.5 7.4 5 1 3.7 7.4 5 1 3.1 6.6 6 1 4.1 8.2 6 1 4.3 7.0 5 1 4.3 6.5 4 1
    3.2 5.1 5 1 2.6 4.7 6 1 3.3 6.8 6 0 1.7 4.0 7 0 3.7 6.1 5 1 3.3 6.3 7 1 4.2 7.7 6 1
    3.5 6.2 5 1 2.9 5.7 9 0 2.1 4.8 7 1 2.8 6.2 8 0 4.0 7.0 7 1 3.3 5.7 6 1 3.7 6.9 5 1
    3.6 6.6 5 1""",
    sep=" ",
).reshape(-1, 4)


def test_delong_gives_the_published_areas_and_errors():
    scores = np.column_stack([OVARY[:, 0], OVARY[:, 1], 10 - OVARY[:, 2]]).T
    well = OVARY[:, 3] == 1
    areas, covariance = st.delong(scores[:, well], scores[:, ~well])
    # SAS/STAT user's guide, example "Comparing Receiver Operating Characteristic Curves".
    assert areas == pytest.approx([0.7366, 0.6478, 0.7258], abs=5e-5)
    assert np.sqrt(np.diag(covariance)) == pytest.approx([0.0927, 0.1000, 0.1028], abs=5e-5)
    found = st.area(scores[:1], well, np.zeros(len(well)))
    wide = (found["delong_low"] - found["auc"], found["delong_high"] - found["auc"])
    assert wide == pytest.approx((-1.96 * 0.0927, 1.96 * 0.0927), abs=2e-4)


def test_bootstrap_resamples_subjects_and_not_lesions():
    rng = np.random.default_rng(1)
    subjects, lesion = np.tile(np.repeat(np.arange(20), 30), 2), np.arange(1200) < 600
    shift = rng.normal(1.5, 3, 20)[subjects]  # lesions of one person are alike
    ratings = (lesion * shift + rng.normal(0, 1, 1200))[None]
    found = st.area(ratings, lesion, subjects)
    assert found["boot_high"] - found["boot_low"] > 3 * (found["delong_high"] - found["delong_low"])
    assert st.area(ratings, lesion, subjects) == found  # in every run
    for people in (4, 5):  # too few, enough
        assert ("boot_low" in st.area(ratings, lesion, subjects % people)) == (people == 5)
    # Three lesions that are all seen tell nothing of others.
    lesion, subjects = np.arange(6) < 3, np.arange(6)
    assert st.area((lesion * 9.0 + np.arange(6))[None], lesion, subjects) == {"auc": 1.0}


def test_weights_of_the_bootstrap_agree_with_repeating_the_subjects():
    rng = np.random.default_rng(2)
    ratings, lesion = rng.integers(0, 5, (2, 12)), np.arange(12) < 6
    whose = np.tile([0, 0, 1, 1, 2, 2], 2)
    counts = np.array([[2, 0, 1], [1, 1, 1], [0, 3, 0]])
    found = st.weighted_areas(ratings, lesion, whose, counts)
    for row, weights in zip(found, counts, strict=True):
        repeated = [np.repeat(np.flatnonzero(of), weights[whose[of]]) for of in (lesion, ~lesion)]
        pairs = ratings[:, repeated[0], None], ratings[:, None, repeated[1]]
        assert row == pytest.approx(np.mean((pairs[0] > pairs[1]) + 0.5 * (pairs[0] == pairs[1])))


def test_hotelling_reaches_the_closed_form_and_never_sees_its_own_group(recwarn):
    rng, n, shift = np.random.default_rng(3), 4000, np.array([0.8, 0, 0])
    mixing = np.array([[1, 0.6, 0.2], [0, 1, 0.5], [0, 0, 1.0]])
    lesion = np.arange(n) % 2 == 0
    # Where places are small, all channels vary more: sizes are rated on one scale.
    sizes = rng.uniform(2, 15, n)
    channels = (rng.normal(size=(n, 3)) @ mixing + lesion[:, None] * shift) * (4 / sizes)[:, None]
    truth = math.sqrt(shift @ np.linalg.inv(mixing.T @ mixing) @ shift)
    ratings = st.hotelling_ratings(channels, lesion, np.arange(n) // 100, sizes)
    areas, _ = st.delong(ratings[lesion], ratings[~lesion])
    assert st.detectability(float(areas[0])) == pytest.approx(truth, rel=0.06)
    small, large = (ratings[~lesion & of].std() for of in (sizes < 4, sizes > 10))
    assert small == pytest.approx(large, rel=0.1)
    # Noise alone, many channels, few cases: trained on itself it would seem to see.
    few, which, alike = rng.normal(size=(60, 20)), lesion[:60], np.full(60, 5.0)
    ratings = st.hotelling_ratings(few, which, np.arange(60) // 2, alike)
    assert abs(float(st.delong(ratings[which], ratings[~which])[0][0]) - 0.5) < 0.2
    assert np.isnan(st.hotelling_ratings(few, which, np.zeros(60), alike)).all()
    # Of two lesions with one healthy place each nothing is learnt, with two little, but quietly.
    for count, rated in ((2, False), (3, True)):
        groups, number = np.repeat([0, 1], count), 2 * count
        one = (few[:number], np.arange(number) % count == 0, groups, alike[:number])
        assert np.isfinite(st.hotelling_ratings(*one)).all() == rated
    assert len(recwarn) == 0


def draw(rng, logits):
    """Draw whether each lesion is seen."""
    return (rng.random(len(logits)) < expit(logits)).astype(float)


def test_the_diameter_seen_is_that_of_the_curve_it_was_drawn_from():
    rng, groups = np.random.default_rng(5), np.arange(3000) // 10
    diameters = rng.uniform(2, 15, 3000)
    seen = draw(rng, -6 + 4 * np.log(diameters))
    truth = math.exp((math.log(4) + 6) / 4)
    found = st.diameter_seen(diameters, seen, groups)
    assert found["diameter80"] == pytest.approx(truth, rel=0.05)
    assert found["diameter80_low"] < truth < found["diameter80_high"]
    for other in (1 - seen, np.ones(3000)):
        assert "diameter80" not in st.diameter_seen(diameters, other, groups)


def test_intervals_of_few_people_hold_what_they_claim():
    rng, truth, people = np.random.default_rng(0), math.log(5) + math.log(4) / 2, 2
    covered, found_an_effect, groups = [], [], np.repeat(np.arange(people), 12)
    both, dose = np.tile(groups, 2), np.repeat([1.0, 2.0], len(groups))
    for _ in range(60):
        diameters = rng.uniform(2, 15, len(groups))
        logits = 2 * (np.log(diameters) - math.log(5))
        found = st.diameter_seen(diameters, draw(rng, logits), groups)
        ends = [math.log(found.get(f"diameter80_{end}", math.nan)) for end in ("low", "high")]
        if np.isfinite(ends).all():
            covered.append(ends[0] <= truth <= ends[1])
        # A dose that each person takes in another way, and all together in none.
        logits = np.tile(logits, 2) + rng.normal(0, 0.5, people)[both] * (dose - 1)
        given = (draw(rng, logits), dose, np.tile(diameters, 2), both, np.zeros(len(both)))
        if effect := st.dose_response(*given):
            found_an_effect.append(effect["p"] < 0.05)
    assert np.mean(covered) > 0.9
    assert np.mean(found_an_effect) < 0.14


def test_a_diameter_that_nothing_bounds_stands_without_an_interval():
    diameters = np.repeat([2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0], 12)
    seen = np.where(diameters > 2, 1.0, 0.5)  # all but the smallest, each time
    found = st.diameter_seen(diameters, seen, np.arange(len(seen)) % 12)
    assert 2 < found["diameter80"] < 3
    share = expit(found["intercept"] + found["slope"] * math.log(found["diameter80"]))
    assert share == pytest.approx(0.8)
    alone = st.diameter_seen(diameters, seen, np.zeros(len(seen)))  # lesions of one person
    assert alone["diameter80"] == found["diameter80"]
    assert np.isnan([alone["diameter80_low"], alone["diameter80_high"]]).all()
    # All lesions of 15 mm are seen and all smaller ones are missed: the data bound nothing.
    for sizes in ([3.0, 15], [3, 4, 6, 8, 10, 12, 15.0]):
        separated, whose = np.tile(sizes, 5), np.repeat(np.arange(5), len(sizes))
        found = st.diameter_seen(separated, (separated == 15) * 1.0, whose)
        assert sizes[-2] < found.get("diameter80", 14) < 15
        bounds = [found.get(f"diameter80_{end}", math.nan) for end in ("low", "high")]
        assert np.isnan(bounds).all()
    # Seen as often at any size, but for a hundredth: no head has a lesion that is seen more.
    flat = st.diameter_seen(diameters[::12], np.linspace(0.5, 0.51, 8), np.arange(8))
    assert (flat["diameter80"], flat["diameter80_high"]) == (math.inf, math.inf)


def test_agreement_of_volumes_and_the_published_intraclass_correlation():
    ratings = np.array(  # Shrout and Fleiss 1979, table 2
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
    )
    assert st.intraclass_correlation(ratings) == pytest.approx(0.29, abs=0.005)
    truth, off = np.arange(10.0), np.array([1, -1] * 5)
    found = st.agreement(truth, truth + 2 + off)
    assert found["bias"] == pytest.approx(2)
    assert found["loa_high"] - 2 == pytest.approx(1.96 * np.std(off, ddof=1), rel=1e-4)
    assert st.agreement(truth, truth)["icc"] == pytest.approx(1)
    assert st.agreement(truth[:1], truth[:1]) == {}
    assert "icc" not in st.agreement(np.full(4, 3.6), np.array([3.6, 4.0, 4.2, 3.9]))


def test_subjects_needed_reach_the_power_by_statsmodels():
    differences = np.random.default_rng(6).normal(0.1, 0.2, 30)
    effect = differences.mean() / differences.std(ddof=1)
    for wanted in (0.8, 0.9):
        n = st.subjects_needed(differences, wanted)
        less, enough = (TTestPower().power(effect, count, 0.05) for count in (n - 1, n))
        assert less < wanted <= enough
    for values, least in ((np.zeros(5), None), (np.ones(1), None), (np.ones(5), 2)):
        assert st.subjects_needed(values, 0.8) == least
    # By numeric integration of the noncentral t, two subjects reach .452, .794, .817 and .924.
    spread = np.linspace(-1, 1, 12)
    for effect, *needed in ((5.414, 3, 3), (11.4, 3, 3), (12, 2, 3), (16, 2, 2)):
        differences = effect + spread / spread.std(ddof=1)
        assert [st.subjects_needed(differences, power) for power in (0.8, 0.9)] == needed


def test_dose_response_finds_the_odds_it_was_drawn_with():
    rng = np.random.default_rng(7)
    subjects, dose = np.repeat(np.arange(60), 60), np.tile([0.5, 1, 2], 1200)
    diameters, alike = rng.uniform(3, 12, 3600), np.zeros(3600)
    seen = draw(rng, -2 + 2 * np.log(diameters) - 1.2 * dose)
    found = st.dose_response(seen, dose, diameters, subjects, alike)
    assert found["low"] < math.exp(-1.2) < found["high"]
    assert found["p"] < 1e-6
    assert st.dose_response(seen, alike, diameters, subjects, alike) == {}
    assert st.dose_response(seen, dose, diameters, alike, alike) == {}
    assert st.dose_response(1.0 * (dose < 2), dose, diameters, subjects, alike) == {}  # no odds
    # Slices of thin, thick and noisy thick images, which change nothing: noise alone does.
    thickness, noise = np.tile([5.0, 2, 5], 1200), np.where(dose == 2, 2.0, 1)
    seen = draw(np.random.default_rng(8), -2 + 2 * np.log(diameters) - 1.2 * noise)
    found = st.dose_response(seen, thickness, diameters, subjects, noise)
    assert found["low"] < 1 < found["high"]
    found = st.dose_response(seen, noise, diameters, subjects, thickness)
    assert found["low"] < math.exp(-1.2) < found["high"]
    assert st.dose_response(seen, noise, diameters, subjects, noise) == {}  # no two are alike


def test_sensitivity_has_the_errors_of_its_participants():
    groups = np.repeat(np.arange(6), [3, 5, 2, 7, 4, 6])
    seen = np.random.default_rng(0).integers(0, 5, 27) / 4
    mean, low, high = st.sensitivity(seen, groups).values()
    assert mean == pytest.approx(seen.mean())
    # In closed form: the delta method from totals of participants to the logit of a ratio.
    totals = np.bincount(groups, seen - mean)
    error = math.sqrt(6 / 5 * (totals**2).sum()) / 27 / (mean * (1 - mean))
    assert (low, high) == pytest.approx(expit(logit(mean) + t.ppf([0.025, 0.975], 5) * error))
    # All alike: the interval of four cases, by Wilson 1927.
    alike = st.sensitivity(np.ones(20), groups[:20] % 4)
    assert [*alike.values()] == pytest.approx([1, 4 / (4 + norm.ppf(0.975) ** 2), 1])
    assert st.sensitivity(np.full(20, 0.5), groups[:20])["sensitivity_low"] < 0.2
    assert st.sensitivity(seen, np.zeros(27)) == {"sensitivity": mean}
