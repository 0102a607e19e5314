"""The arms of Table 2: their lengths and rates, and a fit in two stages that goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from problems import ball_pair, small_options

from h2lo_bids.models.pfsr import PfsrArchitecture
from h2lo_bids.training import fit as fit_module
from h2lo_bids.training.experiments.arms import (
    FINETUNE,
    PRETRAIN,
    Schedule,
    find_arm,
    fit_arm,
    weights_digest,
)
from h2lo_bids.training.fit import fit
from h2lo_bids.training.options import FitOptions

TINY = PfsrArchitecture(features=2, groups=1, blocks=1, reduction=1)
SHAPE = (10, 12, 11)
REAL_PAIRS = [ball_pair(name, k, SHAPE).swapped() for k, name in enumerate("abc")]
COHORT = [ball_pair(name, k, SHAPE).swapped() for k, name in enumerate("uvwxy", start=7)]
SHORT = Schedule(factor=0.02)
OPTIONS = small_options(family="pfsr", architecture=TINY, validation="volume")


def stages(
    name: str, schedule: Schedule | None = None, cohort: int = 0, **options: float
) -> dict[str, FitOptions]:
    arm = dataclasses.replace(
        find_arm(name), schedule=schedule or Schedule(), cohort=SimpleNamespace(pairs=cohort)
    )
    return arm.stages(FitOptions(**options), 13, (1.0, 1.0, 1.0))


def test_epochs_and_rates_are_those_of_the_paper():
    # 13 pairs of 13 patches, 4 a step.
    assert stages("real")[FINETUNE].steps == round(200 * 13 * 13 / 4)
    turned = stages("flip-rotate")[FINETUNE]
    assert (turned.steps, turned.flip_rotate) == (round(400 * 13 * 13 / 4), True)
    both = stages("h2lo", cohort=147)
    assert [*both] == [PRETRAIN, FINETUNE]
    first, second = both.values()
    assert (first.steps, second.steps) == (round(150 * 147 * 13 / 4), round(50 * 13 * 13 / 4))
    assert (first.learning_rate, first.warmup) == (1e-4, 0)
    assert (second.learning_rate, second.floor) == (2e-6, 5e-7)
    assert (second.warmup, second.warmup_from) == (169, 0.5)  # 4 epochs
    assert {first.flip_rotate, second.flip_rotate} == {False}
    assert first.architecture == second.architecture


def test_one_factor_scales_everything_and_the_rate_is_the_users():
    schedule = Schedule(factor=0.01).with_rate(1e-5)
    first, second = stages("arnold", schedule, cohort=147).values()
    assert first.steps == round(0.01 * 150 * 147 * 13 / 4)
    assert (second.steps, second.warmup) == (round(0.01 * 50 * 13 * 13 / 4), 2)
    assert (second.learning_rate, second.floor) == pytest.approx((1e-5, 2.5e-6))
    assert stages("real", Schedule(factor=1e-9))[FINETUNE].steps == 1
    assert Schedule().with_rate(None) == Schedule()


def test_the_time_budget_is_shared_by_the_stages():
    both = stages("h2lo", cohort=130, max_seconds=100).values()
    assert [o.max_seconds for o in both] == pytest.approx([75, 25], rel=1e-3)


def planned(schedule: Schedule = SHORT, name: str = "h2lo") -> dict[str, FitOptions]:
    arm = dataclasses.replace(find_arm(name), schedule=schedule, cohort=SimpleNamespace(pairs=4))
    return arm.stages(OPTIONS, 3, (8.0, 8.0, 8.0))


def fitted(folder: Path, plan: dict[str, FitOptions], **more):
    pairs, cohort = (REAL_PAIRS, REAL_PAIRS[:1]), (COHORT[:4], COHORT[4:])
    return fit_arm(plan, pairs, cohort, folder, **more)


def test_fine_tuning_starts_from_the_best_pretrained_weights(tmp_path, monkeypatch):
    said: list[str] = []
    fits = []

    def watched(*args, **kwargs):
        fits.append(fit(*args, **kwargs))
        return fits[-1]

    monkeypatch.setattr(fit_module, "fit", watched)
    still = dataclasses.replace(SHORT, finetune_rate=1e-12, finetune_floor=1e-12)
    result = fitted(tmp_path, planned(still), say=said.append)
    assert len(fits) == 2
    first, second = fits[0].model.state_dict(), fits[1].model.state_dict()
    assert any(v.any() for k, v in first.items() if k.startswith("tail"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-9, rtol=1e-6)
    kept = torch.load(tmp_path / FINETUNE / "last.pt", weights_only=True)
    assert weights_digest(first) in kept["options"]
    assert result.seconds == pytest.approx(fits[0].seconds + fits[1].seconds)
    assert (result.pretrain_steps, result.steps) == tuple(fit.steps for fit in fits)
    assert {line.split(":")[0] for line in said} == {"pretraining", "fine-tuning"}


def test_each_stage_goes_on_bit_for_bit(tmp_path):
    plan = planned()
    assert plan[PRETRAIN].steps == 3
    whole = fitted(tmp_path / "whole", plan)
    fit(COHORT[:4], COHORT[4:], plan[PRETRAIN], tmp_path / "parts" / PRETRAIN, stop_at=2)
    assert fitted(tmp_path / "parts", plan, stop_at=1).steps == 1
    parts = fitted(tmp_path / "parts", plan)
    assert weights_digest(parts.model.state_dict()) == weights_digest(whole.model.state_dict())
    # Pretraining left a mark: the same real pairs alone give other weights.
    real = fitted(tmp_path / "real", planned(name="real"))
    assert not (tmp_path / "real" / PRETRAIN).exists()
    assert weights_digest(real.model.state_dict()) != weights_digest(whole.model.state_dict())
