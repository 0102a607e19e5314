"""Fusing, aligning and judging on a blob whose true place is known."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from scipy.ndimage import binary_dilation
from scipy.spatial.transform import Rotation
from shapes import ellipsoid, stored
from small_brains import GRIDS, SHAPE, make_brain, seen

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.alignment import ScanAt, check_alignments, check_overlap, fuse, nmi

MOVE = from_matvec(nib.eulerangles.euler2mat(0.1, -0.05, 0.08), [4, -6, 3])


@pytest.fixture(scope="module")
def head():
    """A textured brain of 3 mm and its mask."""
    brain = make_brain()
    return brain, stored(brain.get_fdata() > 0, brain.affine)


def _scan(head, shape, spacing, noise=0.05):
    """Sample the moved head with another contrast; linear, as an independent way."""
    image, mask = (seen(part, MOVE, shape, spacing) for part in head)
    values = image.get_fdata() + np.random.default_rng(1).normal(0, 400 * noise, shape)
    inside = mask.get_fdata() > 20 * np.sqrt(0.5)
    return stored(values, image.affine), stored(inside, image.affine)


def _wrong(shift=(0, 0, 0), degrees=0.0) -> np.ndarray:
    return from_matvec(nib.eulerangles.euler2mat(x=np.radians(degrees)), shift)


def test_the_right_place_passes_and_a_wrong_one_or_somebody_else_is_caught(head, refused) -> None:
    scan = _scan(head, (70, 80, 26), (2, 2, 5))
    sound = check_alignments([ScanAt("lf", *scan, MOVE)], *head, [1])
    figures = sound["Figures"]
    assert sound["Reasons"] == []
    turn = np.degrees(Rotation.from_matrix(MOVE[:3, :3]).magnitude())
    assert figures["rotation_deg"] == pytest.approx(turn, abs=1e-3)
    assert figures["translation_mm"] == pytest.approx(np.linalg.norm(MOVE[:3, 3]), abs=1.0)
    assert figures["dice"] > 0.97
    for wrong in (_wrong((3, 3, 3)), _wrong((0, 0, 15)), _wrong(degrees=6)):
        verdict = check_alignments([ScanAt("lf", *scan, MOVE @ wrong)], *head, [1])
        assert verdict["Figures"]["margin"] < 0
        assert any("fits" in reason for reason in verdict["Reasons"])
    noise = stored(np.random.default_rng(2).random(SHAPE), head[0].affine)
    assert check_alignments([ScanAt("lf", noise, head[1], np.eye(4))], *head, [1])["Flagged"]
    speck = (np.indices((40, 40, 40)) == 10).all(0)  # among samples that lie 3 voxels apart
    given = [ScanAt("lf", *scan, MOVE)], stored(1 + speck, np.eye(4)), stored(speck, np.eye(4)), [1]
    assert "mask of a few voxels" in refused(BadDataError, check_alignments, *given)
    places = [ScanAt("axi", *scan, MOVE), ScanAt("sag", *scan, MOVE @ _wrong((40, 0, 0)))]
    reasons = check_alignments(places, *head, [1, 1])["Reasons"]
    assert any("axi and sag" in reason and "40 mm" in reason for reason in reasons)


def test_similarity_against_scikit_image() -> None:
    from skimage.metrics import normalized_mutual_information

    rng = np.random.default_rng(0)
    a = rng.random(20000)
    b = 0.7 * a + 0.3 * rng.random(20000)
    # The top half percent is cut here and not there.
    assert nmi(a, b) == pytest.approx(normalized_mutual_information(a, b, bins=32), abs=0.01)
    assert nmi(a, a) == pytest.approx(2)


def test_three_scans_become_their_average_on_the_grid(head) -> None:
    lows = []
    for grid, gain in zip(GRIDS.values(), (1, 7, 0.2), strict=True):
        image, mask = _scan(head, *grid, noise=0)
        # Scanners scale each image on its own.
        lows.append(ScanAt("lf", stored(image.get_fdata() * gain, image.affine), mask, MOVE))
    fused = fuse(lows, head[1])
    inside = head[1].get_fdata() > 0
    np.testing.assert_array_equal(fused.mask, inside)
    assert fused.coverage == (1, 1, 1)
    assert np.all(fused.data[~inside] == 0)
    truth = np.sqrt(head[0].get_fdata()[inside])
    assert np.corrcoef(fused.data[inside], truth)[0, 1] > 0.9
    assert fused.data[inside].mean() == pytest.approx(1, abs=1e-3)


def test_own_masks_decide_by_majority_where_the_average_ends(head) -> None:
    inside = head[1].get_fdata() > 0
    own = inside, binary_dilation(inside, iterations=2), np.roll(inside, 3, axis=0)
    bright = stored(head[0].get_fdata() + 1, head[0].affine)
    scans = [ScanAt("lf", bright, stored(m, bright.affine), np.eye(4)) for m in own]
    fused = fuse(scans, head[1], own_masks=True)
    votes = np.sum(own, axis=0) >= 2
    assert not np.array_equal(votes, inside)
    np.testing.assert_array_equal(fused.data != 0, votes)
    np.testing.assert_array_equal(fused.mask, inside)
    with_one = fuse(scans, head[1])
    np.testing.assert_allclose(fused.data[votes & inside], with_one.data[votes & inside])


def test_the_mask_ends_where_the_field_of_view_does(head, refused) -> None:
    cut = stored(head[0].get_fdata()[:, :, :22], head[0].affine)
    alone = fuse([ScanAt("lf", *head, np.eye(4))], head[1])  # on its own grid: not interpolated
    own = head[0].get_fdata()[alone.mask]
    assert alone.data[alone.mask] == pytest.approx(own / own.mean(), rel=1e-5)
    fused = fuse([ScanAt("lf", image, None, np.eye(4)) for image in (head[0], cut)], head[1])
    shown = head[1].get_fdata() > 0
    whole = shown.sum()
    shown[:, :, 22:] = False
    np.testing.assert_array_equal(fused.mask, shown)
    assert fused.coverage[1] == pytest.approx(shown.sum() / whole)
    beside = [ScanAt("lf", *head, _wrong((500, 0, 0)))]
    assert "shows nothing" in refused(BadDataError, fuse, beside, head[1])


def test_what_is_said_to_be_registered_must_lie_there(refused) -> None:
    """Two balls of radius 40 mm, d apart, share 1 - 1.5 d/80 + 0.5 (d/80)^3 of each."""

    def ball(middle: float, spacing: int) -> nib.Nifti1Image:
        affine = from_matvec(np.eye(3) * spacing, [-120] * 3)
        return stored(ellipsoid((40,) * 3, (middle, 0, 0), affine, (240 // spacing,) * 3), affine)

    names = "low.nii.gz", "high.nii.gz"
    check_overlap(ball(24, 3), ball(0, 4), *names)  # 0.56
    for distance, share in ((32, "43%"), (90, "0%")):
        message = refused(BadDataError, check_overlap, ball(distance, 3), ball(0, 4), *names)
        assert message.startswith("low.nii.gz: was given as registered to high.nii.gz, but ")
        assert f" {share} of its brain" in message
