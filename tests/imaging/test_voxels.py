"""Slice profiles and the points that integrate a voxel, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from h2lo_bids.imaging.voxels import VoxelResponse, sub_voxels, voxel_means


def hamming_sinc(f, thickness):
    """Return the spectrum of the windowed sinc: a rectangle convolved with three sincs."""
    x = np.linspace(-3, 3, 6001)
    own = np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x / 3))
    waves = np.cos(2 * np.pi * np.multiply.outer(f, x * thickness))
    return np.trapezoid(waves * own, x) / np.trapezoid(own, x)


TRANSFER = {
    "box": lambda f, thickness: np.sinc(f * thickness),
    # Of a Gaussian of this full width at half maximum.
    "gauss": lambda f, thickness: np.exp(-((np.pi * f * thickness) ** 2) / (4 * np.log(2))),
    "sinc": hamming_sinc,
}


@pytest.mark.parametrize(
    ("sides", "kind", "thickness"),
    [
        *(((1.6, 1.6, 5.0), kind, None) for kind in TRANSFER),
        ((1.6, 5.0, 1.6), "sinc", None),
        ((2.0, 2.0, 2.0), "box", 4.0),
        ((1.6, 1.6, 5.0), "box", 4.0),
        ((6, 6, 10), "box", 7.0),
        ((6, 6, 10), "gauss", 8.0),
    ],
)
def test_a_wave_is_attenuated_by_the_transfer_function(sides, kind, thickness):
    nodes = sub_voxels(sides, VoxelResponse(kind, thickness), 1.0)
    assert nodes.axis == (1 if sides[1] > sides[2] else 2)
    assert nodes.weights.sum() == pytest.approx(1)
    assert len(nodes.offsets) <= 1.6 * np.prod(sides)  # each of which is evaluated
    reach = len(nodes.weights) // 2
    f = np.linspace(0, 0.25, 40)
    for axis, side in enumerate(sides):
        step = np.arange(-reach, reach + 1)[:, None] * (axis == nodes.axis)
        at = (nodes.offsets[:, axis] + step) * side
        got = (np.exp(2j * np.pi * f[:, None, None] * at) * nodes.weights).sum(axis=(1, 2))
        across = axis == nodes.axis
        own = TRANSFER[kind if across else "box"](f, (across and thickness) or side)
        np.testing.assert_allclose(got, own, atol=0.03)  # 0.025, and a Gaussian's tail
        np.testing.assert_allclose(got[f < 0.1], own[f < 0.1], atol=0.012)
    with pytest.raises(ValueError, match="profile"):
        sub_voxels(sides, VoxelResponse("round"), 1.0)


@pytest.mark.parametrize("kind", TRANSFER)
def test_the_rim_holds_the_mean_of_its_brain(kind):
    """Brain below z = 36: outside, where a thousand stands, nobody may look."""
    brain, sides = np.ones((40, 40, 80), bool), (1.6, 1.6, 5.0)
    brain[..., 37:] = False
    got = voxel_means(
        lambda points: np.where(points[:, 2] > 36.5, 1000.0, 0.4),
        np.ones((8, 7, 9), bool),
        sub_voxels(sides, VoxelResponse(kind), 1.0),
        lambda voxels: voxels * sides + (10, 10, 15),
        brain,
    )
    # A wanted voxel without brain is asked as it is.
    expected = np.where(15 + 5 * np.arange(9) - 2.5 < 36.5, 0.4, 1000)
    np.testing.assert_allclose(got.reshape(8, 7, 9), expected + np.zeros((8, 7, 9)), rtol=2e-6)


def test_slices_across_the_first_axis_ask_nothing_of_a_block_beyond_the_brain(monkeypatch):
    monkeypatch.setattr("h2lo_bids.imaging.voxels.POINTS", 64)
    brain, sides = np.zeros((60, 20, 20), bool), (5.0, 1.6, 1.6)
    brain[:23] = True  # to the border of the last slice; the sinc reaches further
    got = voxel_means(
        lambda points: np.full(len(points), 0.3 + 0 * points.max()),  # of which there must be one
        np.ones((3, 4, 4), bool),
        sub_voxels(sides, VoxelResponse("sinc"), 1.0),
        lambda voxels: voxels * sides + (10, 5, 5),
        brain,
    )
    np.testing.assert_allclose(got, 0.3, atol=1e-6)
