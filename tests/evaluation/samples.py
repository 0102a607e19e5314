"""Scores made up for the tests."""

from __future__ import annotations

import numpy as np

from h2lo_bids.evaluation.scores import REGIONS, SCORED, Score


def made_up(
    subject: str, method: str, fold: int | None, value: float, **changes: float
) -> list[Score]:
    """Both regions; the whole volume has the value plus one."""
    return [
        Score(subject, method, fold, region, {**dict.fromkeys(SCORED, value + i), **changes})
        for i, region in enumerate(REGIONS)
    ]


def cohort() -> list[Score]:
    """Three methods, the second the best by 1 to 2, on three folds of four subjects."""
    rng = np.random.default_rng(0)
    scores = []
    for number in range(12):
        base = rng.normal(10, 1)
        for method, offset in (("h2lo", 2.0), ("identity", 0.0), ("h2lo-mlp", 1.0)):
            value = base + offset + rng.uniform(0, 0.3)
            scores += made_up(f"{number + 1:02d}", method, number // 4, value)
    return scores
