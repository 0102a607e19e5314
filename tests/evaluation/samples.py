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


def cohort(seed: int = 0, folds: int = 3, each: int = 4) -> list[Score]:
    """Three methods, the second the best by 1 to 2, on `folds` x `each` subjects."""
    rng = np.random.default_rng(seed)
    scores = []
    for fold in range(folds):
        for number in range(each):
            subject, base = f"{fold * each + number + 1:02d}", rng.normal(10, 1)
            for method, offset in (("h2lo", 2.0), ("identity", 0.0), ("h2lo-mlp", 1.0)):
                value = base + offset + rng.uniform(0, 0.3)
                scores += made_up(subject, method, fold, value)
    return scores
