"""Putting an image on another grid: that of a model, of other voxels, or any."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import from_matvec
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.imaging.reading import name_of

SAME_SPACING = 0.01
"""Relative difference of voxel sizes that is left as it is."""
SAME_EXTENT = 0.05
"""Relative difference of a frame's sides that moves no voxel by more than some millimetres."""
_ON_GRID = 1e-3
FWHM_PER_SIGMA = 2.3548200450309493


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Return the voxel size along each axis."""
    return np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0)


def placed(data: np.ndarray, affine: np.ndarray, like: Any) -> nib.Nifti1Image:
    """Wrap an array as an image in the world of another."""
    image = nib.Nifti1Image(data, np.asarray(affine, dtype=float))
    code = int(like.header["sform_code"]) or 1
    # The header's rounding to float32 stays out of the affine in memory.
    image.set_sform(image.affine, code, update_affine=False)
    image.set_qform(image.affine, code, update_affine=False)
    image.header.set_xyzt_units("mm")
    return image


def block_means(data: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Average blocks of voxels."""
    kept = [int(n // k * k) for n, k in zip(data.shape, step, strict=True)]
    sides = [part for n, k in zip(kept, step, strict=True) for part in (n // int(k), int(k))]
    return data[: kept[0], : kept[1], : kept[2]].reshape(sides).mean(axis=(1, 3, 5))


def resample_mask(mask: Any, shape: tuple[int, ...], affine: np.ndarray) -> nib.Nifti1Image:
    """Put a mask on another grid: 1 (uint8) where more than half is inside, see `resample`."""
    inside = placed((np.asarray(mask.dataobj) > 0).astype(np.float32), mask.affine, mask)
    share = resample(inside, shape, affine, order=1)
    return placed((np.asarray(share.dataobj) > 0.5).astype(np.uint8), affine, mask)


def resample(
    image: Any, shape: tuple[int, ...], affine: np.ndarray, *, order: int = 3, fill: float = 0.0
) -> nib.Nifti1Image:
    """Resample an image onto a grid through world coordinates.

    Where the grids coincide up to flips, permutations and whole voxels, voxels
    are copied and not interpolated. Elsewhere splines interpolate, clipped to
    the image's own range since cubic ones overshoot at edges, after a Gaussian
    along the axes that lose resolution. The half voxel around the outermost
    centres belongs to the image; beyond it lies `fill`.

    Parameters
    ----------
    image
        nibabel image, 3-D.
    shape, affine
        Voxels of the new grid, and (4, 4), new voxel to world mm.
    order
        Spline order: 1 linear, 3 cubic.
    fill
        Value outside the image's field of view.
    """
    from scipy.ndimage import affine_transform, gaussian_filter

    data, shape = np.asarray(image.dataobj, dtype=np.float32), tuple(shape)
    to_source = np.linalg.inv(image.affine) @ np.asarray(affine, dtype=float)
    whole = np.rint(to_source)
    reach = np.abs(to_source - whole)[:3] @ np.array([*shape, 1.0])
    size = np.abs(whole[:3, :3])
    # Each new axis runs along one old axis, voxel by voxel.
    if reach.max() < _ON_GRID and np.array_equal(size @ size.T, np.eye(3)):
        return placed(_copy(data, shape, whole.astype(int), fill), affine, image)
    low, high = float(data.min()), float(data.max())
    sigma = _blur(image.affine, affine)
    linear = np.where(np.abs(to_source[:3, :3]) < 1e-6, 0.0, to_source[:3, :3])
    if np.count_nonzero(linear) == 3:  # the same numbers as the general way, far faster
        axes, lines = along_axes(to_source, shape)
        weights = [
            spline_weights(data.shape[a], line, order=order, mode="nearest", sigma=sigma[a])
            for a, line in zip(axes, lines, strict=True)
        ]
        values = np.ascontiguousarray(weigh_by_axis(data.transpose(axes), weights))
    else:
        data = gaussian_filter(data, sigma, mode="nearest") if sigma.any() else data
        values = affine_transform(
            data, linear, to_source[:3, 3], shape, order=order, mode="nearest"
        )
    np.clip(values, low, high, out=values)
    values[~_within(data.shape, shape, to_source)] = fill
    return placed(values, affine, image)


def _copy(
    data: np.ndarray, shape: tuple[int, ...], to_source: np.ndarray, fill: float
) -> np.ndarray:
    """Move whole voxels: transpose, flip, then crop or pad."""
    axes, lines = along_axes(to_source, shape)
    moved, values = data.transpose(axes), np.full(shape, fill, dtype=np.float32)
    shown = [(line >= 0) & (line < n) for line, n in zip(lines, moved.shape, strict=True)]
    source = [line[seen] for line, seen in zip(lines, shown, strict=True)]
    values[np.ix_(*shown)] = moved[np.ix_(*source)]
    return values


def along_axes(
    to_source: np.ndarray, shape: Sequence[int]
) -> tuple[tuple[int, ...], list[np.ndarray]]:
    """Return along which old axis each axis of a new grid runs, and where its voxels lie there."""
    axes = tuple(int(np.argmax(np.abs(column))) for column in to_source[:3, :3].T)
    return axes, [
        to_source[old, new] * np.arange(shape[new]) + to_source[old, 3]
        for new, old in enumerate(axes)
    ]


def spline_weights(
    length: int, at: np.ndarray, *, order: int, mode: str, sigma: float = 0.0
) -> np.ndarray:
    """Return what splines through a line of values, blurred, weigh at positions: (N, length)."""
    from scipy.ndimage import gaussian_filter1d, map_coordinates

    units = np.eye(length)
    if sigma > 0:
        units = gaussian_filter1d(units, sigma, axis=0, mode="nearest")
    columns = [map_coordinates(unit, at[None], order=order, mode=mode) for unit in units.T]
    return np.stack(columns, axis=1).astype(np.float32)


def weigh_by_axis(values: np.ndarray, weights: Iterable[np.ndarray]) -> np.ndarray:
    """Multiply each axis of an array by a matrix (new, old)."""
    for axis, matrix in enumerate(weights):
        values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
    return values


def _within(old: tuple[int, ...], shape: tuple[int, ...], to_source: np.ndarray) -> np.ndarray:
    """Mark the new voxels that have their centre in the old image's field of view."""
    inside = np.ones(shape, dtype=bool)
    grids = np.ogrid[tuple(slice(n) for n in shape)]
    for weights, length in zip(to_source[:3], old, strict=True):
        at = sum(w * grid for w, grid in zip(weights, grids, strict=False) if abs(w) > 1e-9)
        at = at + weights[3]
        inside &= (at >= -0.5 - _ON_GRID) & (at <= length - 0.5 + _ON_GRID)
    return inside


def _blur(source_affine: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the Gaussian, in old voxels, that keeps a coarser grid from aliasing."""
    # FWHM^2 = new^2 - old^2, of the new axis nearest to each old one.
    old, new = spacing_of(source_affine), spacing_of(affine)
    along = np.abs((source_affine[:3, :3] / old).T @ (affine[:3, :3] / new))
    wanted = new[np.argmax(along, axis=1)]
    sigma = np.sqrt(np.clip(wanted**2 - old**2, 0, None)) / FWHM_PER_SIGMA / old
    return np.where(wanted < 1.01 * old, 0.0, sigma)


def conform(image: Any, frame: Any, *, mask: Any = None) -> nib.Nifti1Image:
    """Put a scan on a model's frame.

    The scan's axes are re-ordered to the frame's orientation and its own
    obliquity is kept, so that a scan whose voxel size is the frame's (within
    1 %) is flipped, permuted, cropped and padded by whole voxels and never
    interpolated. Any other is resampled once, by cubic splines.

    Parameters
    ----------
    image
        nibabel image, 3-D, with a rigid affine.
    frame
        The model's (`h2lo_bids.models.frame.Frame`). With ``anchor="brain"`` its centre lies on
        the centre of the mask's bounding box (to the nearest voxel where nothing is
        interpolated), or on the centre of the scan when there is no mask. With
        ``anchor="array"`` the frame is the scan's own array.
    mask
        Brain mask on the scan's grid.

    Raises
    ------
    BadDataError
        If the brain does not fit into the frame.
    """
    shape, affine = frame_grid(image, frame, mask=mask)
    return resample(image, shape, affine)


def frame_grid(
    image: Any, frame: Any, *, mask: Any = None
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Place a model's frame in a scan's world."""
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(frame.orientation)))
    turned = image.as_reoriented(turn)
    own, wanted = spacing_of(turned.affine), np.asarray(frame.spacing, dtype=float)
    kept = bool(np.all(np.abs(own / wanted - 1) <= SAME_SPACING))
    scale = np.ones(3) if kept else wanted / own
    low, high = np.zeros(3), np.asarray(turned.shape, dtype=float) - 1
    shape = np.asarray(frame.shape, dtype=int)
    if frame.anchor == "array":
        shape = np.maximum(2, np.rint((high + 1) / scale)).astype(int)
    elif mask is not None:
        box = bounding_box(np.asarray(mask.as_reoriented(turn).dataobj) > 0)
        low, high = np.array([(ends.start, ends.stop - 1.0) for ends in box]).T
        needed = (high - low + 1) / scale
        if np.any(needed > shape + 1):
            raise BadDataError(
                f"{name_of(image)}: its brain mask spans {_extent(needed, wanted)}, more than the"
                f" model's {_extent(shape, wanted)}; look at the mask or give another one"
            )
    start = (low + high) / 2 - scale * (shape - 1) / 2
    if kept:
        start = np.floor(start + 0.5)
    return tuple(shape.tolist()), turned.affine @ from_matvec(np.diag(scale), start)


def _extent(shape: Iterable[float], sides: Iterable[float]) -> str:
    return " x ".join(f"{n * side:.0f}" for n, side in zip(shape, sides, strict=True)) + " mm"


def array_lines(frame: Any, shape: Sequence[int], name: str) -> list[str]:
    """Warn of a scan's array of another extent than that which a model took for its frame."""
    if frame.anchor == "brain" or np.allclose(shape, frame.shape, rtol=SAME_EXTENT):
        return []
    own, expected = (_extent(sides, frame.spacing) for sides in (shape, frame.shape))
    return [
        f"{name}: the model sees positions in the scan's own array, of {expected} in its "
        f"training and here {own}: anatomy lies elsewhere for it; crop or pad the scan"
    ]


def lf_grid(
    image_affine: np.ndarray, shape: Sequence[int], zooms: Sequence[float]
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Lay a grid of other voxel sizes in mm over an image's field of view.

    Returns its shape, just enough voxels to cover the field of view, and its affine (4, 4):
    same axes and same centre as the image.
    """
    sizes = np.asarray(zooms, dtype=np.float64)
    if sizes.shape != (3,) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError(f"a grid needs three positive voxel sizes in mm, not {tuple(zooms)}")
    affine = np.asarray(image_affine, dtype=np.float64)
    old = spacing_of(affine)
    # A thousandth of a voxel forgives the rounding of affines.
    counts = np.maximum(np.ceil(np.asarray(shape[:3]) * old / sizes - 1e-3), 1).astype(int)
    linear = affine[:3, :3] / old * sizes
    centre = affine[:3, :3] @ ((np.asarray(shape[:3]) - 1) / 2) + affine[:3, 3]
    return tuple(counts.tolist()), from_matvec(linear, centre - linear @ ((counts - 1) / 2))


def lf_mask(
    mask: np.ndarray, affine: np.ndarray, zooms: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Bring a mask to the grid of other voxels over its field of view."""
    shape, new = lf_grid(affine, mask.shape, zooms)
    weights = []
    for axis, old in enumerate(spacing_of(affine)):
        # Both grids have one centre.
        ours, theirs = (
            (np.arange(n + 1) - n / 2) * side
            for n, side in ((shape[axis], zooms[axis]), (mask.shape[axis], old))
        )
        ends, starts = np.minimum.outer(ours[1:], theirs[1:]), np.maximum.outer(ours, theirs)
        overlaps = np.maximum(ends - starts[:-1, :-1], 0) / zooms[axis]
        weights.append(overlaps.astype(np.float32))
    share = weigh_by_axis(np.asarray(mask, dtype=np.float32), weights)
    return share > 0.5 + 1e-5, new
