"""Sequences at both fields: their signal, nominal values and how scanners vary around them.

Nominal values are those of ds006557 (OpenNeuro, CC0). Ranges are our choice:
wide enough to hold MPRAGE, spoiled gradient echo and TSE scans of other sites.

Times (`t1`, `t2`, repetition `tr`, echo `te`, inversion `ti`) are in milliseconds, angles in
degrees, the proton density `pd` is 1 for water. Signal equations return signed, real signals
relative to the proton density, in the steady state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from h2lo_bids.phantom.acquisition import Grid
from h2lo_bids.phantom.tissues import NAMES, TISSUES, Tissue, relaxation

ORTHOGONAL = ("axi", "cor", "sag")
LOW_FIELD = (*ORTHOGONAL, "iso")
NEGATIVE_KEPT = 0.0
"""Share of inverted signal in the T1w images of the one low-field scanner that is simulated."""
_HAS_SOLID = ~np.isin(NAMES, ("background", "csf", "fluid_outside", "vessel", "choroid"))
_Affine = tuple[np.ndarray, np.ndarray]
"""Gain and offset that a part of the sequence applies to the magnetisation."""


def inversion_recovery(
    t1: np.ndarray, t2: np.ndarray, pd: np.ndarray, *, tr: float, te: float, ti: float
) -> np.ndarray:
    """Return the signed signal of an inversion-recovery spin echo of a single excitation.

    ``PD (1 - 2 exp(-TI/T1) + exp(-TR/T1)) exp(-TE/T2)``, for TE short beside TR.
    """
    return pd * (1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)) * np.exp(-te / t2)


def spin_echo(
    t1: np.ndarray, t2: np.ndarray, pd: np.ndarray, *, tr: float, te: float
) -> np.ndarray:
    """Return the signal of a spin echo, ``PD (1 - exp(-TR/T1)) exp(-TE/T2)``."""
    return pd * (1 - np.exp(-tr / t1)) * np.exp(-te / t2)


def mprage(
    t1: np.ndarray,
    t2: np.ndarray,
    pd: np.ndarray,
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
    t1: np.ndarray, t2: np.ndarray, pd: np.ndarray, *, tr: float, te: float, flip: float
) -> np.ndarray:
    """Return the steady-state signal of a spoiled gradient echo (Ernst); `t2` is T2*."""
    decay, angle = np.exp(-tr / t1), np.deg2rad(flip)
    return pd * np.sin(angle) * (1 - decay) / (1 - np.cos(angle) * decay) * np.exp(-te / t2)


def rectify(signal: np.ndarray, kept: float) -> np.ndarray:
    """Return a non-negative signal, keeping a share (0 to 1) of what was negative.

    Inverted fluid is negative at a short inversion time. A magnitude image
    folds it up (``kept=1``), a phase-sensitive one cuts it off (``kept=0``).
    The darkest fluid of real 64 mT scans, a tenth of white matter, is noise (our observation).
    """
    return np.where(signal < 0, -kept * signal, signal)


@dataclass(frozen=True)
class Protocol:
    """A sequence: `kind` is ``mprage``, ``spoiled``, ``spin`` (spin echo) or ``inversion``.

    A long train of refocusing pulses does not have the contrast of a single echo at its
    nominal `te`: `decay` is the echo time of the spin echo that has it, where it is not
    `te`. `saturation` is the share of signal that magnetisation transfer leaves to tissue,
    `white_saturation` a further one of white matter. `negative_kept` is that of `rectify`.
    `tesla` is the field, which selects the relaxation times.
    """

    kind: str
    tr: float
    te: float
    ti: float = 0.0
    flip: float = 90.0
    echoes: int = 1
    spacing: float = 0.0
    saturation: float = 1.0
    white_saturation: float = 1.0
    decay: float = 0.0
    negative_kept: float = 1.0
    averages: int = 1
    tesla: float = 3


HIGH_FIELD: dict[str, Protocol] = {
    "T1w": Protocol("mprage", tr=2500, te=2.83, ti=1060, flip=8, echoes=170, spacing=7.5),
    "T2w": Protocol("spin", tr=3200, te=60, echoes=140, saturation=0.85, decay=112),
}
_LOW_TE = {
    "T1w": {"axi": 5.6, "cor": 6.3, "sag": 7.1, "iso": 5.6},
    "T2w": {"axi": 161.0, "cor": 194.0, "sag": 199.0, "iso": 148.0},
}


def low_field_grid(contrast: str, acquisition: str) -> Grid:
    """Return the voxels of a low-field scan, as a Swoop scanner writes them."""
    t1w = contrast == "T1w"
    if acquisition == "iso":
        side = 2.34 if t1w else 2.25
        return Grid((80, 96, 84) if t1w else (84, 100, 88), (side, side, side), 2)
    side = 1.6 if t1w else 1.5
    x, y, z = (112, 136, 40) if t1w else (120, 146, 40)
    if acquisition == "axi":
        return Grid((x, y, z), (side, side, 5.0), 2)
    if acquisition == "cor":
        return Grid((x, z, y), (side, 5.0, side), 1)
    return Grid((z, y, x), (5.0, side, side), 0)


def low_field(contrast: str, acquisition: str, negative_kept: float = NEGATIVE_KEPT) -> Protocol:
    """Return the nominal 64 mT sequence of a contrast and slice direction."""
    common = Protocol(
        "spin", 2000, _LOW_TE[contrast][acquisition], flip=90, saturation=0.85,
        negative_kept=negative_kept, tesla=0.064,
    )  # fmt: skip
    if contrast == "T2w":
        return common
    return replace(common, kind="inversion", tr=1500, ti=300, saturation=1.0, averages=2)


def draw_high_field(contrast: str, rng: np.random.Generator) -> Protocol:
    """Return the sequence of some other scanner of 1.5 to 7 T.

    Wide enough for MPRAGE, spoiled and MP2RAGE-like T1w scans and for TSE, CUBE and SPACE
    T2w scans: a sequence is drawn again until cortex and fluid, relative to white matter, are
    within `RATIOS`. Relaxation stays that of 3 T, so that a range of sequences stands in for
    a range of fields.
    """
    while True:
        sequence = _draw(contrast, rng)
        values = signal_of(sequence, TISSUES)
        shares = [values[NAMES.index(name)] / values[NAMES.index("white")] for name in _RATIO_OF]
        if all(a <= s <= b for s, (a, b) in zip(shares, RATIOS[contrast], strict=True)):
            return sequence


_RATIO_OF = ("cortex", "csf")
RATIOS = {"T1w": ((0.5, 0.9), (0.0, 0.6)), "T2w": ((1.1, 1.8), (2.0, 5.0))}
"""Signal of cortex and of fluid over that of white matter in others' high-field scans."""


