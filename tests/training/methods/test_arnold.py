"""Arnold's fit finds what made its data, resumes, and keeps to its budget."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from problems import ball_pair, history, simulator, small_options
from scipy.stats import skew

from h2lo_bids.errors import BadDataError
from h2lo_bids.synthesis.arnold import predict_arnold
from h2lo_bids.training.fit import fit
from h2lo_bids.training.methods.arnold import GRID, Values, adapt_arnold, objective_of
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair

HEADS = [ball_pair(name, seed) for seed, name in enumerate("abc")]


def made_with(values: Values, pairs: list[Pair], seed: int = 42) -> list[Pair]:
    model = simulator(values)
    return [
        dataclasses.replace(p, lf=predict_arnold(model, p.hf, p.mask, seed=[seed, n]))
        for n, p in enumerate(pairs)
    ]


def options(**changes: object) -> FitOptions:
    return adapt_arnold(small_options(**{"steps": 5000, **changes}))


def test_the_objective_is_the_published_one():
    pairs = made_with((1.0, 2.0, 2.0, 1.5), HEADS[:2], seed=9)
    values = (0.7, 1.5, 2.5, 1.1)
    found = []
    for n, pair in enumerate(pairs):
        mask = pair.hf * pair.lf > 0
        made = predict_arnold(simulator(values), pair.hf, mask, seed=[7, n])[mask].astype(float)
        hf, lf = (v[mask].astype(float) / v[mask].max() for v in (pair.hf, pair.lf))
        found.append(
            abs(made.mean() - lf.mean()) / 2
            + abs(skew(made) - skew(lf)) / 10
            + abs(made.std(ddof=1) - lf.std(ddof=1)) / 2
            + np.corrcoef(hf, lf)[0, 1]
            - np.corrcoef(made, lf)[0, 1]
        )
    assert objective_of(pairs, 7)(values) == pytest.approx(np.mean(found), abs=1e-5)


@pytest.mark.slow
def test_finds_the_parameters_of_data_made_with_them(tmp_path):
    # The same noise in data and fit: all four show, and the truth is the best there is.
    true = (1.2, 1.5, 2.5, 2.0)
    pairs = made_with(true, HEADS[:3])
    result = fit(pairs, [], options(), tmp_path)  # the last steps find nothing left to do
    model = result.model
    assert result.steps == len(GRID) + 250 == 1000
    # The simplex may stop in a fold of the objective, a thousandth above.
    objective = objective_of(pairs, 42)
    assert objective(model.numbers) < objective(true) + 2e-3
    assert model.numbers[:2] == pytest.approx(true[:2], abs=0.3)
    assert model.numbers[0] == pytest.approx(true[0], abs=0.05)
    # c2 and c3 trade with each other: noise that is broader is weaker. What they leave
    # in the image is its likeness to the data.
    for n, pair in enumerate(pairs):
        made = predict_arnold(model, pair.hf, pair.mask, seed=[42, n])
        assert np.corrcoef(made[pair.mask], pair.lf[pair.mask])[0, 1] > 0.98


def test_fewer_steps_visit_an_even_part_of_the_grid(tmp_path):
    fit(HEADS[:1], [], options(steps=40), tmp_path)
    rows = history(tmp_path)
    points = [tuple(float(r[k]) for k in ("sigma", "c1", "c2", "c3")) for r in rows]
    assert len(points) == 40
    assert set(points[:30]) <= set(GRID)
    assert {p[0] for p in points[:30]} == {0.2, 0.6, 1.0, 1.4, 1.8, 2.2}
    losses = [float(r["loss"]) for r in rows]
    assert points[30] == points[:30][int(np.argmin(losses[:30]))]  # where the simplex starts
    assert min(losses[30:]) <= min(losses[:30])


def test_images_without_common_voxels_are_named(tmp_path):
    bad = dataclasses.replace(HEADS[0], lf=np.zeros_like(HEADS[0].lf))
    with pytest.raises(BadDataError, match="pair a: no voxel is above 0 in both"):
        fit([bad], [], options(), tmp_path)
