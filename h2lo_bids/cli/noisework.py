"""Measuring the low-field scanner's noise on the folds' test subjects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids import __version__
from h2lo_bids.io import atomic_write_text, read_json
from h2lo_bids.models.bundle import load_bundle, load_model
from h2lo_bids.training.calibrate import calibrate_noise
from h2lo_bids.training.foldjob import BUNDLE, FoldJob, read_record
from h2lo_bids.training.heldout import predict_pair
from h2lo_bids.training.pairs import Pair
from h2lo_bids.training.prepared import read_prepared

RECIPE = 2
"""Raised when the measurement changes, so that what was kept is not taken for it."""

MOST_PAIRS = 5
"""Pairs that are in memory together, half a gigabyte each at 1 mm; all have the same noise."""


def measure_noise(jobs: Sequence[FoldJob], work: Path, device: str) -> dict[str, Any]:
    """Return the noise model of a cross-validation, measured once and kept.

    Parameters
    ----------
    jobs
        Finished folds of one method.
    work
        The work folder.
    device
        Where the folds' models run.

    Returns
    -------
    dict
        As `h2lo_bids.synthesis.noise.NoiseModel.to_dict` gives it.

    Raises
    ------
    BadDataError
        If there is nothing to measure.
    """
    records = [read_record(job.folder) for job in jobs]
    text = json.dumps([__version__, RECIPE, MOST_PAIRS, records], sort_keys=True)
    name = f"noise_{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}.json"
    path = work / "training" / jobs[0].contrast / jobs[0].method / name
    try:
        kept: dict[str, Any] = read_json(path)
        return kept
    except (OSError, ValueError):
        noise = _measure(jobs, device)
    atomic_write_text(path, json.dumps(noise) + "\n")
    return noise


def _measure(jobs: Sequence[FoldJob], device: str) -> dict[str, Any]:
    """Predict test subjects of each fold in turn, each subject once."""
    pairs: list[Pair] = []
    predictions: list[np.ndarray] = []
    seen: set[str] = set()
    share = -(-MOST_PAIRS // len(jobs))
    for job in jobs:
        bundle = load_bundle(job.folder / BUNDLE)
        model = load_model(bundle)
        fresh = [p for p in job.pairs_in("test") if p.subject not in seen][:share]
        for prepared in fresh[: MOST_PAIRS - len(pairs)]:
            seen.add(prepared.subject)
            pair = read_prepared(prepared)
            pairs.append(pair)
            given = pair.scaled(bundle.scaling, prepared.contrast, prepared.frame.spacing)
            predictions.append(predict_pair(model, given, device=device))
    spacing = jobs[0].pairs[0].frame.spacing
    return calibrate_noise(pairs, predictions, spacing=spacing).to_dict()
