"""Operators and volumes for the engine's tests."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from h2lo_bids.models.h2lo import H2lo, H2loArchitecture


@cache
def scaled(trunk="siren"):
    """Draw an operator of half the width whose output spans about [0, 1], as if trained."""
    torch.manual_seed(0)
    sizes = H2loArchitecture(channels=16, n_basis=64, width=128, trunk=trunk)
    model = H2lo(sizes).eval().requires_grad_(False)
    sample = torch.rand(1, 1, 12, 12, 12)
    with torch.inference_mode():
        out = model(sample)
    gain = 1.0 / float(out.max() - out.min())
    last = model.trunk.net[-1]
    last.weight.mul_(gain)
    last.bias.mul_(gain)
    model.bias.fill_(-gain * float(out.min()))
    return model


@pytest.fixture(scope="session")
def draw_model():
    return scaled


@pytest.fixture(scope="session")
def model():
    return scaled()


@pytest.fixture
def volume():
    return np.random.default_rng(1).random((17, 12, 15), dtype=np.float32)
