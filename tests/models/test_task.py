"""A bundle is for one task, and says so in one line when it is given to the other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from h2lo_bids.errors import UsageError
from h2lo_bids.models.bundle import METADATA, default_bundle, load_bundle, load_model, save_bundle
from h2lo_bids.models.collection import choose_bundles
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.pfsr import Pfsr, PfsrArchitecture
from h2lo_bids.models.registry import METHODS, family_of, task_of
from h2lo_bids.synthesis.patches import predict_pfsr
from h2lo_bids.synthesis.predict import predict
from h2lo_bids.training.methods import methods_of

TINY = PfsrArchitecture(features=2, groups=1, blocks=1, reduction=1)


@pytest.fixture
def enhancer(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = Pfsr(TINY)
    torch.nn.init.normal_(model.tail.weight, std=0.1)
    folder = tmp_path / "models" / "pfsr_T1w"
    frame = Frame((8, 9, 10), (4.0, 4.0, 4.0))
    save_bundle(folder, model, contrast="T1w", frame=frame, metadata={}, card="x", method="pfsr")
    return folder


def test_every_method_has_one_task():
    assert {*methods_of("enhance")} == {"pfsr"}
    assert {*methods_of("synthesize"), *methods_of("enhance")} == {*METHODS}
    with pytest.raises(UsageError, match="task 'denoise' is not one of synthesize, enhance"):
        methods_of("denoise")


def test_a_bundle_records_its_task_and_is_applied_by_its_family(enhancer: Path):
    assert json.loads((enhancer / METADATA).read_text())["task"] == "enhance"
    model = load_model(load_bundle(enhancer, task="enhance"))
    assert family_of(model) == "pfsr"
    volume = np.random.default_rng(1).random((8, 9, 10), np.float32)
    mask = volume > 0.2
    made = predict(model, volume, mask)
    np.testing.assert_array_equal(made, predict_pfsr(model, volume, mask))
    assert np.abs(made - volume)[mask].max() > 0.01


def test_a_model_of_the_other_task_is_one_line(enhancer: Path):
    with pytest.raises(UsageError) as caught:
        load_bundle(enhancer, task="synthesize")
    assert str(caught.value).endswith(
        "was trained to enhance (pfsr) and cannot be used to synthesize; "
        "pass --task enhance, or another --model"
    )
    embedded = default_bundle("T1w")
    assert (embedded.task, task_of("h2lo")) == ("synthesize", "synthesize")  # says nothing itself
    with pytest.raises(UsageError, match="trained to synthesize"):
        load_bundle(embedded.path, task="enhance")


def test_a_folder_of_models_gives_those_of_the_task(enhancer: Path):
    folder = enhancer.parent
    chosen = choose_bundles(folder, contrasts=["T1w"], task="enhance")
    assert [item.path for item in chosen] == [enhancer]
    with pytest.raises(UsageError, match="holds no model for T1w to synthesize; it holds pfsr_T1w"):
        choose_bundles(folder, contrasts=["T1w"], task="synthesize")
