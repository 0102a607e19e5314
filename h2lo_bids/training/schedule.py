"""The learning rate of each step."""

from __future__ import annotations

import math


def cosine_rate(step: int, steps: int, start: float, floor: float, warmup: int = 0) -> float:
    """Return the learning rate of a step (cosine annealing, as in the paper).

    A function of the step alone, so that a resumed run needs no state for it.

    Parameters
    ----------
    step
        Steps already done, 0 to ``steps - 1``.
    steps
        Length of the whole schedule.
    start, floor
        Rate at the beginning and the rate it falls to.
    warmup
        Steps over which the rate first rises linearly; the paper has none.

    Returns
    -------
    float
        Between `floor` and `start`, except during the warm-up.
    """
    if step < warmup:
        return start * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return floor + (start - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
