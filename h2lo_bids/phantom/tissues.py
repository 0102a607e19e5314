"""Tissue classes, their relaxation at both fields, and FreeSurfer's labels.

White matter, grey matter and fluid follow MRzero-Core's brainweb data (3 T) and
O'Reilly and Webb 2022 (50 mT). Deep nuclei at 3 T are rounded literature values
and their low-field times are placed between white and grey matter in proportion.
T2 at 64 mT (78 ms and 96 ms) is fitted to the contrast of a real T2w scan, T1 of grey
matter (355 ms) with `protocols.NEGATIVE_KEPT` to the quantiles of two real T1w scans. Tissues
outside the brain are rough values that reproduce the look of real scans (our
choice).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


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
    return Tissue(t1, t2, pd, 280.0 + 75.0 * share, 78.0 + 18.0 * share)


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
