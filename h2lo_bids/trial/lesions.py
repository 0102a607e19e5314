"""Lesions, the healthy places that they are compared with, and what an image shows of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from h2lo_bids.imaging.resample import spacing_of

GAP, REACH = 1.0, 5.0
"""The ring lies between these distances from a lesion, in mm."""
_CLEAR = 2.0
"""Least distance in mm of a healthy place from any lesion."""
_TRIES = 60
_RINGED = 0.7
"""Share of the ring that must be healthy brain at a healthy place."""
_SPREAD = 1.5
"""Of the ring's standard deviations, by which a healthy place's mean may differ from it."""
_PURE = 0.05
LESION, MIRROR, MATCHED = "lesion", "mirror", "matched"


@dataclass(frozen=True)
class Place:
    """A lesion, or a healthy place of its size and shape.

    Parameters
    ----------
    number
        Of the lesion, from 1, the largest first.
    kind
        ``"lesion"``; ``"mirror"`` or ``"matched"`` for its healthy place.
    corner
        First voxel of the box that holds it and its ring, on the scan's grid.
    share
        float32, of each voxel of the box in [0, 1].
    ring
        float32, the healthy brain between `GAP` and `REACH` mm around it.
    centre
        World, mm.
    volume
        mm^3.
    """

    number: int
    kind: str
    corner: tuple[int, int, int]
    share: np.ndarray
    ring: np.ndarray
    centre: tuple[float, float, float]
    volume: float

    @property
    def diameter(self) -> float:
        """Of the ball of this volume, mm."""
        return float((6 * self.volume / np.pi) ** (1 / 3))

    @property
    def box(self) -> tuple[slice, ...]:
        """The box, as an index of the scan's arrays."""
        return tuple(slice(c, c + n) for c, n in zip(self.corner, self.share.shape, strict=True))


def find_lesions(
    mask: np.ndarray, brain: np.ndarray, affine: np.ndarray
) -> tuple[tuple[Place, ...], int]:
    """Find the connected lesions of a mask: voxels that share a face, an edge or a corner.

    Parameters
    ----------
    mask, brain
        (X, Y, Z), bool.
    affine
        (4, 4), voxel to mm.

    Returns
    -------
    lesions : tuple of Place
        Those with half their voxels or more in the brain, cut to it; the largest first.
    outside : int
        How many others there are.
    """
    from scipy.ndimage import distance_transform_edt, find_objects, label

    parts, count = label(mask, structure=np.ones((3, 3, 3)))
    spacing = spacing_of(affine)
    reach = np.ceil((REACH + 1) / spacing).astype(int)
    found, outside = [], 0
    for code, box in enumerate(find_objects(parts, count), start=1):
        low = np.maximum([s.start for s in box] - reach, 0)
        high = np.minimum([s.stop for s in box] + reach, mask.shape)
        around = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        whole = parts[around] == code
        own = whole & brain[around]
        if 2 * own.sum() < whole.sum():
            outside += 1
            continue
        far = distance_transform_edt(~own, sampling=spacing)
        near_any = distance_transform_edt(~mask[around], sampling=spacing) <= GAP
        ring = (far > GAP) & (far <= REACH) & brain[around] & ~near_any
        own_share, volume = own.astype(np.float32), float(own.sum() * np.prod(spacing))
        corner, centre = (int(low[0]), int(low[1]), int(low[2])), _centre(own, low, affine)
        found.append(Place(0, LESION, corner, own_share, ring.astype(np.float32), centre, volume))
    found.sort(key=lambda place: -place.volume)
    return tuple(replace(p, number=n) for n, p in enumerate(found, start=1)), outside


def _centre(
    inside: np.ndarray, corner: Sequence[int] | np.ndarray, affine: np.ndarray
) -> tuple[float, float, float]:
    """Return the world position of the middle of what is in a box."""
    x, y, z = affine[:3, :3] @ (np.argwhere(inside).mean(axis=0) + corner) + affine[:3, 3]
    return float(x), float(y), float(z)


