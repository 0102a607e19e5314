"""Lesions, the healthy places that they are compared with, and what an image shows of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from h2lo_bids.evaluation.realism import TISSUES, tissue_levels
from h2lo_bids.imaging.resample import spacing_of, weigh_by_axis
from h2lo_bids.imaging.voxels import VoxelResponse, slice_axis, slice_profile

GAP, REACH = 1.0, 5.0
"""The ring lies between these distances from a lesion, in mm."""
MERGE = 2.0
"""Parts of a mask whose surfaces are no further apart, in mm, are one lesion."""
PLACES = 3
"""Healthy places of a lesion, at most."""
LESION, MIRROR, MATCHED = "lesion", "mirror", "matched"
_CLEAR = 2.0
"""Least distance in mm of a healthy place from any lesion."""
_TRIES = 400
_RING_SHARE = 0.15
_PURE = 0.05
_HOST = 0.8
"""Share of a healthy place that is of the tissue in which the lesion lies."""
# How far a healthy place may differ from its lesion: in the tissue around it (share of the
# voxels), in depth (mm from fluid), and in the level of its ring (relative).
_TISSUE, _DEPTH, _LEVEL = 0.25, 3.0, 0.1
_DENSE = 16
"""Points across a voxel at which a slice profile is integrated."""
_CODES = {"WhiteMatter": 1, "GreyMatter": 2, "CerebrospinalFluid": 3}


@dataclass(frozen=True)
class Anatomy:
    """A high-field image with its brain and lesion masks, (X, Y, Z)."""

    image: np.ndarray  # any units
    brain: np.ndarray  # bool
    mask: np.ndarray  # bool
    affine: np.ndarray  # (4, 4), voxel to mm
    contrast: str  # "T1w" or "T2w": says which tissue is bright
    others: np.ndarray | None = None  # bool: lesions of other masks, which are no healthy tissue

    @cached_property
    def ill(self) -> np.ndarray:
        """Every lesion."""
        return self.mask if self.others is None else self.mask | self.others

    @cached_property
    def tissue(self) -> np.ndarray:
        """Nearest of three levels of healthy brain: 1 white, 2 grey, 3 fluid; 0 outside."""
        healthy = self.brain & ~self.ill
        levels = tissue_levels(self.image, healthy if healthy.any() else self.brain)
        codes = np.array([_CODES[name] for name in TISSUES[self.contrast]], np.int8)
        borders = np.add(levels[1:], levels[:-1]) / 2
        return np.where(self.brain, codes[np.searchsorted(borders, self.image)], 0)

    @cached_property
    def from_lesions(self) -> np.ndarray:
        """Distance in mm from any lesion."""
        return _distance(~self.ill, self.affine)

    @cached_property
    def depth(self) -> np.ndarray:
        """Distance in mm from fluid, of ventricles or sulci, or from outside."""
        return _distance((self.tissue > 0) & (self.tissue < 3), self.affine)

    @cached_property
    def reflection(self) -> np.ndarray:
        """(4, 4), mm: across the plane about which the brain is most like its mirror image."""
        from scipy.ndimage import map_coordinates
        from scipy.optimize import minimize

        step = np.maximum(np.rint(4 / spacing_of(self.affine)), 1).astype(int)
        index = np.argwhere(self.brain[tuple(slice(None, None, int(s)) for s in step)]) * step
        points = index @ self.affine[:3, :3].T + self.affine[:3, 3]
        image, back = np.where(self.brain, self.image, 0.0), np.linalg.inv(self.affine)

        def across(given: np.ndarray) -> np.ndarray:
            normal = np.array([1.0, *0.1 * given[1:]])
            normal /= np.linalg.norm(normal)
            matrix = np.eye(4)
            matrix[:3, :3] -= 2 * np.outer(normal, normal)
            matrix[:3, 3] = 2 * (points.mean(axis=0) @ normal + 4 * given[0]) * normal
            return matrix

        def unlike(given: np.ndarray) -> float:
            moved = (back @ across(given))[:3]
            reflected = map_coordinates(image, moved[:, :3] @ points.T + moved[:, 3:], order=1)
            return float(np.square(reflected - image[tuple(index.T)]).sum())

        start = np.vstack([np.zeros(3), np.eye(3)])
        options = {"initial_simplex": start, "xatol": 0.02, "maxiter": 150}
        return across(minimize(unlike, start[0], method="Nelder-Mead", options=options).x)


def _distance(inside: np.ndarray, affine: np.ndarray) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    if inside.all():
        return np.full(inside.shape, np.inf, np.float32)
    return np.asarray(distance_transform_edt(inside, sampling=spacing_of(affine)), np.float32)


@dataclass(frozen=True)
class Place:
    """A lesion, or a healthy place of its size and shape; arrays are float32, of its box."""

    number: int  # of the lesion, from 1, the largest first
    kind: str  # "lesion"; "mirror" or "matched" for its healthy places
    corner: tuple[int, int, int]  # of the box with all within `REACH` mm, on the scan's grid
    share: np.ndarray  # of each voxel, in [0, 1]
    far: np.ndarray  # distance of each voxel from the place, mm
    # The healthy white matter between `GAP` and `REACH` mm around it; with grey matter, or all
    # brain, where there is hardly any.
    ring: np.ndarray
    centre: tuple[float, float, float]  # world, mm
    volume: float  # mm^3
    length: float = np.nan  # longest extent in any direction, mm
    rank: int = 0  # 0 for the lesion, from 1 for its healthy places

    @property
    def diameter(self) -> float:
        """Of the ball of this volume, mm."""
        return float((6 * self.volume / np.pi) ** (1 / 3))

    @property
    def box(self) -> tuple[slice, ...]:
        """The box, as an index of the scan's arrays."""
        return tuple(slice(c, c + n) for c, n in zip(self.corner, self.share.shape, strict=True))

    def at(self, corner: Sequence[int], kind: str, head: Anatomy) -> Place:
        """Return the same shape elsewhere in a head."""
        moved = replace(self, kind=kind, corner=(int(corner[0]), int(corner[1]), int(corner[2])))
        index = np.argwhere(self.share > 0).mean(axis=0) + moved.corner
        x, y, z = (head.affine[:3, :3] @ index + head.affine[:3, 3]).tolist()
        return replace(moved, ring=_ring(moved, head), centre=(x, y, z))


