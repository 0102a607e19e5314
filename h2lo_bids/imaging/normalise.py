"""Intensities as the models expect them.

``"max"`` divides a brain by its largest value, as the paper and the authors' checkpoints do:
one bright voxel then decides the whole image. ``"robust"``, for the models fitted here,
brings two tissues to stated levels. Both are found from medians over blocks of about 2 mm,
of which no few voxels decide a quantile, and as the map is affine, an image's gain and offset
(MP2RAGE UNI, z-scores) do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.imaging.resample import conform, resample_mask, spacing_of
from h2lo_bids.vocabulary import SCALINGS

BLOCK_MM = 2.0
WHITE_QUANTILE = {"T1w": 0.75, "T2w": 0.30}
"""Of the flat blocks' medians: both lie in the middle of white matter in 11 real heads."""
FLUID_QUANTILE = {"T1w": 0.01, "T2w": 0.99}
"""Of all blocks' medians: a brain mask holds a few per cent of pure fluid."""
FLAT_SHARE = 0.4
"""Share of the blocks, those of least spread, that count as flat: mostly white matter."""
LEVELS = {"T1w": (0.15, 0.75), "T2w": (0.80, 0.25)}
"""Levels of fluid and white matter in a scaled image."""
STRONG_FIELD = 1.2
"""Ratio of a receive field over the brain from which it is taken away; after prescan
normalisation real heads measured 1.09 to 1.18, without it 1.19 to 1.30."""
NEGATIVE_SHARE = 0.01
"""From this share of negative voxels on, an image has an offset, and no receive field."""
_FEWEST = 4
"""Voxels of a block, below which blocks are two voxels a side."""
_FIELD_BLOCK_MM = 5.0
_FIELD_REACH_MM = 6.0
_FIELD_KNOTS_MM = 150.0


@dataclass(frozen=True)
class Scaled:
    """A brain on the scale of a model."""

    volume: np.ndarray  # float32 in [0, 1], exactly 0 outside the mask
    # How much brighter tissue is at one end of the brain than at the other, at least 1; None
    # where it was not measured.
    field_ratio: float | None = None
    field_corrected: bool = False  # whether N4 took that away
    negative: float = 0.0  # share of the brain's voxels that are negative


@dataclass(frozen=True)
class Blocks:
    """The N blocks that lie inside the brain as a whole."""

    median: np.ndarray  # (N,)
    spread: np.ndarray  # (N,), the interquartile range
    index: np.ndarray  # (N, 3), among the blocks of the brain's box
    sides: np.ndarray  # (3,), mm


def max_normalise(data: np.ndarray, mask: np.ndarray, *, name: str = "the image") -> np.ndarray:
    """Divide a brain by its largest value, as the paper does.

    Parameters
    ----------
    data
        Intensities, any real type.
    mask
        True in the brain, same shape.
    name
        What to call the image in an error.

    Returns
    -------
    numpy.ndarray
        float32 in [0, 1], exactly 0 outside the mask; negative values become 0.

    Raises
    ------
    BadDataError
        If the mask is empty or the brain has no positive value.
    """
    inside = _checked(mask, name)
    top = float(np.max(data[inside]))
    if not (np.isfinite(top) and top > 0):
        raise BadDataError(f"{name}: no positive value in its brain mask; check the mask")
    return _affine(data, inside, 0.0, 1.0 / top)


