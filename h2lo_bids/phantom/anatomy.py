"""Simulated people: label maps, random deformation, and smooth fields inside tissue.

For want of label maps a whole head is made from the tissue maps that nilearn ships, of a
brain-only template (MNI152NLin2009a, symmetric). What lies around the brain is drawn from
simple solids, so that a brain extraction has something to do; it makes no claim to be anatomy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from nibabel.affines import from_matvec

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.masks import bounding_box, largest_component
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.phantom import physics
from h2lo_bids.phantom.acquisition import centred, millimetres, resample
from h2lo_bids.phantom.physics import FIRST_OUTSIDE, FLUID_AROUND_BRAIN, NAMES

CLOSING = 8.0
"""Sulci narrower than twice this many mm count as brain, as in SynthStrip's masks."""
BONE = 6.0
"""Thickness in mm of the bone around the brain, which label maps lack at the skull's base."""
_OUTSIDE = [NAMES.index(name) for name in ("scalp", "marrow", "soft", "mucosa")]


@dataclass(frozen=True)
class Anatomy:
    """A head as FreeSurfer labels."""

    labels: np.ndarray  # int16 (X, Y, Z), axes towards right, anterior, superior
    spacing: float  # side of a voxel in mm
    source: str  # where the labels come from, for the record

    @property
    def affine(self) -> np.ndarray:
        """Voxel indices to mm, with the grid's centre at the origin."""
        return centred(self.labels.shape, [self.spacing] * 3)


@dataclass(frozen=True)
class Subject:
    """A person, the same in every scan; arrays are of one shape."""

    anatomy: Anatomy
    mask: np.ndarray  # brain, bool
    classes: np.ndarray  # uint8, index into `physics.NAMES`
    tissues: dict[str, physics.Tissue]
    texture: np.ndarray  # variation inside tissue, scaled by each tissue's own strength
    vessel_weight: np.ndarray  # share of vessel or membrane, in the fluid around the brain
    vessel_tone: np.ndarray  # relative brightness of vessels, about 1


def smooth_field(
    rng: np.random.Generator, shape: Sequence[int], spacing: float, sigma: float
) -> np.ndarray:
    """Return a float32 field with mean about 0 and deviation 1, smoothed by `sigma` mm.

    White noise on a coarse grid, Gaussian smoothing, then trilinear refinement:
    the cost does not grow with `sigma`.
    """
    from scipy.ndimage import gaussian_filter

    step = max(sigma / 2.0, spacing)
    coarse = [int(np.ceil(n * spacing / step)) + 1 for n in shape]
    noise = rng.standard_normal(coarse, dtype=np.float32)
    noise = gaussian_filter(noise, sigma / step, mode="wrap", truncate=3.0)
    # The kernel's energy, not the sample's deviation: a slow field may lie to one side.
    offsets = np.arange(-int(3 * sigma / step) - 1, int(3 * sigma / step) + 2)
    kernel = np.exp(-0.5 * (offsets * step / sigma) ** 2)
    noise /= np.sqrt(np.sum((kernel / kernel.sum()) ** 2)) ** 3
    if step == spacing:
        return noise[: shape[0], : shape[1], : shape[2]]
    for axis, count in enumerate(shape):
        noise = _refine(noise, axis, count, spacing / step)
    return noise


def _refine(values: np.ndarray, axis: int, n: int, step: float) -> np.ndarray:
    """Interpolate linearly along one axis at 0, step, 2 step, ... (n samples)."""
    where = np.arange(n) * step
    low = np.minimum(where.astype(int), values.shape[axis] - 2)
    share = (where - low).astype(np.float32)
    share = share.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    first = np.take(values, low, axis=axis)
    first += share * (np.take(values, low + 1, axis=axis) - first)
    return first


def vessels(
    rng: np.random.Generator, shape: Sequence[int], spacing: float, radius: float
) -> np.ndarray:
    """Return weights, from 0 to 1, of random filaments: curves on which two fields vanish."""
    sigma = 5.0
    width = radius / (sigma * np.sqrt(2.0))
    energy = smooth_field(rng, shape, spacing, sigma) ** 2
    energy += smooth_field(rng, shape, spacing, sigma) ** 2
    return np.exp(-energy / (2 * width**2))