def _ring(place: Place, head: Anatomy) -> np.ndarray:
    tissue = head.tissue[place.box]
    ring = (place.far > GAP) & (place.far <= REACH) & (head.from_lesions[place.box] > GAP)
    choices = [ring & (tissue > 0) & (tissue <= last) for last in (1, 2, 3)]
    enough = (chosen for chosen in choices if 0 < chosen.sum() >= _RING_SHARE * ring.sum())
    return next(enough, choices[-1]).astype(np.float32)


def find_lesions(head: Anatomy) -> tuple[tuple[Place, ...], int]:
    """Find the lesions of a mask as a reader counts them, and how many lie outside the brain."""
    from scipy.ndimage import binary_closing, find_objects, label

    spacing = spacing_of(head.affine)
    near = _distance(~head.mask, head.affine) <= MERGE / 2
    # The centre of a voxel in a gap may lie further away although its sides do not.
    for axis, gap in enumerate((MERGE / spacing + 1e-3).astype(int)):
        near |= binary_closing(head.mask, np.ones(np.where(np.arange(3) == axis, gap + 1, 1)))
    joined, count = label(near, structure=np.ones((3, 3, 3)))
    parts = joined * head.mask
    reach = np.ceil((REACH + 1) / spacing).astype(int)
    directions = np.random.default_rng(0).normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    places, outside = [], 0
    for code, box in enumerate(find_objects(parts, count), start=1):
        low = np.maximum([s.start for s in box] - reach, 0)
        high = np.minimum([s.stop for s in box] + reach, head.mask.shape)
        around = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        whole = parts[around] == code
        inside = whole & head.brain[around]
        if 2 * inside.sum() < whole.sum():
            outside += 1
            continue
        extent = np.ptp(np.argwhere(inside) @ head.affine[:3, :3].T @ directions.T, axis=0).max()
        volume, far = float(inside.sum() * np.prod(spacing)), _distance(~inside, head.affine)
        place = Place(
            0, LESION, (0, 0, 0), inside.astype(np.float32), far, inside, (0, 0, 0), volume,
            float(extent + spacing.min()),
        )  # fmt: skip
        places.append(place.at(low.tolist(), LESION, head))
    places.sort(key=lambda place: -place.volume)
    return tuple(replace(p, number=n) for n, p in enumerate(places, start=1)), outside


