"""The PF-SR-style network applied to a volume, patch by patch and without seams."""

from __future__ import annotations

import numpy as np
import torch

from h2lo_bids.models.pfsr import Pfsr
from h2lo_bids.synthesis.options import EngineOptions, resolve_device
from h2lo_bids.synthesis.patches import blend_patches
from h2lo_bids.synthesis.pix2pix import patch_side

PATCH = 48
"""Side of a patch in voxels, in training as here: channel attention averages over it."""


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

    Parameters
    ----------
    model
        The network.
    volume
        (X, Y, Z), the low-field image in [0, 1], 0 outside the brain.
    mask
        (X, Y, Z), true in the brain.
    options
        Settings; None takes the defaults. The result does not depend on `threads`.
    seed
        Not used: nothing is drawn.

    Returns
    -------
    numpy.ndarray
        float32 (X, Y, Z), not clipped; exactly 0 outside the mask.

    Raises
    ------
    ValueError
        If volume and mask differ in shape.
    UsageError
        If the device is not there.
    """
    options = options or EngineOptions()
    device = resolve_device(options.device)
    network = model.to(device).eval()
    patch = patch_side(volume.shape, 1, PATCH)

    def enhance(cubes: torch.Tensor) -> torch.Tensor:
        cubes = cubes.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            return network(cubes).float()

    return blend_patches(
        enhance, volume, mask, patch=patch, overlap=patch // 2, device=device,
        threads=options.threads, padding="constant",
    )  # fmt: skip
