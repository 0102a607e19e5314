"""Sequences at both fields: nominal values and how scanners vary around them.

Nominal values are those of ds006557 (OpenNeuro, CC0). Ranges are our choice:
wide enough to hold MPRAGE, spoiled gradient echo and TSE scans of other sites.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from h2lo_bids.phantom import signal
from h2lo_bids.phantom.acquisition import Grid
from h2lo_bids.phantom.tissues import NAMES, TISSUES, Tissue, relaxation

ORTHOGONAL = ("axi", "cor", "sag")
LOW_FIELD = (*ORTHOGONAL, "iso")
NEGATIVE_KEPT = 0.0
"""Share of inverted signal in the T1w images of the one low-field scanner that is simulated."""
_HAS_SOLID = ~np.isin(NAMES, ("background", "csf", "fluid_outside", "vessel", "choroid"))


@dataclass(frozen=True)
class HighField:
    """A 3 T sequence: `kind` is ``mprage``, ``spoiled`` or ``spin``; ms and degrees.

    A long train of refocusing pulses does not have the contrast of a single echo at its
    nominal `te`: `decay` is the echo time of the spin echo that has it, where it is not
    `te`. `saturation` is the share of signal that magnetisation transfer leaves to tissue,
    `white_saturation` a further one of white matter.
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


@dataclass(frozen=True)
class LowField:
    """A 64 mT sequence in ms; `ti` 0 means a spin echo without inversion.

    `saturation` as in `HighField`.
    """

    acquisition: str
    tr: float
    te: float
    ti: float
    grid: Grid
    averages: int
    negative_kept: float = NEGATIVE_KEPT
    saturation: float = 1.0


HIGH_FIELD: dict[str, HighField] = {
    "T1w": HighField("mprage", tr=2500, te=2.83, ti=1060, flip=8, echoes=170, spacing=7.5),
    "T2w": HighField("spin", tr=3200, te=60, echoes=140, saturation=0.85, decay=112),
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


def low_field(contrast: str, acquisition: str) -> LowField:
    """Return the nominal 64 mT sequence of a contrast and slice direction."""
    te, grid = _LOW_TE[contrast][acquisition], low_field_grid(contrast, acquisition)
    if contrast == "T1w":
        return LowField(acquisition, 1500, te, 300, grid, 2)
    return LowField(acquisition, 2000, te, 0, grid, 1, saturation=0.85)


def draw_high_field(contrast: str, rng: np.random.Generator) -> HighField:
    """Return the sequence of some other scanner of 1.5 to 7 T.

    Wide enough for MPRAGE, spoiled and MP2RAGE-like T1w scans and for TSE, CUBE and SPACE
    T2w scans: a sequence is drawn again until cortex and fluid, relative to white matter, are
    within `RATIOS`. Relaxation stays that of 3 T, so that a range of sequences stands in for
    a range of fields.
    """
    while True:
        sequence = _draw(contrast, rng)
        values = high_field_values(sequence, TISSUES)
        shares = [values[NAMES.index(name)] / values[NAMES.index("white")] for name in _RATIO_OF]
        if all(a <= s <= b for s, (a, b) in zip(shares, RATIOS[contrast], strict=True)):
            return sequence


_RATIO_OF = ("cortex", "csf")
RATIOS = {"T1w": ((0.5, 0.9), (0.0, 0.6)), "T2w": ((1.1, 1.8), (2.0, 5.0))}
"""Signal of cortex and of fluid over that of white matter in others' high-field scans."""


def _draw(contrast: str, rng: np.random.Generator) -> HighField:
    if contrast == "T2w":
        return HighField(
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
        return HighField("spoiled", tr, rng.uniform(2, 5), flip=flip, negative_kept=kept)
    ti, spacing = rng.uniform(700, 1200), rng.uniform(5.5, 8.5)
    echoes = int(rng.uniform(0.8, 1.6) * ti / spacing)
    return HighField(
        "mprage",
        tr=rng.uniform(2000, 5000),
        te=rng.uniform(2, 4.5),
        ti=ti,
        flip=rng.uniform(4, 12),
        echoes=echoes,
        spacing=spacing,
        negative_kept=kept,
    )


def high_field_values(sequence: HighField, tissues: dict[str, Tissue]) -> np.ndarray:
    """Return the signal of every class at 3 T, in `tissues.NAMES`' order, non-negative."""
    t1, t2, pd = relaxation(tissues, low_field=False)
    if sequence.kind == "spin":
        values = signal.spin_echo(t1, t2, pd, tr=sequence.tr, te=sequence.decay or sequence.te)
    elif sequence.kind == "spoiled":
        values = signal.spoiled_echo(t1, t2, pd, tr=sequence.tr, te=sequence.te, flip=sequence.flip)
    else:
        values = signal.mprage(
            t1,
            t2,
            pd,
            tr=sequence.tr,
            te=sequence.te,
            ti=sequence.ti,
            flip=sequence.flip,
            echoes=sequence.echoes,
            spacing=sequence.spacing,
        )
    values *= np.where(_HAS_SOLID, sequence.saturation, 1.0)
    for name in ("white", "cerebellum_white"):
        values[NAMES.index(name)] *= sequence.white_saturation
    return signal.rectify(values, sequence.negative_kept)


def low_field_values(sequence: LowField, tissues: dict[str, Tissue]) -> np.ndarray:
    """Return the signal of every class at 64 mT, in `tissues.NAMES`' order, non-negative."""
    t1, t2, pd = relaxation(tissues, low_field=True)
    if not sequence.ti:
        values = signal.spin_echo(t1, t2, pd, tr=sequence.tr, te=sequence.te)
        return values * np.where(_HAS_SOLID, sequence.saturation, 1.0)
    values = signal.inversion_recovery(t1, t2, pd, tr=sequence.tr, te=sequence.te, ti=sequence.ti)
    return signal.rectify(values, sequence.negative_kept)