def healthy_places(
    lesions: Sequence[Place],
    image: np.ndarray,
    mask: np.ndarray,
    brain: np.ndarray,
    affine: np.ndarray,
    *,
    seed: int = 0,
) -> dict[int, Place]:
    """Choose for each lesion a healthy place of its size and shape, in tissue like its ring's.

    The lesion's mirror image in the other hemisphere where that is healthy and of that
    tissue, else such a place at random. Whether it looks like a lesion is not asked.

    Parameters
    ----------
    lesions
        From `find_lesions`.
    image, mask, brain
        (X, Y, Z): the high-field image, all lesions, the brain.
    affine
        (4, 4), voxel to mm.
    seed
        Of the random places.

    Returns
    -------
    dict
        By the lesion's number; some may have none.
    """
    from scipy.ndimage import distance_transform_edt

    spacing = spacing_of(affine)
    healthy = brain & (distance_transform_edt(~mask, sampling=spacing) > _CLEAR)
    depth = distance_transform_edt(healthy, sampling=spacing)
    across = int(np.argmax(np.abs(affine[0, :3]) / spacing))
    middle = float(np.argwhere(brain.any(axis=tuple({0, 1, 2} - {across}))).mean())
    places: dict[int, Place] = {}
    for lesion in lesions:
        rng = np.random.default_rng([seed, lesion.number])
        weights = lesion.ring.sum()
        if not weights:
            continue
        values = image[lesion.box]
        level = float((values * lesion.ring).sum() / weights)
        spread = float(np.sqrt(((values - level) ** 2 * lesion.ring).sum() / weights))
        near = (level - _SPREAD * spread, level + _SPREAD * spread)
        corner = list(lesion.corner)
        corner[across] = round(2 * middle - (corner[across] + lesion.share.shape[across] - 1))
        turned = replace(
            lesion, share=np.flip(lesion.share, across), ring=np.flip(lesion.ring, across)
        )
        place = _fitted(turned, MIRROR, corner, image, healthy, near)
        if place is None:
            place = _matched(lesion, image, healthy, depth, near, rng, spacing)
        if place is not None:
            centre = _centre(place.share > 0, place.corner, affine)
            places[lesion.number] = replace(place, centre=centre)
    return places


def places_of(
    mask: np.ndarray, image: np.ndarray, brain: np.ndarray, affine: np.ndarray, *, seed: int
) -> tuple[list[Place], int]:
    """Return the lesions of a mask and a healthy place for each, and how many have none."""
    lesions, _ = find_lesions(mask, brain, affine)
    healthy = healthy_places(lesions, image, mask, brain, affine, seed=seed)
    return [*lesions, *healthy.values()], len(lesions) - len(healthy)


def _matched(
    lesion: Place,
    image: np.ndarray,
    healthy: np.ndarray,
    depth: np.ndarray,
    near: tuple[float, float],
    rng: np.random.Generator,
    spacing: np.ndarray,
) -> Place | None:
    """Try random places deep enough in healthy tissue of the wanted level."""
    least = min(lesion.diameter / 2, float(depth.max()) * 0.8)
    where = np.flatnonzero((depth >= least) & (image > near[0]) & (image < near[1]))
    if not len(where):
        return None
    middle = np.rint(np.argwhere(lesion.share > 0).mean(axis=0)).astype(int)
    for index in rng.choice(where, min(_TRIES, len(where)), replace=False):
        corner = np.array(np.unravel_index(index, image.shape)) - middle
        place = _fitted(lesion, MATCHED, corner.tolist(), image, healthy, near)
        if place is not None:
            return place
    return None


def _fitted(
    place: Place,
    kind: str,
    corner: Sequence[int],
    image: np.ndarray,
    healthy: np.ndarray,
    near: tuple[float, float],
) -> Place | None:
    """Move a place, if all of it and most of its ring are healthy and of the wanted level."""
    ends = [c + n for c, n in zip(corner, place.share.shape, strict=True)]
    if min(corner) < 0 or any(e > n for e, n in zip(ends, image.shape, strict=True)):
        return None
    moved = replace(place, kind=kind, corner=(corner[0], corner[1], corner[2]))
    fit, values = healthy[moved.box], image[moved.box]
    ring = moved.ring * fit
    if not fit[moved.share > 0].all() or ring.sum() < _RINGED * moved.ring.sum():
        return None
    mean = float((values * moved.share).sum() / moved.share.sum())
    return replace(moved, ring=ring) if near[0] <= mean <= near[1] else None


