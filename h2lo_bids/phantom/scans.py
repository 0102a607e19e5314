"""High- and low-field scans of one simulated person."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from h2lo_bids.phantom.acquisition import acquire, complex_noise
from h2lo_bids.phantom.anatomy import rigid
from h2lo_bids.phantom.fields import Shape, resample
from h2lo_bids.phantom.looks import Look, millimetres, nominal_look, receive_field
from h2lo_bids.phantom.protocols import (
    NEGATIVE_KEPT,
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
    subject: Subject,
    contrast: str,
    sequence: HighField,
    rng: np.random.Generator,
    look: Look | None = None,
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
    look
        What else the scanner does; that of the nominal site when not given.

    Returns
    -------
    numpy.ndarray
        float32 magnitude image; white matter lies about 1.
    """
    look = look or nominal_look(contrast, rng)
    values = high_field_values(sequence, subject.tissues)
    values = values / values[WHITE]
    anatomy = subject.anatomy
    shape: Shape = anatomy.labels.shape  # type: ignore[assignment]
    image = render(
        subject, values, vessel=look.vessel, texture=look.texture, blur=look.blur
    ) * receive_field(rng, shape, anatomy.affine, rim=look.rim, rough=look.rough)
    image = np.abs(image + complex_noise(shape, look.noise, rng))
    if look.outliers:
        bright = np.flatnonzero(image > np.quantile(image[subject.mask], 0.9))
        where = rng.choice(bright, look.outliers)
        image.flat[where] = image[subject.mask].max() * rng.uniform(1.5, 3.0, look.outliers)
    return image


_COIL = {
    "T1w": {"rim": 0.93, "rough": 0.05, "peak": 1.0, "width": 135.0, "hot": 0.75},
    "T2w": {"rim": 0.6, "rough": 0.13, "peak": 27.0, "width": 95.0, "hot": 0.62},
}
"""Calibrated with `looks`; `hot`: gain in the middle of the hot spot beyond 1."""
_HOT_SPOT, _HOT_WIDTH = (20.0, -90.0, 0.0), 22.0


def coil(
    rng: np.random.Generator, shape: Shape, affine: np.ndarray, contrast: str = "T1w"
) -> np.ndarray:
    """Return the sensitivity of the low-field head coil over a head, with its correction.

    Brighter towards the surface, falling off along the body's axis, with a hot spot at
    the back of the head and a random smooth part; the scanner corrects the images of
    each contrast on its own.

    Parameters
    ----------
    rng
        Source of the draw.
    shape, affine
        Grid of the head and its voxel indices to mm.
    contrast
        ``"T1w"`` or ``"T2w"``.
    """
    own = _COIL[contrast]
    rim = own["rim"] + rng.normal(0, 0.05)
    field = receive_field(rng, shape, affine, rim=rim, rough=own["rough"])
    x, y, z = millimetres(shape, affine)
    peak, width = own["peak"] + rng.normal(0, 5.0), own["width"] * rng.uniform(0.95, 1.05)
    field *= np.exp(-(((z - np.float32(peak)) / np.float32(width)) ** 2))
    apart = sum((v - np.float32(h)) ** 2 for v, h in zip((x, y, z), _HOT_SPOT, strict=True))
    gain = np.float32(own["hot"] * rng.uniform(0.8, 1.2))
    return field * (1 + gain * np.exp(-apart / np.float32(2 * _HOT_WIDTH**2)))


def low_field_head(
    subject: Subject,
    sequence: LowField,
    sensitivity: np.ndarray,
    displacement: np.ndarray | None = None,
) -> np.ndarray:
    """Return the signal that a 64 mT scanner would sample; white matter lies about 1.

    Parameters
    ----------
    subject
        The person.
    sequence
        What is played.
    sensitivity
        See `coil`.
    displacement
        See `looks.distortion`.
    """
    values = low_field_values(sequence, subject.tissues)
    values = values / values[WHITE]
    vessel = 0.3 if sequence.ti else 2.7
    image = render(subject, values, vessel=vessel, texture=0.04, blur=(0.6, 0.6, 0.6))
    if displacement is not None:
        shape: Shape = image.shape  # type: ignore[assignment]
        image = resample(image, np.eye(4), shape, displacement=displacement)
    return image * sensitivity


def low_field_scan(
    subject: Subject,
    contrast: str,
    acquisition: str,
    *,
    sensitivity: np.ndarray,
    rng: np.random.Generator,
    negative_kept: float = NEGATIVE_KEPT,
    displacement: np.ndarray | None = None,
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
        The scan's own generator (pose, noise).
    negative_kept
        Share of negative (inverted) signal that stays, see `signal.rectify`.
    displacement
        See `looks.distortion`; shared by the scans of a session.
    """
    sequence = replace(low_field(contrast, acquisition), negative_kept=negative_kept)
    head = low_field_head(subject, sequence, sensitivity, displacement)
    pose = rigid(rng.normal(0, 3.0, 3).clip(-8, 8), rng.normal(0, 3.0, 3).clip(-8, 8))
    coarse = subject.anatomy.spacing > 1.5
    across = 2 if acquisition == "iso" or coarse else 4
    data = acquire(
        head,
        subject.anatomy.affine,
        sequence.grid,
        pose,
        profile="sinc" if acquisition == "iso" else "gauss",
        taper=0.15,
        sigma=NOISE[contrast] * rng.uniform(0.9, 1.1),
        rng=rng,
        fine=(1 if coarse else 2, across),
    )
    return LowFieldScan(data, sequence.grid.affine, pose, sequence)


NOISE = {"T1w": 0.065, "T2w": 0.14}
"""Standard deviation per channel of a low-field scan, in units of white matter."""
DISTORTION = 2.75
"""Root mean square in mm, see `looks.distortion`."""
MISREGISTRATION = 0.6
"""Root mean square in mm of a scan's rigid registration error."""


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
