"""The learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from h2lo_bids.training.options import FitOptions

GAIN = 0.02
"""Rise of the validation PSNR in dB that counts as one."""


def has_stalled(validations: Sequence[tuple[int, float]], patience: int) -> bool:
    """Return whether no validation of the last `patience` steps brought a rise above `GAIN`.

    A function of the validations so far, so that a resumed fit ends where an undisturbed
    one does.

    Parameters
    ----------
    validations
        Step and PSNR in dB of each, in their order.
    patience
        In steps; 0 for a fit that never ends by it.

    Examples
    --------
    >>> found = [(10, 20.0), (20, 21.0), (30, 21.01), (40, 21.02)]
    >>> has_stalled(found, 20), has_stalled(found, 30), has_stalled([*found, (50, 21.04)], 30)
    (True, False, False)
    """
    if not patience or not validations:
        return False
    start = validations[-1][0] - patience
    before = [psnr for step, psnr in validations if step <= start]
    since = [psnr for step, psnr in validations if step > start]
    return bool(before) and max(since) <= max(before) + GAIN


def cosine_rate(
    step: int, steps: int, start: float, floor: float, warmup: int = 0, warmup_from: float = 0.0
) -> float:
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
        Steps over which the rate first rises linearly.
    warmup_from
        The part of `start` at which it then begins; with 0 at the first step above.

    Returns
    -------
    float
        Between `floor` and `start`, except during the warm-up.
    """
    if step < warmup and warmup_from:
        return start * (warmup_from + (1 - warmup_from) * step / warmup)
    if step < warmup:
        return start * (step + 1) / warmup
    return cosine_part((step - warmup) / max(1, steps - 1 - warmup), start, floor)


def cosine_part(done: float, start: float, floor: float) -> float:
    """Return the rate when a part `done` of a cosine, 0 to 1, lies behind."""
    return floor + (start - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def linear_rate(step: int, steps: int, start: float) -> float:
    """Return the learning rate of a step: constant for half the steps, then linear to 0.

    The schedule of Pix2Pix (Isola et al. 2017), counted in steps. The rate would
    be 0 one step after the last.
    """
    return start * min(1.0, (steps - step) / (steps - steps // 2))


def rate_of(step: int, options: FitOptions) -> float:
    """Return the rate of a step under some options, `step` counted from 0.

    Where the rate changes only every epoch, the cosine counts epochs as
    `torch.optim.lr_scheduler.CosineAnnealingLR` does: it would reach the floor
    one epoch after the last.
    """
    o, every = options, options.rate_steps
    if every == 1:
        return cosine_rate(step, o.steps, o.learning_rate, o.floor, o.warmup, o.warmup_from)
    epochs = -(-o.steps // every)
    return cosine_rate(step // every, epochs + 1, o.learning_rate, o.floor, o.warmup // every)
