"""Simulate pairs of a high-field brain and its fused low-field counterpart, to train on.

The high-field images are of many scanners. Their ranges are our choice: wide enough to hold
MPRAGE, MP2RAGE and spoiled gradient echo, TSE, CUBE and SPACE scans of other sites.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.phantom.acquisition import Shape, resample
from h2lo_bids.phantom.anatomy import Anatomy, Subject, load_labels, make_subject, rigid, vary
from h2lo_bids.phantom.physics import (
    HIGH_FIELD,
    NAMES,
    ORTHOGONAL,
    TISSUES,
    Protocol,
    Tissue,
    low_field_grid,
    relaxation,
    signal_of,
)
from h2lo_bids.phantom.scans import (
    DISTORTION,
    WHITE,
    Look,
    coil,
    distortion,
    high_field_scan,
    low_field_scan,
    nominal_look,
)
from h2lo_bids.vocabulary import CONTRASTS

FRAME_SHAPE = (208, 256, 256)
MARGIN = 12
"""Voxels around the brain that thick slices, blur and distortion may bring into it."""
NEGATIVE_KEPT = 0.0
"""Share of inverted signal in low-field T1w images: real ones have none."""
MISREGISTRATION = 0.6
"""Root mean square in mm of a low-field scan's rigid registration error."""
RATIO_OF = ("cortex", "csf")
RATIOS = {"T1w": ((0.5, 0.9), (0.0, 0.6)), "T2w": ((1.1, 1.8), (2.0, 5.0))}
"""Signal of cortex and of fluid over that of white matter in others' high-field scans."""


@dataclass(frozen=True)
class TrainingPair:
    """A pair on a frame grid of 1 mm, axes towards right, anterior, superior."""

    # High-field images of the person, each of another scanner, the first of the calibrated
    # site: float32 (X, Y, Z), in units of white matter, 0 outside the mask.
    inputs: tuple[np.ndarray, ...]
    lf: np.ndarray  # the low-field image, the same way
    mask: np.ndarray  # of the brain, bool; its bounding box lies in the grid's middle


@dataclass(frozen=True)
class OtherProtocol(Protocol):
    """A high-field sequence of another site; `kind` may also be ``spoiled``.

    `white_saturation` is a further share of signal that magnetisation transfer leaves to white
    matter.
    """

    white_saturation: float = 1.0


def simulate_training_pairs(
    labels: Path | Anatomy,
    *,
    contrasts: tuple[str, ...] = CONTRASTS,
    seed: int,
    frame_shape: Shape = FRAME_SHAPE,
    strength: float = 1.0,
    inputs: int = 1,
    distorted: bool = True,
) -> dict[str, TrainingPair]:
    """Simulate one person's pair in each contrast: 3 T, and three 64 mT scans fused on its grid.

    The person (shape, tissue, texture) follows from `seed` alone; it and the low-field scans do
    not depend on the number of high-field `inputs`. A `strength` of 0 keeps the label map's own
    shape. Low-field scans are `distorted` and registered with an error, as real ones, or neither.
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
        images = [
            _high_field(
                subject, contrast, np.random.default_rng([*stream, 2, 1 + n]), nominal=not n
            )
            for n in range(inputs)
        ]
        rng = np.random.default_rng([*stream, 1])
        images.append(_low_field(subject, contrast, displacement, rng))
        *framed, target = (_framed(image, subject.mask, part, mask.shape) for image in images)
        pairs[contrast] = TrainingPair(tuple(framed), target, mask)
    return pairs


def _person(
    labels: Path | Anatomy, seed: int, shape: Shape = FRAME_SHAPE, strength: float = 1.0
) -> tuple[Anatomy, np.ndarray, np.random.Generator]:
    """Return a person's head, its brain mask, and the source of what else varies."""
    anatomy = labels if isinstance(labels, Anatomy) else load_labels(labels)
    rng = np.random.default_rng([seed, 0])
    return *vary(anatomy, rng, shape=shape, strength=strength), rng


