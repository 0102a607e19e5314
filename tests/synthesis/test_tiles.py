"""Covers: the brain and not much else. That they hold it whole, the engine's tests show."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import ball

from h2lo_bids.synthesis.tiles import cover, read_crop


def test_a_ball_is_covered_tightly():
    inside = ball((110,) * 3, 50)
    # The ball's bounding box has 6 / pi = 1.91 times its volume.
    assert sum(inside[box].size for box in cover(inside, 40)) < 1.4 * inside.sum()


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(-12, 12)] * 3), st.integers(1, 9))
def test_read_crop_pads_with_zeros(start: tuple[int, int, int], size: int) -> None:
    volume = np.arange(1, 5 * 6 * 7 + 1).reshape(5, 6, 7)
    padded = np.pad(volume, 25)
    box = tuple(slice(s + 25, s + 25 + size) for s in start)
    np.testing.assert_array_equal(read_crop(volume, start, size), padded[box])
