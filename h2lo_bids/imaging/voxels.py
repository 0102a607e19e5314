"""How a scanner's voxel weighs what lies around its centre, and means over such voxels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.legendre import leggauss, legvander

_SUPPORT = {"box": 0.5, "gauss": 1.5, "sinc": 3.0}
"""Half width of each profile in thicknesses; beyond it lie 4e-4 of a Gaussian."""
_TOLERANCE = 0.025
"""Largest error of the transfer function along an axis; see `sub_voxels`."""
_DENSE = 128
_LEAST = 0.25
"""Share of a voxel's response in the brain below which its neighbours are not used."""
POINTS = 4_000_000
"""Positions evaluated at once: 100 MB."""


@dataclass(frozen=True)
class VoxelResponse:
    """What a voxel averages over.

    In the plane it is the voxel's own rectangle: unlike the sinc of an unfiltered
    k-space it neither rings nor reaches beyond the voxel. Across the slices it is
    a profile (`slice_profile`).
    """

    profile: str = "box"
    thickness: float | None = None  # nominal, mm; None for the distance between slices


@dataclass(frozen=True)
class SubVoxels:
    """Points inside a voxel at which it is integrated."""

    axis: int  # across the slices
    offsets: np.ndarray  # (K, 3), from the voxel's centre, in voxels
    # (2 R + 1, K): of these points in the R voxels before along `axis`, in the voxel itself, and
    # in the R voxels after; their sum is 1.
    weights: np.ndarray


def slice_profile(kind: str, offsets: np.ndarray, thickness: float) -> np.ndarray:
    """Return a slice's weight at distances from its centre, not normalised.

    Parameters
    ----------
    kind
        ``"gauss"`` (full width at half maximum = thickness), ``"sinc"`` (Hamming
        window over three lobes, as encoded slices have) or ``"box"``.
    offsets, thickness
        Distances and nominal thickness in mm.
    """
    x = np.asarray(offsets, dtype=np.float64) / thickness
    if kind == "gauss":
        return np.exp(-4 * np.log(2) * x**2)
    if kind == "sinc":
        return np.sinc(x) * np.where(np.abs(x) < 3, 0.54 + 0.46 * np.cos(np.pi * x / 3), 0.0)
    return np.where(np.abs(x) < 0.5, 1.0, np.where(np.abs(x) == 0.5, 0.5, 0.0))


def slice_axis(sides: Sequence[float]) -> int:
    """Return the axis across the slices: the longest side of a voxel, the last of equal ones.

    Examples
    --------
    >>> slice_axis((1.6, 5.0, 1.6)), slice_axis((2.0, 2.0, 2.0))
    (1, 2)
    """
    longest = max(sides) * (1 - 1e-6)
    return max(axis for axis, side in enumerate(sides) if side >= longest)


def sub_voxels(sides: Sequence[float], response: VoxelResponse, pitch: float) -> SubVoxels:
    """Choose as few points per voxel as integrate it well.

    They are those of Gauss and Legendre along each axis; a slice that reaches
    into its neighbours leans on their points. Weights are exact for polynomials
    between the points, whatever the profile.

    `sides` are the voxel's, and `pitch` is the distance at which what is integrated is sampled,
    mm. A wave of up to half its Nyquist frequency, 0.25 / `pitch`, is attenuated as the response
    says, to within 0.025 along each axis.
    """
    axis = slice_axis(sides)
    lines = []
    for a, side in enumerate(sides):
        own = (response.profile, response.thickness or side) if a == axis else ("box", side)
        lines.append(_line(*own, side, pitch))
    offsets = np.stack(np.meshgrid(*(nodes for nodes, _ in lines), indexing="ij"), axis=-1)
    # The points across the slices last, as the weights along them have it.
    plane = [weights[0] for a, (_, weights) in enumerate(lines) if a != axis]
    weights = np.einsum("i,j,rk->rijk", *plane, lines[axis][1])
    moved = np.moveaxis(offsets, axis, 2)
    return SubVoxels(axis, moved.reshape(-1, 3), weights.reshape(len(weights), -1))


