"""Slice profiles and the points that integrate a voxel, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from h2lo_bids.imaging.voxels import VoxelResponse, sub_voxels, voxel_means


def gauss(f, thickness):
    """Return the Fourier transform of a Gaussian of this full width at half maximum."""
    return np.exp(-((np.pi * f * thickness) ** 2) / (4 * np.log(2)))


def box(f, thickness):
    return np.sinc(f * thickness)


def hamming_sinc(f, thickness):
    """Return the spectrum of the windowed sinc: a rectangle convolved with three sincs."""
    x = np.linspace(-3, 3, 60001)
    own = np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x / 3))
    waves = np.cos(2 * np.pi * np.multiply.outer(f, x * thickness))
    return np.trapezoid(waves * own, x) / np.trapezoid(own, x)


@pytest.mark.parametrize("sides", [(1.6, 1.6, 5.0), (1.6, 5.0, 1.6), (2.0, 2.0, 2.0), (6, 6, 10)])
@pytest.mark.parametrize(
    ("kind", "transfer", "thickness"),
    [
        ("box", box, None), ("gauss", gauss, None), ("sinc", hamming_sinc, None),
        ("box", box, 4.0), ("box", box, 7.0), ("gauss", gauss, 8.0),
    ],
)  # fmt: skip
def test_a_wave_is_attenuated_by_the_transfer_function(sides, kind, transfer, thickness):
    nodes = sub_voxels(sides, VoxelResponse(kind, thickness), 1.0)
    assert nodes.axis == (1 if sides[1] > sides[2] else 2)
    assert nodes.weights.sum() == pytest.approx(1)
    reach = len(nodes.weights) // 2
    f = np.linspace(0, 0.25, 40)
    for axis, side in enumerate(sides):
        step = np.arange(-reach, reach + 1)[:, None] * (axis == nodes.axis)
        at = (nodes.offsets[:, axis] + step) * side
        got = (np.exp(2j * np.pi * f[:, None, None] * at) * nodes.weights).sum(axis=(1, 2))
        own = transfer(f, thickness or side) if axis == nodes.axis else box(f, side)
        np.testing.assert_allclose(got.real, own, atol=0.03)  # 0.025, and a Gaussian's tail
        np.testing.assert_allclose(got.real[f < 0.1], own[f < 0.1], atol=0.012)
        np.testing.assert_allclose(got.imag, 0, atol=1e-12)


def test_points_are_about_as_many_as_millimetres_and_fewer_where_the_frame_is_coarser():
    nodes = sub_voxels((1.6, 1.6, 5.0), VoxelResponse(), 1.0)
    assert 12 <= len(nodes.offsets) <= 20
    assert len(sub_voxels((1.6, 1.6, 5.0), VoxelResponse(), 4.0).offsets) < len(nodes.offsets)
    with pytest.raises(ValueError, match="profile"):
        sub_voxels((1, 1, 2), VoxelResponse("round"), 1.0)


PROFILES = [VoxelResponse("box"), VoxelResponse("gauss"), VoxelResponse("sinc")]
SIDES = (1.6, 1.6, 5.0)


def means(truth, response, brain=None, shape=(8, 7, 9)):
    """Integrate a function of mm over voxels of 1.6 x 1.6 x 5 mm in a frame of 1 mm."""
    brain = np.ones((40, 40, 80), bool) if brain is None else brain
    got = voxel_means(
        lambda points: truth(*points.T),
        np.ones(shape, bool),
        sub_voxels(SIDES, response, 1.0),
        lambda voxels: voxels * SIDES + (10, 10, 15),
        brain,
    )
    return got.reshape(shape)


@pytest.mark.parametrize("response", PROFILES, ids=lambda r: r.profile)
def test_the_rim_holds_the_mean_of_its_brain(response):
    """Brain below z = 36: outside, where a thousand stands, nobody may look."""
    brain = np.ones((40, 40, 80), bool)
    brain[..., 37:] = False
    got = means(lambda x, y, z: np.where(z > 36.5, 1000.0, 0.4), response, brain)
    z = np.broadcast_to(15 + 5 * np.arange(9), got.shape)
    share = np.clip((36.5 - (z - 2.5)) / 5, 0, 1)
    np.testing.assert_allclose(got[share > 0], 0.4, atol=1e-6)
    # A wanted voxel without brain is asked as it is.
    np.testing.assert_allclose(got[share == 0], 1000, rtol=1e-6)


def test_slices_across_the_first_axis_ask_nothing_of_a_block_beyond_the_brain(monkeypatch):
    monkeypatch.setattr("h2lo_bids.imaging.voxels._POINTS", 64)
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
