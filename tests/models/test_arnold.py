"""Arnold's simulator has four parameters."""

from __future__ import annotations

import torch

from h2lo_bids.models.arnold import PARAMETERS, Arnold, ArnoldArchitecture
from h2lo_bids.models.bundle import load_bundle, load_model, save_bundle
from h2lo_bids.models.frame import Frame


def test_four_parameters_in_order():
    model = Arnold(ArnoldArchitecture())
    assert sum(p.numel() for p in model.parameters()) == 4
    assert PARAMETERS == ("sigma", "c1", "c2", "c3")
    assert model.numbers == (0.5, 2.5, 1.5, 0.5)  # published for FLAIR
    assert [(k, v.dtype, tuple(v.shape)) for k, v in model.state_dict().items()] == [
        ("values", torch.float32, (4,))
    ]


def test_it_is_built_without_memory_and_loaded():
    with torch.device("meta"):
        model = Arnold(ArnoldArchitecture(**ArnoldArchitecture().to_dict()))
    model.load_state_dict({"values": torch.tensor([0.25, 1.0, 2.0, 3.0])}, assign=True)
    assert model.numbers == (0.25, 1.0, 2.0, 3.0)


def test_a_bundle_keeps_the_parameters(tmp_path):
    model = Arnold()
    model.load_state_dict({"values": torch.tensor([0.125, 1.0, 2.0, 3.0])})
    save_bundle(tmp_path / "b", model, contrast="T1w", frame=Frame(), metadata={}, card="#",
                method="arnold")  # fmt: skip
    bundle = load_bundle(tmp_path / "b")
    assert bundle.metadata["parameters"] == 4
    assert load_model(bundle).numbers == (0.125, 1.0, 2.0, 3.0)
