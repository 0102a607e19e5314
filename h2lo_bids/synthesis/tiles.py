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
    whole = _shrink(mask, (0, 0, 0))
    if whole is None:
        return []
    boxes: list[Box] = []
    cuts = [_cuts(a, b, tile) for a, b in zip(whole.start, whole.stop, strict=True)]
    for x in cuts[0]:
        for y in cuts[1]:
            for z in cuts[2]:
                part = mask[x[0] : x[1], y[0] : y[1], z[0] : z[1]]
                boxes += _split(part, (x[0], y[0], z[0]))
    return sorted(boxes, key=lambda box: (-_cost(box.shape), box.start))


def _cuts(start: int, stop: int, tile: int) -> list[tuple[int, int]]:
    n = -(-(stop - start) // tile)
    edges = [start + (stop - start) * i // n for i in range(n + 1)]
    return list(itertools.pairwise(edges))


def _shrink(part: np.ndarray, offset: tuple[int, int, int]) -> Box | None:
    start, stop = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hits = np.flatnonzero(part.any(axis=others))
        if hits.size == 0:
            return None
        start.append(offset[axis] + int(hits[0]))
        stop.append(offset[axis] + int(hits[-1]) + 1)
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _cost(shape: tuple[int, int, int]) -> float:
    total = float(_CALL)
    for layer, macs in enumerate(_MACS, start=1):
        grown = 2 * (HALO - layer)
        total += macs * float(np.prod([n + grown for n in shape]))
    return total


def _split(part: np.ndarray, offset: tuple[int, int, int]) -> list[Box]:
    box = _shrink(part, offset)
    if box is None:
        return []
    inside = part[
        tuple(slice(a - o, b - o) for a, b, o in zip(box.start, box.stop, offset, strict=True))
    ]
    whole = _cost(box.shape)
    if whole <= _ENOUGH * float(np.count_nonzero(inside)) * sum(_MACS) + _CALL:
        return [box]
    best: tuple[float, int, int] | None = None
    for axis in range(3):
        n = box.shape[axis]
        for at in {n // 3, n // 2, n - n // 3} - {0, n}:
            halves = np.split(inside, [at], axis=axis)
            shapes = [b.shape for h in halves if (b := _shrink(h, (0, 0, 0))) is not None]
            cost = sum(_cost(shape) for shape in shapes)
            if best is None or cost < best[0]:
                best = (cost, axis, at)
    if best is None or best[0] >= whole:
        return [box]
    _, axis, at = best
    left, right = np.split(inside, [at], axis=axis)
    moved = list(box.start)
    moved[axis] += at
    return _split(left, box.start) + _split(right, (moved[0], moved[1], moved[2]))


def each_on_a_core(
    work: Callable[[Piece], Made],
    pieces: Sequence[Piece],
    *,
    device: torch.device,
    threads: int | None = None,
) -> Iterator[Made]:
    """Do some work for each piece without gradients; on a CPU several at once, one core each.

    A core on its own needs no barriers, keeps a piece in its cache, and gives the
    same digits however many there are.
    Results come in the order of the pieces; `threads` is how many are done at the same time,
    None follows PyTorch's own setting.
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
