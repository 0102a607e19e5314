"""Enhancement by patches: the whole brain, without seams, whatever the threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from h2lo_bids.models.pfsr import Pfsr, PfsrArchitecture
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.patches import predict_pfsr

SMALL = PfsrArchitecture(features=4, groups=1, blocks=1, reduction=2)


@pytest.fixture
def network():
    torch.manual_seed(3)
    model = Pfsr(SMALL).eval()
    with torch.no_grad():
        model.tail.weight.normal_(0, 0.2)
    return model


@pytest.fixture
def head():
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (60, 66, 58)), indexing="ij")
    mask = sum(a**2 for a in axes) < 0.8
    smooth = 0.5 + 0.3 * np.sin(3 * axes[0]) * np.cos(2 * axes[1] + axes[2])
    return (smooth * mask).astype(np.float32), mask


def test_outside_the_brain_is_nothing(network, head):
    volume, mask = head
    made = predict_pfsr(network, volume, mask)
    assert made.dtype == np.float32
    assert not made[~mask].any()
    assert np.abs(made - volume)[mask].mean() > 0.01


def test_threads_change_no_bit(network, head):
    one, two = (predict_pfsr(network, *head, options=EngineOptions(threads=n)) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_patches_leave_no_seam(network):
    """What patches change against the whole volume in one comes and goes slowly."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (96, 48, 48)), indexing="ij")
    volume = (0.5 + 0.3 * np.sin(3 * axes[0]) * np.cos(2 * axes[1] + axes[2])).astype(np.float32)
    patched = predict_pfsr(network, volume, np.ones(volume.shape, bool))
    with torch.no_grad():
        whole = network(torch.from_numpy(volume)[None, None])[0, 0].numpy()
    # Away from the volume's own border, where both see zeros.
    inner = (slice(8, -8),) * 3
    change, added = (patched - whole)[inner], (whole - volume)[inner]
    assert np.ptp(change) > 0  # the attention of a patch is its own
    for axis in range(3):
        assert np.abs(np.diff(change, axis=axis)).max() < 0.02 * np.ptp(added)
