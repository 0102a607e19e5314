"""What holds of every method: its options and card, fits that resume bit for bit and learn."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from prepared_pairs import fold_of, write_pairs
from problems import HELD, TRAIN, VARIED, history, small_options, tiny_options

from h2lo_bids.models.baselines import Identity
from h2lo_bids.training.crops import NONE
from h2lo_bids.training.experiments.heldout import predict_pair
from h2lo_bids.training.experiments.site import site_card, site_metadata
from h2lo_bids.training.fit import FitResult, fit, load_checkpoint
from h2lo_bids.training.methods import ADAPT, adapt_identity
from h2lo_bids.training.options import default_options, paper_options


@pytest.mark.parametrize(
    ("name", "stops", "changes"),
    [
        ("h2lo", (1, 6), {"average": 0.9, "precision": "bf16"}),
        ("arnold", (1, 35), {}),  # in the grid, and in the simplex
        ("pix2pix", (3, 5), {"precision": "bf16"}),
        # In stage 1, at its end, at that of the prior alone, and in the joint stage.
        ("diffi2i", (2, 4, 5, 7), {"precision": "bf16"}),
        ("pfsr", (3,), {"precision": "bf16"}),
    ],
)
def test_resumed_fit_equals_an_undisturbed_one(tmp_path, name, stops, changes):
    options = tiny_options(name, **changes)
    folders = (tmp_path / "whole", tmp_path / "parts")
    whole = fit(TRAIN, HELD, options, folders[0])
    for stop in stops:
        torch.manual_seed(999)  # a resumed run starts with other global states
        np.random.seed(3)  # noqa: NPY002
        assert fit(TRAIN, HELD, options, folders[1], stop_at=stop).steps == stop
    parts = fit(TRAIN, HELD, options, folders[1])
    assert (parts.steps, parts.best_step) == (whole.steps, whole.best_step)
    assert parts.best_psnr == whole.best_psnr
    states = [load_checkpoint(one)["trainer"] for one in folders]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    for rows in zip(*map(history, folders), strict=True):  # but for the time spent
        assert rows[0] | {"seconds": ""} == rows[1] | {"seconds": ""}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("arnold", {"steps": 1000, "lambda_grad": 0, "precision": "fp32", "scaling": "max"}),
        ("pix2pix", {"learning_rate": 2e-4, "floor": 0, "warmup": 0, "batch": 1, "crop": 64,
                     "lambda_grad": 0, "average": 0}),
        ("diffi2i", {"learning_rate": 2e-4, "average": 0.999, "lambda_grad": 0, "crop": 64}),
        ("pfsr", {"learning_rate": 1e-4, "batch": 4, "crop": 48, "lambda_grad": 0}),
    ],
)  # fmt: skip
def test_options_are_the_published_ones(name, expected):
    for protocol in (paper_options, default_options):
        given = protocol(13, device="cpu")
        adapted = ADAPT[name](given)
        assert {key: getattr(adapted, key) for key in expected} == expected
        assert (adapted.family, adapted.architecture) == (name, type(adapted.architecture)())
        assert (adapted.seed, adapted.validation) == (given.seed, given.validation)
        assert name == "arnold" or adapted.steps == given.steps
        assert ADAPT[name](adapted) == adapted


def test_ablations_are_what_their_names_say():
    mlp, plain = (ADAPT[f"h2lo-{n}"](default_options(13, device="cpu")) for n in ("mlp", "nograd"))
    assert (mlp.architecture.trunk, mlp.lambda_grad) == ("mlp", 10)
    assert (plain.architecture.trunk, plain.lambda_grad) == ("siren", 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gain", "changes"),
    [
        ("h2lo", 8, {"steps": 150, "batch": 1}),
        ("pfsr", 1, {"steps": 60, "batch": 4, "flip_rotate": False}),
    ],
)
def test_learns_a_held_out_subject(tmp_path, name, gain, changes):
    swapped = [[p.swapped() for p in part] if name == "pfsr" else part for part in (TRAIN, HELD)]
    options = tiny_options(name, validate_every=200, augmentation=NONE, **changes)
    result = fit(*swapped, options, tmp_path)
    assert result.best_psnr > result.identity_psnr + gain


def test_the_identity_is_not_fitted(tmp_path):
    result = fit(TRAIN, HELD, adapt_identity(small_options()), tmp_path / "fit")
    assert (result.steps, result.best_step, result.timed_out) == (0, 0, False)
    assert result.best_psnr == result.identity_psnr
    assert np.array_equal(predict_pair(result.model, HELD[0]), HELD[0].hf * HELD[0].mask)
    # As fits are that cannot share a step, by one process.
    job = fold_of(write_pairs(tmp_path / "out", 4), tmp_path, method="identity", devices=2)
    job.fit(tmp_path / "one", (lines := []).append)
    assert lines[0] == "identity is fitted by one process, not 2"


def test_cards_tell_only_options_that_belong_to_the_method(tmp_path):
    one = fold_of(write_pairs(tmp_path / "out", 4), tmp_path)
    for name, (sampling, gamma) in itertools.product(ADAPT, (("patch", 0.0), ("volume", 0.2))):
        how = {"sampling": sampling, "augmentation": dataclasses.replace(VARIED, gamma=gamma)}
        options = small_options(**how, seed=7, max_seconds=60.0)
        job = dataclasses.replace(one, method=name, options=options)
        fitted = name != "identity"
        result = FitResult(Identity(), 5, 4, math.nan, math.nan, 1.0, timed_out=fitted)
        card = " ".join(site_card(job, result, site_metadata("x", job, result)).split())
        operator, adam = name.startswith(("h2lo", "inr")), name not in ("identity", "arnold")
        crops = name in ("pix2pix", "pfsr") or (operator and sampling == "patch")
        varied = crops or name == "diffi2i"
        told = {
            "Learned from 3 simulated pairs of 3 subjects": True,
            "Nothing was fitted.": not fitted,
            "seed 7. This took 0.0 minutes.": fitted,
            "budget of 60 s ended the fit at step 5.": fitted,
            "gradient term": name.startswith("h2lo"),
            "Adam": adam,
            "8 steps, each on": adam,
            "Augmentation in training": varied,
            "exponent": varied and gamma > 0,
            "shifts of up to 1 voxels; for the": crops,
            "conditional median": operator or name == "diffi2i",
        }
        assert {text: text in card for text in told} == told, name
