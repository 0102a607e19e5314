"""The identity goes the whole way of a method: fold, tables, final model and cards."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from prepared_pairs import fold_of, write_pairs
from problems import VARIED, ball_pair, small_options

from h2lo_bids.evaluation.metrics import evaluate
from h2lo_bids.evaluation.scores import IDENTITY, read_scores, select
from h2lo_bids.evaluation.splits import make_folds
from h2lo_bids.evaluation.statistics import summarise
from h2lo_bids.evaluation.table import Block, Table, rows_of
from h2lo_bids.models.baselines import Identity, NoSizes
from h2lo_bids.models.bundle import load_bundle, load_model
from h2lo_bids.training.experiments.crossvalidation import FoldJob, fold_done, run_fold
from h2lo_bids.training.experiments.heldout import predict_pair
from h2lo_bids.training.experiments.site import site_card, site_metadata
from h2lo_bids.training.fit import FitResult, fit
from h2lo_bids.training.methods import ADAPT, adapt_identity
from h2lo_bids.training.pairs import read_prepared


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> list[FoldJob]:
    root = tmp_path_factory.mktemp("identity")
    pairs = write_pairs(root / "out", 4)
    folds = make_folds([p.subject for p in pairs], folds=2, seed=1)
    jobs = [fold_of(pairs, root, method="identity", fold=fold) for fold in folds]
    for job in jobs:
        run_fold(job)
    return jobs


def test_nothing_is_fitted(tmp_path: Path) -> None:
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


def test_its_row_is_that_of_the_high_field_image_once(folds: list[FoldJob]) -> None:
    scores = [s for job in folds for s in read_scores(job.folder / "scores.tsv")]
    assert {s.method for s in scores} == {IDENTITY}
    assert len(select(scores)) == len({s.subject for s in scores}) == 4
    pair = read_prepared(folds[0].pairs_in("test")[0])
    (own,) = (s for s in select(scores) if s.subject == pair.name)
    expected = evaluate(pair.hf, pair.lf, pair.hf)
    assert {name: own.values[name] for name in expected} == pytest.approx(expected)
    rows = rows_of(summarise(scores), {"identity": "HF image"})
    table = Table((Block("T1w", rows),)).to_md()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["HF image"]


def test_the_record_says_that_nothing_was_done(folds: list[FoldJob]) -> None:
    assert all(fold_done(job) for job in folds)
    record = json.loads((folds[0].folder / "record.json").read_text())
    assert (record["steps"], record["parameters"], record["warnings"]) == (0, 0, [])
    assert record["options"]["family"] == "identity"
    bundle = load_bundle(folds[0].folder / "bundle")
    assert isinstance(load_model(bundle), Identity)
    assert "0 parameters" in bundle.card
    # Of four people two are tested on, one chooses the weights and one is trained on.
    assert bundle.metadata["training_data"]["description"].startswith("2 simulated T1w pairs of 2 ")
    assert "Learned from 2 simulated pairs of 2 subjects" in " ".join(bundle.card.split())
    assert "Nothing was fitted.\n" in bundle.card
    for word in ("Adam", "SIREN", "neural operator", "conditional median", "Augmentation"):
        assert word not in bundle.card


def test_what_cannot_share_a_step_is_fitted_by_one_process(
    folds: list[FoldJob], tmp_path: Path
) -> None:
    lines: list[str] = []
    dataclasses.replace(folds[0], devices=2, work_dir=tmp_path).fit(tmp_path, lines.append)
    assert lines[0] == "identity is fitted by one process, not 2"


@pytest.mark.parametrize("name", ADAPT)
def test_cards_tell_only_options_that_belong_to_the_method(name: str, folds: list[FoldJob]) -> None:
    for sampling, gamma in (("patch", 0.0), ("volume", 0.2)):
        how = {"sampling": sampling, "augmentation": dataclasses.replace(VARIED, gamma=gamma)}
        options = small_options(**how, seed=7, max_seconds=60.0)
        job = dataclasses.replace(folds[0], method=name, options=options)
        nothing = Identity(NoSizes())
        result = FitResult(nothing, 5, 4, math.nan, math.nan, 1.0, timed_out=name != "identity")
        card = " ".join(site_card(job, result, site_metadata("x", job, result)).split())
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
