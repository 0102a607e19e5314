"""Slice profiles and the points that integrate a voxel, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from h2lo_bids.imaging.voxels import VoxelResponse, slice_profile, sub_voxels


def test_profiles_have_their_nominal_width() -> None:
    x = np.linspace(-20, 20, 40001)
    gauss = slice_profile("gauss", x, 5.0)
    above = x[gauss >= 0.5]
    assert np.ptp(above) == pytest.approx(5.0, abs=0.01)
    assert np.trapezoid(gauss, x) == pytest.approx(5.0 * np.sqrt(np.pi / (4 * np.log(2))), rel=1e-6)
    assert np.trapezoid(slice_profile("box", x, 5.0), x) == pytest.approx(5.0, rel=1e-3)
    # A sinc vanishes at the centres of the other slices.
    np.testing.assert_allclose(slice_profile("sinc", np.array([5.0, 10.0]), 5.0), 0, atol=1e-12)
    with pytest.raises(ValueError, match="profile"):
        slice_profile("round", x, 5.0)


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
