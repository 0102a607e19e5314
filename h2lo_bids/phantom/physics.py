"""MR physics: tissues with their relaxation at both fields, and the signal of sequences.

White matter, grey matter and fluid follow MRzero-Core's brainweb data (3 T) and
O'Reilly and Webb 2022 (50 mT). Deep nuclei at 3 T are rounded literature values
and their low-field times are placed between white and grey matter in proportion.
T2 at 64 mT (78 ms and 96 ms) is fitted to the contrast of a real T2w scan, T1 of grey
matter (380 ms; 335 +- 25 ms were measured at 50 mT) to the levels of two real T1w scans.
Tissues outside the brain are rough values that reproduce the look of real scans (our choice).

Sequences are those of ds006557 (OpenNeuro, CC0).

Times (`t1`, `t2`, repetition `tr`, echo `te`, inversion `ti`) are in milliseconds, angles in
degrees, the proton density `pd` is 1 for water. Signal equations return signed, real signals
relative to the proton density, in the steady state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from h2lo_bids.phantom.acquisition import Grid


@dataclass(frozen=True)
class Tissue:
    """Relaxation times in ms at 3 T (`t1`, `t2`) and 64 mT (`t1_low`, `t2_low`).

    `pd` is the proton density relative to water; `spread` the relative standard
    deviation of the relaxation times between subjects; `texture` scales the
    smooth variation inside the tissue.
    """

    t1: float
    t2: float
    pd: float
    t1_low: float
    t2_low: float
    spread: float = 0.02
    texture: float = 1.0


def _grey(t1: float, t2: float, pd: float) -> Tissue:
    share = (t1 - 830.0) / (1560.0 - 830.0)
    return Tissue(t1, t2, pd, 280.0 + 100.0 * share, 78.0 + 18.0 * share)


TISSUES: dict[str, Tissue] = {
    "background": Tissue(1000, 100, 0.0, 300, 100, 0.0, 0.0),
    "white": _grey(830, 75, 0.70),
    "cortex": _grey(1560, 83, 0.80),
    "cerebellum_white": _grey(860, 75, 0.70),
    "cerebellum_cortex": _grey(1480, 85, 0.79),
    "thalamus": _grey(1180, 76, 0.75),
    "caudate": _grey(1420, 80, 0.79),
    "putamen": _grey(1340, 75, 0.78),
    "pallidum": _grey(1000, 62, 0.73),
    "hippocampus": _grey(1480, 88, 0.80),
    "amygdala": _grey(1500, 86, 0.80),
    "brainstem": _grey(960, 77, 0.72),
    "ventral_dc": _grey(980, 70, 0.72),
    "lesion": Tissue(1350, 130, 0.80, 360, 170, 0.10),
    "choroid": Tissue(2000, 180, 0.85, 700, 200, 0.10),
    "csf": Tissue(4160, 1650, 1.0, 3700, 1580, 0.03, 0.3),
    "fluid_outside": Tissue(3600, 700, 1.0, 2800, 600, 0.03, 0.5),
    "vessel": Tissue(1550, 60, 0.85, 800, 120, 0.15),
    "scalp": Tissue(380, 110, 0.85, 170, 110, 0.08, 3.0),
    "marrow": Tissue(420, 90, 0.60, 180, 90, 0.15, 3.0),
    "soft": Tissue(900, 55, 0.50, 260, 60, 0.08, 4.0),
    "mucosa": Tissue(1500, 90, 0.70, 400, 110, 0.10, 4.0),
    "bone": Tissue(900, 12, 0.10, 250, 12, 0.10, 2.0),
    # What `lesions` plants; label maps hold none.
    "plaque": Tissue(1350, 130, 0.80, 360, 170, 0.10),
}
GREY = ("cortex", "cerebellum_cortex", "thalamus", "caudate", "putamen", "hippocampus", "amygdala")
NAMES: tuple[str, ...] = tuple(TISSUES)

_LABELS: dict[str, tuple[int, ...]] = {
    "white": (2, 41, 77, 78, 79, 85, 251, 252, 253, 254, 255, 530),
    "cortex": (3, 42),
    "cerebellum_white": (7, 46),
    "cerebellum_cortex": (8, 47),
    "thalamus": (10, 49),
    "caudate": (11, 26, 50, 58),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "brainstem": (16, 512),
    "ventral_dc": (28, 60),
    "lesion": (25, 57),
    "choroid": (31, 63, 136, 137, 163, 164),
    "csf": (4, 5, 14, 15, 24, 43, 44, 72),
    "fluid_outside": (506,),
    "vessel": (30, 62, 502, 514),
    "scalp": (508, 511),
    "marrow": (516,),
    "soft": (507,),
    "mucosa": (509,),
    "bone": (515,),
}
TIMES = ("t1", "t2", "t1_low", "t2_low")
FLUID_AROUND_BRAIN = 24
FIRST_OUTSIDE = 500


def class_of_label(labels: np.ndarray) -> np.ndarray:
    """Return the index into `NAMES` of every FreeSurfer label.

    A label that is not listed counts as cortex below 500 (inside the brain) and
    as soft tissue from 500 on.
    """
    table = np.full(max(int(labels.max(initial=0)) + 1, 600), NAMES.index("soft"), np.uint8)
    table[:FIRST_OUTSIDE] = NAMES.index("cortex")
    table[0] = 0
    for name, ids in _LABELS.items():
        table[list(ids)] = NAMES.index(name)
    return table[labels]


def draw_tissues(rng: np.random.Generator) -> dict[str, Tissue]:
    """Return one subject's tissues: each time drawn around its mean.

    Published T1 of cortex at 3 T runs from 1300 ms (Wansapura 1999) to 1560 ms;
    a share of that gap is drawn once per subject for all grey matter.
    """
    drawn = {}
    lower = np.log(1300 / 1560) * rng.random()
    for name, tissue in TISSUES.items():
        factor = np.exp(tissue.spread * rng.standard_normal(4).clip(-2.5, 2.5))
        if name in GREY:
            factor[0] *= np.exp(lower)
        times = {f: getattr(tissue, f) * factor[n] for n, f in enumerate(TIMES)}
        drawn[name] = replace(tissue, **times)
    return drawn


def relaxation(
    tissues: dict[str, Tissue], *, low_field: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return T1 and T2 in ms and proton density per class, in `NAMES`' order."""
    rows = [tissues[name] for name in NAMES]
    t1 = np.array([r.t1_low if low_field else r.t1 for r in rows])
    t2 = np.array([r.t2_low if low_field else r.t2 for r in rows])
    return t1, t2, np.array([r.pd for r in rows])