def _alike(place: Place, lesion: Place, head: Anatomy) -> bool:
    """Whether a healthy place may stand for what would be there without the lesion."""

    def shares(of: Place, least: float, most: float) -> np.ndarray:
        """Return the share of each tissue, by `_CODES`, at these distances from a place."""
        near = (of.far > least) & (of.far <= most) & (head.from_lesions[of.box] > 0)
        counts = np.bincount(head.tissue[of.box][near], minlength=4)
        return counts / max(counts.sum(), 1)

    def level(of: Place) -> float:
        return float((head.image[of.box] * of.ring).sum() / max(of.ring.sum(), 1))

    # The lesion lies in what is around its rim, which looks like other tissue as itself does.
    host = int(np.argmax(shares(lesion, GAP, GAP + 2)[1:3])) + 1
    inside = (head.tissue[place.box][place.share > 0] == host).mean()
    apart = np.abs(shares(place, 0, REACH) - shares(lesion, 0, REACH)).sum() / 2
    gap = abs(level(place) - level(lesion))
    return bool(inside >= _HOST and apart <= _TISSUE and gap <= _LEVEL * abs(level(lesion)))


def healthy_places(lesions: Sequence[Place], head: Anatomy, *, seed: int = 0) -> Iterator[Place]:
    """Choose for each lesion up to `PLACES` healthy places of its size, shape and setting."""
    # First its mirror image across the midsagittal plane, then places as deep in the brain.
    healthy = head.brain & (head.from_lesions > _CLEAR)
    across = int(np.argmax(np.abs(head.affine[0, :3]) / spacing_of(head.affine)))
    where = np.argwhere(healthy & (head.tissue < 3))
    depths, back = head.depth[tuple(where.T)], np.linalg.inv(head.affine)
    for lesion in lesions:
        rng = np.random.default_rng([seed, lesion.number])
        share, far = (np.flip(array, across) for array in (lesion.share, lesion.far))
        turned = replace(lesion, share=share, far=far)
        opposite = (back @ head.reflection @ [*lesion.centre, 1.0])[:3]
        middle = np.rint(np.argwhere(lesion.share > 0).mean(axis=0)).astype(int)
        # The lesion may be taken for fluid; what is beside it is not.
        depth = max(float(head.depth[tuple(middle + lesion.corner)]), lesion.diameter / 2)
        near = where[np.abs(depths - depth) <= _DEPTH]
        tries = [(MATCHED, lesion, at) for at in rng.permutation(near)[:_TRIES] - middle]
        corner = np.rint(opposite - np.argwhere(turned.share > 0).mean(axis=0)).astype(int)
        chosen: list[Place] = []
        for kind, shape, at in ((MIRROR, turned, corner), *tries):
            inside = (at >= 0).all() and (at + shape.share.shape <= head.brain.shape).all()
            if not inside or not healthy[tuple((np.argwhere(shape.share > 0) + at).T)].all():
                continue
            place = shape.at(at, kind, head)
            gaps = [np.linalg.norm(np.subtract(place.centre, p.centre)) for p in chosen]
            if min(gaps, default=np.inf) > lesion.diameter and _alike(place, lesion, head):
                chosen.append(replace(place, rank=len(chosen) + 1))
            if len(chosen) == PLACES:
                break
        yield from chosen


class Shown(NamedTuple):
    """A place on an output's grid."""

    box: tuple[slice, ...]  # index of the output's arrays
    share: np.ndarray  # float32, how much of each voxel the place fills
    # Weights of the mean over the place and of that over the ring; each sums to 1.
    inside: np.ndarray
    around: np.ndarray
    # float32, how much of each voxel of brain is place or ring, in [0, 1]; the rest is fluid, other
    # lesions, or no brain.
    held: np.ndarray


