"""The scanner: k-space, noise and geometry against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.affines import from_matvec

from h2lo_bids.phantom.acquisition import Grid, acquire, complex_noise, truncate_kspace
from h2lo_bids.phantom.anatomy import rigid


def test_truncation_leaves_a_band_limited_image_unchanged() -> None:
    y, x = np.meshgrid(np.arange(48), np.arange(64), indexing="ij")
    image = 2 + np.cos(2 * np.pi * (3 * y / 48 + 5 * x / 64)) + np.sin(2 * np.pi * 7 * x / 64)
    # Sample i of the coarse image lies on sample 2 i of the fine one.
    got = truncate_kspace(image, (24, 32))
    np.testing.assert_allclose(got.real, image[::2, ::2], atol=1e-10)
    np.testing.assert_allclose(got.imag, 0, atol=1e-10)


def test_noise_is_rayleigh_in_the_background_and_rician_in_tissue() -> None:
    grid = Grid((60, 62, 40), (1.6, 1.6, 5.0))
    empty = np.zeros((20, 20, 20), np.float32)
    how = {"profile": "gauss", "sigma": 0.3, "rng": np.random.default_rng(2)}
    scan = acquire(empty, np.eye(4), grid, np.eye(4), **how)
    assert scan.mean() == pytest.approx(0.3 * np.sqrt(np.pi / 2), rel=0.01)
    assert scan.std() == pytest.approx(0.3 * np.sqrt(2 - np.pi / 2), rel=0.02)
    noise = complex_noise((200, 200), 0.1, np.random.default_rng(3))
    tissue = np.abs(4 + noise)
    assert tissue.std() == pytest.approx(0.1, rel=0.02)
    assert tissue.mean() == pytest.approx(4 + 0.1**2 / 8, abs=0.002)


@pytest.mark.parametrize(
    ("shape", "zooms"),
    [((40, 44, 16), (2.0, 2.0, 5.0)), ((40, 16, 44), (2.0, 5.0, 2.0))],
)
def test_a_moved_blob_lands_where_the_pose_says(shape, zooms) -> None:
    affine = from_matvec(np.eye(3), [-39.5] * 3)
    where = np.indices((80, 80, 80)) - 39.5
    centre = np.array([8.0, -11.0, 6.0])
    blob = np.exp(-0.5 * np.sum((where - centre[:, None, None, None]) ** 2, axis=0) / 5.0**2)
    pose = rigid(np.array([10.0, -5.0, 20.0]), np.array([3.0, -2.0, 4.0]))
    grid = Grid(shape, zooms)
    how = {"profile": "gauss", "sigma": 0.0, "rng": np.random.default_rng(0)}
    scan = acquire(blob.astype(np.float32), affine, grid, pose, **how)
    assert scan.shape == shape
    index = np.indices(shape).reshape(3, -1)
    mass = scan.ravel() * (scan.ravel() > 0.05)
    found = grid.affine[:3, :3] @ (index @ mass / mass.sum()) + grid.affine[:3, 3]
    np.testing.assert_allclose(found, (pose @ [*centre, 1.0])[:3], atol=0.15)
    # Volume integrals survive sampling.
    assert scan.sum() * np.prod(zooms) == pytest.approx(blob.sum(), rel=0.03)
