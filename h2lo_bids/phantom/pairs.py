"""Pairs of a high-field brain and its fused low-field counterpart, to train on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.phantom.acquisition import Shape, resample
from h2lo_bids.phantom.anatomy import Anatomy, Subject, load_labels, make_subject, vary
from h2lo_bids.phantom.physics import HIGH_FIELD, ORTHOGONAL, draw_high_field, low_field_grid
from h2lo_bids.phantom.scans import (
    DISTORTION,
    MISREGISTRATION,
    WHITE,
    coil,
    distortion,
    draw_look,
    high_field_scan,
    low_field_scan,
    misregistration,
    nominal_look,
)
from h2lo_bids.vocabulary import CONTRASTS

MARGIN = 12
"""Voxels around the brain that thick slices, blur and distortion may bring into it."""


@dataclass(frozen=True)
class TrainingPair:
    """A pair on a frame grid of 1 mm, axes towards right, anterior, superior.

    Parameters
    ----------
    inputs
        High-field images of the person, each of another scanner: float32 (X, Y, Z), 0
        outside the mask; in [0, 1], or in units of white matter where they were not to be
        normalised.
    lf
        The low-field image, the same way.
    mask
        Brain mask, bool; the centre of its bounding box is the grid's centre.
    """

    inputs: tuple[np.ndarray, ...]
    lf: np.ndarray
    mask: np.ndarray

    @property
    def hf(self) -> np.ndarray:
        """The first high-field image."""
        return self.inputs[0]


def simulate_training_pairs(
    labels: Path | str | Anatomy,
    *,
    contrasts: tuple[str, ...] = CONTRASTS,
    seed: int,
    frame_shape: Shape = (208, 256, 256),
    strength: float = 1.0,
    inputs: int = 1,
    nominal: bool = False,
    normalise: bool = True,
    distorted: bool = True,
) -> dict[str, TrainingPair]:
    """Simulate one person's pair in each contrast: 3 T, and three 64 mT scans fused on its grid.

    The person (shape, tissue, texture) follows from `seed` alone; the 3 T sequence is that of
    another scanner for each seed. Person and low-field scans do not depend on the number and
    kind of the inputs.

    Parameters
    ----------
    labels
        FreeSurfer label map of a whole head.
    contrasts
        Of ``"T1w"`` and ``"T2w"``.
    seed
        Non-negative.
    frame_shape
        Grid of the pair.
    strength
        Scale of the anatomical variation; 0 keeps the map's own shape.
    inputs
        High-field images per low-field one, each of another scanner, at least 1.
    nominal
        Whether the first of them is of the calibrated site.
    normalise
        Whether images are divided by their largest value in the brain.
    distorted
        Whether the low-field scans are distorted and registered with an error, as real ones.
    """
    head, mask, person = _person(labels, seed, frame_shape, strength)
    part = _around_brain(mask)
    head = Anatomy(head.labels[part], head.spacing, head.source)
    subject = make_subject(head, mask[part], person)
    session = np.random.default_rng([seed, 2])
    displacement = None
    if distorted:
        displacement = distortion(session, subject.mask, head.spacing, DISTORTION)
    pairs = {}
    for contrast in contrasts:
        stream = (seed, 1 + CONTRASTS.index(contrast))
        images = []
        for number in range(inputs):
            rng = np.random.default_rng([*stream, 2, 1 + number])
            sequence, look = draw_high_field(contrast, rng), draw_look(contrast, rng)
            if nominal and number == 0:
                sequence, look = HIGH_FIELD[contrast], nominal_look(contrast, rng)
            images.append(high_field_scan(subject, sequence, rng, look))
        rng = np.random.default_rng([*stream, 1])
        images.append(_low_field(subject, contrast, displacement, rng))
        *framed, target = (_framed(i, subject.mask, normalise, part, mask.shape) for i in images)
        pairs[contrast] = TrainingPair(tuple(framed), target, mask)
    return pairs


def _person(
    labels: Path | str | Anatomy, seed: int, shape: Shape, strength: float = 1.0
) -> tuple[Anatomy, np.ndarray, np.random.Generator]:
    """Return a person's head, its brain mask, and the source of what else varies."""
    anatomy = labels if isinstance(labels, Anatomy) else load_labels(Path(labels))
    rng = np.random.default_rng([seed, 0])
    return *vary(anatomy, rng, shape=shape, strength=strength), rng


def _around_brain(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the part of a grid, about its centre, that the scans of its brain depend on."""
    part = []
    for n, box in zip(mask.shape, bounding_box(mask, margin=MARGIN), strict=True):
        cut = max(0, min(box.start, n - box.stop))
        part.append(slice(cut, n - cut))
    return tuple(part)


def simulate_axial_scan(
    labels: Path | str | Anatomy, *, contrast: str, seed: int
) -> tuple[Any, Any]:
    """Return a low-field axial scan, on its own grid, of a person of `simulate_training_pairs`.

    The second image is its brain mask.
    """
    import nibabel as nib

    head, mask, person = _person(labels, seed, (208, 256, 256))
    subject = make_subject(head, mask, person)
    rng = np.random.default_rng([seed, 1 + CONTRASTS.index(contrast), 3])
    sensitivity = coil(rng, head, contrast)
    data, pose = low_field_scan(subject, contrast, "axi", sensitivity=sensitivity, rng=rng)
    affine = low_field_grid(contrast, "axi").affine
    to_head = np.linalg.inv(pose @ head.affine) @ affine
    brain = resample(subject.mask.astype(np.float32), to_head, data.shape) > 0.5
    return nib.Nifti1Image(data, affine), nib.Nifti1Image(brain.astype(np.uint8), affine)


def _low_field(
    subject: Subject, contrast: str, displacement: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Scan a person at low field and average the scans on the person's grid."""
    affine, shape = subject.anatomy.affine, subject.mask.shape
    sensitivity = coil(rng, subject.anatomy, contrast)
    total = np.zeros(shape, dtype=np.float32)
    for acquisition in ORTHOGONAL:
        data, pose = low_field_scan(
            subject, contrast, acquisition, sensitivity=sensitivity, rng=rng,
            displacement=displacement,
        )  # fmt: skip
        # Drawn in any case: the noise of a person's scans does not depend on the distortion.
        error = misregistration(rng, MISREGISTRATION)
        pose = pose if displacement is None else pose @ error
        to_voxels = np.linalg.inv(low_field_grid(contrast, acquisition).affine) @ pose @ affine
        # The scanner scales each image on its own, and so does the fusion of real ones.
        total += resample(data / data.mean(), to_voxels, shape, order=3)
    fused = total / np.float32(len(ORTHOGONAL))
    return fused / np.median(fused[subject.classes == WHITE])


def _framed(
    image: np.ndarray,
    mask: np.ndarray,
    normalise: bool,
    part: tuple[slice, ...],
    shape: tuple[int, ...],
) -> np.ndarray:
    """Put the brain of an image back on the whole grid."""
    masked = np.where(mask, image, np.float32(0)).clip(0)
    framed = np.zeros(shape, dtype=np.float32)
    framed[part] = masked / masked.max() if normalise else masked
    return framed
