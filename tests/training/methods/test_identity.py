"""The identity fits nothing, and the card of each method tells what is true of it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from prepared_pairs import fold_of, write_pairs
from problems import VARIED, ball_pair, small_options

from h2lo_bids.models.baselines import Identity, NoSizes
from h2lo_bids.training.experiments.heldout import predict_pair
from h2lo_bids.training.experiments.site import site_card, site_metadata
from h2lo_bids.training.fit import FitResult, fit
from h2lo_bids.training.methods import ADAPT, adapt_identity


def test_nothing_is_fitted(tmp_path):
    pairs = [ball_pair("a", 1), ball_pair("b", 2)]
    options = adapt_identity(small_options())
    lines: list[str] = []
    result = fit(pairs[:1], pairs[1:], options, tmp_path, lines.append)
    assert (result.steps, result.best_step, result.timed_out) == (0, 0, False)
    assert result.best_psnr == result.identity_psnr
    assert lines == [f"nothing to fit: validation PSNR {result.identity_psnr:.2f} dB"]
    assert not list(result.model.parameters())
    predicted = predict_pair(result.model, pairs[1])
    assert np.array_equal(predicted, pairs[1].hf * pairs[1].mask)
    # As fits are that cannot share a step, by one process.
    job = fold_of(write_pairs(tmp_path / "out", 4), tmp_path, method="identity", devices=2)
    job.fit(tmp_path / "one", lines.append)
    assert lines[1] == "identity is fitted by one process, not 2"


@pytest.mark.parametrize("name", ADAPT)
def test_cards_tell_only_options_that_belong_to_the_method(name, tmp_path):
    one = fold_of(write_pairs(tmp_path / "out", 4), tmp_path)
    for sampling, gamma in (("patch", 0.0), ("volume", 0.2)):
        how = {"sampling": sampling, "augmentation": dataclasses.replace(VARIED, gamma=gamma)}
        options = small_options(**how, seed=7, max_seconds=60.0)
        job = dataclasses.replace(one, method=name, options=options)
        result = FitResult(
            Identity(NoSizes()), 5, 4, math.nan, math.nan, 1.0, timed_out=name != "identity"
        )
        card = " ".join(site_card(job, result, site_metadata("x", job, result)).split())
        assert "Learned from 3 simulated pairs of 3 subjects" in card
        assert ("Nothing was fitted." in card) == (name == "identity")
        assert ("gradient term" in card) == name.startswith("h2lo")
        assert ("Adam" in card) == (name not in ("identity", "arnold"))
        assert ("8 steps, each on" in card) == ("Adam" in card)
        assert ("seed 7. This took 0.0 minutes." in card) == (name != "identity")
        operator = name.startswith(("h2lo", "inr"))
        crops = name in ("pix2pix", "pfsr") or (operator and sampling == "patch")
        assert ("Augmentation in training" in card) == (crops or name == "diffi2i")
        assert ("exponent" in card) == (bool(gamma) and "Augmentation in training" in card)
        assert ("shifts of up to 1 voxels; for the" in card) == crops
        assert ("budget of 60 s ended the fit at step 5." in card) == (name != "identity")
        smooth = name.startswith(("h2lo", "inr", "diffi2i"))
        assert ("conditional median" in card) == smooth