def _around_brain(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the part of a grid, about its centre, that the scans of its brain depend on."""
    part = []
    for n, box in zip(mask.shape, bounding_box(mask, margin=MARGIN), strict=True):
        cut = max(0, min(box.start, n - box.stop))
        part.append(slice(cut, n - cut))
    return tuple(part)


def simulate_axial_scan(labels: Path, *, contrast: str, seed: int) -> tuple[Any, Any]:
    """Return a low-field axial scan, on its own grid, of a person of `simulate_training_pairs`.

    The second image is its brain mask.
    """
    import nibabel as nib

    head, mask, person = _person(labels, seed)
    subject = make_subject(head, mask, person)
    rng = np.random.default_rng([seed, 1 + CONTRASTS.index(contrast), 3])
    sensitivity = coil(rng, head, contrast)
    data, pose = low_field_scan(
        subject, contrast, "axi", sensitivity=sensitivity, rng=rng, negative_kept=NEGATIVE_KEPT
    )
    affine = low_field_grid(contrast, "axi").affine
    to_head = np.linalg.inv(pose @ head.affine) @ affine
    brain = resample(subject.mask.astype(np.float32), to_head, data.shape) > 0.5
    return nib.Nifti1Image(data, affine), nib.Nifti1Image(brain.astype(np.uint8), affine)


def _high_field(
    subject: Subject, contrast: str, rng: np.random.Generator, *, nominal: bool
) -> np.ndarray:
    """Scan a person at high field, at the calibrated site or at another."""
    # Both are drawn for the calibrated site, too: a seed's pairs stay those of earlier fits.
    sequence, (look, spikes) = draw_high_field(contrast, rng), draw_look(contrast, rng)
    values = signal_of_other(sequence, subject.tissues)
    if nominal:
        values = signal_of(HIGH_FIELD[contrast], subject.tissues)
        look, spikes = nominal_look(contrast, rng), 0
    image = high_field_scan(subject, values, rng, look)
    if spikes:
        bright = np.flatnonzero(image > np.quantile(image[subject.mask], 0.9))
        where = rng.choice(bright, spikes)
        image.flat[where] = image[subject.mask].max() * rng.uniform(1.5, 3.0, spikes)
    return image


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
            negative_kept=NEGATIVE_KEPT, displacement=displacement,
        )  # fmt: skip
        # Drawn in any case: the noise of a person's scans does not depend on the distortion.
        error = misregistration(rng)
        pose = pose if displacement is None else pose @ error
        to_voxels = np.linalg.inv(low_field_grid(contrast, acquisition).affine) @ pose @ affine
        # The scanner scales each image on its own, and so does the fusion of real ones.
        total += resample(data / data.mean(), to_voxels, shape, order=3)
    fused = total / np.float32(len(ORTHOGONAL))
    return fused / np.median(fused[subject.classes == WHITE])


def _framed(
    image: np.ndarray, mask: np.ndarray, part: tuple[slice, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """Put the brain of an image back on the whole grid."""
    framed = np.zeros(shape, dtype=np.float32)
    framed[part] = np.where(mask, image, np.float32(0)).clip(0)
    return framed


def draw_high_field(contrast: str, rng: np.random.Generator) -> OtherProtocol:
    """Return the sequence of some other scanner of 1.5 to 7 T.

    A sequence is drawn again until its train fits and cortex and fluid, relative to white
    matter, are within `RATIOS`. Relaxation stays that of 3 T, so that a range of sequences
    stands in for a range of fields.
    """
    while True:
        sequence = _draw(contrast, rng)
        try:
            values = signal_of_other(sequence, TISSUES)
        except ValueError:
            continue
        shares = [values[NAMES.index(name)] / values[NAMES.index("white")] for name in RATIO_OF]
        if all(a <= s <= b for s, (a, b) in zip(shares, RATIOS[contrast], strict=True)):
            return sequence


def _draw(contrast: str, rng: np.random.Generator) -> OtherProtocol:
    if contrast == "T2w":
        return OtherProtocol(
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
        return OtherProtocol("spoiled", tr, rng.uniform(2, 5), flip=flip)
    ti, spacing = rng.uniform(700, 1200), rng.uniform(5.5, 8.5)
    echoes = int(rng.uniform(0.8, 1.6) * ti / spacing)
    return OtherProtocol(
        "mprage",
        tr=rng.uniform(2000, 5000),
        te=rng.uniform(2, 4.5),
        ti=ti,
        flip=rng.uniform(4, 12),
        echoes=echoes,
        spacing=spacing,
        negative_kept=kept,
    )


def signal_of_other(sequence: OtherProtocol, tissues: dict[str, Tissue]) -> np.ndarray:
    """Return the signal of every class, as `signal_of` does, in a sequence of another site."""
    if sequence.kind == "spoiled":
        t1, t2, pd = relaxation(tissues, low_field=False)
        return spoiled_echo(t1, t2, pd, tr=sequence.tr, te=sequence.te, flip=sequence.flip)
    values = signal_of(sequence, tissues)
    for name in ("white", "cerebellum_white"):
        values[NAMES.index(name)] *= sequence.white_saturation
    return values


def spoiled_echo(
    t1: np.ndarray, t2: np.ndarray, pd: np.ndarray, *, tr: float, te: float, flip: float
) -> np.ndarray:
    """Return the steady-state signal of a spoiled gradient echo (Ernst); `t2` is T2*."""
    decay, angle = np.exp(-tr / t1), np.deg2rad(flip)
    return pd * np.sin(angle) * (1 - decay) / (1 - np.cos(angle) * decay) * np.exp(-te / t2)


def draw_look(contrast: str, rng: np.random.Generator) -> tuple[Look, int]:
    """Return the look of some other scanner of 1.5 to 7 T: with or without normalisation.

    The number says how many voxels, in the brightest tenth of the image, are to be set to 1.5 to
    3 times its largest value: spikes, contrast agent, overshoot.
    """
    plane, thick = rng.uniform(0.35, 0.75), rng.uniform(0.35, 0.75)
    if rng.random() < 0.25:
        thick = rng.uniform(0.8, 1.3)
    blur = np.full(3, plane)
    blur[rng.integers(3)] = thick
    strong = rng.random() < 0.35
    # Inflow brightens vessels in a gradient echo; a spin echo leaves them dark.
    vessel = rng.uniform(0.4, 1.5) if contrast == "T1w" else rng.uniform(0.05, 0.8)
    if contrast == "T1w" and rng.random() < 0.25:
        vessel = rng.uniform(1.5, 4.0)
    look = Look(
        vessel=vessel,
        texture=rng.uniform(0.02, 0.045),
        blur=(float(blur[0]), float(blur[1]), float(blur[2])),
        noise=1 / rng.uniform(20, 80),
        rim=rng.uniform(0.3, 1.4) if strong else rng.normal(0, 0.12),
        rough=rng.uniform(0.03, 0.15),
    )
    return look, int(rng.integers(1, 200)) if rng.random() < 0.2 else 0


def misregistration(rng: np.random.Generator) -> np.ndarray:
    """Return a rigid error, 4 x 4, of `MISREGISTRATION` on a sphere of 60 mm about the origin."""
    angles, shift = rng.normal(0, 1.0, 3), rng.normal(0, 1.0, 3)
    turn = np.deg2rad(angles) * 60.0
    # A rotation by w moves the sphere's points by |w| r sqrt(2/3) in rms.
    size = np.sqrt(np.sum(shift**2) + np.sum(turn**2) * 2 / 3)
    return rigid(angles * MISREGISTRATION / size, shift * MISREGISTRATION / size)
