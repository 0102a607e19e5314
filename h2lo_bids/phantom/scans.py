"""High- and low-field scans of one simulated person.

The nominal site is calibrated to ds006557. Its parameters were fitted to the very figures
that the first row of Table 1 in the paper (arXiv 2603.24968) reports for the high-field
image taken as the prediction of the low-field one, so that agreement with that row is no
evidence of its own; noise, tissue levels and spectrum of the axial low-field scans were
fitted to a real Swoop scan that is in no other way part of the simulation. Signal equations
and relaxation times are those of `physics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from h2lo_bids.phantom import physics
from h2lo_bids.phantom.acquisition import acquire, complex_noise, millimetres, resample
from h2lo_bids.phantom.anatomy import Anatomy, Subject, render, rigid, smooth_field
from h2lo_bids.phantom.physics import NAMES, NEGATIVE_KEPT

WHITE = NAMES.index("white")
NOISE = {"T1w": 0.027, "T2w": 0.084}
"""Standard deviation per channel of a low-field scan, in units of white matter."""
DISTORTION = 2.55
"""Root mean square in mm, see `distortion`."""

_HALF_AXES = (75.0, 95.0, 85.0)
"""Of an ellipsoid about the brain, in mm: receive fields grow with the distance from its middle."""
_COIL = {
    "T1w": {"rim": 1.08, "rough": 0.05, "peak": 1.0, "width": 135.0, "hot": 0.67},
    "T2w": {"rim": 0.85, "rough": 0.13, "peak": 27.0, "width": 95.0, "hot": 0.62},
}
"""`hot`: gain in the middle of the hot spot beyond 1."""
_HOT_SPOT, _HOT_WIDTH = (20.0, -90.0, 0.0), 22.0


@dataclass(frozen=True)
class Look:
    """What a 3 T scan owes to scanner and site, in units of white matter."""

    vessel: float  # signal of vessels and membranes
    texture: float  # relative standard deviation inside tissue
    blur: tuple[float, float, float]  # standard deviation along each axis in mm
    noise: float  # standard deviation per channel
    # See `receive_field`. Without prescan normalisation the receive array shows.
    rim: float
    rough: float


def nominal_look(contrast: str, rng: np.random.Generator) -> Look:
    """Return the look of the calibrated site, as it varies between its subjects."""
    t1w = contrast == "T1w"
    rim = rng.normal(0.48 if t1w else 0.5, 0.05)
    return Look(
        vessel=rng.uniform(0.45, 0.65) if t1w else rng.uniform(0.9, 1.2),
        texture=rng.uniform(0.03, 0.045),
        blur=(0.4, 0.4, 0.4),
        noise=rng.uniform(0.06, 0.07) if t1w else rng.uniform(0.077, 0.095),
        rim=rim,
        rough=0.04 if t1w else 0.215,
    )


def receive_field(
    rng: np.random.Generator, shape: Sequence[int], affine: np.ndarray, *, rim: float, rough: float
) -> np.ndarray:
    """Return a receive array's sensitivity; 1 where the squared radius is half the surface's.

    `rim` is the logarithm of the sensitivity at the brain's surface over that in its middle,
    `rough` the standard deviation of the logarithm's smooth random part.
    """
    radial = sum((v / h) ** 2 for v, h in zip(millimetres(shape, affine), _HALF_AXES, strict=True))
    field = np.float32(rim) * (np.minimum(radial, np.float32(1.3)) - np.float32(0.5))
    return np.exp(field + np.float32(rough) * smooth_field(rng, shape, float(affine[0, 0]), 45.0))


def distortion(
    rng: np.random.Generator, mask: np.ndarray, spacing: float, rms: float
) -> np.ndarray:
    """Return how far a low-field image lies from the truth once it is registered rigidly.

    A smooth random displacement (gradient nonlinearity, inhomogeneous field) less the rigid
    motion that fits it best in the brain: float32 (3, X, Y, Z) in voxels, to be added to the
    coordinates that are read, with a root mean square of `rms` mm in the mask.
    """
    field = np.stack([smooth_field(rng, mask.shape, spacing, 25.0) for _ in range(3)])
    middle = (np.array(mask.shape, dtype=np.float32) - 1) / 2
    at = np.argwhere(mask)[:: max(1, int(mask.sum()) // 20000)]
    units = (_motion(unit, *(at - middle).T) for unit in np.eye(6))
    design = np.stack([np.stack(np.broadcast_arrays(*unit), 1).ravel() for unit in units], axis=1)
    fit, *_ = np.linalg.lstsq(design, field[:, *at.T].T.ravel(), rcond=None)
    lines = (np.arange(n, dtype=np.float32) - m for n, m in zip(mask.shape, middle, strict=True))
    where = np.meshgrid(*lines, indexing="ij", sparse=True)
    for part, motion in zip(field, _motion(fit.astype(np.float32), *where), strict=True):
        part -= motion
    size = np.sqrt(np.mean(np.sum(field[:, *at.T] ** 2, axis=0)))
    return field * np.float32(rms / spacing / size)


def _motion(
    fit: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the displacements of points by a shift and a small turn, three numbers each."""
    a, b, c, p, q, r = fit
    return a + q * z - r * y, b + r * x - p * z, c + p * y - q * x