def scale_brain(
    data: np.ndarray,
    mask: np.ndarray,
    spacing: Sequence[float],
    *,
    contrast: str,
    scaling: str = "robust",
    name: str = "the image",
) -> Scaled:
    """Bring a brain to the scale of a model.

    Parameters
    ----------
    data
        Intensities (X, Y, Z), any real type, gain and offset.
    mask
        True in the brain, same shape.
    spacing
        Voxel size in mm along each axis.
    contrast
        ``"T1w"`` or ``"T2w"``.
    scaling
        ``"robust"``: fluid and white matter go to `LEVELS`, after N4 (Tustison 2010) where
        the receive field is strong. ``"max"``: see `max_normalise`.
    name
        What to call the image in an error.

    Returns
    -------
    Scaled
        With values beyond [0, 1] cut.

    Raises
    ------
    BadDataError
        If the mask is empty, or fluid and white matter do not differ.
    ValueError
        If the scaling is unknown.
    """
    if scaling not in SCALINGS:
        raise ValueError(f"a scaling is one of {SCALINGS}, not {scaling!r}")
    inside = _checked(mask, name)
    negative = float(np.mean(data[inside] < 0))
    if scaling == "max":
        return Scaled(max_normalise(data, inside, name=name), negative=negative)
    ratio, corrected, cells = None, False, blocks(data, inside, spacing)
    if negative < NEGATIVE_SHARE:
        log_field = _fit_log_field(cells)
        low, high = np.percentile(log_field(cells.index * cells.sides), [2, 98])
        ratio = float(np.exp(min(high - low, 10.0)))
        if ratio > STRONG_FIELD:
            data, corrected = data / _receive_field(data, inside, spacing, log_field), True
            cells = blocks(data, inside, spacing)
    flat = cells.median[_flat(cells.spread, FLAT_SHARE)]
    fluid = float(np.quantile(cells.median, FLUID_QUANTILE[contrast]))
    white = float(np.quantile(flat, WHITE_QUANTILE[contrast]))
    low, high = LEVELS[contrast]
    if not abs(white - fluid) > 1e-3 * max(abs(white), abs(fluid)):
        raise BadDataError(
            f"{name}: fluid and white matter have one intensity ({white:g}); look at the image"
        )
    gain = (high - low) / (white - fluid)
    volume = _affine(data, inside, fluid - low / gain, gain)
    return Scaled(volume, ratio, corrected, negative)


def scale_image(
    image: Any, mask: Any, *, contrast: str, scaling: str, name: str = "the image"
) -> Scaled:
    """Do what `scale_brain` does for two nibabel images on one grid."""
    inside, sides = np.asarray(mask.dataobj) > 0, spacing_of(image.affine).tolist()
    return scale_brain(
        np.asarray(image.dataobj), inside, sides, contrast=contrast, scaling=scaling, name=name
    )


def to_frame(
    image: Any, mask: Any, frame: Any, *, contrast: str, scaling: str, name: str = "the image"
) -> tuple[Any, Any, Scaled]:
    """Return a scan and its mask on a model's frame, and the brain there by `scale_brain`."""
    placed = conform(image, frame, mask=mask)
    inside = resample_mask(mask, placed.shape, placed.affine)
    scaled = scale_image(placed, inside, contrast=contrast, scaling=scaling, name=name)
    return placed, inside, scaled


def scaling_facts(made: Scaled, contrast: str, scaling: str) -> dict[str, Any]:
    """Return ``IntensityScaling``, which says in a sidecar how an input was scaled."""
    fluid, white = LEVELS[contrast]
    facts: dict[str, Any] = {"Method": scaling, "NegativeVoxels": round(made.negative, 4)}
    if scaling == "robust":
        facts |= {"CerebrospinalFluidLevel": fluid, "WhiteMatterLevel": white}
    if made.field_ratio is not None:
        facts["ReceiveFieldRatio"] = round(made.field_ratio, 3)
    return {"IntensityScaling": facts | {"BiasFieldCorrection": made.field_corrected}}


def _field_terms(place: np.ndarray) -> np.ndarray:
    """Return the terms of a second-order polynomial without constant of places in mm."""
    x = place / 60.0
    mixed = x[..., [0, 1, 0]] * x[..., [1, 2, 2]]
    return np.concatenate([x, x**2, mixed], axis=-1)


def _fit_log_field(cells: Blocks) -> Callable[[np.ndarray], np.ndarray]:
    """Fit the logarithm of a smooth field; return it as a function of places in mm."""
    # Differences between flat blocks near each other are the field's inside any one tissue. A
    # tissue's level would not do: under a strong field it is that of another tissue elsewhere.
    positive = cells.median > 0
    level = np.where(positive, cells.median, 1.0)
    usable = positive & _flat(np.where(positive, cells.spread / level, np.inf), 0.5)
    number = np.full(cells.index.max(0) + 1, -1)
    number[tuple(cells.index.T)] = np.where(usable, np.arange(len(level)), -1)
    pairs = []
    steps = np.maximum(1, np.round(_FIELD_REACH_MM / cells.sides)).astype(int)
    for axis, step in enumerate(steps):
        along = np.moveaxis(number, axis, 0)
        ends = np.stack([along[:-step], along[step:]])
        pairs.append(ends[:, (ends >= 0).all(0)])
    near, far = np.hstack(pairs)
    places = cells.index * cells.sides
    middle = places.mean(0)
    terms, logs = _field_terms(places - middle), np.log(level)
    slope, rise = terms[far] - terms[near], logs[far] - logs[near]
    factors = np.zeros(terms.shape[1])
    for _ in range(10 if len(rise) > 8 * len(factors) else 0):
        off = np.abs(rise - slope @ factors)
        used = off <= np.quantile(off, 0.5)
        factors = np.linalg.lstsq(slope[used], rise[used], rcond=None)[0]
    return lambda places: _field_terms(places - middle) @ factors


