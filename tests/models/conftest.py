"""A network and a bundle of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from h2lo_bids.models.bundle import save_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.h2lo import H2lo


@pytest.fixture
def model():
    torch.manual_seed(7)
    return H2lo().eval()


@pytest.fixture(scope="session")
def convolved():
    """Return a convolution of (channels, space): of a correlation in both, the middle channel."""

    def by_correlation(x, kernels, offset=0.0, groups=1):
        parts, middle = np.split(x, groups), len(x) // groups // 2
        pairs = zip(np.repeat(parts, len(kernels) // groups, axis=0), kernels, strict=True)
        made = [correlate(part, own, mode="constant")[middle] for part, own in pairs]
        return np.stack(made) + np.reshape(offset, (-1,) + (1,) * (x.ndim - 1))

    return by_correlation


@pytest.fixture
def saved(model, tmp_path):
    extra = {"name": "test", "training_data": {"kind": "simulated"}}
    folder = tmp_path / "m"
    return save_bundle(
        folder, model, contrast="T2w", frame=Frame((16, 18, 20)), metadata=extra, card="# é\n"
    )
