"""Shapes of masks, against brute force and scipy's exact distances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from shapes import SPACING, ellipsoid

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.masks import (
    bounding_box,
    cut_bridges,
    cut_share,
    dice,
    largest_component,
    volume_ml,
    within,
    without_strays,
)


def test_overlap_volume_and_cut_of_boxes() -> None:
    a, b = np.zeros((2, 10, 10, 10), dtype=bool)
    a[:4, :5, :5], b[2:8, :5, :5] = True, True  # 100 and 150 voxels, 50 shared
    assert dice(a, b) == 2 * 50 / 250
    assert dice(a & False, b & False) == 0
    assert volume_ml(a, np.diag([2.0, -3, 5, 1])) == pytest.approx(100 * 30 / 1000)
    assert cut_share(a) == 1.0
    a[0, 0, 0] = False
    assert cut_share(a) == 24 / 25  # each cut face lacks a voxel


def test_a_box_holds_every_voxel_and_not_one_more() -> None:
    mask = np.zeros((9, 7, 8), dtype=bool)
    mask[2, 3, 1] = mask[5, 3, 7] = True
    assert bounding_box(mask) == (slice(2, 6), slice(3, 4), slice(1, 8))
    assert bounding_box(mask, margin=2) == (slice(0, 8), slice(1, 6), slice(0, 8))
    assert bounding_box(mask[:, 3]) == (slice(2, 6), slice(1, 8))
    with pytest.raises(BadDataError, match="empty"):
        bounding_box(~np.ones((3, 3, 3), dtype=bool))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.93, 1.31, 2.17), (5.03, 1.61, 1.63)])
@pytest.mark.parametrize("radius", [0.5, 5.0, 7.5, 40.0])
def test_nearness_is_that_of_exact_distances(spacing, radius) -> None:
    mask = np.random.default_rng(5).random((21, 18, 19)) < 0.002
    assert mask.any()
    exact = distance_transform_edt(~mask, sampling=spacing) <= radius
    np.testing.assert_array_equal(within(mask, radius, spacing), exact)


def test_bridges_are_cut_and_holes_filled() -> None:
    main, eye = ellipsoid((60, 60, 60)), ellipsoid((14, 14, 14), (0, 85, 0))
    bridge, hole = ellipsoid((7, 30, 7), (0, 65, 0)), ellipsoid((10, 10, 10))
    speck, sides = ellipsoid((9, 9, 9), (-80, -80, -80)), (SPACING,) * 3
    got = cut_bridges((main & ~hole) | eye | bridge | speck, 10.0, sides)
    assert np.all(got[main])
    assert not got[(eye & ~main & ~bridge) | speck].any()
    assert dice(got, main) > 0.98
    # A brain cut by the field of view keeps its end, and an empty mask is one.
    cut, empty = main[:, :, :22], np.zeros((5, 5, 5), bool)
    np.testing.assert_array_equal(cut_bridges(cut, 10.0, sides), cut)
    assert not cut_bridges(empty, 5, (1, 1, 1)).any()
    assert not largest_component(empty).any()


def test_small_parts_far_away_are_dropped_and_a_cerebellum_is_not() -> None:
    main, below = ellipsoid((60, 80, 50)), ellipsoid((40, 25, 20), (0, -40, -80))
    near, far = np.zeros_like(main), np.zeros_like(main)
    near[25, 30, 38] = True  # the main part ends at 36
    far[25, 30, 46] = True
    sides = (SPACING,) * 3
    for kept in (main, main | near, main | below):
        np.testing.assert_array_equal(without_strays(kept, sides), kept)
    np.testing.assert_array_equal(without_strays(main | far, sides), main)
    np.testing.assert_array_equal(without_strays(main | far, (1.0, 1.0, 0.5)), main | far)
