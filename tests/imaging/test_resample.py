"""Other grids, against plain NumPy indexing and the world coordinates of landmarks."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from scipy.ndimage import gaussian_filter, map_coordinates
from shapes import reoriented, stored

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.resample import conform, frame_grid, lf_grid, lf_mask, resample
from h2lo_bids.models.frame import Frame

RNG = np.random.default_rng(11)
CODES = ["".join(code) for axes in permutations(["LR", "PA", "IS"]) for code in product(*axes)]


def scan(shape: tuple[int, int, int] = (16, 20, 18), zooms: tuple[float, ...] = (1, 1, 1)):
    turn = nib.eulerangles.euler2mat(0.12, -0.08, 0.2)
    affine = from_matvec(turn @ np.diag(zooms), [-11, 7.5, 30])
    return stored(RNG.uniform(1, 9, shape), affine)


FRAME = Frame((24, 26, 28))


def test_every_orientation_gives_the_same_voxels_in_the_same_place() -> None:
    image, box = scan(), np.zeros((16, 20, 18), bool)
    box[3:11, 5:15, 2:15] = True
    mask = stored(box, image.affine)
    truth = conform(image, FRAME, mask=mask)
    for codes in CODES:
        turned = conform(reoriented(image, codes), FRAME, mask=reoriented(mask, codes))
        np.testing.assert_array_equal(turned.get_fdata(), truth.get_fdata(), codes)
        np.testing.assert_allclose(turned.affine, truth.affine, atol=1e-9, err_msg=codes)
    assert nib.aff2axcodes(truth.affine) == ("R", "A", "S")
    # Voxels are moved, and not interpolated, so that the mask's box is centred to the nearest one.
    assert np.isin(truth.get_fdata(), [0, *image.get_fdata().ravel()]).all()
    middle = apply_affine(np.linalg.inv(truth.affine) @ image.affine, (6.5, 9.5, 8))
    np.testing.assert_allclose(middle, (23 / 2, 25 / 2, 27 / 2), atol=0.5 + 1e-6)
    nearly = scan(zooms=(1.009, 1, 1))
    whole = conform(nearly, Frame(FRAME.shape, anchor="array")).get_fdata()
    np.testing.assert_array_equal(whole, nearly.get_fdata())


def test_down_sampling_does_not_alias() -> None:
    """A checkerboard finer than the new grid must average out."""
    image = stored(np.indices((40, 40, 40)).sum(0) % 2, np.diag([0.5, 0.5, 0.5, 1]))
    got = conform(image, Frame((16,) * 3, (1.5,) * 3)).get_fdata()[3:10, 3:10, 3:10]
    assert np.abs(got - 0.5).max() < 0.05
    smooth = gaussian_filter(RNG.normal(size=(40, 40, 40)).astype(np.float32), 5)
    kept = resample(stored(smooth, np.eye(4)), (20, 20, 20), np.diag([2, 2, 2, 1.0]))
    error = kept.get_fdata() - smooth[::2, ::2, ::2]
    assert np.abs(error).max() < 0.1 * np.ptp(smooth)


def test_a_brain_too_large_for_the_frame_is_refused_in_one_line(refused) -> None:
    image = scan((60, 60, 60))
    whole, empty = (stored(n + np.zeros(image.shape), image.affine) for n in (1, 0))
    image.set_filename("sub-01_T1w.nii.gz")
    message = refused(BadDataError, conform, image, FRAME, mask=whole)
    assert message.startswith("sub-01_T1w.nii.gz: its brain mask spans 60 x 60 x 60 mm, more than")
    assert "empty" in refused(BadDataError, conform, image, FRAME, mask=empty)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("rotated", [True, False])
def test_resampling_against_scipy(order: int, rotated: bool) -> None:
    image = reoriented(scan(zooms=(1.2, 0.9, 3)), "PIL")
    data = gaussian_filter(image.get_fdata(), 2 if rotated else 0).astype(np.float32)
    image = stored(data, image.affine)
    shape, affine = frame_grid(image, Frame(FRAME.shape, (0.8, 0.8, 0.8)))
    if rotated:
        affine = affine @ from_matvec(nib.eulerangles.euler2mat(0.3, 0.2, 0.1))
    got = resample(image, shape, affine, order=order).get_fdata()
    at = apply_affine(np.linalg.inv(image.affine) @ affine, np.argwhere(np.ones(shape)))
    inside = np.all((at > 0) & (at < np.array(image.shape) - 1), -1)
    assert inside.sum() > 300
    truth = map_coordinates(data, at[inside].T, order=order, mode="nearest")
    expected = np.clip(truth, data.min(), data.max())
    np.testing.assert_allclose(got.ravel()[inside], expected, atol=1e-3)


def turned(degrees: float) -> np.ndarray:
    return from_matvec(nib.eulerangles.euler2mat(z=np.radians(degrees)))


@pytest.mark.parametrize("degrees", [0, 30])
def test_a_low_field_grid_covers_the_field_of_view(degrees):
    affine = turned(degrees) @ np.diag([-1.0, 1, 1.2, 1])
    affine[:3, 3] = [90, -100, -70]
    shape, new = lf_grid(affine, (181, 217, 150), (1.6, 1.6, 5))
    assert shape == (114, 136, 36)  # just enough, about the same centre along the same axes
    np.testing.assert_allclose(new[:3, :3], affine[:3, :3] * [1.6, 1.6, 5 / 1.2], atol=1e-12)
    centre = apply_affine(new, (np.array(shape) - 1) / 2)
    np.testing.assert_allclose(centre, apply_affine(affine, (90, 108, 74.5)), atol=1e-9)
    for zooms in ((1, 1), (0, 1, 1), (-1, 1, 1), (np.nan, 1, 1)):
        with pytest.raises(ValueError, match="three positive voxel sizes"):
            lf_grid(affine, (4, 4, 4), zooms)


@pytest.mark.parametrize("degrees", [0, 30])
def test_a_mask_keeps_voxels_of_which_more_than_half_is_brain(degrees):
    rng = np.random.default_rng(4)
    mask = np.kron(rng.random((5, 4, 6)) > 0.5, np.ones((4, 4, 4))) > 0
    affine, sides = turned(degrees) @ np.diag([-1.0, 1.2, 0.9, 1.0]), (1.7, 2.9, 4.3)
    got, new = lf_mask(mask, affine, sides)
    shape, expected = lf_grid(affine, mask.shape, sides)
    assert got.shape == shape
    np.testing.assert_array_equal(new, expected)
    within = (np.argwhere(np.ones((20,) * 3)) + 0.5) / 20 - 0.5
    for voxel in np.argwhere(np.ones(shape)):
        at = np.rint(apply_affine(np.linalg.inv(affine) @ new, voxel + within)).astype(int)
        there = at[((at >= 0) & (at < mask.shape)).all(1)]
        share = mask[tuple(there.T)].sum() / len(at)
        assert abs(share - 0.5) < 0.03 or got[tuple(voxel)] == (share > 0.5)
