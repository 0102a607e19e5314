"""SynthStrip, for users who have its weights.

Hoopes et al. 2022, SynthStrip. The weights belong to FreeSurfer and are read
from the user's own copy. The network is a 3-D U-Net of seven levels, from its published
architecture, whose output is the signed distance to the brain's surface in mm.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from h2lo_bids.errors import BadDataError, MissingInputError, of_the_machine
from h2lo_bids.imaging.masks import largest_component
from h2lo_bids.imaging.reading import name_of
from h2lo_bids.imaging.resample import resample

WIDTHS = (16, 32, 64, 64, 64, 64, 64)
"""Features of each level, from full resolution down."""
BORDER_MM = 1.0
"""The mask goes this far beyond the brain's surface, as SynthStrip's own does."""
_SIDES = (192, 256, 320)


class DistanceUNet(nn.Module):
    """Two convolutions per level, maximum pooling down, nearest neighbours up.

    The deepest level belongs to the decoder; every decoder level ends by going
    up and meeting the encoder's features. Three convolutions follow at full
    resolution. The attribute names are those of the published checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        down, up = WIDTHS[:-1], WIDTHS[:0:-1]
        met = [own + skipped for own, skipped in zip(up, reversed(down), strict=True)]
        self.encoder = nn.ModuleList(map(_pair, (1, *down[:-1]), down))
        self.decoder = nn.ModuleList(map(_pair, (down[-1], *met[:-1]), up))
        first = WIDTHS[0]
        last = _convolution(first, 1)[:1]  # without rectifier
        self.remaining = nn.Sequential(*_pair(met[-1], first), last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, 1, X, Y, Z), sides divisible by 64, to distances in mm."""
        skipped = []
        for pair in self.encoder:
            x = pair(x)
            skipped.append(x)
            x = functional.max_pool3d(x, 2)
        for pair in self.decoder:
            x = functional.interpolate(pair(x), scale_factor=2, mode="nearest")
            x = torch.cat([x, skipped.pop()], dim=1)
        return self.remaining(x)


def _pair(width_in: int, width_out: int) -> nn.Sequential:
    """Return the two convolutions of a level."""
    return nn.Sequential(_convolution(width_in, width_out), _convolution(width_out, width_out))


def _convolution(width_in: int, width_out: int) -> nn.Sequential:
    """Return a 3x3x3 convolution and a leaky rectifier."""
    convolution = nn.Conv3d(width_in, width_out, kernel_size=3, padding=1)
    return nn.Sequential(OrderedDict(conv=convolution, rectifier=nn.LeakyReLU(0.2, inplace=True)))


def load_network(file: Path) -> Any:
    """Load the weights without running any code they may contain."""
    network = DistanceUNet()
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict(checkpoint["model_state_dict"])
    except OSError as err:
        text = f"{file}: cannot be read ({err.strerror}); check its permissions"
        raise MissingInputError(text) from err
    except Exception as err:  # torch raises many kinds: pickle, zip, key and shape errors
        text = f"{file}: does not hold SynthStrip's weights; give FreeSurfer's synthstrip.1.pt"
        raise of_the_machine(err) or BadDataError(text) from err
    return network.eval()


def synthstrip_mask(image: Any, weights: Path) -> np.ndarray:
    """Find the brain with SynthStrip."""
    from scipy.ndimage import binary_fill_holes

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
    mask = binary_fill_holes(largest_component(np.asarray(back.dataobj) < BORDER_MM))
    if not mask.any():
        raise BadDataError(f"{name_of(image)}: SynthStrip finds no brain; check the image")
    return mask


def network_grid(image: Any) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return the 1 mm grid that SynthStrip expects, centred on the scan."""
    ends = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in image.shape])).reshape(3, -1).T
    corners = nib.affines.apply_affine(image.affine, ends)
    axes = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # columns: left, inferior, anterior
    needed = np.abs(axes.T) @ np.ptp(corners, axis=0)
    a, b, c = (next((s for s in _SIDES if s >= n - 1e-3), _SIDES[-1]) for n in needed)
    middle = axes @ ((np.array([a, b, c]) - 1) / 2)
    return (a, b, c), nib.affines.from_matvec(axes, corners.mean(0) - middle)