def high_field_scan(
    subject: Subject, values: np.ndarray, rng: np.random.Generator, look: Look
) -> np.ndarray:
    """Scan a person at 3 T on the anatomy's grid: float32 magnitude, white matter about 1.

    `values` is the signal of every class of tissue, as of `physics.signal_of`.
    """
    values, anatomy = values / values[WHITE], subject.anatomy
    shape = anatomy.labels.shape
    image = render(
        subject, values, vessel=look.vessel, texture=look.texture, blur=look.blur
    ) * receive_field(rng, shape, anatomy.affine, rim=look.rim, rough=look.rough)
    return np.abs(image + complex_noise(shape, look.noise, rng))


def coil(rng: np.random.Generator, anatomy: Anatomy, contrast: str) -> np.ndarray:
    """Return the sensitivity of the low-field head coil over a head, with its correction.

    Brighter towards the surface, falling off along the body's axis, with a hot spot at
    the back of the head and a random smooth part; the scanner corrects the images of
    each contrast on its own.
    """
    constants, shape, affine = _COIL[contrast], anatomy.labels.shape, anatomy.affine
    rim = constants["rim"] + rng.normal(0, 0.05)
    field = receive_field(rng, shape, affine, rim=rim, rough=constants["rough"])
    x, y, z = millimetres(shape, affine)
    peak = constants["peak"] + rng.normal(0, 5.0)
    width = constants["width"] * rng.uniform(0.95, 1.05)
    field *= np.exp(-(((z - np.float32(peak)) / np.float32(width)) ** 2))
    apart = sum((v - np.float32(h)) ** 2 for v, h in zip((x, y, z), _HOT_SPOT, strict=True))
    gain = np.float32(constants["hot"] * rng.uniform(0.8, 1.2))
    return field * (1 + gain * np.exp(-apart / np.float32(2 * _HOT_WIDTH**2)))


def low_field_scan(
    subject: Subject,
    contrast: str,
    acquisition: str,
    *,
    sensitivity: np.ndarray,
    rng: np.random.Generator,
    negative_kept: float = NEGATIVE_KEPT,
    displacement: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Scan a person at 64 mT, on the grid of `physics.low_field_grid`.

    `sensitivity` and `displacement` are of `coil` and `distortion`, on the anatomy's grid, and
    shared by the scans of a session; `rng` draws pose and noise of this scan. Returned are a
    float32 image, whose white matter lies about 1, and the pose, 4 x 4 from mm of the head to
    mm of the scanner.
    """
    sequence = physics.low_field(contrast, acquisition, negative_kept)
    values = physics.signal_of(sequence, subject.tissues)
    vessel = 0.3 if sequence.ti else 2.7
    head = render(
        subject, values / values[WHITE], vessel=vessel, texture=0.04, blur=(0.4, 0.4, 0.4)
    )
    if displacement is not None:
        head = resample(head, np.eye(4), head.shape, displacement=displacement)
    pose = rigid(rng.normal(0, 3.0, 3).clip(-8, 8), rng.normal(0, 3.0, 3).clip(-8, 8))
    coarse = subject.anatomy.spacing > 1.5
    data = acquire(
        head * sensitivity,
        subject.anatomy.affine,
        physics.low_field_grid(contrast, acquisition),
        pose,
        profile="sinc" if acquisition == "iso" else "gauss",
        sigma=NOISE[contrast] * rng.uniform(0.9, 1.1),
        rng=rng,
        fine=(1 if coarse else 2, 2 if acquisition == "iso" or coarse else 4),
    )
    return data, pose
