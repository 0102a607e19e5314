"""Pairs of a high-field brain and its fused low-field counterpart, to train on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from h2lo_bids.phantom.anatomy import Anatomy, bounding_box, load_labels, vary
from h2lo_bids.phantom.fields import Shape
from h2lo_bids.phantom.fusion import fuse
from h2lo_bids.phantom.protocols import CONTRASTS, HIGH_FIELD, ORTHOGONAL, draw_high_field
from h2lo_bids.phantom.scans import (
    coil,
    high_field_scan,
    low_field_scan,
    misregistration,
)
from h2lo_bids.phantom.subject import Subject, make_subject


@dataclass(frozen=True)
class PairKind:
    """What the two images of a pair are.

    Parameters
    ----------
    name
        Tells it from others; empty for the usual one.
    acquisitions
        Thick-slice scans that are averaged to the low-field image.
    order
        Of the splines that interpolate them: 1 or 3.
    nominal
        Whether the 3 T scan is of the nominal protocol, and not of some other scanner
        for each seed. What a model is to make should look alike; what it is given, vary.
    """

    name: str = ""
    acquisitions: tuple[str, ...] = ORTHOGONAL
    order: int = 1
    nominal: bool = False


FUSED = PairKind()


@dataclass(frozen=True)
class TrainingPair:
    """A pair on a frame grid of 1 mm, axes towards right, anterior, superior.

    Parameters
    ----------
    hf, lf
        float32 (X, Y, Z) in [0, 1], 0 outside the mask.
    mask
        Brain mask, bool; the centre of its bounding box is the grid's centre.
    """

    hf: np.ndarray
    lf: np.ndarray
    mask: np.ndarray


def simulate_training_pair(
    labels_path_or_anatomy: Path | str | Anatomy,
    *,
    contrast: str,
    seed: int,
    frame_shape: Shape = (208, 256, 256),
    strength: float = 1.0,
) -> TrainingPair:
    """Simulate a pair: a 3 T scan, and three thick-slice 64 mT scans fused on its grid.

    The person (shape, tissue, texture) follows from `seed` alone, so both
    contrasts of one seed show one person; the 3 T sequence is that of a
    different scanner for each seed.

    Parameters
    ----------
    labels_path_or_anatomy
        FreeSurfer label map of a whole head.
    contrast
        ``"T1w"`` or ``"T2w"``.
    seed
        Non-negative.
    frame_shape
        Grid of the pair.
    strength
        Scale of the anatomical variation; 0 keeps the map's own shape.

    Raises
    ------
    ValueError
        If the contrast is unknown.
    """
    return simulate_training_pairs(
        labels_path_or_anatomy,
        contrasts=(contrast,),
        seed=seed,
        frame_shape=frame_shape,
        strength=strength,
    )[contrast]


def simulate_training_pairs(
    labels_path_or_anatomy: Path | str | Anatomy,
    *,
    contrasts: tuple[str, ...] = CONTRASTS,
    seed: int,
    frame_shape: Shape = (208, 256, 256),
    strength: float = 1.0,
    kind: PairKind = FUSED,
) -> dict[str, TrainingPair]:
    """Simulate one person's pair in each contrast; see `simulate_training_pair`.

    Person and low-field scans do not depend on `kind`.
    """
    for contrast in contrasts:
        if contrast not in CONTRASTS:
            raise ValueError(f"a contrast is one of {CONTRASTS}, not {contrast!r}")
    source = labels_path_or_anatomy
    anatomy = source if isinstance(source, Anatomy) else load_labels(Path(source))
    person = np.random.default_rng([seed, 0])
    head, mask = vary(anatomy, person, shape=frame_shape, strength=strength)
    subject = make_subject(head, mask, person)
    sensitivity = coil(np.random.default_rng([seed, 2]), frame_shape, head.affine)
    return {
        contrast: _pair(
            subject,
            contrast,
            sensitivity,
            np.random.default_rng([seed, 1, CONTRASTS.index(contrast)]),
            kind,
        )
        for contrast in contrasts
    }


def _pair(
    subject: Subject,
    contrast: str,
    sensitivity: np.ndarray,
    rng: np.random.Generator,
    kind: PairKind,
) -> TrainingPair:
    other = draw_high_field(contrast, rng)  # drawn anyway, so that what follows is the same
    high = high_field_scan(subject, contrast, HIGH_FIELD[contrast] if kind.nominal else other, rng)
    kept = rng.uniform(0.0, 0.35)
    scans, to_scanner = [], []
    # What is not wanted is simulated too where another one follows: all share a generator.
    last = max(ORTHOGONAL.index(name) for name in kind.acquisitions)
    for acquisition in ORTHOGONAL[: last + 1]:
        scan = low_field_scan(
            subject, contrast, acquisition, sensitivity=sensitivity, rng=rng, negative_kept=kept
        )
        pose = scan.pose @ misregistration(rng, rng.uniform(0.3, 0.7))
        if acquisition in kind.acquisitions:
            scans.append((scan.data, scan.affine))
            to_scanner.append(pose)
    mask, affine = subject.mask, subject.anatomy.affine.copy()
    box = bounding_box(mask)
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    low = np.zeros_like(high)
    shape = high[box].shape
    low[box] = fuse(scans, to_scanner, shape, affine, kind.order)  # type: ignore[arg-type]
    return TrainingPair(_normalised(high, mask), _normalised(low, mask), mask)


def _normalised(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    masked = np.where(mask, image, np.float32(0)).clip(0)
    return (masked / masked.max()).astype(np.float32)
