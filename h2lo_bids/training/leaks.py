"""Finding a test subject in a cohort by its image, whatever it is called there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from h2lo_bids.errors import UsageError
from h2lo_bids.training.pairs import Pair

SAME = 0.9999
"""Correlation of two high-field images above which they are of one scan."""
_STRIDE = 2


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
