"""Networks that see cubes of one size, Pix2Pix and PF-SR, applied to a volume without seams."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch

from h2lo_bids.models.pfsr import Pfsr
from h2lo_bids.models.pix2pix import Pix2Pix
from h2lo_bids.synthesis.options import EngineOptions, resolve_device
from h2lo_bids.synthesis.tiles import each_on_a_core

PIX2PIX_PATCH = 64
"""Side of a patch in voxels, in training and synthesis, so that both see as much."""
PFSR_PATCH = 48
"""Side of a patch in voxels, in training as here: channel attention averages over it."""

Network = Callable[[torch.Tensor], torch.Tensor]
Corner = tuple[int, int, int]


def patch_side(shape: tuple[int, ...], multiple: int, side: int = PIX2PIX_PATCH) -> int:
    """Return the side of a grid's patches, a multiple; less than `side` on a small grid."""
    return -(-min(side, max(shape)) // multiple) * multiple


def predict_pix2pix(
    model: Pix2Pix,
    volume: np.ndarray,
    mask: np.ndarray,
    *,
    options: EngineOptions | None = None,
    seed: int = 42,
) -> np.ndarray:
    """Translate the brain voxels of a volume.

    Patches of 64 voxels that share at least 32 with the next are blended. The
    network sees and gives [-1, 1], background -1; it normalises by its running
    statistics, see `h2lo_bids.models.pix2pix.Pix2Pix`.
    """
    options = options or EngineOptions()
    device = resolve_device(options.device)
    generator = model.to(device).eval()
    patch = patch_side(volume.shape, model.architecture.multiple)

    def network(cubes: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            return (generator(2 * cubes - 1).float() + 1) / 2

    return blend_patches(
        network, volume, mask, patch=patch, overlap=patch // 2, device=device,
        threads=options.threads, padding="constant",
    )  # fmt: skip


def predict_pfsr(
    model: Pfsr,
    volume: np.ndarray,
    mask: np.ndarray,
    *,
    options: EngineOptions | None = None,
    seed: int = 42,
) -> np.ndarray:
    """Enhance the brain voxels of a volume.

    Patches of 48 voxels share at least 24 with the next and are blended by a
    squared sine, since channel attention makes each depend on all it holds.
    """
    options = options or EngineOptions()
    device = resolve_device(options.device)
    network = model.to(device).eval()
    patch = patch_side(volume.shape, 1, PFSR_PATCH)

    def enhance(cubes: torch.Tensor) -> torch.Tensor:
        cubes = cubes.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            return network(cubes).float()

    return blend_patches(
        enhance, volume, mask, patch=patch, overlap=patch // 2, device=device,
        threads=options.threads, padding="constant",
    )  # fmt: skip


def blend_patches(
    network: Network,
    volume: np.ndarray,
    mask: np.ndarray,
    *,
    patch: int,
    overlap: int,
    batch: int = 1,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    padding: str = "edge",
) -> np.ndarray:
    """Apply a network to overlapping patches and blend what it returns.

    Patches lie evenly over the bounding box of the mask; those without a voxel of
    the mask are skipped. Where patches overlap, each has a weight that rises from
    its border as a squared sine; the weights of a voxel add up to 1, so that the
    result passes from one patch to the next over the whole overlap. A shorter axis of the
    volume is padded to a patch. What the network makes of a cube must not depend on the
    others in its batch.
    """
    volume, mask = np.asarray(volume, np.float32), np.asarray(mask, bool)
    if volume.ndim != 3 or volume.shape != mask.shape:
        raise ValueError(f"a volume and its mask share a shape: {volume.shape}, {mask.shape}")
    if not 0 <= overlap < patch or batch < 1:
        raise ValueError(f"no patches of {patch} voxels that share {overlap}, {batch} at a time")
    out = np.zeros(volume.shape, np.float32)
    if not mask.any():
        return out
    missing = [max(0, patch - n) for n in volume.shape]
    before = [m // 2 for m in missing]
    around = [(b, m - b) for b, m in zip(before, missing, strict=True)]
    padded, wanted = np.pad(volume, around, mode=padding), np.pad(mask, around)  # type: ignore[call-overload]
    blended = _blend(network, padded, wanted, patch, overlap, batch, torch.device(device), threads)
    inner = tuple(slice(b, b + n) for b, n in zip(before, volume.shape, strict=True))
    out[mask] = blended[inner][mask]
    return out


def _blend(
    network: Network,
    volume: np.ndarray,
    mask: np.ndarray,
    patch: int,
    overlap: int,
    batch: int,
    device: torch.device,
    threads: int | None,
) -> np.ndarray:
    axes = [
        axis_weights(*_extent(mask, axis), volume.shape[axis], patch, overlap) for axis in range(3)
    ]
    corners = [
        (x, y, z) for x, y, z in itertools.product(*axes) if mask[_cube((x, y, z), patch)].any()
    ]
    groups = [corners[i : i + batch] for i in range(0, len(corners), batch)]

    def make(group: list[Corner]) -> np.ndarray:
        cubes = np.stack([volume[_cube(corner, patch)] for corner in group])[:, None]
        return network(torch.from_numpy(cubes).to(device)).float().cpu().numpy()[:, 0]

    total: np.ndarray = np.zeros(volume.shape, np.float32)
    made = each_on_a_core(make, groups, device=device, threads=threads)
    for group, cubes in zip(groups, made, strict=True):
        for corner, cube in zip(group, cubes, strict=True):
            x, y, z = (weights[c] for weights, c in zip(axes, corner, strict=True))
            total[_cube(corner, patch)] += cube * (x[:, None, None] * y[:, None] * z)
    return total


def axis_weights(
    first: int, stop: int, length: int, patch: int, overlap: int
) -> dict[int, np.ndarray]:
    """Return float32 (patch,) weights by the voxel in which a patch starts along an axis.

    At each voxel from `first` up to and without `stop` they add up to 1; no patch reaches
    beyond the axis.
    """
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


def _extent(mask: np.ndarray, axis: int) -> tuple[int, int]:
    others = tuple(a for a in range(3) if a != axis)
    hits = np.flatnonzero(mask.any(axis=others))
    return int(hits[0]), int(hits[-1]) + 1


def _cube(corner: Corner, side: int) -> tuple[slice, slice, slice]:
    x, y, z = (slice(c, c + side) for c in corner)
    return x, y, z
