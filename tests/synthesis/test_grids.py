"""Other grids: same positions, same values."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from h2lo_bids.imaging.resample import lf_grid, lf_mask
from h2lo_bids.imaging.voxels import VoxelResponse, slice_profile, sub_voxels, voxel_means
from h2lo_bids.synthesis import predict as door
from h2lo_bids.synthesis.engine import synthesize, synthesize_at
from h2lo_bids.synthesis.predict import predict_on_grid

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

    monkeypatch.setattr(door, "synthesize_at", refuse)


def test_the_frame_itself(model, volume, no_interpolation):
    mask = volume > 0.4
    off = AFFINE.copy()
    off[:3, 3] += 5e-4  # the rounding of affines
    for affine in (AFFINE, off):
        got = predict_on_grid(model, volume, AFFINE, affine, mask)
        np.testing.assert_array_equal(got, synthesize(model, volume, mask))


def test_a_flipped_permuted_and_cropped_grid(model, volume, no_interpolation):
    frame = nib.Nifti1Image(volume, AFFINE)
    codes = nib.orientations.axcodes2ornt("PIL")
    turned = frame.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(AFFINE), codes)
    ).slicer[2:-1, 1:, :-3]
    mask = np.asarray(turned.dataobj) > 0.4
    got = predict_on_grid(model, volume, AFFINE, turned.affine, mask)
    whole = synthesize(model, volume, np.ones(volume.shape, dtype=bool))
    expected = (
        nib.Nifti1Image(whole, AFFINE)
        .as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(AFFINE), codes))
        .slicer[2:-1, 1:, :-3]
        .get_fdata()
    )
    np.testing.assert_allclose(got, np.where(mask, expected, 0), atol=2e-6)


def test_an_oblique_grid_of_other_voxels(model, volume):
    target = rotation(20) @ np.diag([1.6, 1.6, 5, 1]) @ np.eye(4)
    target[:3, 3] = [-5, -6, -6]
    shape = (7, 6, 3)
    mask = np.random.default_rng(0).random(shape) > 0.3
    got = predict_on_grid(model, volume, AFFINE, target, mask)
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
    got = predict_on_grid(model, volume, AFFINE, shifted, mask)
    whole = synthesize(model, volume, mask)
    np.testing.assert_allclose(got[3:], whole[:-3], atol=2e-6)
    expected = synthesize_at(model, volume, np.array([[-3.0, 4, 5]]))[0]
    assert got[0, 4, 5] == pytest.approx(expected, abs=2e-6)


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


@pytest.mark.parametrize("zooms", [(1, 1), (0, 1, 1), (-1, 1, 1), (np.nan, 1, 1)])
def test_impossible_voxel_sizes_are_refused(zooms):
    with pytest.raises(ValueError):
        lf_grid(AFFINE, (4, 4, 4), zooms)


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


def centres(shape=(8, 7, 9)):
    return (
        np.moveaxis(np.indices(shape).reshape(3, -1).T.reshape(*shape, 3) * SIDES, -1, 0)
        + (np.array([10, 10, 15])[:, None, None, None])
    )


@pytest.mark.parametrize("response", PROFILES, ids=lambda r: r.profile)
def test_voxels_keep_a_constant_and_what_is_linear(response):
    np.testing.assert_allclose(means(lambda x, y, z: 0 * x + 0.3, response), 0.3, atol=1e-6)
    x, y, z = centres()
    inner = (slice(None), slice(None), slice(3, -3))  # the sinc reaches three slices far
    got = means(lambda x, y, z: 0.01 * x - 0.02 * y + 0.003 * z, response)[inner]
    np.testing.assert_allclose(got, (0.01 * x - 0.02 * y + 0.003 * z)[inner], atol=1e-5)


@pytest.mark.parametrize(
    ("response", "factor"),
    [
        (VoxelResponse("box"), np.sinc(0.08 * 5)),
        (VoxelResponse("gauss"), np.exp(-((np.pi * 0.08 * 5) ** 2) / (4 * np.log(2)))),
        (VoxelResponse("box", 8.0), np.sinc(0.08 * 8)),
    ],
)
def test_a_wave_along_the_slice_axis_loses_what_the_profile_says(response, factor):
    got = means(lambda x, y, z: np.cos(2 * np.pi * 0.08 * z), response)[..., 3:-3]
    expected = factor * np.cos(2 * np.pi * 0.08 * centres()[2])[..., 3:-3]
    np.testing.assert_allclose(got, expected, atol=0.006)
    plane = means(lambda x, y, z: np.cos(2 * np.pi * 0.15 * x), response)
    x = centres()[0]
    np.testing.assert_allclose(plane, np.sinc(0.15 * 1.6) * np.cos(2 * np.pi * 0.15 * x), atol=0.01)


@pytest.mark.parametrize("response", PROFILES, ids=lambda r: r.profile)
def test_the_rim_holds_the_mean_of_its_brain(response):
    """Brain below z = 36: outside, where a thousand stands, nobody may look."""
    brain = np.ones((40, 40, 80), bool)
    brain[..., 37:] = False
    got = means(lambda x, y, z: np.where(z > 36.5, 1000.0, 0.4), response, brain)
    z = centres()[2]
    share = np.clip((36.5 - (z - 2.5)) / 5, 0, 1)
    np.testing.assert_allclose(got[share > 0], 0.4, atol=1e-6)
    np.testing.assert_allclose(
        got[share == 0], 1000, rtol=1e-6
    )  # a wanted voxel without brain is asked as it is


@pytest.mark.parametrize("response", PROFILES, ids=lambda r: r.profile)
def test_the_operator_is_integrated_over_voxels(model, volume, response):
    """Against a sum over a dense lattice of positions, on a tilted grid."""
    target = rotation(20) @ np.diag([2.0, 2.0, 4.0, 1.0])
    target[:3, 3] = [-2, -2, -3]
    mask = np.ones((2, 2, 2), bool)
    given = (model, volume, AFFINE, target, mask)
    got = predict_on_grid(*given, response=response)
    half = {"box": 0.5, "gauss": 1.5, "sinc": 3.0}[response.profile]
    plane = (np.arange(6) + 0.5) / 6 - 0.5
    line = ((np.arange(60) + 0.5) / 60 * 2 - 1) * half
    offsets = np.stack(np.meshgrid(plane, plane, line, indexing="ij"), -1).reshape(-1, 3)
    weights = slice_profile(response.profile, offsets[:, 2], 1.0)
    inside = np.pad(np.ones(volume.shape, bool), 20)
    for voxel in np.argwhere(mask):
        world = (voxel + offsets) @ target[:3, :3].T + target[:3, 3]
        points = world - AFFINE[:3, 3]
        own = weights * inside[tuple(np.rint(points).astype(int).T + 20)]
        values = synthesize_at(model, volume, points)
        assert got[tuple(voxel)] == pytest.approx((values * own).sum() / own.sum(), abs=0.025)
    at_centres = predict_on_grid(*given)
    assert np.abs(got - at_centres).max() > 0.1


@pytest.mark.parametrize("degrees", [0, 30])
def test_a_mask_keeps_voxels_of_which_more_than_half_is_brain(degrees):
    rng = np.random.default_rng(4)
    mask = np.kron(rng.random((5, 4, 6)) > 0.5, np.ones((4, 4, 4))) > 0
    affine = rotation(degrees) @ np.diag([-1.0, 1.2, 0.9, 1.0])
    got, new = lf_mask(mask, affine, (1.7, 2.9, 4.3))
    shape, expected = lf_grid(affine, mask.shape, (1.7, 2.9, 4.3))
    assert got.shape == shape
    np.testing.assert_array_equal(new, expected)
    within = np.stack(np.meshgrid(*[(np.arange(20) + 0.5) / 20 - 0.5] * 3, indexing="ij"), -1)
    to_old = np.linalg.inv(affine) @ new
    for voxel in np.argwhere(np.ones(shape, bool)):
        at = np.rint((voxel + within.reshape(-1, 3)) @ to_old[:3, :3].T + to_old[:3, 3]).astype(int)
        there = ((at >= 0) & (at < mask.shape)).all(1)
        share = mask[tuple(at[there].T)].sum() / len(at)
        assert abs(share - 0.5) < 0.03 or got[tuple(voxel)] == (share > 0.5)
