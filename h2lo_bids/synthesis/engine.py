"""Evaluation of an operator on a volume: exact, tiled, in bounded memory."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from h2lo_bids.models.frame import normalised_coordinates
from h2lo_bids.models.h2lo import HALO, Branch, ConditionalInr, H2lo, Operator, cell_scale
from h2lo_bids.synthesis.options import DEFAULTS, CpuTookOverWarning, EngineOptions, resolve_device
from h2lo_bids.synthesis.tiles import Box, cover, each_on_a_core, read_crop

_POINTS = 32768
"""Points interpolated at once: 16 MB of features."""
_ROWS = 1024
"""Positions that the trunk evaluates at once."""
_SMALLEST_TILE = 8
"""Below this side a GPU out of memory has nothing left to give."""

Rows = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Maps coordinates (N, 3), and the encoder's features there without the last bias, to (N,)."""


def synthesize(
    model: Operator,
    volume: np.ndarray,
    mask: np.ndarray,
    *,
    options: EngineOptions = DEFAULTS,
) -> np.ndarray:
    """Evaluate an operator at the masked voxels of the model's own grid.

    Volume and result are (X, Y, Z), the volume in [0, 1] and 0 outside the brain; the result
    is float32, and exactly 0 outside the mask.
    """
    volume, mask = np.asarray(volume, dtype=np.float32), np.asarray(mask, dtype=bool)
    out = np.zeros(volume.shape, dtype=np.float32)

    def on_box(evaluator: Evaluator, box: Box) -> None:
        inside = mask[box]
        out[box][inside] = evaluator.at_voxels(box, inside)

    _run(model, volume, mask, on_box, options)
    return out


def synthesize_at(
    model: Operator,
    volume: np.ndarray,
    points: np.ndarray,
    *,
    options: EngineOptions = DEFAULTS,
) -> np.ndarray:
    """Evaluate the operator at positions (N, 3) in voxels of the frame: float32 (N,).

    Features are read trilinearly between voxels and held constant beyond the
    outer ones (``align_corners=True``, border padding); the trunk sees the
    position itself. At voxel centres the result is that of `synthesize`.
    """
    volume, points = np.asarray(volume, dtype=np.float32), np.asarray(points, dtype=np.float64)
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

    _run(model, volume, wanted, on_box, options)
    return out


