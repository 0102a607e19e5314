"""Steady-state signal of the sequences that the phantom plays.

Times (`t1`, `t2`, repetition `tr`, echo `te`, inversion `ti`) are in milliseconds, angles in
degrees, the proton density `pd` is 1 for water. Every function takes arrays or scalars and
returns signed, real signals relative to the proton density.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

_Affine = tuple[np.ndarray, np.ndarray]
"""Gain and offset that a part of the sequence applies to the magnetisation."""


def _arrays(*values: ArrayLike) -> list[np.ndarray]:
    return [np.asarray(v, dtype=np.float64) for v in values]


def inversion_recovery(
    t1: ArrayLike, t2: ArrayLike, pd: ArrayLike, *, tr: float, te: float, ti: float
) -> np.ndarray:
    """Return the signed signal of an inversion-recovery spin echo of a single excitation.

    ``PD (1 - 2 exp(-TI/T1) + exp(-TR/T1)) exp(-TE/T2)``, for TE short beside TR.
    """
    t1, t2, pd = _arrays(t1, t2, pd)
    return pd * (1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)) * np.exp(-te / t2)


def spin_echo(t1: ArrayLike, t2: ArrayLike, pd: ArrayLike, *, tr: float, te: float) -> np.ndarray:
    """Return the signal of a spin echo, ``PD (1 - exp(-TR/T1)) exp(-TE/T2)``."""
    t1, t2, pd = _arrays(t1, t2, pd)
    return pd * (1 - np.exp(-tr / t1)) * np.exp(-te / t2)


def mprage(
    t1: ArrayLike,
    t2: ArrayLike,
    pd: ArrayLike,
    *,
    tr: float,
    te: float,
    ti: float,
    flip: float,
    echoes: int,
    spacing: float,
) -> np.ndarray:
    """Return the signed signal of a magnetisation-prepared gradient echo; `t2` is T2*.

    An inversion, a train of `echoes` spoiled excitations, `spacing` ms apart, whose middle one
    (the centre of k-space) lies `ti` after the inversion, and free recovery until the next
    inversion at `tr`. Each part maps the longitudinal magnetisation affinely, so the steady
    state is the fixed point of their composition.

    Raises
    ------
    ValueError
        If the train does not fit between the inversions.
    """
    before = ti - (echoes // 2) * spacing
    after = tr - before - echoes * spacing
    if before < 0 or after < 0:
        raise ValueError(f"a train of {echoes} x {spacing} ms around TI {ti} does not fit TR {tr}")
    t1, t2, pd = _arrays(t1, t2, pd)
    angle = np.deg2rad(flip)
    one = np.exp(-spacing / t1) * np.cos(angle)
    level = (1 - np.exp(-spacing / t1)) / (1 - one)

    def recover(state: _Affine, time: float) -> _Affine:
        decay = np.exp(-time / t1)
        return state[0] * decay, state[1] * decay + 1 - decay

    def train(state: _Affine, count: int) -> _Affine:
        decay = one**count
        return state[0] * decay, state[1] * decay + level * (1 - decay)

    start = recover((-np.ones_like(t1), np.zeros_like(t1)), before)
    centre = train(start, echoes // 2)
    end = recover(train(start, echoes), after)
    steady = end[1] / (1 - end[0])
    return pd * (centre[0] * steady + centre[1]) * np.sin(angle) * np.exp(-te / t2)


def spoiled_echo(
    t1: ArrayLike, t2: ArrayLike, pd: ArrayLike, *, tr: float, te: float, flip: float
) -> np.ndarray:
    """Return the steady-state signal of a spoiled gradient echo (Ernst); `t2` is T2*."""
    t1, t2, pd = _arrays(t1, t2, pd)
    decay, angle = np.exp(-tr / t1), np.deg2rad(flip)
    return pd * np.sin(angle) * (1 - decay) / (1 - np.cos(angle) * decay) * np.exp(-te / t2)


def rectify(signal: ArrayLike, kept: float) -> np.ndarray:
    """Return a non-negative signal, keeping a share (0 to 1) of what was negative.

    Inverted fluid is negative at a short inversion time. A magnitude image
    folds it up (``kept=1``), a phase-sensitive one cuts it off (``kept=0``).
    The darkest fluid of real 64 mT scans, a tenth of white matter, is noise (our observation).
    """
    signal = np.asarray(signal, dtype=np.float64)
    return np.where(signal < 0, -kept * signal, signal)
