"""Other grids, against plain NumPy indexing and the world coordinates of landmarks."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from scipy.ndimage import gaussian_filter
from shapes import reoriented, stored

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.resample import conform, frame_grid, lf_grid, lf_mask, resample
from h2lo_bids.models.frame import Frame

RNG = np.random.default_rng(11)
CODES = [
    "".join(pair[side] for pair, side in zip(order, sides, strict=True))
    for order in permutations(["LR", "PA", "IS"])
    for sides in product((0, 1), repeat=3)
]


def frame(shape=(24, 26, 28), **given) -> Frame:
    return Frame(shape, **given)


def scan(shape: tuple[int, int, int] = (16, 20, 18), zooms: tuple[float, ...] = (1, 1, 1)):
    turn = nib.eulerangles.euler2mat(0.12, -0.08, 0.2)
    affine = from_matvec(turn @ np.diag(zooms), [-11, 7.5, 30])
    return stored(RNG.uniform(1, 9, shape), affine)


def test_every_orientation_gives_the_same_voxels_in_the_same_place() -> None:
    image, box = scan(), np.zeros((16, 20, 18), bool)
    box[3:11, 5:15, 2:15] = True
    mask = stored(box, image.affine)
    truth = conform(image, frame(), mask=mask)
    for codes in CODES:
        turned = conform(reoriented(image, codes), frame(), mask=reoriented(mask, codes))
        np.testing.assert_array_equal(turned.get_fdata(), truth.get_fdata(), codes)
        np.testing.assert_allclose(turned.affine, truth.affine, atol=1e-9, err_msg=codes)
    assert nib.aff2axcodes(truth.affine) == ("R", "A", "S")
    # Voxels are moved, and not interpolated, so that the mask's box is centred to the nearest one.
    assert np.isin(truth.get_fdata(), [0, *image.get_fdata().ravel()]).all()
    middle = apply_affine(np.linalg.inv(truth.affine) @ image.affine, (6.5, 9.5, 8))
    np.testing.assert_allclose(middle, (23 / 2, 25 / 2, 27 / 2), atol=0.5 + 1e-6)


def test_down_sampling_does_not_alias() -> None:
    """A checkerboard finer than the new grid must average out."""
    image = stored(np.indices((40, 40, 40)).sum(0) % 2, np.diag([0.5, 0.5, 0.5, 1]))
    got = conform(image, frame(shape=(16, 16, 16), spacing=(1.5, 1.5, 1.5))).get_fdata()[3:10, 3:10]
    assert np.abs(got[..., 3:10] - 0.5).max() < 0.05
    smooth = gaussian_filter(RNG.normal(size=(40, 40, 40)).astype(np.float32), 5)
    kept = resample(stored(smooth, np.eye(4)), (20, 20, 20), np.diag([2, 2, 2, 1.0]))
    error = kept.get_fdata() - smooth[::2, ::2, ::2]
    assert np.abs(error).max() < 0.1 * np.ptp(smooth)


def test_array_anchor_is_the_reordered_array() -> None:
    image = scan()
    turned = conform(image, frame(orientation="LIA", anchor="array"))
    np.testing.assert_array_equal(turned.get_fdata(), reoriented(image, "LIA").get_fdata())
    nearly = conform(scan(zooms=(1.009, 1, 1)), frame(anchor="array"))
    assert nearly.shape == (16, 20, 18)  # not interpolated


def test_a_brain_too_large_for_the_frame_is_refused_in_one_line(refused) -> None:
    image = scan((60, 60, 60))
    whole, empty = (stored(n + np.zeros(image.shape), image.affine) for n in (1, 0))
    image.set_filename("sub-01_T1w.nii.gz")
    message = refused(BadDataError, conform, image, frame(), mask=whole)
    assert message.startswith("sub-01_T1w.nii.gz: ")
    assert "60 x 60 x 60 mm" in message
    assert "empty" in refused(BadDataError, conform, image, frame(), mask=empty)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("rotated", [True, False])
def test_resampling_against_scipy(order: int, rotated: bool) -> None:
    from scipy.ndimage import map_coordinates

    image = reoriented(scan(zooms=(1.2, 0.9, 3)), "PIL")
    data = gaussian_filter(image.get_fdata(), 2 if rotated else 0).astype(np.float32)
    image = stored(data, image.affine)
    shape, affine = frame_grid(image, frame(spacing=(0.8, 0.8, 0.8)))
    if rotated:
        affine = affine @ from_matvec(nib.eulerangles.euler2mat(0.3, 0.2, 0.1))
    got = resample(image, shape, affine, order=order).get_fdata()
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    at = apply_affine(np.linalg.inv(image.affine) @ affine, grid)
    inside = np.all((at > 0) & (at < np.array(image.shape) - 1), -1)
    assert inside.sum() > 300
    truth = map_coordinates(data, at[inside].T, order=order, mode="nearest")
    np.testing.assert_allclose(got[inside], np.clip(truth, data.min(), data.max()), atol=1e-3)


def turned(degrees: float) -> np.ndarray:
    return from_matvec(nib.eulerangles.euler2mat(z=np.radians(degrees)))


@pytest.mark.parametrize("degrees", [0, 30])
def test_a_low_field_grid_covers_the_field_of_view(degrees):
    affine = turned(degrees) @ np.diag([-1.0, 1, 1.2, 1])
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
        lf_grid(np.eye(4), (4, 4, 4), zooms)


@pytest.mark.parametrize("degrees", [0, 30])
def test_a_mask_keeps_voxels_of_which_more_than_half_is_brain(degrees):
    rng = np.random.default_rng(4)
    mask = np.kron(rng.random((5, 4, 6)) > 0.5, np.ones((4, 4, 4))) > 0
    affine = turned(degrees) @ np.diag([-1.0, 1.2, 0.9, 1.0])
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
