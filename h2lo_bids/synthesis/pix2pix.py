"""The Pix2Pix generator applied to a volume, patch by patch and without seams."""

from __future__ import annotations

import numpy as np
import torch

from h2lo_bids.models.pix2pix import Pix2Pix
from h2lo_bids.synthesis.options import EngineOptions, resolve_device
from h2lo_bids.synthesis.patches import blend_patches

PATCH = 64
"""Side of a patch in voxels, in training and synthesis, so that both see as much."""


def patch_side(shape: tuple[int, ...], multiple: int, side: int = PATCH) -> int:
    """Return the side of the patches for a grid.

    Parameters
    ----------
    shape
        Voxels of the grid.
    multiple
        What the side must divide by.
    side
        Largest side; rounded up to a multiple.

    Examples
    --------
    >>> patch_side((208, 256, 256), 32), patch_side((22, 26, 24), 32)
    (64, 32)
    """
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

    Parameters
    ----------
    model
        The generator.
    volume
        (X, Y, Z), the high-field image in [0, 1], on the model's frame.
    mask
        (X, Y, Z), true in the brain.
    options
        Settings; None takes the defaults. The result does not depend on `threads`.
    seed
        Not used: nothing is drawn.

    Returns
    -------
    numpy.ndarray
        float32 (X, Y, Z), in [0, 1] by the network's tanh; exactly 0 outside the mask.

    Raises
    ------
    ValueError
        If volume and mask differ in shape.
    UsageError
        If the device is not there.
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
