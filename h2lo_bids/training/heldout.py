"""Held-out figures of a model, beside those of its input itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from h2lo_bids.errors import BadDataError
from h2lo_bids.evaluation.catalogue import OWN, STRANGER
from h2lo_bids.evaluation.metrics import METRICS, evaluate
from h2lo_bids.evaluation.realism import (
    Appearance,
    appearance,
    band_correlation,
    histogram_distance,
    spectrum_distance,
    tapered,
)
from h2lo_bids.evaluation.scores import IDENTITY, Realism, Score, score
from h2lo_bids.models.interface import Model
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.predict import predict
from h2lo_bids.synthesis.seeds import scan_seed
from h2lo_bids.training.pairs import Pair
from h2lo_bids.training.prepared import PreparedPair, read_prepared

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


def stranger_to(prepared: PreparedPair, pairs: Sequence[PreparedPair]) -> Pair | None:
    """Load the pair of the next other subject that can be read; None if there is none."""
    at = list(pairs).index(prepared)
    for other in (*pairs[at + 1 :], *pairs[:at]):
        if other.subject != prepared.subject and other.frame == prepared.frame:
            try:
                return read_prepared(other)
            except BadDataError:
                continue  # its own turn tells of it
    return None


def realism_of(
    pair: Pair,
    made: Mapping[str, np.ndarray],
    spacing: Sequence[float],
    *,
    stranger: Pair | None = None,
    fold: int | None = None,
    references: Sequence[Appearance] = (),
) -> list[Realism]:
    """Measure how real the images made of a pair look, and its real low-field image.

    Parameters
    ----------
    pair
        For synthesis.
    made
        (X, Y, Z) by method; cut to [0, 1].
    spacing
        Of the voxels, mm.
    stranger
        Another subject's pair on the same frame.
    fold
        As in `Realism`.
    references
        Real low-field scans on the same frame.

    Returns
    -------
    list of Realism
        The target's, then one per method.
    """
    shared = pair.mask if stranger is None else pair.mask & stranger.mask
    window = tapered(shared, spacing)
    target = appearance(pair.lf, pair.mask, spacing)

    def measure(kind: str, name: str, image: np.ndarray, own: Appearance) -> Realism:
        values = {**own.values(), **nearest(own, references)}
        values |= zip(OWN, band_correlation(image, pair.hf, window, spacing), strict=True)
        if stranger is not None:
            other = band_correlation(image, stranger.hf, window, spacing)
            values |= zip(STRANGER, other, strict=True)
        if own is not target:
            values["spectrum_db"] = spectrum_distance(own, target)
        return Realism(kind, name, pair.name, fold, values)

    rows = [measure("target", "", pair.lf, target)]
    for name, image in made.items():
        cut = np.clip(image, 0, 1)
        rows.append(measure("synthesized", name, cut, appearance(cut, pair.mask, spacing)))
    return rows


def nearest(own: Appearance, references: Sequence[Appearance]) -> dict[str, float]:
    """Return the distances of an image from the nearest reference; empty without one."""
    if not references:
        return {}
    spectra = [spectrum_distance(own, other) for other in references]
    return {
        "reference_spectrum_db": min((d for d in spectra if not math.isnan(d)), default=math.nan),
        "reference_histogram": min(histogram_distance(own, other) for other in references),
    }


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
