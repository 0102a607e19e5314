"""The arms of Table 2: their lengths and rates, and a fit in two stages that goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from problems import ball_pair, small_options, vector

from h2lo_bids.models.pfsr import PfsrArchitecture
from h2lo_bids.training.experiments import arms
from h2lo_bids.training.experiments.arms import FINETUNE, PRETRAIN, Schedule
from h2lo_bids.training.fit import fit
from h2lo_bids.training.options import FitOptions

TINY = PfsrArchitecture(features=2, groups=1, blocks=1, reduction=1)
REAL, COHORT = (
    [ball_pair(name, k, (10, 12, 11)).swapped() for k, name in enumerate(names, start=first)]
    for first, names in ((0, "abc"), (7, "uvwxy"))
)
PAPER, OPTIONS = Schedule(), FitOptions()
SHORT = {
    "schedule": Schedule(factor=0.02), "cohort": 4, "pairs": 3, "side": 8.0,
    "options": small_options(family="pfsr", architecture=TINY, validation="volume"),
}  # fmt: skip
"""What makes of the paper's schedule one of three steps of pretraining."""


def stages(
    name="h2lo", *, schedule=PAPER, cohort=147, pairs=13, side=1.0, options=OPTIONS
) -> dict[str, FitOptions]:
    scans = SimpleNamespace(pairs=cohort)
    arm = dataclasses.replace(arms.find_arm(name), schedule=schedule, cohort=scans)
    return arm.stages(options, pairs, (side, side, side))


def test_epochs_and_rates_are_those_of_the_paper():
    # 13 pairs of 13 patches, 4 a step.
    assert stages("real")[FINETUNE].steps == round(200 * 13 * 13 / 4)
    turned = stages("flip-rotate")[FINETUNE]
    assert (turned.steps, turned.flip_rotate) == (round(400 * 13 * 13 / 4), True)
    both = stages()
    assert [*both] == [PRETRAIN, FINETUNE]
    first, second = both.values()
    assert (first.steps, second.steps) == (round(150 * 147 * 13 / 4), round(50 * 13 * 13 / 4))
    assert (first.learning_rate, first.warmup) == (1e-4, 0)
    assert (second.learning_rate, second.floor) == (2e-6, 5e-7)
    assert (second.warmup, second.warmup_from) == (169, 0.5)  # 4 epochs
    assert {first.flip_rotate, second.flip_rotate} == {False}
    assert first.architecture == second.architecture


def test_one_factor_scales_everything_and_rate_and_time_are_the_users():
    schedule = Schedule(factor=0.01).with_rate(1e-5)
    timed = FitOptions(max_seconds=100)  # shared by the stages
    first, second = stages("arnold", schedule=schedule, options=timed).values()
    assert first.steps == round(0.01 * 150 * 147 * 13 / 4)
    assert (second.steps, second.warmup) == (round(0.01 * 50 * 13 * 13 / 4), 2)
    assert (second.learning_rate, second.floor) == pytest.approx((1e-5, 2.5e-6))
    assert (first.max_seconds, second.max_seconds) == pytest.approx((75, 25))
    assert stages("real", schedule=Schedule(factor=1e-9))[FINETUNE].steps == 1
    assert PAPER.with_rate(None) == PAPER


def fitted(folder: Path, plan: dict[str, FitOptions], **more):
    return arms.fit_arm(plan, (REAL, REAL[:1]), (COHORT[:4], COHORT[4:]), folder, **more)


def test_fine_tuning_starts_from_the_best_pretrained_weights(tmp_path):
    said: list[str] = []
    still = dataclasses.replace(SHORT["schedule"], finetune_rate=1e-12, finetune_floor=1e-12)
    plan = stages(**{**SHORT, "schedule": still})
    result = fitted(tmp_path, plan, say=said.append)
    first = fit(COHORT[:4], COHORT[4:], plan[PRETRAIN], tmp_path / PRETRAIN)  # done already
    assert vector(first.model.tail).any()
    torch.testing.assert_close(vector(first.model), vector(result.model), atol=1e-9, rtol=1e-6)
    kept = torch.load(tmp_path / FINETUNE / "last.pt", weights_only=True)
    assert arms.weights_digest(first.model.state_dict()) in kept["options"]
    assert result.seconds == pytest.approx(first.seconds + kept["record"]["seconds"])
    assert (result.pretrain_steps, result.steps) == (first.steps, plan[FINETUNE].steps)
    assert {line.split(":")[0] for line in said} == {"pretraining", "fine-tuning"}


def test_each_stage_goes_on_bit_for_bit(tmp_path):
    plan = stages(**SHORT)
    assert plan[PRETRAIN].steps == 3
    whole = vector(fitted(tmp_path / "whole", plan).model)
    fit(COHORT[:4], COHORT[4:], plan[PRETRAIN], tmp_path / "parts" / PRETRAIN, stop_at=2)
    assert fitted(tmp_path / "parts", plan, stop_at=1).steps == 1
    assert torch.equal(vector(fitted(tmp_path / "parts", plan).model), whole)
    # Pretraining left a mark: the same real pairs alone give other weights.
    real = fitted(tmp_path / "real", stages("real", **SHORT))
    assert not (tmp_path / "real" / PRETRAIN).exists()
    assert not torch.equal(vector(real.model), whole)
