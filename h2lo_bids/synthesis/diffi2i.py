"""DiffI2I applied to a volume, one axial slice at a time."""

from __future__ import annotations

import numpy as np
import torch

from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.models.diffi2i import DiffI2I, pad_slices
from h2lo_bids.synthesis.options import EngineOptions, resolve_device
from h2lo_bids.synthesis.tiles import each_on_a_core

_BATCH = 4
"""Slices at a time on a GPU; on a CPU each core takes one."""


def predict_diffi2i(
    model: DiffI2I,
    volume: np.ndarray,
    mask: np.ndarray,
    *,
    options: EngineOptions | None = None,
    seed: int = 42,
) -> np.ndarray:
    """Synthesize the axial slices (last array axis) that hold a part of the brain.

    Slices are cut to the brain's box, as in training: background would only
    dilute the prior, which is a mean over the slice. Our choice: all slices of a volume
    start the chain from one draw z_T, so that neighbours do not differ by chance.
    """
    options = options or EngineOptions()
    device = resolve_device(options.device)
    out = np.zeros(volume.shape, dtype=np.float32)
    if not mask.any():
        return out
    model = model.to(device)
    box = bounding_box(np.any(mask, 2))
    image = np.where(mask, volume, 0).astype(np.float32)[box].transpose(2, 0, 1)
    start = torch.randn(
        1, model.architecture.prior, generator=torch.Generator().manual_seed(seed)
    ).to(device)

    def synthesize(at: np.ndarray) -> np.ndarray:
        source = torch.from_numpy(image[at])[:, None].to(device)
        rows, columns = source.shape[2:]
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            made = model(pad_slices(source), start.expand(len(at), -1))
        found: np.ndarray = made[:, 0, :rows, :columns].float().cpu().numpy()
        return found

    wanted = np.flatnonzero(mask.any((0, 1)))
    batch = 1 if device.type == "cpu" else _BATCH
    parts = np.array_split(wanted, -(-len(wanted) // batch))
    made = each_on_a_core(synthesize, parts, device=device, threads=options.threads)
    for at, slices in zip(parts, made, strict=True):
        out[box[0], box[1], at] = slices.transpose(1, 2, 0)
    out[~mask] = 0
    return out
