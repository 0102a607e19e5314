"""Evaluation of an operator on a volume: exact, tiled, in bounded memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch

from h2lo_bids.models.inr import Operator
from h2lo_bids.synthesis.evaluator import Evaluator, products_in_bfloat16
from h2lo_bids.synthesis.options import CpuTookOverWarning, EngineOptions, resolve_device
from h2lo_bids.synthesis.tiles import Box, cover, each_on_a_core

_SMALLEST_TILE = 8
"""Below this side a GPU out of memory has nothing left to give."""


def synthesize(
    model: Operator,
    volume: np.ndarray,
    mask: np.ndarray,
    *,
    options: EngineOptions | None = None,
) -> np.ndarray:
    """Evaluate an operator at the brain voxels of the model's own grid.

    Parameters
    ----------
    model
        The operator.
    volume
        (X, Y, Z), the high-field image in [0, 1], 0 outside the brain, on the
        model's frame.
    mask
        (X, Y, Z), true where the result is wanted.
    options
        Settings; None takes the defaults.

    Returns
    -------
    numpy.ndarray
        float32 (X, Y, Z); exactly 0 outside the mask.

    Raises
    ------
    ValueError
        If volume and mask differ in shape.
    UsageError
        If the device is not there.
    """
    volume, mask = np.asarray(volume, dtype=np.float32), np.asarray(mask, dtype=bool)
    if volume.ndim != 3 or volume.shape != mask.shape:
        raise ValueError(f"a volume and its mask share a shape: {volume.shape}, {mask.shape}")
    out = np.zeros(volume.shape, dtype=np.float32)

    def on_box(evaluator: Evaluator, box: Box) -> None:
        inside = mask[box.slices]
        out[box.slices][inside] = evaluator.at_voxels(box, inside)

    _run(model, volume, mask, on_box, options or EngineOptions())
    return out


def synthesize_at(
    model: Operator,
    volume: np.ndarray,
    points: np.ndarray,
    *,
    options: EngineOptions | None = None,
) -> np.ndarray:
    """Evaluate the operator anywhere.

    Features are read trilinearly between voxels and held constant beyond the
    outer ones (``align_corners=True``, border padding); the trunk sees the
    position itself. At voxel centres the result is that of `synthesize`.

    Parameters
    ----------
    model
        The operator.
    volume
        (X, Y, Z), in [0, 1], on the model's frame.
    points
        (N, 3), positions in voxel indices of the frame, integer or not.
    options
        Settings; None takes the defaults.

    Returns
    -------
    numpy.ndarray
        float32 (N,).

    Raises
    ------
    ValueError
        If the points are not (N, 3) finite numbers.
    UsageError
        If the device is not there.
    """
    volume, points = np.asarray(volume, dtype=np.float32), np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise ValueError(f"points are (N, 3) finite voxel indices, not {points.shape}")
    last = np.array(volume.shape) - 1
    # The cell of a point on the far border is the last one, so that it has two corners.
    cells = np.clip(np.floor(points), 0, np.maximum(last - 1, 0)).astype(np.int32)
    wanted = np.zeros(volume.shape, dtype=bool)
    wanted[tuple(cells.T)] = True
    out = np.zeros(len(points), dtype=np.float32)
    flat = np.ravel_multi_index(tuple(cells.T), volume.shape)
    order = np.argsort(flat, kind="stable")
    ordered = flat[order]

    def on_box(evaluator: Evaluator, box: Box) -> None:
        rows = order[_rows_in(box, ordered, volume.shape)]
        if rows.size:
            out[rows] = evaluator.at_points(box, points[rows])

    _run(model, volume, wanted, on_box, options or EngineOptions())
    return out


def _rows_in(box: Box, ordered: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Find the entries of a sorted list of flat voxel indices that lie in a box."""
    x = np.arange(box.start[0], box.stop[0])[:, None]
    y = np.arange(box.start[1], box.stop[1])[None, :]
    lines = ((x * shape[1] + y) * shape[2]).ravel()
    first = np.searchsorted(ordered, lines + box.start[2])
    counts = np.searchsorted(ordered, lines + box.stop[2]) - first
    ends = np.cumsum(counts)
    return np.repeat(first - (ends - counts), counts) + np.arange(ends[-1])


def _run(
    model: Operator,
    volume: np.ndarray,
    wanted: np.ndarray,
    on_box: Callable[[Evaluator, Box], None],
    options: EngineOptions,
) -> None:
    """Cover the wanted voxels and visit each box, on the CPU if a GPU is too small."""
    device, tile = resolve_device(options.device), options.tile
    while True:
        try:
            _visit(model, volume, cover(wanted, tile), on_box, options, device)
            return
        except torch.cuda.OutOfMemoryError:
            if device.type == "cpu":
                raise
            torch.cuda.empty_cache()
            tile //= 2
            if tile < _SMALLEST_TILE:
                text = f"{device} is out of memory; continuing on the CPU"
                warnings.warn(text, CpuTookOverWarning, stacklevel=3)
                device, tile = torch.device("cpu"), options.tile


def _visit(
    model: Operator,
    volume: np.ndarray,
    boxes: Sequence[Box],
    on_box: Callable[[Evaluator, Box], None],
    options: EngineOptions,
    device: torch.device,
) -> None:
    """Visit every box; see `each_on_a_core`."""
    evaluator = Evaluator(model, volume, device, options)

    def visit(box: Box) -> None:
        on_box(evaluator, box)

    with products_in_bfloat16(options.precision == "bf16"):
        for _ in each_on_a_core(visit, boxes, device=device, threads=options.threads):
            pass