def load_labels(path: Path) -> Anatomy:
    """Read a whole-head label map with FreeSurfer ids, of isotropic voxels."""
    import nibabel as nib

    image = nib.as_closest_canonical(load_checked(path).image)
    zooms = np.asarray(image.header.get_zooms(), dtype=float)
    if np.ptp(zooms) > 0.01 * zooms[0]:
        raise BadDataError(f"{path}: a label map has isotropic voxels; resample it")
    labels = np.asarray(image.dataobj).round().astype(np.int16)
    if labels.min() < 0 or not np.isin([2, 3, 41, 42], labels).all():
        raise BadDataError(f"{path}: holds no FreeSurfer brain labels (2, 3, 41, 42)")
    if labels.max() < FIRST_OUTSIDE:
        raise BadDataError(
            f"{path}: holds no label of {FIRST_OUTSIDE} or more, as scalp and bone have them; give "
            "maps of whole heads, such as those that SynthSeg was trained on"
        )
    return Anatomy(labels, float(zooms[0]), path.name)


def brain_mask(anatomy: Anatomy) -> np.ndarray:
    """Return the mask that a brain extraction would: tissue, sulci and 1 mm around."""
    from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter

    labels, step = anatomy.labels, anatomy.spacing
    inside = _tissue(labels)
    if not inside.any():
        raise BadDataError("the anatomy holds no brain; choose another label map or seed")
    box = bounding_box(inside, margin=int(np.ceil((CLOSING + 2) / step)))
    part = np.pad(inside[box], 1)
    grown = distance_transform_edt(~part, sampling=step) <= CLOSING
    closed = distance_transform_edt(grown, sampling=step) > CLOSING - 1.0
    skull = ((labels[box] >= FIRST_OUTSIDE) | (labels[box] == 0)).astype(np.float32)
    closed &= np.pad(gaussian_filter(skull, 2.0 / step, truncate=2.0) < 0.5, 1)
    mask = np.zeros_like(inside)
    mask[box] = binary_fill_holes(largest_component(closed | part))[1:-1, 1:-1, 1:-1]
    return mask


def _tissue(labels: np.ndarray) -> np.ndarray:
    return (labels > 0) & (labels < FIRST_OUTSIDE) & (labels != FLUID_AROUND_BRAIN)


