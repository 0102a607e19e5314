"""A volume in pieces: boxes that cover a brain, their voxels, and several at once on a CPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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

Box = tuple[slice, ...]
"""A box of voxels, as an index into an array."""


def cover(mask: np.ndarray, tile: int) -> list[Box]:
    """Cover the true voxels of a mask with disjoint boxes.

    A regular grid of tiles over the mask's bounding box, each tile shrunk to the
    voxels it holds, then cut in two wherever that saves work, halo included.
    The costliest box comes first, so that threads finish together.
    """
    if not mask.any():
        return []
    grid = itertools.product(*(_cuts(side, tile) for side in bounding_box(mask)))
    boxes = [box for cell in grid for box in _split(mask, cell)]
    return sorted(boxes, key=lambda box: (-_cost(box), [side.start for side in box]))


def _cuts(side: slice, tile: int) -> list[slice]:
    length = side.stop - side.start
    n = -(-length // tile)
    edges = [side.start + length * i // n for i in range(n + 1)]
    return [slice(*ends) for ends in itertools.pairwise(edges)]


def _shrunk(mask: np.ndarray, box: Box) -> Box:
    """Return the smallest box around the true voxels of a mask in a box."""
    inner = bounding_box(mask[box])
    starts = [side.start for side in box]
    return tuple(slice(o + b.start, o + b.stop) for o, b in zip(starts, inner, strict=True))


def _cost(box: Box) -> float:
    total = float(_CALL)
    for layer, macs in enumerate(_MACS, start=1):
        grown = 2 * (HALO - layer)
        total += macs * float(np.prod([side.stop - side.start + grown for side in box]))
    return total


def _split(mask: np.ndarray, box: Box) -> list[Box]:
    """Cut a box in two, and so on, wherever that saves work."""
    if not mask[box].any():
        return []
    box = _shrunk(mask, box)
    least, best = _cost(box), [box]
    if least <= _ENOUGH * float(np.count_nonzero(mask[box])) * sum(_MACS) + _CALL:
        return best
    for axis, side in enumerate(box):
        n = side.stop - side.start
        for at in {n // 3, n // 2, n - n // 3} - {0, n}:
            ends = slice(side.start, side.start + at), slice(side.start + at, side.stop)
            halves = [(*box[:axis], end, *box[axis + 1 :]) for end in ends]
            cost = sum(_cost(_shrunk(mask, half)) for half in halves if mask[half].any())
            if cost < least:
                least, best = cost, halves
    return best if len(best) == 1 else [*_split(mask, best[0]), *_split(mask, best[1])]


def read_crop(
    volume: np.ndarray, start: tuple[int, ...], size: int | tuple[int, ...]
) -> np.ndarray:
    """Copy a box, such as a cube of a size, with zeros where it reaches over the border."""
    sides = (size,) * volume.ndim if isinstance(size, int) else size
    out, ends = np.zeros(sides, volume.dtype), np.add(start, sides).tolist()
    held = volume[tuple(slice(max(0, a), max(0, b)) for a, b in zip(start, ends, strict=True))]
    before = [max(0, -a) for a in start]
    out[tuple(slice(a, a + n) for a, n in zip(before, held.shape, strict=True))] = held
    return out


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
    do = torch.inference_mode()(work)  # such modes belong to a thread, so each piece sets its own
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        # cuDNN must not choose its algorithms by stopwatch, nor use TF32.
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            # Few results at a time wait to be taken, so that memory stays bounded.
            for start in range(0, len(pieces), 16 * workers):
                yield from pool.map(do, pieces[start : start + 16 * workers])
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
