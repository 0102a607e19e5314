"""Models without a network: the identity, and the four numbers of Arnold's simulator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

PARAMETERS = ("sigma", "c1", "c2", "c3")
_PUBLISHED = (0.5, 2.5, 1.5, 0.5)
"""The authors' values for FLAIR on a low-field grid."""


@dataclass(frozen=True)
class NoSizes:
    """These models have no sizes."""


class Identity(nn.Module):
    """Returns what it is given; no parameters. The row "HF image" of the paper's Table 1."""

    def __init__(self, architecture: NoSizes | None = None) -> None:
        super().__init__()
        self.architecture = architecture or NoSizes()


class Arnold(nn.Module):
    """The parameters of `h2lo_bids.synthesis.arnold`, four in number.

    Attributes
    ----------
    values
        float32 (4,): ``sigma``, the blur in voxels; ``c1``, the noise before the blur,
        and ``c2``, the noise after it, each in standard deviations of the image;
        ``c3``, the blur of the second noise in voxels. All positive or 0.

    References
    ----------
    Arnold et al. 2022, Simulated diagnostic performance of low-field MRI: harnessing
    open-access datasets to evaluate novel devices, Magn. Reson. Imaging 87.
    """

    def __init__(self, architecture: NoSizes | None = None) -> None:
        super().__init__()
        self.architecture = architecture or NoSizes()
        self.values = nn.Parameter(torch.tensor(_PUBLISHED))

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """The four values as Python's numbers, in the order of `PARAMETERS`."""
        sigma, c1, c2, c3 = self.values.detach().cpu().double().tolist()
        return sigma, c1, c2, c3