def rigid(rotations: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Return a 4 x 4 rotation by degrees about x, y, z in this order, then a shift in mm."""
    from scipy.spatial.transform import Rotation

    return from_matvec(Rotation.from_euler("xyz", rotations, degrees=True).as_matrix(), translation)


def vary(
    anatomy: Anatomy,
    rng: np.random.Generator,
    *,
    shape: Sequence[int] = (208, 256, 256),
    spacing: float = 1.0,
    strength: float = 1.0,
) -> tuple[Anatomy, np.ndarray]:
    """Return another person's head and brain mask: turned, scaled and smoothly deformed.

    The centre of the mask's bounding box lies in the middle of the grid, to the voxel.
    A strength of 0 keeps the head's shape and pose.
    """
    from scipy.ndimage import shift

    start = bounding_box(_tissue(anatomy.labels))
    middle = np.array([(s.start + s.stop - 1) / 2 for s in start])
    turn = rigid(strength * rng.normal(0, [4.0, 2.5, 3.0]), np.zeros(3))[:3, :3]
    turn = turn @ np.diag(np.exp(strength * rng.normal(0, 0.04, 3))) * (spacing / anatomy.spacing)
    size = 2.5 * strength / anatomy.spacing
    displacement = np.stack([smooth_field(rng, shape, spacing, 24.0) * size for _ in range(3)])
    matrix = from_matvec(turn, middle - turn @ ((np.array(shape) - 1) / 2))
    warped = resample(
        anatomy.labels, matrix, shape, displacement=displacement if strength else None, order=0
    )
    head = Anatomy(warped.astype(np.int16), spacing, anatomy.source)
    mask, middle = brain_mask(head), (np.array(shape) - 1) / 2
    centre = [(s.start + s.stop - 1) / 2 for s in bounding_box(mask)]
    # By whole voxels: no value is interpolated.
    labels, brain = (
        shift(array, np.round(middle - centre), order=0) for array in (head.labels, mask)
    )
    return Anatomy(labels, spacing, anatomy.source), brain


def make_subject(anatomy: Anatomy, mask: np.ndarray, rng: np.random.Generator) -> Subject:
    """Draw what a person has beside the shape of the head."""
    from scipy.ndimage import distance_transform_edt

    shape, step = anatomy.labels.shape, anatomy.spacing
    classes = physics.class_of_label(anatomy.labels)
    box = bounding_box(mask, margin=int(np.ceil(BONE / step)))
    near = distance_transform_edt(~mask[box], sampling=step) <= BONE
    classes[box][near & np.isin(classes[box], _OUTSIDE)] = NAMES.index("bone")
    texture = 0.7 * smooth_field(rng, shape, step, 8.0)
    texture += 0.7 * smooth_field(rng, shape, step, 2.0)
    strength = np.array([physics.TISSUES[name].texture for name in NAMES], dtype=np.float32)
    texture *= strength[classes]
    weight = vessels(rng, shape, step, max(0.9, 0.6 * step))
    weight *= anatomy.labels == FLUID_AROUND_BRAIN
    tone = np.minimum(np.exp(0.4 * smooth_field(rng, shape, step, 10.0)), 2.0)
    return Subject(anatomy, mask, classes, physics.draw_tissues(rng), texture, weight, tone)


def render(
    subject: Subject,
    values: np.ndarray,
    *,
    vessel: float,
    texture: float,
    blur: tuple[float, float, float],
) -> np.ndarray:
    """Return the float32 signal of a head, before receive field and noise.

    `values` holds the signal per class, `texture` the relative deviation inside tissue, `blur`
    standard deviations in mm. Blurring the painted labels equals painting with blurred tissue
    fractions, so borders get partial volume at the price of one filter.
    """
    from scipy.ndimage import gaussian_filter

    table = np.array(values, dtype=np.float32)
    table[NAMES.index("vessel")] = vessel
    signal = table[subject.classes]
    signal *= 1 + np.float32(texture) * subject.texture
    signal += subject.vessel_weight * (np.float32(vessel) * subject.vessel_tone - signal)
    sigma = np.array(blur) / subject.anatomy.spacing
    return gaussian_filter(np.maximum(signal, 0), sigma, truncate=3.0)


# A head from tissue maps.

EXTENT = (208.0, 256.0, 256.0)
MIDDLE = np.array([0.0, -15.0, -15.0])
"""MNI coordinates in mm of the grid's centre, and the grid's size in mm."""

STRETCH = 1.12
"""The template is larger than people: its brain measures 1.9 litres."""

_SOLIDS: dict[int, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    10: ((12, -19, 8), (9, 13, 9)),
    11: ((13, 10, 11), (7, 14, 11)),
    12: ((26, 2, 1), (7, 17, 10)),
    13: ((19, -4, -1), (5, 8, 6)),
    17: ((27, -22, -14), (8, 17, 7)),
    18: ((22, -4, -19), (8, 7, 7)),
}
"""Deep grey matter on the right: centre and half axes in mm."""
RIGHT_OF = {2: 41, 3: 42, 4: 43, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54}


@cache
def _maps(spacing: float) -> tuple[np.ndarray, ...]:
    """Return grey matter, white matter and brain on the head's grid, float32."""
    from nilearn import datasets

    maps = []
    for kind in ("gm_template", "wm_template", "brain_mask"):
        image = getattr(datasets, f"load_mni152_{kind}")(resolution=1)
        matrix = np.linalg.inv(image.affine) @ _to_mni(spacing)
        data = np.asarray(image.dataobj, dtype=np.float32)
        maps.append(resample(data, matrix, grid_shape(spacing)))
    return tuple(maps)


def grid_shape(spacing: float) -> list[int]:
    """Return the voxels of a head's grid with sides of so many mm."""
    return [int(np.ceil(mm / spacing)) for mm in EXTENT]


def _to_mni(spacing: float) -> np.ndarray:
    affine = centred(grid_shape(spacing), [spacing * STRETCH] * 3)
    affine[:3, 3] += MIDDLE
    return affine


def template_head(spacing: float, rng: np.random.Generator) -> Anatomy:
    """Return a head of the template's shape, with folds, skull and scalp of its own."""
    where = millimetres(grid_shape(spacing), _to_mni(spacing))
    labels = _brain(where, spacing, rng)
    _around(labels, where, spacing, rng)
    right = (where[0] > 0) & (labels < 500)
    table = np.arange(600, dtype=np.int16)
    table[list(RIGHT_OF)] = list(RIGHT_OF.values())
    labels[right] = table[labels[right]]
    return Anatomy(labels, spacing, "MNI152NLin2009aSym tissue maps of nilearn")


def _ellipsoid(where: Sequence[np.ndarray], centre: tuple, radii: tuple) -> np.ndarray:
    """Return the squared distance from a centre in units of the half axes."""
    return sum(((w - c) / r) ** 2 for w, c, r in zip(where, centre, radii, strict=True))  # type: ignore[return-value]


def _brain(where: list[np.ndarray], spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Label tissue; noise on the maps makes folds that the average has lost."""
    from scipy.ndimage import distance_transform_edt

    (x, y, z), (grey, white, brain) = where, _maps(spacing)
    fold = 0.16 * smooth_field(rng, grey.shape, spacing, 3.0)
    fluid = np.clip(1 - grey - white, 0, 1)
    labels = np.where(white + 0.5 * fold > grey, 2, 3).astype(np.int16)
    inside = brain > 0.5
    depth = distance_transform_edt(inside, sampling=spacing)
    wet = fluid + fold > 0.55 + 0.25 * (depth < 2.0)
    ventricle = wet & (depth > 22) & (np.abs(x) < 38)
    cerebellum = (z < -14) & (y < -38) & (z < -0.55 * (y + 95) + 2)
    labels[np.broadcast_to(cerebellum, labels.shape)] += 5
    for label, (centre, radii) in _SOLIDS.items():
        solid = _ellipsoid((abs(x), y, z), centre, radii) < 1
        labels[solid & ((labels == 3) | (label in (10, 13)))] = label
    labels[(np.abs(x) < 15) & (y > -44) & (y < -12) & (z < -8) & (depth > 2)] = 16
    labels[wet] = 24
    labels[ventricle] = 4
    labels[~inside] = 0
    return labels


def _around(
    labels: np.ndarray, where: list[np.ndarray], spacing: float, rng: np.random.Generator
) -> None:
    """Wrap a brain in fluid, skull, marrow and scalp, and add face, eyes and neck."""
    from scipy.ndimage import distance_transform_edt

    (x, y, z), free = where, labels == 0
    outside = distance_transform_edt(free, sampling=spacing)
    outside -= 0.8 * smooth_field(rng, labels.shape, spacing, 20.0)
    bone, fat = rng.uniform(5.0, 8.0), rng.uniform(4.5, 8.0)
    face = np.minimum(
        _ellipsoid(where, (0, 42, -58), (62, 58, 62)),
        ((x / 58) ** 2 + ((y + 28) / 66) ** 2) + 10 * (z > -50),
    )
    air = _ellipsoid(where, (0, 66, -48), (13, 26, 24)) < 1
    layers = (
        (511, (face < 1) | (outside < 3 + bone + fat)),
        (507, face < 0.82),
        (515, outside < 3 + bone),
        (516, (outside > 3 + 0.35 * bone) & (outside < 3 + 0.65 * bone)),
        (24, outside < 3.0),
        (506, _ellipsoid((abs(x), y, z), (32, 62, -38), (12, 12, 12)) < 1),
    )
    for label, region in layers:
        labels[free & region & ~air] = label
    spine = (x / 1.0) ** 2 + (y + 42 - 0.15 * (z + 60)) ** 2
    for label, radius in ((515, 17.0), (24, 9.0), (512, 5.5)):
        labels[free & (z < -58) & (spine < radius**2)] = label
