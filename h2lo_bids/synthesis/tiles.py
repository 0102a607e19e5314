"""A volume in pieces: boxes that cover a brain, and several at once on a CPU."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.models.h2lo import HALO

_MACS = (1024, 1024, 2048, 4096, 8192)
"""Relative cost of a voxel in each layer; the first is slow for its size."""
_CALL = 20_000_000
"""Cost of a tile as such, in the same unit: oneDNN compiles for every new shape."""
_ENOUGH = 1.1
"""A box that costs this much more than its brain voxels alone is not split."""

Piece = TypeVar("Piece")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Box:
    """A box of voxels, from `start` up to and without `stop`."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        x, y, z = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index into an array."""
        x, y, z = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z


def cover(mask: np.ndarray, tile: int) -> list[Box]:
    """Cover the true voxels of a mask with disjoint boxes.

    A regular grid of tiles over the mask's bounding box, each tile shrunk to the
    voxels it holds, then cut in two wherever that saves work, halo included.
    The costliest box comes first, so that threads finish together.
    """
    if not mask.any():
        return []
    whole, boxes = bounds(mask), []
    cuts = (_cuts(a, b, tile) for a, b in zip(whole.start, whole.stop, strict=True))
    for x, y, z in itertools.product(*cuts):
        boxes += _split(mask[slice(*x), slice(*y), slice(*z)], (x[0], y[0], z[0]))
    return sorted(boxes, key=lambda box: (-_cost(box.shape), box.start))


def _cuts(start: int, stop: int, tile: int) -> list[tuple[int, int]]:
    n = -(-(stop - start) // tile)
    edges = [start + (stop - start) * i // n for i in range(n + 1)]
    return list(itertools.pairwise(edges))


def bounds(mask: np.ndarray, offset: tuple[int, ...] = (0, 0, 0)) -> Box:
    """Return the smallest box around the true voxels of a part that starts at an offset."""
    pairs = [(o + b.start, o + b.stop) for o, b in zip(offset, bounding_box(mask), strict=True)]
    (x, xx), (y, yy), (z, zz) = pairs
    return Box((x, y, z), (xx, yy, zz))


def _cost(shape: tuple[int, int, int]) -> float:
    total = float(_CALL)
    for layer, macs in enumerate(_MACS, start=1):
        grown = 2 * (HALO - layer)
        total += macs * float(np.prod([n + grown for n in shape]))
    return total


def _split(part: np.ndarray, offset: tuple[int, ...]) -> list[Box]:
    """Cut a part of a mask in two, and so on, wherever that saves work."""
    if not part.any():
        return []
    box, inside = bounds(part, offset), part[bounds(part).slices]
    whole = _cost(box.shape)
    if whole <= _ENOUGH * float(np.count_nonzero(inside)) * sum(_MACS) + _CALL:
        return [box]
    best = (whole, 0, 0)
    for axis, n in enumerate(box.shape):
        for at in {n // 3, n // 2, n - n // 3} - {0, n}:
            halves = (h for h in np.split(inside, [at], axis=axis) if h.any())
            cost = sum(_cost(bounds(half).shape) for half in halves)
            if cost < best[0]:
                best = (cost, axis, at)
    cost, axis, at = best
    if cost == whole:
        return [box]
    left, right = np.split(inside, [at], axis=axis)
    moved = list(box.start)
    moved[axis] += at
    return _split(left, box.start) + _split(right, tuple(moved))


def each_on_a_core(
    work: Callable[[Piece], Made],
    pieces: Sequence[Piece],
    *,
    device: torch.device,
    threads: int | None = None,
) -> Iterator[Made]:
    """Do some work for each piece without gradients; on a CPU several at once, one core each.

    A core on its own needs no barriers, keeps a piece in its cache, and gives the same digits
    however many there are. Results come in the order of the pieces; without `threads` as many
    are done at the same time as PyTorch's setting says.
    """
    before = torch.get_num_threads()
    workers = 1 if device.type != "cpu" else threads or before

    def do(piece: Piece) -> Made:
        # Gradient modes belong to a thread, so each piece sets its own.
        with torch.inference_mode():
            return work(piece)

    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        with _same_digits():
            # Few results at a time wait to be taken, so that memory stays bounded.
            for start in range(0, len(pieces), 16 * workers):
                yield from pool.map(do, pieces[start : start + 16 * workers])
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _same_digits() -> contextlib.AbstractContextManager[None]:
    """Keep cuDNN from choosing its algorithms by stopwatch, and from TF32."""
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
