"""Held-out figures of a model, beside those of the high-field image itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from h2lo_bids.evaluation.metrics import METRICS, evaluate
from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.synthesis.engine import synthesize
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.training.pairs import Pair

Figures = dict[str, float]


def held_out_figures(model: H2lo, pairs: Sequence[Pair]) -> dict[str, dict[str, Figures]]:
    """Score a model on pairs it has not seen.

    Parameters
    ----------
    model
        The operator, evaluated in float32 on the CPU.
    pairs
        The test subjects.

    Returns
    -------
    dict
        ``subjects``: per subject and method; ``mean``: per method, ``"h2lo"`` and
        ``"identity"`` (the table's row "HF image"), each with the seven metrics.
    """
    subjects: dict[str, dict[str, Figures]] = {}
    for pair in pairs:
        predicted = synthesize(model, pair.hf, pair.mask, options=EngineOptions(device="cpu"))
        subjects[pair.name] = {
            "h2lo": evaluate(predicted, pair.lf, pair.hf),
            "identity": evaluate(pair.hf, pair.lf, pair.hf),
        }
    mean = {
        method: {m: float(np.mean([s[method][m] for s in subjects.values()])) for m in METRICS}
        for method in ("h2lo", "identity")
    }
    flat: dict[str, dict[str, Figures]] = {"mean": mean}
    return {**flat, **{f"subject {name}": figures for name, figures in subjects.items()}}
