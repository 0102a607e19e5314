"""Networks that see a part of a volume: cubes of one size, blended without seams, or slices."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch

from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.models.diffi2i import DiffI2I, pad_slices
from h2lo_bids.models.pfsr import Pfsr
from h2lo_bids.models.pix2pix import Pix2Pix
from h2lo_bids.synthesis.options import DEFAULTS, EngineOptions, resolve_device
from h2lo_bids.synthesis.tiles import Box, each_on_a_core

PIX2PIX_PATCH = 64
"""Side of a patch in voxels, in training and synthesis, so that both see as much."""
PFSR_PATCH = 48
"""Side of a patch in voxels, in training as here: channel attention averages over it."""
_SLICES = 4
"""Slices at a time on a GPU; on a CPU each core takes one."""

Network = Callable[[torch.Tensor], torch.Tensor]


def patch_side(shape: tuple[int, ...], multiple: int, side: int = PIX2PIX_PATCH) -> int:
    """Return the side of a grid's patches, a multiple; less than `side` on a small grid."""
    return -(-min(side, max(shape)) // multiple) * multiple


def predict_patches(
    model: Pix2Pix | Pfsr,
    volume: np.ndarray,
    mask: np.ndarray,
    *,
    options: EngineOptions = DEFAULTS,
    seed: int = 42,
) -> np.ndarray:
    """Translate or enhance the brain voxels of a volume, by patches as large as in training.

    Pix2Pix sees and gives [-1, 1], background -1; it normalises by its running
    statistics, see `h2lo_bids.models.pix2pix.Pix2Pix`.
    """
    model.to(resolve_device(options.device)).eval()
    if isinstance(model, Pfsr):
        return blend_patches(model, volume, mask, patch_side(volume.shape, 1, PFSR_PATCH), options)
    side = patch_side(volume.shape, model.architecture.multiple)
    return blend_patches(
        lambda cubes: (model(2 * cubes - 1).float() + 1) / 2, volume, mask, side, options
    )


def blend_patches(
    network: Network,
    volume: np.ndarray,
    mask: np.ndarray,
    patch: int,
    options: EngineOptions = DEFAULTS,
) -> np.ndarray:
    """Apply a network to patches that overlap by half or more, and blend what it returns.

    Patches lie evenly over the bounding box of the mask; those without a voxel of
    the mask are skipped. Where patches overlap, each has a weight that rises from
    its border as a squared sine; the weights of a voxel add up to 1, so that the
    result passes from one patch to the next over the whole overlap. A shorter axis of the
    volume is padded with zeros to a patch.
    """
    device, out = resolve_device(options.device), np.zeros(volume.shape, np.float32)
    if not mask.any():
        return out
    missing = [max(0, patch - n) for n in volume.shape]
    around = [(m // 2, m - m // 2) for m in missing]
    padded, wanted = np.pad(volume, around), np.pad(mask, around)
    axes = [
        axis_weights(box.start, box.stop, n, patch)
        for box, n in zip(bounding_box(wanted), wanted.shape, strict=True)
    ]

    sides = [[slice(start, start + patch) for start in weights] for weights in axes]
    boxes = [box for box in itertools.product(*sides) if wanted[box].any()]

    def make(box: Box) -> np.ndarray:
        cube = torch.from_numpy(np.ascontiguousarray(padded[box]))
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            return network(cube[None, None].to(device)).float().cpu().numpy()[0, 0]

    total = np.zeros(padded.shape, np.float32)
    made = each_on_a_core(make, boxes, device=device, threads=options.threads)
    for box, cube in zip(boxes, made, strict=True):
        x, y, z = (weights[side.start] for weights, side in zip(axes, box, strict=True))
        total[box] += cube * (x[:, None, None] * y[:, None] * z)
    inner = tuple(slice(a, a + n) for (a, _), n in zip(around, volume.shape, strict=True))
    out[mask] = total[inner][mask]
    return out


def axis_weights(first: int, stop: int, length: int, patch: int) -> dict[int, np.ndarray]:
    """Return float32 (patch,) weights by the voxel in which a patch starts along an axis.

    At each voxel from `first` up to and without `stop` they add up to 1; no patch reaches
    beyond the axis.
    """
    overlap = patch // 2
    count = max(1, -(-(stop - first - overlap) // (patch - overlap)))
    if count == 1:
        alone = min(max(0, (first + stop - patch) // 2), length - patch)
        return {alone: np.ones(patch, np.float32)}
    starts = np.linspace(first, stop - patch, count).round().astype(int)
    shared = [0, *(starts[:-1] + patch - starts[1:]), 0]
    rising = np.zeros((count, length))
    for k, start in enumerate(starts):
        ramps = _ramp(patch, shared[k]) * _ramp(patch, shared[k + 1])[::-1]
        rising[k, start : start + patch] = ramps
    # Squared sine and cosine add up to 1; three patches at one voxel do not.
    total = rising.sum(0)
    shares = (rising / np.where(total > 0, total, 1)).astype(np.float32)
    return {int(s): shares[k, s : s + patch] for k, s in enumerate(starts)}


def _ramp(patch: int, shared: int) -> np.ndarray:
    """Return weights that rise from 0 to 1 over the first voxels, shared with a neighbour."""
    at = (np.arange(patch) + 0.5) / max(1, shared)
    return np.sin(np.pi / 2 * np.minimum(at, 1)) ** 2 if shared else np.ones(patch)


def predict_diffi2i(
    model: DiffI2I,
    volume: np.ndarray,
    mask: np.ndarray,
    *,
    options: EngineOptions = DEFAULTS,
    seed: int = 42,
) -> np.ndarray:
    """Synthesize the axial slices (last array axis) that hold a part of the brain.

    Slices are cut to the brain's box, as in training: background would only
    dilute the prior, which is a mean over the slice. Our choice: all slices of a volume
    start the chain from one draw z_T, so that neighbours do not differ by chance.
    """
    device = resolve_device(options.device)
    out = np.zeros(volume.shape, dtype=np.float32)
    if not mask.any():
        return out
    model = model.to(device)
    box = bounding_box(np.any(mask, 2))
    image = np.where(mask, volume, 0).astype(np.float32)[box].transpose(2, 0, 1)
    drawn = torch.Generator().manual_seed(seed)
    start = torch.randn(1, model.architecture.prior, generator=drawn).to(device)

    def synthesize(at: np.ndarray) -> np.ndarray:
        source = torch.from_numpy(image[at])[:, None].to(device)
        rows, columns = source.shape[2:]
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            made = model(pad_slices(source), start.expand(len(at), -1))
        return made[:, 0, :rows, :columns].float().cpu().numpy()

    wanted = np.flatnonzero(mask.any((0, 1)))
    batch = 1 if device.type == "cpu" else _SLICES
    parts = np.array_split(wanted, -(-len(wanted) // batch))
    made = each_on_a_core(synthesize, parts, device=device, threads=options.threads)
    for at, slices in zip(parts, made, strict=True):
        out[box[0], box[1], at] = slices.transpose(1, 2, 0)
    out[~mask] = 0
    return out
