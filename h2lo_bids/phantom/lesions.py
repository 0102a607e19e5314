"""White-matter lesions of known size, place and strength, planted in phantoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from h2lo_bids.errors import UsageError
from h2lo_bids.imaging.resample import spacing_of
from h2lo_bids.phantom.anatomy import Subject
from h2lo_bids.phantom.physics import NAMES, TIMES

GAP = 2.0
"""Least distance in mm between the surfaces of two lesions that are placed at random."""


@dataclass(frozen=True)
class Lesion:
    """A ball: its centre in mm of the image's world, and its diameter in mm."""

    centre: tuple[float, float, float]
    diameter: float


@dataclass(frozen=True)
class LesionPlan:
    """What to plant."""

    count: int = 0  # lesions at random white-matter places
    diameters: tuple[float, ...] = (6.0,)  # mm; taken in turn, by those at given places first
    places: tuple[tuple[float, float, float], ...] = ()  # centres of further lesions, mm
    # Of phantoms' lesions: 0 for the relaxation of white matter, 1 for that of tissue "lesion".
    severity: float = 1.0

    def __bool__(self) -> bool:
        return bool(self.count or self.places)


def place_lesions(
    white: np.ndarray, affine: np.ndarray, plan: LesionPlan, rng: np.random.Generator
) -> tuple[Lesion, ...]:
    """Choose where lesions lie: each one whole in white matter, apart from the others.

    `white` is bool, (X, Y, Z); `affine` leads from voxel indices to mm, without shear. Places
    that the plan gives come first.

    Raises
    ------
    UsageError
        If a lesion is smaller than a voxel, does not lie whole in white matter at a given place,
        overlaps another there or holds no voxel, or no place is left for one.
    """
    from scipy.ndimage import distance_transform_edt

    sides = spacing_of(affine)
    if plan and min(plan.diameters) < sides.max() - 1e-3:
        raise UsageError(
            f"--lesion-diameter {min(plan.diameters):g}: is less than a voxel's side of "
            f"{sides.max():.3g} mm; give more, or a finer --resolution"
        )
    depth = distance_transform_edt(white, sampling=sides)
    lesions: list[Lesion] = []
    for number, at in enumerate(plan.places):
        lesion = Lesion(at, plan.diameters[number % len(plan.diameters)])
        # What is half lesion may be of other tissue, as at random places; see `with_lesions`.
        ball = lesion_share([lesion], white.shape, affine) > 0.5
        overlaps = any(
            np.linalg.norm(np.subtract(at, v.centre)) < (lesion.diameter + v.diameter) / 2
            for v in lesions
        )
        if not ball.any() or (ball & ~white).any() or overlaps:
            where = " ".join(f"{v:g}" for v in at)
            raise UsageError(
                f"--lesion-at {where}: one of {lesion.diameter:g} mm is not whole in white matter "
                "there, overlaps another or holds no voxel's centre; give another place or diameter"
            )
        lesions.append(lesion)
    for number in range(len(lesions), len(lesions) + plan.count):
        diameter = plan.diameters[number % len(plan.diameters)]
        where = np.argwhere(depth >= diameter / 2) @ affine[:3, :3].T + affine[:3, 3]
        free = np.ones(len(where), dtype=bool)
        for other in lesions:
            apart = (diameter + other.diameter) / 2 + GAP
            free &= np.linalg.norm(where - other.centre, axis=1) >= apart
        if not free.any():
            raise UsageError(
                f"--lesions {plan.count}: white matter has no place for one of {diameter:g} mm "
                f"beside {len(lesions)} others; ask for fewer or smaller ones"
            )
        x, y, z = map(float, rng.choice(where[free]))
        lesions.append(Lesion((x, y, z), diameter))
    return tuple(lesions)


def lesion_share(lesions: Sequence[Lesion], shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """Return how much of each voxel is lesion, float32 from 0 to 1; `affine` has no shear.

    The share falls linearly over one voxel at the surface, so that a ball of radius r on
    voxels of side h sums to (4/3) pi (r^3 + r h^2 / 4).
    """
    share = np.zeros(shape, dtype=np.float32)
    step = spacing_of(affine)
    inverse = np.linalg.inv(affine)
    for lesion in lesions:
        middle = inverse[:3, :3] @ lesion.centre + inverse[:3, 3]
        axes = [(np.arange(n) - m) * s for n, m, s in zip(shape, middle, step, strict=True)]
        apart = np.sqrt(sum(v**2 for v in np.meshgrid(*axes, indexing="ij", sparse=True)))
        ball = np.clip(0.5 + (lesion.diameter / 2 - apart) / step.mean(), 0, 1)
        np.maximum(share, ball, out=share)
    return share


def with_lesions(
    subject: Subject, lesions: Sequence[Lesion], severity: float
) -> tuple[Subject, np.ndarray]:
    """Return a phantom's person with lesions, which every scan then shows, and their mask."""
    white, full = subject.tissues["white"], subject.tissues["lesion"]
    values = {
        k: (1 - severity) * getattr(white, k) + severity * getattr(full, k) for k in (*TIMES, "pd")
    }
    affine = subject.anatomy.affine
    mask = lesion_share(lesions, subject.anatomy.labels.shape, affine) >= 0.5
    mask &= subject.classes == NAMES.index("white")
    classes = np.where(mask, np.uint8(NAMES.index("plaque")), subject.classes)
    tissues = {**subject.tissues, "plaque": replace(full, **values)}
    return replace(subject, classes=classes, tissues=tissues), mask
