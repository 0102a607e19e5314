"""Measure how much of a table's gains one curve of grey levels brings, fitted to the same folds.

Run ``python benchmarks/grey_curve.py OUT_DIR --contrast T2w [--task enhance]``; OUT_DIR is
that of a ``group`` or ``benchmark`` run, whose prepared pairs and folds are read, and in
which nothing is written. The curve gives each grey level of the input the mean of the
target at that level over a fold's training pairs: contrast alone, no detail. What a model
has beyond it is what it knows of the image around a voxel.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from h2lo_bids.bids.derivatives import result_files
from h2lo_bids.evaluation.scores import IDENTITY, IDENTITY_TITLES, Score
from h2lo_bids.evaluation.splits import Fold, read_folds
from h2lo_bids.evaluation.statistics import summarise
from h2lo_bids.evaluation.table import Block, Table, rows_of
from h2lo_bids.training.experiments.heldout import score_pair
from h2lo_bids.training.pairs import Pair
from h2lo_bids.training.prepared import PreparedPair, find_prepared, read_prepared
from h2lo_bids.vocabulary import SYNTHESIZE, TASKS

LEVELS = 200
"""Steps of grey from 0 to 1."""
CURVE = "curve"


def fit(pairs: Iterable[Pair]) -> np.ndarray:
    """Return the target's mean at each level of the input inside the brains."""
    sums, counts = np.zeros(LEVELS + 1), np.zeros(LEVELS + 1)
    for pair in pairs:
        level = np.rint(pair.hf[pair.mask].astype(np.float64).clip(0, 1) * LEVELS).astype(int)
        sums += np.bincount(level, pair.lf[pair.mask], LEVELS + 1)
        counts += np.bincount(level, minlength=LEVELS + 1)
    (seen,) = np.nonzero(counts)
    return np.interp(np.arange(LEVELS + 1), seen, sums[seen] / counts[seen])


def apply(curve: np.ndarray, pair: Pair) -> np.ndarray:
    """Return what the curve makes of a pair's input; 0 outside the brain."""
    made = np.interp(pair.hf * LEVELS, np.arange(LEVELS + 1), curve)
    return np.where(pair.mask, made, 0).astype(np.float32)


def measure(fold: Fold, pairs: dict[str, list[PreparedPair]]) -> list[Score]:
    """Fit the curve to a fold's training pairs and score it on those of its test."""
    curve = fit(read_prepared(pair) for name in fold.train for pair in pairs[name])
    scores: list[Score] = []
    for pair in (read_prepared(pair) for name in fold.test for pair in pairs[name]):
        scores += score_pair(pair, fold=fold.index)
        scores += score_pair(pair, apply(curve, pair), method=CURVE, fold=fold.index)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--contrast", required=True)
    parser.add_argument("--task", choices=TASKS, default=SYNTHESIZE)
    words = parser.parse_args()
    pairs: dict[str, list[PreparedPair]] = {}
    for pair in find_prepared(words.out_dir, contrast=words.contrast):
        pairs.setdefault(pair.subject, []).append(pair.for_task(words.task))
    table = result_files(words.out_dir, "splits")[0]
    folds = read_folds(table, sorted(pairs), words.contrast)
    scores = [score for fold in folds for score in measure(fold, pairs)]
    titles = {IDENTITY: IDENTITY_TITLES[words.task], CURVE: "Grey-level curve"}
    print(Table((Block("T1w", rows_of(summarise(scores), titles)),)).to_md())


if __name__ == "__main__":
    main()
