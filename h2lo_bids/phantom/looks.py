"""What scans owe to scanner and site: receive fields, noise, blur, vessels, distortion.

The nominal site is calibrated to ds006557. Its parameters were fitted to the very figures
that the first row of Table 1 in the paper (arXiv 2603.24968) reports for the high-field
image taken as the prediction of the low-field one, so that agreement with that row is no
evidence of its own; noise, tissue levels and spectrum of the axial low-field scans were
fitted to a real Swoop scan that is in no other way part of the simulation. Signal equations
and relaxation times are those of `signal` and `tissues`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from h2lo_bids.phantom.fields import Shape, smooth_field

HALF_AXES = (75.0, 95.0, 85.0)
"""Of an ellipsoid about the brain, in mm: receive fields grow with the distance from its middle."""


RIM_T1W, RIM_T2W = (0.48, 0.05), (0.5, 0.05)
"""Mean and standard deviation, between the nominal site's subjects, of `Look.rim` at 3 T."""


@dataclass(frozen=True)
class Look:
    """A 3 T scan beside its sequence, in units of white matter.

    Parameters
    ----------
    vessel
        Signal of vessels and membranes.
    texture
        Relative standard deviation inside tissue.
    blur
        Standard deviation along each axis in mm.
    noise
        Standard deviation per channel.
    rim, rough
        See `receive_field`. Without prescan normalisation the receive array shows.
    outliers
        Single voxels, in the brightest tenth of the image, that are set to 1.5 to 3 times its
        largest value: spikes, contrast agent, overshoot.
    """

    vessel: float
    texture: float
    blur: tuple[float, float, float]
    noise: float
    rim: float
    rough: float
    outliers: int = 0


def nominal_look(contrast: str, rng: np.random.Generator) -> Look:
    """Return the look of the calibrated site, as it varies between its subjects."""
    t1w = contrast == "T1w"
    rim = rng.normal(*(RIM_T1W if t1w else RIM_T2W))
    return Look(
        vessel=rng.uniform(0.45, 0.65) if t1w else rng.uniform(0.9, 1.2),
        texture=rng.uniform(0.03, 0.045),
        blur=(0.4, 0.4, 0.4),
        noise=rng.uniform(0.06, 0.07) if t1w else rng.uniform(0.043, 0.053),
        rim=rim,
        rough=0.04 if t1w else 0.215,
    )


def draw_look(contrast: str, rng: np.random.Generator) -> Look:
    """Return the look of some other scanner of 1.5 to 7 T: with or without normalisation."""
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
    return Look(
        vessel=vessel,
        texture=rng.uniform(0.02, 0.045),
        blur=(float(blur[0]), float(blur[1]), float(blur[2])),
        noise=1 / rng.uniform(20, 80),
        rim=rng.uniform(0.3, 1.4) if strong else rng.normal(0, 0.12),
        rough=rng.uniform(0.03, 0.15),
        outliers=int(rng.integers(1, 200)) if rng.random() < 0.2 else 0,
    )


def receive_field(
    rng: np.random.Generator, shape: Shape, affine: np.ndarray, *, rim: float, rough: float
) -> np.ndarray:
    """Return the sensitivity of a receive array over a head.

    Parameters
    ----------
    rng
        Source of the random part.
    shape, affine
        Grid of the head and its voxel indices to mm.
    rim
        Logarithm of the sensitivity at the brain's surface over that in its middle.
    rough
        Standard deviation of the logarithm's smooth random part.

    Returns
    -------
    numpy.ndarray
        float32 of `shape`; 1 where the squared radius is half that of the surface.
    """
    radial = sum((v / h) ** 2 for v, h in zip(millimetres(shape, affine), HALF_AXES, strict=True))
    field = np.float32(rim) * (np.minimum(radial, np.float32(1.3)) - np.float32(0.5))
    return np.exp(field + np.float32(rough) * smooth_field(rng, shape, float(affine[0, 0]), 45.0))


def millimetres(shape: Shape, affine: np.ndarray) -> list[np.ndarray]:
    """Return the coordinates of a grid without rotation along each axis, float32, to broadcast."""
    axes = [affine[a, a] * np.arange(n) + affine[a, 3] for a, n in enumerate(shape)]
    return list(np.meshgrid(*(a.astype(np.float32) for a in axes), indexing="ij", sparse=True))


def distortion(
    rng: np.random.Generator, mask: np.ndarray, spacing: float, rms: float
) -> np.ndarray:
    """Return how far a low-field image lies from the truth once it is registered rigidly.

    A smooth random displacement (gradient nonlinearity, inhomogeneous field) less the rigid
    motion that fits it best in the brain.

    Parameters
    ----------
    rng
        Source of the draw.
    mask
        Brain, bool (X, Y, Z).
    spacing
        Voxel size in mm.
    rms
        Root mean square of what is left in the brain, in mm.

    Returns
    -------
    numpy.ndarray
        float32 (3, X, Y, Z) in voxels, to be added to the coordinates that are read.
    """
    field = np.stack([smooth_field(rng, mask.shape, spacing, 25.0) for _ in range(3)])  # type: ignore[arg-type]
    middle = (np.array(mask.shape, dtype=np.float32) - 1) / 2
    at = np.argwhere(mask)[:: max(1, int(mask.sum()) // 20000)]
    found, *_ = np.linalg.lstsq(_motions(at - middle), field[:, *at.T].T.ravel(), rcond=None)
    x, y, z = (
        v.reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, v in enumerate(
            np.arange(n, dtype=np.float32) - m for n, m in zip(mask.shape, middle, strict=True)
        )
    )
    (a, b, c), (p, q, r) = found[:3].astype(np.float32), found[3:].astype(np.float32)
    for part, motion in zip(
        field, (a + q * z - r * y, b + r * x - p * z, c + p * y - q * x), strict=True
    ):
        part -= motion
    size = np.sqrt(np.mean(np.sum(field[:, *at.T] ** 2, axis=0)))
    return field * np.float32(rms / spacing / size)


def _motions(at: np.ndarray) -> np.ndarray:
    """Return the displacements of points, one after another, by unit shifts and rotations."""
    x, y, z = at.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    shifts = [(one, zero, zero), (zero, one, zero), (zero, zero, one)]
    turns = [(zero, -z, y), (z, zero, -x), (-y, x, zero)]
    return np.stack([np.stack(v, axis=1).ravel() for v in (*shifts, *turns)], axis=1)
