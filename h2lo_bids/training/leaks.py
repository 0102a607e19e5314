"""Refusing to fit where a test subject was seen by an earlier stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from h2lo_bids.errors import UsageError
from h2lo_bids.models.bundle import Bundle
from h2lo_bids.training.folds import Fold
from h2lo_bids.training.pairs import Pair
from h2lo_bids.training.scoring import training_subjects

SAME = 0.9999
"""Correlation of two high-field images above which they are of one scan."""
_STRIDE = 2


def check_bundle(bundle: Bundle, fold: Fold) -> None:
    """Refuse a synthesis model that was fitted, or chosen, on a fold's test subjects.

    Raises
    ------
    UsageError
        If it was, or does not say whom it has seen.
    """
    seen = training_subjects(bundle)
    if not seen:
        raise UsageError(f"{bundle.path}: does not say whom it was trained on; fit it anew")
    if both := sorted(seen & set(fold.test)):
        raise UsageError(
            f"{bundle.path}: was trained on sub-{both[0]}, a test subject of fold {fold.index}; "
            "give the folds that the synthesis benchmark had, or run it again in another out_dir"
        )


def check_labels(cohort: Iterable[str], paired: Iterable[str]) -> None:
    """Refuse a cohort that shares labels with the pairs.

    Raises
    ------
    UsageError
        If it does.
    """
    if both := sorted(set(cohort) & set(paired)):
        raise UsageError(
            f"the cohort has sub-{both[0]}, as the pairs have: a test subject must not be "
            "pretrained on; leave it out of the cohort or, if it is somebody else, rename it there"
        )


def check_images(cohort: Sequence[Pair], tested: Sequence[Pair]) -> None:
    """Refuse a cohort that holds a test subject's scan under another name.

    Two scans on one frame count as the same where their high-field images correlate
    above `SAME`, so that a copy that was written anew is found, too.

    Parameters
    ----------
    cohort, tested
        Pairs of one frame.

    Raises
    ------
    UsageError
        If it does.
    """
    known = [(pair.name, _standard(pair)) for pair in tested]
    for pair in cohort:
        own = _standard(pair)
        for name, other in known:
            if float(own @ other) > SAME:
                raise UsageError(
                    f"the cohort's {pair.name} is the scan of the test subject {name}: leave it "
                    "out of the cohort"
                )


def _standard(pair: Pair) -> np.ndarray:
    """Return some voxels with mean 0 and length 1, so that a product is a correlation."""
    thinned = np.asarray(pair.high_field[(slice(None, None, _STRIDE),) * 3], np.float64).ravel()
    centred = thinned - thinned.mean()
    length = float(np.linalg.norm(centred))
    return centred / length if length else centred
