from __future__ import annotations

import numpy as np
import pytest

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.normalise import max_normalise


def test_values_run_from_zero_to_one_inside_only() -> None:
    data = np.array([[[-5, 0, 30, 60, 1000]]], np.int16)
    mask = np.array([[[1, 1, 1, 1, 0]]])
    got = max_normalise(data, mask)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, np.array([[[0, 0, 0.5, 1, 0]]], np.float32))


def test_refusals() -> None:
    data = np.full((2, 2, 2), -1.0)
    with pytest.raises(BadDataError, match="sub-1"):
        max_normalise(data, np.zeros((2, 2, 2)), name="sub-1")
    with pytest.raises(BadDataError, match="no positive"):
        max_normalise(data, np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match="shape"):
        max_normalise(data, np.ones((2, 2, 3)))