def _draw(contrast: str, rng: np.random.Generator) -> Protocol:
    if contrast == "T2w":
        return Protocol(
            "spin",
            tr=rng.uniform(2800, 8000),
            te=rng.uniform(60, 125),
            echoes=140,
            saturation=rng.uniform(0.75, 1.0),
            white_saturation=rng.uniform(0.7, 1.0),
        )
    kept = rng.uniform(0.1, 1.0)
    if rng.random() < 0.3:
        tr, flip = rng.uniform(6, 25), rng.uniform(8, 30)
        return Protocol("spoiled", tr, rng.uniform(2, 5), flip=flip, negative_kept=kept)
    ti, spacing = rng.uniform(700, 1200), rng.uniform(5.5, 8.5)
    echoes = int(rng.uniform(0.8, 1.6) * ti / spacing)
    return Protocol(
        "mprage",
        tr=rng.uniform(2000, 5000),
        te=rng.uniform(2, 4.5),
        ti=ti,
        flip=rng.uniform(4, 12),
        echoes=echoes,
        spacing=spacing,
        negative_kept=kept,
    )


def signal_of(protocol: Protocol, tissues: dict[str, Tissue]) -> np.ndarray:
    """Return the signal of every class, in `tissues.NAMES`' order, non-negative."""
    t1, t2, pd = relaxation(tissues, low_field=protocol.tesla < 1)
    times = {"tr": protocol.tr, "te": protocol.decay or protocol.te}
    if protocol.kind == "spin":
        values = spin_echo(t1, t2, pd, **times)
    elif protocol.kind == "inversion":
        values = inversion_recovery(t1, t2, pd, **times, ti=protocol.ti)
    elif protocol.kind == "spoiled":
        values = spoiled_echo(t1, t2, pd, **times, flip=protocol.flip)
    else:
        values = mprage(
            t1, t2, pd, **times, ti=protocol.ti, flip=protocol.flip, echoes=protocol.echoes,
            spacing=protocol.spacing,
        )  # fmt: skip
    values *= np.where(_HAS_SOLID, protocol.saturation, 1.0)
    for name in ("white", "cerebellum_white"):
        values[NAMES.index(name)] *= protocol.white_saturation
    return rectify(values, protocol.negative_kept)