ORTHOGONAL = ("axi", "cor", "sag")
LOW_FIELD = (*ORTHOGONAL, "iso")
NEGATIVE_KEPT = 0.1
"""Share of inverted signal in a phantom's low-field T1w images, which gives fluid its level."""
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


@dataclass(frozen=True)
class Protocol:
    """A sequence: `kind` is ``mprage``, ``spin`` (spin echo) or ``inversion``.

    A long train of refocusing pulses does not have the contrast of a single echo at its
    nominal `te`: `decay` is the echo time of the spin echo that has it, where it is not
    `te`. `saturation` is the share of signal that magnetisation transfer leaves to tissue,
    `negative_kept` that of what is negative, as inverted fluid is at a short inversion time: 1
    for a magnitude image, which folds it up, 0 for a phase-sensitive one, which cuts it off (the
    darkest fluid of real 64 mT scans, a tenth of white matter, is noise: our observation).
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
        return Grid((80, 96, 84) if t1w else (84, 100, 88), (side, side, side))
    side = 1.6 if t1w else 1.5
    x, y, z = (112, 136, 40) if t1w else (120, 146, 40)
    if acquisition == "axi":
        return Grid((x, y, z), (side, side, 5.0))
    if acquisition == "cor":
        return Grid((x, z, y), (side, 5.0, side))
    return Grid((z, y, x), (5.0, side, side))


def low_field(contrast: str, acquisition: str, negative_kept: float = NEGATIVE_KEPT) -> Protocol:
    """Return the nominal 64 mT sequence of a contrast and slice direction."""
    common = Protocol(
        "spin", 2000, _LOW_TE[contrast][acquisition], flip=90, saturation=0.85,
        negative_kept=negative_kept, tesla=0.064,
    )  # fmt: skip
    if contrast == "T2w":
        return common
    return replace(common, kind="inversion", tr=1500, ti=300, saturation=1.0, averages=2)


def signal_of(protocol: Protocol, tissues: dict[str, Tissue]) -> np.ndarray:
    """Return the signal of every class, in `NAMES`' order, non-negative."""
    t1, t2, pd = relaxation(tissues, low_field=protocol.tesla < 1)
    times = {"tr": protocol.tr, "te": protocol.decay or protocol.te}
    if protocol.kind == "spin":
        values = spin_echo(t1, t2, pd, **times)
    elif protocol.kind == "inversion":
        values = inversion_recovery(t1, t2, pd, **times, ti=protocol.ti)
    else:
        values = mprage(
            t1, t2, pd, **times, ti=protocol.ti, flip=protocol.flip, echoes=protocol.echoes,
            spacing=protocol.spacing,
        )  # fmt: skip
    values *= np.where(_HAS_SOLID, protocol.saturation, 1.0)
    return np.where(values < 0, -protocol.negative_kept * values, values)
