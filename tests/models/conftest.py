"""A network and a bundle of it."""

from __future__ import annotations

import pytest
import torch

from h2lo_bids.models.bundle import save_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.h2lo import H2lo


@pytest.fixture
def model():
    torch.manual_seed(7)
    return H2lo().eval()


@pytest.fixture
def saved(model, tmp_path):
    extra = {"name": "test", "training_data": {"kind": "simulated"}}
    folder = tmp_path / "m"
    return save_bundle(
        folder, model, contrast="T2w", frame=Frame((16, 18, 20)), metadata=extra, card="# é\n"
    )
