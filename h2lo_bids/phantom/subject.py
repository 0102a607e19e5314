"""One simulated person: anatomy, tissues and what varies inside tissue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.phantom.anatomy import Anatomy
from h2lo_bids.phantom.fields import smooth_field, vessels
from h2lo_bids.phantom.tissues import (
    FLUID_AROUND_BRAIN,
    NAMES,
    TISSUES,
    Tissue,
    class_of_label,
    draw_tissues,
)


@dataclass(frozen=True)
class Subject:
    """A person, the same in every scan.

    Parameters
    ----------
    anatomy
        Labels on a grid.
    mask
        Brain mask, bool.
    classes
        uint8, index into `tissues.NAMES` per voxel.
    tissues
        Relaxation of this person.
    texture
        Smooth variation inside tissue, standard deviation about 1, scaled by
        each tissue's own strength.
    vessel_weight
        Share of vessel or membrane per voxel, in the fluid around the brain.
    vessel_tone
        Relative brightness of vessels, about 1, varying in space.
    """

    anatomy: Anatomy
    mask: np.ndarray
    classes: np.ndarray
    tissues: dict[str, Tissue]
    texture: np.ndarray
    vessel_weight: np.ndarray
    vessel_tone: np.ndarray


BONE = 6.0
"""Thickness in mm of the bone around the brain, which label maps lack at the skull's base."""
_OUTSIDE = [NAMES.index(name) for name in ("scalp", "marrow", "soft", "mucosa")]


def make_subject(anatomy: Anatomy, mask: np.ndarray, rng: np.random.Generator) -> Subject:
    """Draw what a person has beside a shape.

    Parameters
    ----------
    anatomy, mask
        The head, already deformed, and its brain mask.
    rng
        The subject's own generator.
    """
    from scipy.ndimage import distance_transform_edt

    shape: tuple[int, int, int] = anatomy.labels.shape  # type: ignore[assignment]
    step = anatomy.spacing
    classes = class_of_label(anatomy.labels)
    box = bounding_box(mask, margin=int(np.ceil(BONE / step)))
    near = distance_transform_edt(~mask[box], sampling=step) <= BONE
    classes[box][near & np.isin(classes[box], _OUTSIDE)] = NAMES.index("bone")
    texture = 0.7 * smooth_field(rng, shape, step, 8.0)
    texture += 0.7 * smooth_field(rng, shape, step, 2.0)
    strength = np.array([TISSUES[name].texture for name in NAMES], dtype=np.float32)
    texture *= strength[classes]
    weight = vessels(rng, shape, step, max(0.9, 0.6 * step))
    weight *= anatomy.labels == FLUID_AROUND_BRAIN
    tone = np.minimum(np.exp(0.4 * smooth_field(rng, shape, step, 10.0)), 2.0)
    return Subject(anatomy, mask, classes, draw_tissues(rng), texture, weight, tone)


def render(
    subject: Subject,
    values: np.ndarray,
    *,
    vessel: float,
    texture: float,
    blur: tuple[float, float, float],
) -> np.ndarray:
    """Return the signal of a head, before bias and noise.

    Blurring the painted labels equals painting with blurred tissue fractions,
    so borders get partial volume at the price of one filter.

    Parameters
    ----------
    subject
        The person.
    values
        Signal per class, in `tissues.NAMES`' order.
    vessel
        Signal of vessels and membranes.
    texture
        Relative standard deviation of the variation inside tissue.
    blur
        Standard deviation of the blur along each axis in mm.

    Returns
    -------
    numpy.ndarray
        float32, shape of the anatomy.
    """
    from scipy.ndimage import gaussian_filter

    table = np.array(values, dtype=np.float32)
    table[NAMES.index("vessel")] = vessel
    signal = table[subject.classes]
    signal *= 1 + np.float32(texture) * subject.texture
    signal += subject.vessel_weight * (np.float32(vessel) * subject.vessel_tone - signal)
    sigma = np.array(blur) / subject.anatomy.spacing
    return gaussian_filter(np.maximum(signal, 0), sigma, truncate=3.0)
