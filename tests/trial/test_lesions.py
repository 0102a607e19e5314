"""Lesions, their healthy twins and what a grid shows, against planted balls."""

from __future__ import annotations

import numpy as np
import pytest

from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.phantom.lesions import Lesion, lesion_share
from h2lo_bids.synthesis.grids import lf_grid
from h2lo_bids.trial.labels import carry, response_lines
from h2lo_bids.trial.lesions import LESION, MATCHED, MIRROR, find_lesions, healthy_places, measure
from h2lo_bids.trial.lesions import shown as shown_on

SHAPE = (60, 70, 50)
AFFINE = np.array([[-1.0, 0, 0, 30], [0, 1, 0, -35], [0, 0, 1, -20], [0, 0, 0, 1]])
BRAIN = np.zeros(SHAPE, dtype=bool)
BRAIN[5:-5, 5:-5, 5:-5] = True


def balls(*given):
    return lesion_share([Lesion(*g) for g in given], SHAPE, AFFINE) >= 0.5


def test_lesions_are_connected_parts_largest_first_with_their_diameter():
    mask = balls(((15, 0, 5), 10), ((-12, 10, 0), 5), ((0, -20, 8), 3))
    mask[4, 40, 20:23] = True  # in the skull
    found, outside = find_lesions(mask, BRAIN, AFFINE)
    assert outside == 1
    assert [p.number for p in found] == [1, 2, 3]
    assert [p.diameter for p in found] == pytest.approx([10, 5, 3], rel=0.12)
    assert found[0].centre == pytest.approx((15, 0, 5), abs=0.2)
    assert found[1].volume == np.count_nonzero(mask[found[1].box] & (found[1].share > 0))
    for place in found:
        assert not (place.ring * mask[place.box]).any()
        assert (place.ring <= BRAIN[place.box]).all()


def test_parts_that_touch_at_a_corner_are_one():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[20, 20, 20] = mask[21, 21, 21] = True
    assert len(find_lesions(mask, BRAIN, AFFINE)[0]) == 1


def test_the_healthy_place_is_the_mirror_image_or_like_tissue():
    mask = balls(((15, 0, 5), 8))
    image = np.where(BRAIN, 0.6, 0.0)
    image[mask] = 0.3
    found, _ = find_lesions(mask, BRAIN, AFFINE)
    twin = healthy_places(found, image, mask, BRAIN, AFFINE)[1]
    # The middle of the brain lies at x = 0.5: voxel 29.5 of 60.
    assert (twin.kind, twin.centre) == (MIRROR, pytest.approx((-14, 0, 5), abs=0.2))
    assert twin.share.sum() == found[0].share.sum()
    other = balls(((15, 0, 5), 8), ((-15, 0, 5), 8))  # both sides are ill
    image[other] = 0.3
    image[:, 40:] = np.where(BRAIN[:, 40:], 0.9, 0.0)  # other tissue
    found, _ = find_lesions(other, BRAIN, AFFINE)
    for twin in healthy_places(found, image, other, BRAIN, AFFINE).values():
        assert twin.kind == MATCHED
        assert not other[twin.box][twin.share > 0].any()
        assert image[twin.box][twin.share > 0] == pytest.approx(0.6)


def test_no_place_is_chosen_where_no_tissue_is_alike():
    mask = balls(((15, 0, 5), 8))
    rng = np.random.default_rng(0)
    image = np.where(BRAIN, 0.9 + 0.01 * rng.normal(size=SHAPE), 0.0)
    found, _ = find_lesions(mask, BRAIN, AFFINE)
    image[found[0].box][found[0].ring > 0] = 0.4
    assert healthy_places(found, image, mask, BRAIN, AFFINE) == {}


def test_partial_volume_dilutes_a_small_lesion_and_keeps_its_volume():
    mask = balls(((0, 0, 0), 4))
    lesion = find_lesions(mask, BRAIN, AFFINE)[0][0]
    assert lesion.kind == LESION
    shape, affine = lf_grid(AFFINE, SHAPE, (2, 2, 8))
    lines = response_lines(SHAPE, AFFINE, shape, affine, VoxelResponse())
    low = shown_on(lesion, lines, carry(BRAIN, lines) > 0.5)
    assert low.share.sum() * 32 == pytest.approx(lesion.volume, rel=1e-4)
    image = np.where(mask, 1.0, 0.5)
    full = measure(image, shown_on(lesion, None, BRAIN), 0.1)
    assert (full.mean, full.contrast, full.cnr) == (
        pytest.approx(1), pytest.approx(1), pytest.approx(5)
    )  # fmt: skip
    diluted = measure(carry(image, lines), low, 0.1)
    assert 0.1 < diluted.contrast < 0.6


def test_a_place_that_no_voxel_of_the_brain_holds_is_not_shown():
    lesion = find_lesions(balls(((0, 0, 0), 4)), BRAIN, AFFINE)[0][0]
    assert shown_on(lesion, None, np.zeros(SHAPE, dtype=bool)) is None
