"""Other grids: same positions, same values."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from h2lo_bids.synthesis import grids
from h2lo_bids.synthesis.engine import synthesize, synthesize_at
from h2lo_bids.synthesis.grids import lf_grid, synthesize_on_grid

AFFINE = np.array([[1, 0, 0, -8.0], [0, 1, 0, -6], [0, 0, 1, -7], [0, 0, 0, 1]])


def rotation(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(4)
    turn[:2, :2] = [[c, -s], [s, c]]
    return turn


@pytest.fixture
def no_interpolation(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a grid on the frame's voxels needs no interpolation")

    monkeypatch.setattr(grids, "synthesize_at", refuse)


def test_the_frame_itself(model, volume, no_interpolation):
    mask = volume > 0.4
    got = synthesize_on_grid(model, volume, AFFINE, volume.shape, AFFINE, mask)
    np.testing.assert_array_equal(got, synthesize(model, volume, mask))


def test_a_flipped_permuted_and_cropped_grid(model, volume, no_interpolation):
    frame = nib.Nifti1Image(volume, AFFINE)
    codes = nib.orientations.axcodes2ornt("PIL")
    turned = frame.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(AFFINE), codes)
    ).slicer[2:-1, 1:, :-3]
    mask = np.asarray(turned.dataobj) > 0.4
    got = synthesize_on_grid(model, volume, AFFINE, turned.shape, turned.affine, mask)
    whole = synthesize(model, volume, np.ones(volume.shape, dtype=bool))
    expected = (
        nib.Nifti1Image(whole, AFFINE)
        .as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(AFFINE), codes))
        .slicer[2:-1, 1:, :-3]
        .get_fdata()
    )
    np.testing.assert_allclose(got, np.where(mask, expected, 0), atol=2e-6)


def test_rounding_of_affines_does_not_cost_interpolation(model, volume, no_interpolation):
    off = AFFINE.copy()
    off[:3, 3] += 5e-4
    mask = volume > 0.4
    synthesize_on_grid(model, volume, AFFINE, volume.shape, off, mask)


def test_an_oblique_grid_of_other_voxels(model, volume):
    target = rotation(20) @ np.diag([1.6, 1.6, 5, 1]) @ np.eye(4)
    target[:3, 3] = [-5, -6, -6]
    shape = (7, 6, 3)
    mask = np.random.default_rng(0).random(shape) > 0.3
    got = synthesize_on_grid(model, volume, AFFINE, shape, target, mask)
    for voxel in np.argwhere(mask):
        world = target @ [*voxel, 1]
        point = np.linalg.solve(AFFINE, world)[:3]
        expected = synthesize_at(model, volume, point[None])[0]
        assert got[tuple(voxel)] == pytest.approx(expected, abs=2e-6)
    assert not got[~mask].any()


def test_whole_voxels_beyond_the_frame_are_still_queried(model, volume):
    shifted = AFFINE.copy()
    shifted[0, 3] -= 3
    mask = np.ones(volume.shape, dtype=bool)
    got = synthesize_on_grid(model, volume, AFFINE, volume.shape, shifted, mask)
    whole = synthesize(model, volume, mask)
    np.testing.assert_allclose(got[3:], whole[:-3], atol=2e-6)
    expected = synthesize_at(model, volume, np.array([[-3.0, 4, 5]]))[0]
    assert got[0, 4, 5] == pytest.approx(expected, abs=2e-6)


def test_a_world_transform_is_followed(model, volume):
    mask = volume > 0.5
    shift = np.array([0.3, -0.2, 0.1])
    moved = AFFINE.copy()
    moved[:3, 3] += shift
    direct = synthesize_on_grid(model, volume, AFFINE, volume.shape, moved, mask)
    warped = synthesize_on_grid(
        model, volume, AFFINE, volume.shape, AFFINE, mask, world_transform=lambda p: p + shift
    )
    np.testing.assert_allclose(direct, warped, atol=2e-6)


def test_an_empty_mask_and_a_wrong_one(model, volume):
    none = np.zeros(volume.shape, dtype=bool)
    assert not synthesize_on_grid(model, volume, AFFINE, volume.shape, AFFINE, none).any()
    with pytest.raises(ValueError):
        synthesize_on_grid(model, volume, AFFINE, (3, 3, 3), AFFINE, none)


@pytest.mark.parametrize("degrees", [0, 30])
def test_a_low_field_grid_covers_the_field_of_view(degrees):
    affine = rotation(degrees) @ np.diag([-1.0, 1, 1.2, 1])
    affine[:3, 3] = [90, -100, -70]
    shape, new = lf_grid(affine, (181, 217, 150), (1.6, 1.6, 5))
    assert shape == (114, 136, 36)
    np.testing.assert_allclose(nib.affines.voxel_sizes(new), (1.6, 1.6, 5))
    old_edges = affine @ np.array([[-0.5, 180.5], [-0.5, 216.5], [-0.5, 149.5], [1, 1]])
    inside = np.linalg.solve(new, old_edges)[:3]
    assert (inside >= -0.5 - 1e-6).all()
    assert (inside <= np.array(shape)[:, None] - 0.5 + 1e-6).all()
    # The same centre and the same axes.
    np.testing.assert_allclose(
        new @ [*(np.array(shape) - 1) / 2, 1], affine @ [90, 108, 74.5, 1], atol=1e-9
    )
    cosines = [a[:3, :3] / nib.affines.voxel_sizes(a) for a in (affine, new)]
    np.testing.assert_allclose(*cosines, atol=1e-12)


def test_the_same_voxel_sizes_give_the_same_grid():
    shape, new = lf_grid(AFFINE, (17, 12, 15), (1, 1, 1))
    assert shape == (17, 12, 15)
    np.testing.assert_allclose(new, AFFINE)


@pytest.mark.parametrize("zooms", [(1, 1), (0, 1, 1), (-1, 1, 1), (np.nan, 1, 1)])
def test_impossible_voxel_sizes_are_refused(zooms):
    with pytest.raises(ValueError):
        lf_grid(AFFINE, (4, 4, 4), zooms)