def _rows_in(box: Box, ordered: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Find the entries of a sorted list of flat voxel indices that lie in a box."""
    x, y = np.ogrid[box[:2]]
    lines = ((x * shape[1] + y) * shape[2]).ravel()
    first = np.searchsorted(ordered, lines + box[2].start)
    counts = np.searchsorted(ordered, lines + box[2].stop) - first
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
            with products_in_bfloat16(options.precision == "bf16"):
                visit = partial(on_box, Evaluator(model, volume, device, options))
                boxes, threads = cover(wanted, tile), options.threads
                for _ in each_on_a_core(visit, boxes, device=device, threads=threads):
                    pass
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


class Evaluator:
    """An operator and a volume, to be evaluated box by box; threads can share one."""

    def __init__(
        self, model: Operator, volume: np.ndarray, device: torch.device, options: EngineOptions
    ) -> None:
        self._shape = volume.shape
        dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
        self._features = encoder_of(model.encoder, volume, device, dtype)
        self._rows = rows_of(model, volume.shape, device)

    def at_voxels(self, box: Box, inside: np.ndarray) -> np.ndarray:
        """Evaluate at those voxels of a box where `inside` is true: (N,) float32."""
        features = self._features(box)
        chosen = torch.from_numpy(np.ascontiguousarray(inside)).to(features.device)
        voxels = np.argwhere(inside) + [side.start for side in box]
        return self._rows(self._coordinates(voxels), features[chosen]).cpu().numpy()

    def at_points(self, box: Box, points: np.ndarray) -> np.ndarray:
        """Evaluate at points (N, 3) in voxels whose cells start in the box: (N,) float32."""
        last, starts = np.array(self._shape) - 1, np.array([side.start for side in box])
        ends = np.minimum([side.stop + 1 for side in box], self._shape).tolist()
        features = self._features(tuple(map(slice, starts.tolist(), ends)))
        out = np.empty(len(points), dtype=np.float32)
        for first in range(0, len(points), _POINTS):
            block = points[first : first + _POINTS]
            local = np.clip(block, 0, last) - starts
            values = self._rows(self._coordinates(block), _interpolate(features, local))
            out[first : first + _POINTS] = values.cpu().numpy()
        return out

    def _coordinates(self, voxels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(normalised_coordinates(voxels, self._shape).astype(np.float32))


def _interpolate(features: torch.Tensor, positions: np.ndarray) -> torch.Tensor:
    """Read features (a, b, c, P) between voxels, trilinearly, at (N, 3): (N, P) float32."""
    sides = features.shape[:3]
    table = features.view(-1, features.shape[-1])
    low = np.clip(np.floor(positions), 0, np.maximum(np.array(sides) - 2, 0)).astype(np.int64)
    fraction = positions - low
    out = torch.zeros(len(positions), table.shape[1], device=table.device)
    for corner in itertools.product((0, 1), repeat=3):
        weight = np.prod(np.where(corner, fraction, 1.0 - fraction), axis=1)
        if not weight.any():
            continue
        at = np.minimum(low + np.array(corner), np.array(sides) - 1)
        rows = torch.from_numpy(np.ravel_multi_index(tuple(at.T), sides)).to(table.device)
        weights = torch.from_numpy(weight.astype(np.float32)).to(table.device)
        out.addcmul_(table[rows].float(), weights[:, None])
    return out


def encoder_of(
    branch: Branch, volume: np.ndarray, device: torch.device, dtype: torch.dtype
) -> Callable[[Box], torch.Tensor]:
    """Return the encoder of a volume: it gives the features (a, b, c, P) of a box's voxels.

    Each box is read with a halo that every convolution shortens by a voxel, so
    that the deep, costly layers see no halo. Where a halo leaves the volume, the
    whole-volume pass would pad each layer with zeros; the same is done here. The last
    layer's bias is not included: added in float32 by what reads the features, it
    does not cost a bfloat16 feature its digits.
    """
    layers: list[tuple[torch.Tensor, torch.Tensor | None]] = []
    for index, layer in enumerate(branch.convolutions, start=1):
        kind = torch.float32 if index == 1 else dtype
        weight = layer.weight.detach().to(device, kind, memory_format=torch.channels_last_3d)
        bias = layer.get_parameter("bias").detach().to(device, kind)
        layers.append((weight, None if index == HALO else bias))

    def encode(box: Box) -> torch.Tensor:
        start = tuple(side.start - HALO for side in box)
        sides = tuple(side.stop - side.start + 2 * HALO for side in box)
        x = torch.from_numpy(read_crop(volume, start, sides)).to(device)[None, None]
        for index, (weight, bias) in enumerate(layers, start=1):
            convolve = convolve_one_channel if index == 1 else functional.conv3d
            x = convolve(x, weight, bias)
            if index < HALO:
                x = x.to(dtype, memory_format=torch.channels_last_3d).relu_()
                _clear_outside(x, box, HALO - index, volume.shape)
        return x[0].permute(1, 2, 3, 0).contiguous()

    return encode


def _clear_outside(x: torch.Tensor, box: Box, margin: int, shape: tuple[int, ...]) -> None:
    """Set to 0 what lies beyond the volume in a box and its margin."""
    for axis, (side, n) in enumerate(zip(box, shape, strict=True), start=2):
        before, after = max(0, margin - side.start), max(0, side.stop + margin - n)
        x.narrow(axis, 0, before).zero_()
        x.narrow(axis, x.shape[axis] - after, after).zero_()


def convolve_one_channel(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Convolve without padding, in float32 whatever `products_in_bfloat16` says.

    On a CPU PyTorch would turn a convolution of one channel into a product of
    matrices, which that switch rounds, and which takes two to three times as long.
    """
    if x.device.type == "cpu" and torch.backends.mkldnn.is_available():
        return torch.mkldnn_convolution(x, weight, bias, (0, 0, 0), (1, 1, 1), (1, 1, 1), 1)
    return functional.conv3d(x, weight, bias)


def rows_of(model: Operator, shape: Sequence[int], device: torch.device) -> Rows:
    """Return what follows the encoder, evaluated by blocks of rows that stay in a core's cache.

    Everything is float32; with `products_in_bfloat16` the matrix products alone round what they
    multiply. Coordinates are added one by one, since a product of matrices may round them.
    """

    def put(values: torch.Tensor) -> torch.Tensor:
        return values.detach().float().contiguous().to(device)

    if isinstance(model, ConditionalInr):
        block, bias = _inr_rows(model, shape, put), put(model.linears[-1].bias)
    else:
        block, bias = _basis_rows(model, put), put(model.bias)

    def evaluate(coordinates: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        coordinates = coordinates.to(device)
        out = torch.empty(len(coordinates), device=device)
        for start in range(0, len(coordinates), _ROWS):
            part = slice(start, start + _ROWS)
            out[part] = block(coordinates[part], features[part])
        return out.add_(bias)

    return evaluate


def _basis_rows(model: H2lo, put: Callable[[torch.Tensor], torch.Tensor]) -> Rows:
    """Evaluate sum_k b_k t_k(x) (Equation 1), the sine's frequency folded into weights."""
    sine, layers = model.trunk.sine, []
    linears = [m for m in model.trunk.net.modules() if isinstance(m, torch.nn.Linear)]
    for index, linear in enumerate(linears):
        omega = model.architecture.omega if sine and index < len(linears) - 1 else 1.0
        layers.append((put(linear.weight.double().t() * omega), put(linear.bias.double() * omega)))
    offset = put(model.encoder.convolutions[-1].get_parameter("bias"))

    def evaluate(coordinates: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        (weight, bias), *others = layers
        x = torch.addcmul(bias, coordinates[:, 0:1], weight[0])
        for axis in range(1, len(weight)):
            x.addcmul_(coordinates[:, axis : axis + 1], weight[axis])
        for weight, bias in others:
            x = x.sin_() if sine else x.relu_()
            x = torch.addmm(bias, x, weight)
        return x.mul_(offset + features).sum(-1)

    return evaluate


def _inr_rows(
    model: ConditionalInr, shape: Sequence[int], put: Callable[[torch.Tensor], torch.Tensor]
) -> Rows:
    """Evaluate the conditional INR's decoder, what all positions share folded into a layer."""
    pairs = [(m.weight.detach().double().t(), m.bias.detach().double()) for m in model.linears]
    (weight, bias), *others, (last, _) = pairs
    n = model.architecture.n_features
    scale = weight.new_tensor(cell_scale(shape))[:, None]
    cell = weight.new_tensor([2.0 / side for side in shape])
    before = model.encoder.convolutions[-1].get_parameter("bias").detach().double()
    bias = bias + cell @ weight[n + 3 :] + before @ weight[:n]
    position, final = put(weight[n : n + 3] * scale), put(last[:, 0])
    layers = [(put(w), put(b)) for w, b in [(weight[:n], bias), *others]]

    def evaluate(coordinates: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        (weight, bias), *others = layers
        x = torch.addmm(bias, features.float(), weight)
        for axis in range(3):
            x.addcmul_(coordinates[:, axis : axis + 1], position[axis])
        for weight, bias in others:
            x = torch.addmm(bias, x.relu_(), weight)
        return (x.relu_() * final).sum(-1)

    return evaluate


@contextlib.contextmanager
def products_in_bfloat16(wanted: bool) -> Iterator[None]:
    """Let the process round factors of float32 products to bfloat16, or forbid it; not the sums."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if wanted else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
