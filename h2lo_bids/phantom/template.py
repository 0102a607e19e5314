"""A whole head from the tissue maps that nilearn ships, for want of label maps.

The maps are those of a brain-only template (MNI152NLin2009a, symmetric). What
lies around the brain is drawn from simple solids, so that a brain extraction
has something to do; it makes no claim to be anatomy.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from h2lo_bids.phantom.acquisition import centred, millimetres, resample
from h2lo_bids.phantom.anatomy import Anatomy, smooth_field

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
def _maps(spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return grey matter, white matter and brain on the head's grid, float32."""
    from nilearn import datasets

    maps = []
    for load in (
        datasets.load_mni152_gm_template,
        datasets.load_mni152_wm_template,
        datasets.load_mni152_brain_mask,
    ):
        image = load(resolution=1)
        matrix = np.linalg.inv(image.affine) @ _to_mni(spacing)
        data = np.asarray(image.dataobj, dtype=np.float32)
        maps.append(resample(data, matrix, grid_shape(spacing)))
    return maps[0], maps[1], maps[2]


def grid_shape(spacing: float) -> list[int]:
    """Return the voxels of a head's grid with sides of so many mm."""
    return [int(np.ceil(mm / spacing)) for mm in EXTENT]


def _to_mni(spacing: float) -> np.ndarray:
    affine = centred(grid_shape(spacing), [spacing * STRETCH] * 3)
    affine[:3, 3] += MIDDLE
    return affine


def template_head(spacing: float, rng: np.random.Generator) -> Anatomy:
    """Return a head of the template's shape, with folds, skull and scalp of its own."""
    grey, white, brain = _maps(spacing)
    affine = _to_mni(spacing)
    x, y, z = millimetres(grid_shape(spacing), affine)
    labels = _brain(grey, white, brain, (x, y, z), spacing, rng)
    _around(labels, brain > 0.5, (x, y, z), spacing, rng)
    right = (x > 0) & (labels < 500)
    table = np.arange(600, dtype=np.int16)
    table[list(RIGHT_OF)] = list(RIGHT_OF.values())
    labels[right] = table[labels[right]]
    return Anatomy(labels, spacing, "MNI152NLin2009aSym tissue maps of nilearn")


def _ellipsoid(where: tuple, centre: tuple, radii: tuple) -> np.ndarray:
    """Return the squared distance from a centre in units of the half axes."""
    return sum(((w - c) / r) ** 2 for w, c, r in zip(where, centre, radii, strict=True))  # type: ignore[return-value]


def _brain(
    grey: np.ndarray,
    white: np.ndarray,
    brain: np.ndarray,
    where: tuple,
    spacing: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Label tissue; noise on the maps makes folds that the average has lost."""
    from scipy.ndimage import distance_transform_edt

    x, y, z = where
    shape = grey.shape
    fold = 0.16 * smooth_field(rng, shape, spacing, 3.0)
    fluid = np.clip(1 - grey - white, 0, 1)
    labels = np.where(white + 0.5 * fold > grey, 2, 3).astype(np.int16)
    inside = brain > 0.5
    depth = distance_transform_edt(inside, sampling=spacing)
    wet = fluid + fold > 0.55 + 0.25 * (depth < 2.0)
    ventricle = wet & (depth > 22) & (np.abs(x) < 38)
    cerebellum = (z < -14) & (y < -38) & (z < -0.55 * (y + 95) + 2)
    labels[np.broadcast_to(cerebellum, shape)] += 5
    deep = (abs(x), y, z)
    for label, (centre, radii) in _SOLIDS.items():
        labels[(_ellipsoid(deep, centre, radii) < 1) & ((labels == 3) | (label in (10, 13)))] = (
            label
        )
    labels[(np.abs(x) < 15) & (y > -44) & (y < -12) & (z < -8) & (depth > 2)] = 16
    labels[wet] = 24
    labels[ventricle] = 4
    labels[~inside] = 0
    return labels


def _around(
    labels: np.ndarray,
    inside: np.ndarray,
    where: tuple,
    spacing: float,
    rng: np.random.Generator,
) -> None:
    """Wrap a brain in fluid, skull, marrow and scalp, and add face, eyes and neck."""
    from scipy.ndimage import distance_transform_edt

    x, y, z = where
    outside = distance_transform_edt(~inside, sampling=spacing)
    outside -= 0.8 * smooth_field(rng, labels.shape, spacing, 20.0)
    bone, fat = rng.uniform(5.0, 8.0), rng.uniform(4.5, 8.0)
    face = np.minimum(
        _ellipsoid(where, (0, 42, -58), (62, 58, 62)),
        ((x / 58) ** 2 + ((y + 28) / 66) ** 2) + 10 * (z > -50),
    )
    air = _ellipsoid(where, (0, 66, -48), (13, 26, 24)) < 1
    free = ~inside
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
