"""The spread of several operators against the images themselves."""

from __future__ import annotations

import numpy as np
import pytest

from h2lo_bids.synthesis.engine import synthesize
from h2lo_bids.synthesis.predict import deviation_on_grid


def test_brute_force(draw_model, volume):
    models = [draw_model(seed=seed) for seed in range(3)]
    mask = volume > 0.3
    got = deviation_on_grid(iter(models), volume, np.eye(4), volume.shape, np.eye(4), mask)
    images = [np.clip(synthesize(model, volume, mask), 0, 1) for model in models]
    np.testing.assert_allclose(got, np.std(images, axis=0, ddof=1, dtype=np.float64), atol=1e-6)
    assert (got[~mask] == 0).all()
    assert got[mask].max() > 0.01


def test_one_model_has_no_deviation(model, volume):
    mask = volume > 0.3
    for models in ([], [model]):
        with pytest.raises(ValueError, match="two models"):
            deviation_on_grid(models, volume, np.eye(4), volume.shape, np.eye(4), mask)


def test_the_same_model_twice(model, volume):
    mask = volume > 0.3
    args = (volume, np.eye(4), volume.shape, np.eye(4), mask)
    assert not deviation_on_grid([model, model], *args).any()
