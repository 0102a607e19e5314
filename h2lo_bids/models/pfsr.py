"""A PF-SR-style network that takes a low-field image to a high-field one on the same grid."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class PfsrArchitecture:
    """The sizes of a PF-SR-style network."""

    features: int = 64  # channels of every layer between the first and the last
    groups: int = 4  # residual groups
    blocks: int = 4  # residual blocks of a group
    reduction: int = 16  # channels per hidden unit of the channel attention

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.features % self.reduction:
            raise ValueError(f"{self.features} features do not divide by {self.reduction}")


class ChannelAttention(nn.Module):
    """Channels weighed by what their means over a patch say.

    Weights come from the mean over the whole patch, so that one voxel's result
    depends on all of it: see `h2lo_bids.synthesis.patches` for the way around seams.

    References
    ----------
    Zhang et al. 2018, Image super-resolution using very deep residual channel
    attention networks, ECCV.
    """

    def __init__(self, features: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(features, features // reduction)
        self.excite = nn.Linear(features // reduction, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale each channel of (B, C, X, Y, Z) by a number from 0 to 1."""
        weights = self.excite(torch.relu(self.squeeze(x.mean(dim=(2, 3, 4)))))
        return x * torch.sigmoid(weights)[:, :, None, None, None]


class _Block(nn.Module):
    """Two convolutions and channel attention around a skip."""

    def __init__(self, a: PfsrArchitecture) -> None:
        super().__init__()
        self.first, self.second = _conv(a.features, a.features), _conv(a.features, a.features)
        self.attention = ChannelAttention(a.features, a.reduction)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attention(self.second(torch.relu(self.first(x))))


class _Group(nn.Module):
    """Blocks one after the other around a skip."""

    def __init__(self, a: PfsrArchitecture) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(_Block(a) for _ in range(a.blocks)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.blocks(x)


class Pfsr(nn.Module):
    """Low-field image plus what a residual network adds to it, on one grid.

    The H2LO paper takes PF-SR's network, removes its upsampler, and adds the
    predicted residual to the input. The full text of PF-SR was not available: the
    number of groups, blocks and channels and the kind of attention are our choice,
    and so we call it PF-SR-style.

    The last layer starts at zero, so that an untrained network is the identity.

    References
    ----------
    Man et al. 2023, Deep learning enabled fast 3D brain MRI at 0.055 tesla, Science
    Advances 9(38), doi:10.1126/sciadv.adi9327.
    """

    def __init__(self, architecture: PfsrArchitecture | None = None) -> None:
        super().__init__()
        a = architecture or PfsrArchitecture()
        self.architecture = a
        self.head = _conv(1, a.features)
        self.groups = nn.Sequential(*(_Group(a) for _ in range(a.groups)))
        self.tail = _conv(a.features, 1)
        # A CPU fits eight channels that lie side by side in a third of the time.
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if not self.tail.weight.is_meta:
            for parameter in self.tail.parameters():
                nn.init.zeros_(parameter)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Enhance patches (B, 1, X, Y, Z) in [0, 1]: the same shape, not clipped."""
        shallow = self.head(volume)
        deep = shallow + self.groups(shallow)
        # PyTorch 2.13's CPU gradient of a one-channel convolution in bfloat16 was seen to
        # differ from run to run; in float32 it costs little.
        with torch.autocast(volume.device.type, enabled=False):
            return volume + self.tail(deep.to(self.tail.weight.dtype))


def _conv(n_in: int, n_out: int) -> nn.Conv3d:
    return nn.Conv3d(n_in, n_out, 3, padding=1)
