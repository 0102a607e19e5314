"""Lesions, their healthy twins and what a grid shows, against planted balls."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.affines import apply_affine

from h2lo_bids.imaging.resample import lf_grid, weigh_by_axis
from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.phantom.anatomy import rigid
from h2lo_bids.phantom.lesions import Lesion, lesion_share
from h2lo_bids.trial import lesions as ls
from h2lo_bids.trial.lesions import MATCHED, MIRROR, PLACES, Anatomy, find_lesions, healthy_places

SHAPE = (60, 70, 50)
AFFINE = np.array([[-1.0, 0, 0, 30], [0, 1, 0, -35], [0, 0, 1, -20], [0, 0, 0, 1]])
X, Y, Z = np.moveaxis(apply_affine(AFFINE, np.moveaxis(np.indices(SHAPE), 0, -1)), -1, 0)
# A T1w head, its middle at x = 0.5: bright white matter, a dark grey rim, and two ventricles.
RADIUS = np.sqrt(((X - 0.5) / 25) ** 2 + (Y / 30) ** 2 + ((Z - 4) / 21) ** 2)
BRAIN = RADIUS < 1
FLUID = np.hypot(np.hypot((np.abs(X - 0.5) - 5) / 3, Y / 10), (Z - 4) / 6) < 1
IMAGE = np.where(BRAIN, np.where(FLUID, 0.1, np.where(RADIUS > 0.85, 0.5, 0.8)), 0.0)


def head(mask, image=IMAGE):
    return Anatomy(image, BRAIN, mask, AFFINE, "T1w")


def balls(*given):
    return lesion_share([Lesion(*g) for g in given], SHAPE, AFFINE) >= 0.5


def test_lesions_are_connected_parts_largest_first_with_their_diameter():
    mask = balls(((15, 0, 5), 10), ((-12, 10, 0), 5), ((0, -20, 8), 3))
    mask[2, 40, 20:23] = True  # in the skull
    found, outside = find_lesions(head(mask))
    assert ([p.number for p in found], outside) == ([1, 2, 3], 1)
    assert [p.diameter for p in found] == pytest.approx([10, 5, 3], rel=0.12)
    assert [p.length for p in found] == pytest.approx([10, 5, 3], abs=1.3)
    assert found[0].centre == pytest.approx((15, 0, 5), abs=0.2)
    assert found[1].volume == np.count_nonzero(mask[found[1].box] & (found[1].share > 0))
    for place in found:
        assert not (place.ring * mask[place.box]).any()
        assert (IMAGE[place.box][place.ring > 0] == 0.8).all()  # white matter alone


@pytest.mark.parametrize(
    ("side", "gap", "count"), [(1, 2, 1), (1, 3, 2), (2, 1, 1), (2.1, 1, 2), (0.6, 3, 1)]
)
def test_parts_that_almost_touch_are_one_lesion(side, gap, count):
    mask = np.zeros(SHAPE, dtype=bool)
    mask[20:22, 35, 24] = mask[22 + gap : 24 + gap, 35, 24] = True
    affine = AFFINE @ np.diag([side, 1, 1, 1])
    found, _ = find_lesions(Anatomy(IMAGE, BRAIN, mask, affine, "T1w"))
    assert [p.share.sum() for p in found] == [4 / count] * count
    length = (3 + gap if count == 1 else 1) * side + min(side, 1)
    assert found[0].length == pytest.approx(length, abs=0.1)


def test_the_midsagittal_plane_is_found_though_the_head_is_turned():
    turned, mask = rigid(np.array([0, 0, 6.0]), np.zeros(3)), balls(((15, 8, 5), 8))
    image = np.where(mask, 0.3, IMAGE)
    mirror = Anatomy(image, BRAIN, mask, turned @ AFFINE, "T1w").reflection
    assert mirror @ turned @ (15, 8, 5, 1) == pytest.approx(turned @ (-14, 8, 5, 1), abs=1)


def test_healthy_places_are_the_mirror_image_and_others_of_like_tissue_and_depth():
    mask = balls(((15, 0, 5), 6))
    here = head(mask, np.where(mask, 0.3, IMAGE))
    (lesion,), _ = find_lesions(here)
    places = list(healthy_places([lesion], here))
    kinds = enumerate((MIRROR, *[MATCHED] * (PLACES - 1)), start=1)
    assert [(p.rank, p.kind) for p in places] == [*kinds]
    assert places[0].centre == pytest.approx((-14, 0, 5), abs=1)
    for place in places:
        own = place.share > 0
        assert own.sum() == (lesion.share > 0).sum()
        assert (IMAGE[place.box][own] == 0.8).mean() >= 0.8
        assert not mask[place.box][own].any()
        assert abs(here.depth[place.box][own].mean() - here.depth[mask].mean()) < 3 + 3


def test_what_another_mask_holds_is_neither_healthy_nor_part_of_the_lesion():
    mask, others = balls(((15, 0, 5), 6)), balls(((-14, 0, 8), 4), ((15, 0, 12), 6))
    here = Anatomy(np.where(mask | others, 0.3, IMAGE), BRAIN, mask, AFFINE, "T1w", others)
    (lesion,), _ = find_lesions(here)
    assert lesion.volume == np.count_nonzero(mask)
    places = list(healthy_places([lesion], here))
    assert [p.kind for p in places] == [MATCHED] * PLACES  # none in the ill mirror image
    for place in (lesion, *places):
        assert not (place.ring * others[place.box]).any()
        assert not others[place.box][place.share > 0].any()


def test_no_place_is_chosen_where_no_white_matter_is_of_this_level():
    mask = balls(((15, 0, 5), 6))
    near = np.where(balls(((15, 0, 5), 17)), 0.67, IMAGE)  # nearer to white than to grey
    here = head(mask, np.where(mask, 0.3, near))
    assert [*healthy_places(find_lesions(here)[0], here)] == []


def test_partial_volume_dilutes_a_small_lesion_and_keeps_its_volume():
    mask = balls(((14, 0, 0), 4))
    (lesion,), _ = find_lesions(head(mask))
    shape, affine = lf_grid(AFFINE, SHAPE, (2, 2, 8))
    lines = ls.response_lines(SHAPE, AFFINE, shape, affine, VoxelResponse())
    low = ls.shown(lesion, lines, weigh_by_axis(BRAIN, lines) > 0.5)
    assert low.share.sum() * 32 == pytest.approx(lesion.volume, rel=1e-4)
    image = np.where(mask, 1.0, 0.5)
    full = ls.measure(image, ls.shown(lesion, [], BRAIN), 0.1)
    assert (full.mean, full.contrast, full.cnr) == pytest.approx((1, 1, 5))
    assert 0.1 < ls.measure(weigh_by_axis(image, lines), low, 0.1).contrast < 0.6
    assert ls.shown(lesion, [], np.zeros(SHAPE, dtype=bool)) is None  # no brain there