def _receive_field(
    data: np.ndarray,
    mask: np.ndarray,
    spacing: Sequence[float],
    log_field: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Estimate a receive field: the fit, and N4 on the means of blocks of 5 mm for the rest."""
    from scipy.ndimage import affine_transform

    from h2lo_bids.imaging.registration import start_ants

    box = bounding_box(mask)
    size = _block_size(spacing, _FIELD_BLOCK_MM)
    middle = (size - 1) / 2
    inside = _cut(np.asarray(mask[box], dtype=np.float32), size, pad=True)
    values = _cut(np.where(mask[box], data[box], 0).astype(np.float32), size, pad=True)
    count = inside.sum(-1)
    means = values.sum(-1) / np.maximum(count, 1)
    brain = (count >= 0.5 * np.prod(size)) & (means > 0)
    places = np.moveaxis(np.indices(means.shape), 0, -1) * size + middle
    smooth = np.exp(log_field(places * np.asarray(spacing)))
    means = (means / smooth).astype(np.float32)
    ants = start_ants(seed=1)
    voxels = (np.asarray(spacing, dtype=np.float64) * size).tolist()
    rest = ants.n4_bias_field_correction(
        ants.from_numpy(np.maximum(means, means[brain].min()), spacing=voxels),
        mask=ants.from_numpy(brain.astype(np.float32), spacing=voxels),
        shrink_factor=1,
        convergence={"iters": [40, 30, 20], "tol": 1e-6},
        spline_param=_FIELD_KNOTS_MM,
        return_bias_field=True,
    ).numpy()
    out = np.ones(data.shape, dtype=np.float32)
    field, scale = (rest * smooth).astype(np.float32), np.diag(1.0 / size)
    out[box] = affine_transform(
        field, scale, -middle / size, mask[box].shape, order=1, mode="nearest"
    )
    return out


def _flat(spread: np.ndarray, share: float) -> np.ndarray:
    """Tell the blocks of least spread; ties of integers stay ties after a gain."""
    return spread <= np.quantile(spread, share) * (1 + 1e-4)


def _checked(mask: np.ndarray, name: str) -> np.ndarray:
    inside = np.asarray(mask, dtype=bool)
    if not inside.any():
        raise BadDataError(f"{name}: its brain mask is empty; look at the image or give a mask")
    return inside


def _affine(data: np.ndarray, inside: np.ndarray, zero: float, gain: float) -> np.ndarray:
    scaled = np.zeros(data.shape, dtype=np.float32)
    scaled[inside] = np.clip((data[inside].astype(np.float64) - zero) * gain, 0.0, 1.0)
    return scaled


def _block_size(spacing: Sequence[float], side: float) -> np.ndarray:
    return np.maximum(1, np.round(side / np.asarray(spacing, dtype=np.float64))).astype(int)


def _cut(data: np.ndarray, size: np.ndarray, *, pad: bool = False) -> np.ndarray:
    """Cut a volume into blocks, their voxels along the last axis; pad or drop the rest."""
    if pad:
        data = np.pad(data, [(0, -n % k) for n, k in zip(data.shape, size, strict=True)])
    (a, i), (b, j), (c, k) = ((n // k, k) for n, k in zip(data.shape, size, strict=True))
    whole = data[: a * i, : b * j, : c * k].reshape(a, i, b, j, c, k)
    return whole.transpose(0, 2, 4, 1, 3, 5).reshape(a, b, c, i * j * k)


def blocks(data: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> Blocks:
    """Divide the brain into blocks of about 2 mm."""
    box = bounding_box(mask)
    size = _block_size(spacing, BLOCK_MM)
    if np.prod(size) < _FEWEST:  # of one or two voxels no spread is to be seen
        size = np.maximum(2, size)
    whole = _cut(mask[box], size).all(-1)
    if not whole.any():  # a brain of a few voxels, in tests
        size, whole = np.ones(3, dtype=int), mask[box] > 0
    values = np.sort(_cut(np.asarray(data[box]), size)[whole].astype(np.float64), axis=1)
    count = values.shape[1]
    spread = values[:, (3 * count) // 4] - values[:, count // 4]
    sides = size * np.asarray(spacing, dtype=np.float64)
    return Blocks(np.median(values, axis=1), spread, np.argwhere(whole), sides)
