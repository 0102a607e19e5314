"""Which method is best and which is second."""

from __future__ import annotations

import math
from collections.abc import Mapping


def places(means: Mapping[str, float], *, higher: bool) -> dict[str, int]:
    """Rank the best and, among three or more values, the second.

    Parameters
    ----------
    means
        By method; what is not finite has no place.
    higher
        Whether larger is better.

    Returns
    -------
    dict
        1 for the best and 2 for the second; equal values share a place, and
        nothing is best among equals only.

    Examples
    --------
    >>> places({"a": 1.0, "b": 3.0, "c": 2.0, "d": 3.0}, higher=True)
    {'b': 1, 'c': 2, 'd': 1}
    >>> places({"a": 1.0, "b": 2.0}, higher=False)
    {'a': 1}
    """
    known = {name: value for name, value in means.items() if math.isfinite(value)}
    ordered = sorted(set(known.values()), reverse=higher)
    marked = ordered[: max(min(len(ordered) - 1, 2), 0)]
    return {name: marked.index(value) + 1 for name, value in known.items() if value in marked}