@dataclass(frozen=True)
class Shown:
    """A place on an output's grid: linear weights of its voxels.

    Parameters
    ----------
    box
        Index of the output's arrays.
    share
        float32, how much of each voxel the place fills.
    inside, around
        Weights of the mean over the place and of that over the ring; each sums to 1.
    """

    box: tuple[slice, ...]
    share: np.ndarray
    inside: np.ndarray
    around: np.ndarray


def shown(place: Place, lines: Sequence[np.ndarray] | None, brain: np.ndarray) -> Shown | None:
    """Carry a place to an output's grid by partial volume.

    Parameters
    ----------
    place
        On the scan's grid.
    lines
        From `h2lo_bids.trial.labels.response_lines`; None for the scan's own grid.
    brain
        Bool, on the output's grid.

    Returns
    -------
    Shown or None
        None where no voxel of the brain there holds the place, or none its ring.
    """
    share, ring, corner = place.share, place.ring, list(place.corner)
    for axis, weights in enumerate(lines or ()):
        part = weights[:, corner[axis] : corner[axis] + share.shape[axis]]
        rows = np.flatnonzero(part.any(axis=1))
        if not len(rows):
            return None
        part = part[rows[0] : rows[-1] + 1].astype(np.float32)
        share, ring = (
            np.moveaxis(np.tensordot(part, array, (1, axis)), 0, axis) for array in (share, ring)
        )
        corner[axis] = int(rows[0])
    box = tuple(slice(c, c + n) for c, n in zip(corner, share.shape, strict=True))
    inside = share * brain[box]
    around = ring * brain[box] * (share < _PURE)
    if not around.any():
        around = ring * brain[box]
    if not inside.sum() > 0 or not around.sum() > 0:
        return None
    return Shown(box, share, inside / inside.sum(), around / around.sum())


@dataclass(frozen=True)
class Measure:
    """Of a place in an image: mean, standard deviation, contrast to the ring, CNR."""

    mean: float
    deviation: float
    contrast: float
    cnr: float


def measure(image: np.ndarray, place: Shown, noise: float) -> Measure:
    """Measure a place in an image.

    Parameters
    ----------
    image
        (X, Y, Z), any units.
    place
        On its grid.
    noise
        Standard deviation of the image's noise, same units; the CNR is NaN where it is 0.

    Returns
    -------
    Measure
        Contrast is the difference of the means over the ring's.
    """
    values = image[place.box]
    mean = float((values * place.inside).sum())
    ring = float((values * place.around).sum())
    spread = float(np.sqrt(max(((values - mean) ** 2 * place.inside).sum(), 0)))
    difference = mean - ring
    return Measure(
        mean, spread, difference / ring if ring else np.nan, difference / noise if noise else np.nan
    )


def crop_of(image: np.ndarray, seen: Shown) -> np.ndarray:
    """Return the axial slice through the middle of a place, in bytes: 1 is white."""
    middle = int(np.argmax(seen.share.sum(axis=(0, 1))))
    plane = image[seen.box][:, :, middle]
    return np.rint(255 * np.clip(plane, 0, 1)).astype(np.uint8)


def whole_region(
    share: np.ndarray, brain: np.ndarray, lesions: Sequence[Place], affine: np.ndarray
) -> Place:
    """Return a region as one place with number 0; its ring is that of its parts, or the rest."""
    ring = np.zeros(share.shape, dtype=np.float32)
    for lesion in lesions:
        np.maximum(ring[lesion.box], lesion.ring, out=ring[lesion.box])
    ring[share > 0] = 0
    own = share * brain
    at = np.argwhere(own > 0).mean(axis=0) if own.any() else np.zeros(3)
    x, y, z = affine[:3, :3] @ at + affine[:3, 3]
    volume = float(own.sum() * np.prod(spacing_of(affine)))
    return Place(0, LESION, (0, 0, 0), own, ring, (float(x), float(y), float(z)), volume)
