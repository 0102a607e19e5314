"""High- and low-field scans of one simulated person."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from h2lo_bids.phantom.acquisition import acquire, complex_noise
from h2lo_bids.phantom.anatomy import rigid
from h2lo_bids.phantom.fields import Shape, smooth_field
from h2lo_bids.phantom.protocols import (
    HighField,
    LowField,
    high_field_values,
    low_field,
    low_field_values,
)
from h2lo_bids.phantom.subject import Subject, render
from h2lo_bids.phantom.tissues import NAMES

WHITE = NAMES.index("white")


@dataclass(frozen=True)
class LowFieldScan:
    """A simulated scan.

    Parameters
    ----------
    data, affine
        float32 image and its voxel indices to mm of the scanner.
    pose
        4 x 4 from mm of the head to mm of the scanner.
    sequence
        What was played.
    """

    data: np.ndarray
    affine: np.ndarray
    pose: np.ndarray
    sequence: LowField


def high_field_scan(
    subject: Subject, contrast: str, sequence: HighField, rng: np.random.Generator
) -> np.ndarray:
    """Scan a person at 3 T, on the anatomy's own grid.

    Parameters
    ----------
    subject
        The person.
    contrast
        ``"T1w"`` or ``"T2w"``.
    sequence
        What is played.
    rng
        The scan's own generator.

    Returns
    -------
    numpy.ndarray
        float32 magnitude image; white matter lies about 1.
    """
    values = high_field_values(sequence, subject.tissues)
    values = values / values[WHITE]
    # Inflow brightens vessels in a gradient echo; a spin echo leaves them dark.
    vessel = rng.uniform(0.5, 1.3) if contrast == "T1w" else rng.uniform(0.05, 0.6)
    step = subject.anatomy.spacing
    blur = np.full(3, rng.uniform(0.5, 0.75))
    if rng.random() < 0.15:
        blur[2] = rng.uniform(0.9, 1.3)
    texture = rng.uniform(0.02, 0.045)
    image = render(subject, values, vessel=vessel, texture=texture, blur=tuple(blur))
    image *= np.exp(rng.uniform(0.03, 0.10) * smooth_field(rng, image.shape, step, 40.0))  # type: ignore[arg-type]
    return np.abs(image + complex_noise(image.shape, 1 / rng.uniform(22, 70), rng))


def coil(rng: np.random.Generator, shape: Shape, affine: np.ndarray) -> np.ndarray:
    """Return the sensitivity of a low-field head coil over a head.

    Brighter towards the surface and the vertex, falling off below the skull's
    base, with a random smooth part (fitted by eye to real 64 mT scans).

    Parameters
    ----------
    rng
        Source of the draw.
    shape, affine
        Grid of the head and its voxel indices to mm.
    """
    axes = [affine[a, a] * np.arange(n) + affine[a, 3] for a, n in enumerate(shape)]
    x, y, z = np.meshgrid(*(a.astype(np.float32) for a in axes), indexing="ij", sparse=True)
    radial = (x / 75) ** 2 + (y / 95) ** 2 + (z / 85) ** 2
    field = 1 + rng.uniform(0.05, 0.35) * (np.minimum(radial, 1.5) - 0.5)
    field = field * np.exp(-(((z - rng.uniform(30, 60)) / rng.uniform(130, 190)) ** 2))
    return field * np.exp(0.08 * smooth_field(rng, shape, float(affine[0, 0]), 45.0))


def low_field_head(subject: Subject, sequence: LowField, sensitivity: np.ndarray) -> np.ndarray:
    """Return the signal that a 64 mT scanner would sample; white matter lies about 1.

    Parameters
    ----------
    subject
        The person.
    sequence
        What is played.
    sensitivity
        See `coil`.
    """
    values = low_field_values(sequence, subject.tissues)
    values = values / values[WHITE]
    vessel = 0.8 if sequence.ti else 0.35
    image = render(subject, values, vessel=vessel, texture=0.04, blur=(0.6, 0.6, 0.6))
    return image * sensitivity


def low_field_scan(
    subject: Subject,
    contrast: str,
    acquisition: str,
    *,
    sensitivity: np.ndarray,
    rng: np.random.Generator,
    negative_kept: float = 0.2,
) -> LowFieldScan:
    """Scan a person at 64 mT.

    Parameters
    ----------
    subject
        The person.
    contrast, acquisition
        See `h2lo_bids.phantom.protocols.low_field`.
    sensitivity
        The coil's, on the anatomy's grid; shared by the scans of a session.
    rng
        The scan's own generator (pose, profile, noise).
    negative_kept
        Share of negative (inverted) signal that stays, see `signal.rectify`.
    """
    sequence = replace(low_field(contrast, acquisition), negative_kept=negative_kept)
    head = low_field_head(subject, sequence, sensitivity)
    pose = rigid(rng.normal(0, 3.0, 3).clip(-8, 8), rng.normal(0, 3.0, 3).clip(-8, 8))
    coarse = subject.anatomy.spacing > 1.5
    across = 2 if acquisition == "iso" or coarse else 4
    data = acquire(
        head,
        subject.anatomy.affine,
        sequence.grid,
        pose,
        profile="sinc" if acquisition == "iso" or rng.random() < 0.5 else "gauss",
        taper=rng.uniform(0.05, 0.3),
        sigma=1 / (rng.uniform(11, 22) if contrast == "T1w" else rng.uniform(20, 40)),
        rng=rng,
        fine=(1 if coarse else 2, across),
    )
    return LowFieldScan(data, sequence.grid.affine, pose, sequence)


def misregistration(rng: np.random.Generator, rms: float) -> np.ndarray:
    """Return a small rigid error, 4 x 4.

    Parameters
    ----------
    rng
        Source of the direction.
    rms
        Root mean square displacement in mm on a sphere of 60 mm around the origin.
    """
    angles, shift = rng.normal(0, 1.0, 3), rng.normal(0, 1.0, 3)
    turn = np.deg2rad(angles) * 60.0
    # A rotation by w moves the sphere's points by |w| r sqrt(2/3) in rms.
    size = np.sqrt(np.sum(shift**2) + np.sum(turn**2) * 2 / 3)
    return rigid(angles * rms / size, shift * rms / size)
