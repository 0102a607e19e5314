"""Telling a good registration from a bad one by its neighbours.

A rigid registration that is right is a local optimum: every small motion away from
it lowers what both images tell of each other. One that is off has a neighbour that
fits better. This needs no threshold on the similarity itself, which depends on
contrast, noise and voxels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec

from h2lo_bids.imaging.alignment import motion_of
from h2lo_bids.imaging.resample import placed, resample_mask, spacing_of

STEPS = ((4.0, 5.0), (9.0, 11.0))
"""Translations in mm and turns in degrees that are tried along and about each axis.

An alignment that is off by half the smaller step has a neighbour that is off by as much: its
margin is 0. The larger step sees the way where the smaller one sticks in a local optimum.
"""
SAMPLE_MM = 3.0
BINS = 32
MIN_MARGIN = 0.05
"""Registered phantoms have 0.34 to 0.57, the same moved by 2 mm 0.10 to 0.19, by 5 mm or 6
degrees and more -0.5 to -4.6 (T1w and T2w; relative, so that neither contrast nor noise counts).
"""
MIN_DICE = 0.80
"""Extraction errors alone leave 0.90 on phantoms; 15 mm lead to 0.84."""
MIN_COVERAGE = 0.95
MAX_TURN_DEG = 30.0
MAX_MOTION_MM = 30.0
_LARGE_IS_BAD = ("translation_mm", "rotation_deg")


@dataclass(frozen=True)
class ScanAt:
    """A low-field scan and where it was put."""

    name: str
    image: Any
    mask: Any
    matrix: np.ndarray
    coverage: float = 1.0


@dataclass(frozen=True)
class Verdict:
    """What was found about an alignment."""

    figures: dict[str, float]
    reasons: tuple[str, ...] = ()


def check_alignments(scans: Sequence[ScanAt], high: Any, high_mask: Any) -> Verdict:
    """Judge where the low-field scans of a pair were put.

    Parameters
    ----------
    scans
        One scan or more.
    high, high_mask
        nibabel images: the high-field brain and its mask on one grid.

    Returns
    -------
    Verdict
        With a reason for every criterion that fails: similarity to each
        neighbour, overlap of the masks, coverage, a turn that no head can make,
        and, among the scans, motion that no session allows.
    """
    points, values = _samples(high, high_mask)
    centre = points.mean(0)
    reasons: list[str] = []
    figures: dict[str, float] = {}
    for scan in scans:
        own = _figures(scan, high_mask, points, values)
        reasons += [f"{scan.name}: {reason}" for reason in _reasons(own)]
        for key, value in own.items():
            worst = max if key in _LARGE_IS_BAD else min
            figures[key] = worst(figures.get(key, value), value)
    for one, other in itertools.combinations(scans, 2):
        between = np.linalg.inv(other.matrix) @ one.matrix
        shift, turn = motion_of(between, centre)
        if shift > MAX_MOTION_MM or turn > MAX_TURN_DEG:
            reasons.append(
                f"{one.name} and {other.name}: lie {shift:.0f} mm and {turn:.0f} degrees apart"
            )
    return Verdict({key: round(float(v), 4) for key, v in figures.items()}, tuple(reasons))


def _figures(
    scan: ScanAt, high_mask: Any, points: np.ndarray, values: np.ndarray
) -> dict[str, float]:
    """Measure one scan."""
    data, inverse, centre = _smooth(scan.image), np.linalg.inv(scan.image.affine), points.mean(0)

    def similarity(motion: np.ndarray) -> float:
        return nmi(values, _linear(data, apply_affine(inverse @ scan.matrix @ motion, points)))

    here = similarity(np.eye(4))
    best = max(similarity(motion) for motion in neighbours(centre))
    shift, turn = motion_of(scan.matrix, centre)
    return {
        "dice": _dice(scan, high_mask),
        "nmi": here,
        "margin": (here - best) / max(here - 1, 1e-6),
        "translation_mm": shift,
        "rotation_deg": turn,
        "coverage": scan.coverage,
    }


def neighbours(centre: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the small motions that an alignment must beat, 4 x 4 each."""
    for (shift, angle), axis, sign in itertools.product(STEPS, range(3), (-1, 1)):
        step = np.zeros(3)
        step[axis] = 1
        yield from_matvec(np.eye(3), sign * shift * step)
        turn = nib.quaternions.angle_axis2mat(np.radians(sign * angle), step)
        yield from_matvec(turn, centre - turn @ centre)


def _reasons(figures: dict[str, float]) -> list[str]:
    reasons = []
    if figures["margin"] < MIN_MARGIN:
        reasons.append(
            f"moved a little, it fits the high-field brain better or as well (margin "
            f"{figures['margin']:.3f}, at least {MIN_MARGIN:g} expected)"
        )
    for key, least in (("dice", MIN_DICE), ("coverage", MIN_COVERAGE)):
        if figures[key] < least:
            reasons.append(f"{key} of the brain is {figures[key]:.2f}, at least {least:g} expected")
    if figures["rotation_deg"] > MAX_TURN_DEG:
        reasons.append(f"was turned by {figures['rotation_deg']:.0f} degrees")
    return reasons


def _samples(high: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return positions in mm, about `SAMPLE_MM` apart in the brain, and the values there."""
    from scipy.ndimage import gaussian_filter

    spacing = spacing_of(high.affine)
    stride = np.maximum(1, np.rint(SAMPLE_MM / spacing)).astype(int)
    smooth = gaussian_filter(
        np.asarray(high.dataobj, dtype=np.float32), np.where(stride > 1, 0.4 * stride, 0)
    )
    thin = tuple(slice(None, None, int(n)) for n in stride)
    inside = np.asarray(mask.dataobj)[thin] > 0
    voxels = np.argwhere(inside) * stride
    return apply_affine(high.affine, voxels), smooth[thin][inside]


def _smooth(low: Any) -> np.ndarray:
    """Return the low-field values, smoothed in plane to about the samples' distance."""
    from scipy.ndimage import gaussian_filter

    spacing = spacing_of(low.affine)
    sigma = np.sqrt(np.clip(SAMPLE_MM**2 - spacing**2, 0, None)) / 2.355 / spacing
    return gaussian_filter(np.asarray(low.dataobj, dtype=np.float32), sigma)


def _linear(data: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    return map_coordinates(data, voxels.T, order=1, mode="constant")


def nmi(a: np.ndarray, b: np.ndarray) -> float:
    """Return Studholme's normalised mutual information of two samples."""
    pairs = np.bincount(_binned(a) * BINS + _binned(b), minlength=BINS**2)
    joint = pairs.reshape(BINS, BINS) / a.size
    return (_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / max(_entropy(joint), 1e-12)


def _binned(values: np.ndarray) -> np.ndarray:
    """Sort values into bins that the brightest half percent, such as a vessel, does not set."""
    low, high = float(values.min()), float(np.percentile(values, 99.5))
    return np.clip((values - low) / max(high - low, 1e-12) * BINS, 0, BINS - 1).astype(np.int64)


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def _dice(scan: ScanAt, high_mask: Any) -> float:
    """Return the overlap of both brain masks on the low-field grid."""
    brain = (np.asarray(high_mask.dataobj) > 0).astype(np.uint8)
    moved = placed(brain, scan.matrix @ high_mask.affine, high_mask)
    there = np.asarray(resample_mask(moved, scan.mask.shape, scan.mask.affine).dataobj) > 0
    own = np.asarray(scan.mask.dataobj) > 0
    return float(2 * np.count_nonzero(there & own) / max(1, there.sum() + own.sum()))