def _line(
    kind: str, thickness: float, spacing: float, pitch: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return points along one axis, in voxels, and their weights (2 R + 1, n)."""
    at, share = _dense(kind, thickness, spacing)
    owner = np.rint(at / spacing).astype(int)
    reach = int(np.abs(owner).max())
    phases = 2 * np.pi * np.linspace(0, 0.25 / pitch, 26)[:, None, None]
    exact = (np.cos(phases * at) * share).sum(axis=(1, 2))
    for count in itertools.count(1):
        # The Lagrange polynomials of each voxel's points, integrated under the profile.
        nodes, own = leggauss(count)
        at_nodes = legvander(nodes, count - 1) * (np.arange(count) + 0.5)
        lagrange = legvander(2 * (at / spacing - owner), count - 1) @ (at_nodes.T * own)
        weights = np.zeros((2 * reach + 1, count))
        np.add.at(weights, owner + reach, share[:, None] * lagrange)
        where = (np.arange(-reach, reach + 1)[:, None] + nodes / 2) * spacing
        got = (np.cos(phases * where) * weights).sum(axis=(1, 2))
        if np.abs(got - exact).max() <= _TOLERANCE:
            break
    return nodes / 2, weights


def _dense(kind: str, thickness: float, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Return many points (mm) under a profile, and its share at each: no piece has a jump."""
    if kind not in _SUPPORT:
        raise ValueError(f"a slice profile is {', '.join(_SUPPORT)}, not {kind!r}")
    half = _SUPPORT[kind] * thickness
    last = math.ceil(half / spacing)
    borders = (np.arange(-last, last) + 0.5) * spacing
    edges = np.array([-half, *borders[np.abs(borders) < half * (1 - 1e-9)], half])
    t, w = leggauss(_DENSE)
    centres, halves = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    at = (centres[:, None] + halves[:, None] * t).ravel()
    share = (halves[:, None] * w).ravel() * slice_profile(kind, at, thickness)
    return at, share / share.sum()


def voxel_means(
    evaluate: Callable[[np.ndarray], np.ndarray],
    mask: np.ndarray,
    nodes: SubVoxels,
    place: Callable[[np.ndarray], np.ndarray],
    brain: np.ndarray,
) -> np.ndarray:
    """Integrate over the voxels of a grid, as far as they lie in the brain.

    What surrounds the brain is neither 0 nor known: of a scan whose skull is removed
    afterwards, a voxel of the rim holds brain and what lies beside it. Here it holds
    the mean of its brain alone, so that the rim is not darkened. A voxel without a
    point in the brain holds the mean of all its points.
    """
    axis, reach, count = nodes.axis, len(nodes.weights) // 2, len(nodes.offsets)
    padded = np.pad(mask, [(reach, reach) if a == axis else (0, 0) for a in range(3)])
    needed = np.any([np.roll(padded, step, axis) for step in range(-reach, reach + 1)], axis=0)
    rows = np.cumsum(needed).reshape(needed.shape) - 1
    voxels = np.argwhere(needed)
    start = reach * (np.arange(3) == axis)
    values, inside = np.zeros((2, len(voxels), count), dtype=np.float32)
    for first in range(0, len(voxels), max(POINTS // count, 1)):
        block = slice(first, first + max(POINTS // count, 1))
        points = place((voxels[block, None] - start + nodes.offsets).reshape(-1, 3))
        nearest = np.rint(points).astype(np.int64)
        there = ((nearest >= 0) & (nearest < brain.shape)).all(axis=1)
        there[there] = brain[tuple(nearest[there].T)]
        inside[block] = shown = there.reshape(-1, count)
        # Of the wanted voxels also those that have no point in the brain.
        shown |= (~shown.any(axis=1) & padded[needed][block])[:, None]
        if shown.any():  # a rest of slices beyond the brain has none
            values[block][shown] = evaluate(points[shown.ravel()])
    sums, share = np.zeros((2, np.count_nonzero(mask)))
    for step, weights in enumerate(nodes.weights, start=-reach):
        row = np.roll(rows, -step, axis)[padded]
        sums += (values[row] * inside[row]) @ weights
        share += inside[row] @ weights
    own = rows[padded]
    held = inside[own].sum(axis=1)
    alone = values[own].sum(axis=1) / np.where(held > 0, held, count)
    enough = (held > 0) & (share > _LEAST)
    return np.where(enough, sums / np.where(enough, share, 1.0), alone)
