"""Noticing a head that does not lie as its header says.

A converter or an export may keep the voxels and lose their directions: the head then
stands upside down, or has two axes swapped. The brain itself tells. Its shape and
tissues, on cells of 8 mm, are compared with those of a template brain in the header's
orientation and in the 23 others that a turn about the axes leads to. Left and right
look alike at this scale, so that a mirrored head cannot be told from a sound one.
"""

from __future__ import annotations

import itertools
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec

from h2lo_bids.imaging.masks import cut_share
from h2lo_bids.imaging.resample import FWHM_PER_SIGMA, block_means, spacing_of

CELL_MM = 8.0
"""Side of a cell. What persons differ in is finer, what directions differ in is not."""
CELLS = 27
"""Along each side of a cube around the brain: 216 mm."""
TYPICAL_MM3 = 1.3e6
"""Volume of a brain, to which every brain is scaled."""
PITCHES_DEG = (-24.0, -12.0, 0.0, 12.0, 24.0)
"""Nods of the head that are no fault; the best one counts."""
MIN_FIT = 0.86
"""Share of the variance explained below which a brain may have been found badly."""
MIN_LEAD = {True: -0.02, False: 0.002}
"""By how much the header's orientation must fit better than any other; by whether one fits well.

Of 38 sound scans (real ones at 3 T, 9, and at 64 mT, 3; T1w and T2w; with the brains that
extraction finds) the least lead was 0.042. Turned in six ways under the same header it was at
most -0.054 with the same brain. With the brain that extraction finds in the turned head it was
below 0 in all of 88, and above -0.02 only where no orientation fits well. Phantoms of the
calibrated site with a strong receive field have led by 0.01 in T2w, and fitted badly.
"""
MAX_CUT = 0.25
"""Share of the face of the brain's box at a border of the image, beyond which part is missing."""

Turn = tuple[tuple[int, ...], tuple[int, ...]]
"""Along which world axis the head's right, anterior and superior lie, and with which sign."""

_TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_FINE_MM = 3.0
_TURNS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
    if np.linalg.det(np.eye(3)[list(order)]) * np.prod(signs) > 0
]


def orientation_note(image: Any, mask: Any, name: str) -> str | None:
    """Warn in one line if a header's orientation does not fit the brain that the image shows."""
    inside = np.asarray(mask.dataobj) > 0
    if not inside.any() or cut_share(inside) > MAX_CUT:
        return None
    fits = orientation_fits(image, mask)
    if not fits:
        return None
    own = fits.pop(_TURNS[0])
    best = max(fits, key=fits.__getitem__)
    clear = max(own, fits[best]) >= MIN_FIT
    if own - fits[best] > MIN_LEAD[clear]:
        return None
    to_head = from_matvec(np.eye(3)[list(best[0])] * np.transpose([best[1]]))
    codes, lies = (
        "".join(nib.orientations.aff2axcodes(affine))
        for affine in (image.affine, to_head @ image.affine)
    )
    rather = f"which lies as in {lies}" if clear else "or its brain was found badly"
    return (
        f"{name}: its header's orientation ({codes}) does not fit the head, {rather} (fit "
        f"{own:.2f}, of another {fits[best]:.2f}); left and right cannot be told from the image: "
        "look at it, and convert it again or restore its header"
    )


def orientation_fits(image: Any, mask: Any) -> dict[Turn, float]:
    """Return how well a brain fits the template's in each of 24 orientations; {} if tiny."""
    coarse = _coarse(image, mask)
    if not np.any(coarse[0] > 0.5):
        return {}
    brain = _cube(*coarse)[1]
    turned = [
        np.transpose(brain, order)[tuple(slice(None, None, sign) for sign in signs)].ravel()
        for order, signs in _TURNS
    ]
    energy = float(brain.ravel() @ brain.ravel())
    explained = (_reference() @ np.stack(turned, axis=1)) ** 2
    best = explained.reshape(len(PITCHES_DEG), -1, len(_TURNS)).sum(axis=1).max(axis=0)
    return dict(zip(_TURNS, (best / max(energy, 1e-12)).tolist(), strict=True))


@cache
def _reference() -> np.ndarray:
    """Return an orthonormal basis of the template's shape and intensity, for each pitch."""
    # Not by nilearn's loader, whose import takes longer than all that is done here.
    nilearn = Path(cast(Any, find_spec("nilearn")).origin).parent
    template: Any = nib.load(nilearn / _TEMPLATE)  # type: ignore[attr-defined]
    coarse, parts = _coarse(template, template), []
    for angle in np.radians(PITCHES_DEG):
        cubes = _cube(*coarse, nib.quaternions.angle_axis2mat(angle, [1, 0, 0]))
        parts.append(np.linalg.qr(np.reshape(cubes, (2, -1)).T)[0].T)
    return np.concatenate(parts)


def _coarse(image: Any, mask: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average blocks of voxels to some millimetres: of the brain's shape, and of its intensity."""
    inside = np.asarray(mask.dataobj) > 0
    brain = np.where(inside, np.asarray(image.dataobj, dtype=np.float32), 0)
    step = np.maximum(1, _FINE_MM // spacing_of(image.affine)).astype(int)
    shape, brain = (block_means(part, step) for part in (inside.astype(np.float32), brain))
    seen = brain[shape > 0.5] / shape[shape > 0.5]
    low, high = np.percentile(seen, (1, 99)) if seen.size else (0, 0)
    brain = np.clip(brain, low * shape, high * shape)
    return shape, brain, image.affine @ from_matvec(np.diag(step), (step - 1) / 2)


def _cube(
    shape: np.ndarray, brain: np.ndarray, affine: np.ndarray, turn: np.ndarray | None = None
) -> list[np.ndarray]:
    """Put a brain's shape and intensity on the cube about its centre, at one size for all."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    at, spacing = np.argwhere(shape > 0.5), spacing_of(affine)
    cell = CELL_MM * np.cbrt(len(at) * abs(np.linalg.det(affine[:3, :3])) / TYPICAL_MM3)
    sigma = np.sqrt(np.clip(cell**2 - spacing**2, 0, None)) / FWHM_PER_SIGMA / spacing
    ends = (np.arange(CELLS) - CELLS // 2) * cell
    points = np.stack(np.meshgrid(ends, ends, ends, indexing="ij")).reshape(3, -1)
    points = (np.eye(3) if turn is None else turn) @ points
    voxels = apply_affine(np.linalg.inv(affine), points.T + apply_affine(affine, at.mean(0))).T
    smooth = (gaussian_filter(part, sigma, mode="constant") for part in (shape, brain))
    return [map_coordinates(part, voxels, order=1).reshape((CELLS,) * 3) for part in smooth]
