"""SynthStrip, for users who have its weights.

Hoopes et al. 2022, SynthStrip. The weights belong to FreeSurfer and are read
from the user's own copy. The network is a 3-D U-Net of seven levels whose output
is the signed distance to the brain's surface in mm.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.imaging.masks import largest_component
from h2lo_bids.imaging.reading import name_of
from h2lo_bids.imaging.resample import resample

WEIGHTS_NAME = "synthstrip.1.pt"
WIDTHS = (16, 32, 64, 64, 64, 64, 64)
"""Features of each level, from full resolution down."""
BORDER_MM = 1.0
"""The mask goes this far beyond the brain's surface, as SynthStrip's own does."""
_SIDES = (192, 256, 320)


def find_weights(given: str | os.PathLike[str] | None, *, required: bool) -> Path | None:
    """Look for SynthStrip's weights."""
    if given is not None:
        if not Path(given).is_file():
            raise MissingInputError(f"{given}: no SynthStrip weights there; check the path")
        return Path(given)
    home = os.environ.get("FREESURFER_HOME")
    file = Path(home) / "models" / WEIGHTS_NAME if home else None
    if file is not None and file.is_file():
        return file
    if required:
        raise MissingInputError(
            f"SynthStrip needs FreeSurfer's {WEIGHTS_NAME}: give its path, or set FREESURFER_HOME"
            " to a folder that has it under models/, or use deepbet"
        )
    return None


def build_network() -> Any:
    """Build SynthStrip's U-Net, named as its checkpoint names it."""
    from h2lo_bids.imaging.brain.unet import DistanceUNet

    return DistanceUNet(WIDTHS)


def load_network(file: Path) -> Any:
    """Load the weights without running any code they may contain."""
    import torch

    network = build_network()
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict(checkpoint["model_state_dict"])
    except Exception as err:  # torch raises many kinds: pickle, zip, key and shape errors
        raise BadDataError(
            f"{file}: does not hold SynthStrip's weights; give FreeSurfer's {WEIGHTS_NAME}"
        ) from err
    return network.eval()


def synthstrip_mask(image: Any, weights: Path) -> np.ndarray:
    """Find the brain with SynthStrip."""
    import torch

    network = load_network(weights)
    shape, affine = network_grid(image)
    conformed = resample(image, shape, affine, order=1, fill=float(np.min(image.dataobj)))
    volume = np.array(conformed.dataobj, dtype=np.float32)
    volume -= volume.min()
    volume = np.clip(volume / max(float(np.percentile(volume, 99)), 1e-12), 0, 1)
    with torch.inference_mode():
        distance = network(torch.from_numpy(volume)[None, None])[0, 0].numpy()
    back = resample(
        nib.Nifti1Image(distance, affine), image.shape, image.affine, order=1, fill=100.0
    )
    from scipy.ndimage import binary_fill_holes

    mask = binary_fill_holes(largest_component(np.asarray(back.dataobj) < BORDER_MM))
    if not mask.any():
        raise BadDataError(f"{name_of(image)}: SynthStrip finds no brain; check the image")
    return mask


def network_grid(image: Any) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return the 1 mm grid that SynthStrip expects, centred on the scan."""
    ends = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in image.shape])).reshape(3, -1).T
    corners = nib.affines.apply_affine(image.affine, ends)
    extent = corners.max(0) - corners.min(0)
    axes = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # columns: left, inferior, anterior
    needed = np.abs(axes.T) @ extent
    a, b, c = (next((s for s in _SIDES if s >= n - 1e-3), _SIDES[-1]) for n in needed)
    middle = axes @ ((np.array([a, b, c]) - 1) / 2)
    return (a, b, c), nib.affines.from_matvec(axes, corners.mean(0) - middle)
