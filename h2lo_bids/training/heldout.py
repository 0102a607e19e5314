"""Held-out figures of a model, beside those of its input itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from h2lo_bids.evaluation.metrics import METRICS, evaluate
from h2lo_bids.evaluation.scores import IDENTITY, Score, score
from h2lo_bids.models.interface import Model
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.predict import predict
from h2lo_bids.synthesis.seeds import scan_seed
from h2lo_bids.training.pairs import Pair

Figures = dict[str, float]


def predict_pair(
    model: Model, pair: Pair, *, device: str = "cpu", precision: str = "fp32", seed: int = 42
) -> np.ndarray:
    """Make a pair's target (its low-field volume, or for enhancement the other) on its grid.

    Parameters
    ----------
    model
        Of any method, fitted on this grid.
    pair
        A subject that the model has not seen.
    device, precision
        As in `h2lo_bids.synthesis.options.EngineOptions`.
    seed
        With the pair's name that of the methods that draw at random.

    Returns
    -------
    numpy.ndarray
        float32 (X, Y, Z), not clipped; exactly 0 outside the brain.

    Raises
    ------
    UsageError
        If the device is not there or the precision is unknown.
    """
    options = EngineOptions(device=device, precision=precision)
    return predict(model, pair.hf, pair.mask, options=options, seed=scan_seed(seed, pair.name))


def score_pair(
    model: Model | None,
    pair: Pair,
    *,
    method: str = IDENTITY,
    fold: int | None = None,
    predicted: np.ndarray | None = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> tuple[Score, ...]:
    """Score a model on a pair, or its input itself.

    Parameters
    ----------
    model
        Of any method; None for the identity.
    pair
        The test subject.
    method, fold
        Recorded in the scores.
    predicted
        What `predict_pair` returned, if it is at hand: the model then need not
        run again.
    device, precision
        As in `predict_pair`.

    Returns
    -------
    tuple of Score
        One per region.

    Raises
    ------
    BadDataError
        If the prediction is not finite or the pair has no foreground.
    """
    if predicted is None:
        predicted = (
            pair.hf if model is None
            else predict_pair(model, pair, device=device, precision=precision)
        )  # fmt: skip
    return score(predicted, pair.lf, pair.high_field, subject=pair.name, method=method, fold=fold)


def held_out_figures(
    model: Model,
    pairs: Sequence[Pair],
    method: str = "h2lo",
    *,
    given: Callable[[Pair], Pair] = lambda pair: pair,
) -> dict[str, dict[str, Figures]]:
    """Score a model on pairs it has not seen.

    Parameters
    ----------
    model
        Evaluated in float32 on the CPU.
    pairs
        The test subjects.
    method
        The model's key in the result.
    given
        Turns a pair into that whose input the model takes; the identity's figures are of
        the pair as it is.

    Returns
    -------
    dict
        ``subject NAME``: per subject and method; ``mean``: per method, `method` and
        ``"identity"`` (the input itself), each with the seven metrics.
    """
    subjects: dict[str, dict[str, Figures]] = {}
    for pair in pairs:
        subjects[pair.name] = {
            method: evaluate(predict_pair(model, given(pair)), pair.lf, pair.high_field),
            IDENTITY: evaluate(pair.hf, pair.lf, pair.high_field),
        }
    mean = {
        row: {m: float(np.mean([s[row][m] for s in subjects.values()])) for m in METRICS}
        for row in (method, IDENTITY)
    }
    flat: dict[str, dict[str, Figures]] = {"mean": mean}
    return {**flat, **{f"subject {name}": figures for name, figures in subjects.items()}}
