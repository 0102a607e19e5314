"""Random fields and resampling against closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.affines import from_matvec
from scipy.ndimage import map_coordinates
from shapes import ball

from h2lo_bids.phantom.acquisition import resample
from h2lo_bids.phantom.anatomy import rigid, smooth_field, vessels
from h2lo_bids.phantom.scans import distortion, receive_field


def test_smooth_field_has_unit_deviation_and_the_asked_correlation() -> None:
    field = smooth_field(np.random.default_rng(0), (120, 120, 120), 1.0, 4.0)
    assert field.dtype == np.float32
    assert field.std() == pytest.approx(1.0, abs=0.1)
    # White noise through a Gaussian has correlation exp(-d^2 / (4 sigma^2)).
    for distance in (4, 8):
        got = np.corrcoef(field[:-distance].ravel(), field[distance:].ravel())[0, 1]
        assert got == pytest.approx(np.exp(-(distance**2) / 64), abs=0.08)


def test_vessels_are_thin() -> None:
    weight = vessels(np.random.default_rng(2), (64, 64, 64), 1.0, 0.9)
    assert 0.001 < np.mean(weight > 0.5) < 0.05


@pytest.mark.parametrize("order", [0, 1, 3])
def test_resample_reads_mapped_voxels(order: int) -> None:
    rng = np.random.default_rng(3)
    volume = rng.integers(0, 9, (12, 13, 14)).astype(np.float32)
    matrix = rigid(np.array([4.0, 8.0, -6.0]), np.array([0.3, 1.2, -0.6]))
    shift = rng.normal(0, 0.5, (3, 9, 8, 7)).astype(np.float32)
    index = np.indices((9, 8, 7)).reshape(3, -1)
    where = (matrix[:3, :3] @ index + matrix[:3, 3:]).reshape(3, 9, 8, 7)
    np.testing.assert_allclose(
        resample(volume, matrix, (9, 8, 7), order=order),
        map_coordinates(volume, where, order=order),
        atol=1e-4,
    )
    got = resample(volume, matrix, (9, 8, 7), displacement=shift, order=order)
    expected = map_coordinates(volume, where + shift, order=order)
    # Rounding of a coordinate may pick the other neighbour at a tie.
    assert np.mean(np.abs(got - expected) > 1e-2) < 0.002


def test_distortion_has_the_asked_size_and_no_rigid_motion_left() -> None:
    mask = ball((48, 56, 50), 22)
    inside = distortion(np.random.default_rng(6), mask, 3.0, 2.5)[:, mask].T * 3.0
    assert np.sqrt(np.mean(np.sum(inside**2, axis=1))) == pytest.approx(2.5, rel=0.03)
    np.testing.assert_allclose(inside.mean(0), 0, atol=0.05)
    torque = np.cross(np.argwhere(mask) - (23.5, 27.5, 24.5), inside).mean(0)
    np.testing.assert_allclose(torque, 0, atol=0.05 * 20 * 2.5)


def test_receive_field_is_brighter_at_the_rim_by_its_logarithm() -> None:
    affine = from_matvec(2 * np.eye(3), [-100] * 3)
    field = receive_field(np.random.default_rng(0), (101, 101, 101), affine, rim=0.8, rough=0.0)
    middle = field[50, 50, 50]
    for axis, half in enumerate((75, 95, 85)):
        at = [50, 50, 50]
        at[axis] = 50 + round(half / 2)
        assert np.log(field[tuple(at)] / middle) == pytest.approx(0.8, abs=0.03)