def response_lines(
    shape: Sequence[int],
    affine: np.ndarray,
    new_shape: Sequence[int],
    new_affine: np.ndarray,
    response: VoxelResponse,
) -> list[np.ndarray]:
    """Return for each axis what each voxel of a grid along it averages of the old: (new, old)."""
    # Rows sum to 1 where the old grid covers the voxel. In the plane the voxel's length counts.
    step = np.linalg.inv(affine) @ new_affine
    if tuple(shape) == tuple(new_shape) and np.allclose(step, np.eye(4), atol=1e-4):
        return []
    old, new = spacing_of(affine), spacing_of(new_affine)
    slices = slice_axis(new.tolist())
    lines = []
    for axis in range(3):
        centres = step[axis, axis] * np.arange(new_shape[axis]) + step[axis, 3]
        kind = response.profile if axis == slices else "box"
        thick = (axis == slices and response.thickness) or new[axis]
        # Far enough beyond the old grid that the whole profile is counted.
        pad = int(np.ceil(3 * thick / old[axis])) + 1
        at = np.arange(-pad, shape[axis] + pad)
        offsets = (np.arange(_DENSE) + 0.5) / _DENSE - 0.5
        where = (at[None, :, None] + offsets - centres[:, None, None]) * old[axis]
        weights = slice_profile(kind, where, thick).mean(axis=2)
        lines.append((weights / weights.sum(axis=1, keepdims=True))[:, pad:-pad])
    return lines


def shown(place: Place, lines: Sequence[np.ndarray], brain: np.ndarray) -> Shown | None:
    """Carry a place to an output's grid by partial volume; None where no brain there holds it."""
    box, parts = list(place.box), []
    for axis, weights in enumerate(lines):
        part = weights[:, box[axis]]
        rows = np.flatnonzero(part.any(axis=1))
        if not len(rows):
            return None
        box[axis] = slice(int(rows[0]), int(rows[-1]) + 1)
        parts.append(part[box[axis]].astype(np.float32))
    share, ring = weigh_by_axis(place.share, parts), weigh_by_axis(place.ring, parts)
    brain = brain[tuple(box)]
    inside = share * brain
    # Squares: voxels that hold other tissue, too, count less.
    around = ring**2 * brain * (share < _PURE)
    if not around.any():
        around = ring * brain
    if not inside.sum() > 0 or not around.sum() > 0:
        return None
    held = np.clip(share + ring, 0, 1) * brain
    return Shown(tuple(box), share, inside / inside.sum(), around / around.sum(), held)


class Measure(NamedTuple):
    """Of a place in an image: mean and SD, difference to the ring over the ring, and over noise."""

    mean: float
    sd: float
    contrast: float
    cnr: float


def measure(image: np.ndarray, place: Shown, noise: float) -> Measure:
    """Measure a place in an image, (X, Y, Z), whose noise has this standard deviation."""
    values = image[place.box]
    mean = float((values * place.inside).sum())
    ring = float((values * place.around).sum())
    spread = float(np.sqrt(max(((values - mean) ** 2 * place.inside).sum(), 0)))
    gap = mean - ring
    return Measure(mean, spread, gap / ring if ring else np.nan, gap / noise if noise else np.nan)


def whole_region(share: np.ndarray, lesions: Sequence[Place], head: Anatomy) -> Place:
    """Return a region as one place with number 0, whose ring is that of its parts."""
    ring = np.zeros(share.shape, dtype=np.float32)
    for lesion in lesions:
        np.maximum(ring[lesion.box], lesion.ring, out=ring[lesion.box])
    inside = share * head.brain
    at = np.argwhere(inside > 0).mean(axis=0) if inside.any() else np.zeros(3)
    x, y, z = (head.affine[:3, :3] @ at + head.affine[:3, 3]).tolist()
    volume = float(inside.sum() * np.prod(spacing_of(head.affine)))
    return Place(
        0, LESION, (0, 0, 0), inside, ring, np.where(share > 0, 0, ring), (x, y, z), volume
    )
