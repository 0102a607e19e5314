"""Pix2Pix in three dimensions: a U-Net generator, and the discriminator that trains it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

_WIDEST = 8
"""Layers grow up to this multiple of the first one's width."""


@dataclass(frozen=True)
class Pix2PixArchitecture:
    """The sizes of both networks; the defaults give the paper's 4.86 M parameters."""

    channels: int = 16  # of the generator's first layer
    downs: int = 5  # halvings of the generator
    discriminator_channels: int = 16  # of the discriminator's first layer
    discriminator_layers: int = 3  # those of stride 2

    def __post_init__(self) -> None:
        if min(self.channels, self.discriminator_channels, self.discriminator_layers) < 1:
            raise ValueError("channels and layers must be at least 1")
        if self.downs < 2:
            raise ValueError(f"the generator needs at least 2 halvings, not {self.downs}")

    @property
    def multiple(self) -> int:
        """What the sides of the generator's input must divide by."""
        return int(2**self.downs)


class Pix2Pix(nn.Module):
    """The generator, 4,165,537 parameters: a U-Net with kernels of 4 and steps of 2.

    Encoder 1-16-32-64-128-128, LeakyReLU 0.2; decoder with transposed
    convolutions, ReLU and skips; batch normalisation but in the outermost and
    innermost convolutions; tanh at the end. The paper names the method and its
    4.86 M parameters; these sizes, which give that number together with the
    discriminator's, are our choice.

    In evaluation mode it normalises by its running statistics, not by those of the
    patch at hand: so it treats all patches of a volume alike, and what it makes of
    a voxel does not depend on how bright the rest of the patch is. By the statistics
    of each patch, which Pix2Pix takes, one tissue would change from patch to patch.

    References
    ----------
    Isola et al. 2017, Image-to-image translation with conditional adversarial
    networks, CVPR.
    """

    def __init__(self, architecture: Pix2PixArchitecture | None = None) -> None:
        super().__init__()
        a = architecture or Pix2PixArchitecture()
        self.architecture = a
        # Never wider than 8 times the first layer: 1-16-32-64-128-128.
        widths = [1, *(a.channels * min(2**i, _WIDEST) for i in range(a.downs))]
        last = a.downs - 1
        self.encoder = nn.ModuleList(
            _Layer(widths[i], widths[i + 1], norm=0 < i < last, slope=0.2 if i else 1)
            for i in range(a.downs)
        )
        self.decoder = nn.ModuleList(
            _Layer(widths[i + 1] * (1 if i == last else 2), widths[i], norm=i > 0, slope=0, up=True)
            for i in reversed(range(a.downs))
        )
        initialise(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Translate images (B, 1, X, Y, Z) in [-1, 1], sides multiples of the architecture's."""
        skips: list[torch.Tensor] = []
        x = image
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        x = self.decoder[0](skips.pop())
        for layer in list(self.decoder)[1:]:
            x = layer(torch.cat([skips.pop(), x], 1))
        return torch.tanh(x)


class PatchDiscriminator(nn.Module):
    """Judges each part of an image, given the source; 698,833 parameters.

    Kernels of 4: 2-16-32-64 with steps of 2, then 128 and 1 with steps of 1;
    LeakyReLU 0.2, batch normalisation but in the first and last. It serves the
    training only, and no bundle holds it.
    """

    def __init__(self, architecture: Pix2PixArchitecture | None = None) -> None:
        super().__init__()
        a = architecture or Pix2PixArchitecture()
        self.architecture = a
        n, first = a.discriminator_layers, a.discriminator_channels
        widths = [2, *[first * min(2**i, _WIDEST) for i in range(n + 1)], 1]
        self.layers = nn.ModuleList(
            _Layer(
                widths[i], widths[i + 1], norm=0 < i <= n, slope=0.2 if i else 1,
                stride=2 if i < n else 1, bias=i in (0, n + 1),
            )
            for i in range(n + 2)
        )  # fmt: skip
        initialise(self)

    def forward(self, source: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return logits (B, 1, x, y, z), positive for real, of images in [-1, 1]."""
        x = torch.cat([source, image], 1)
        *layers, last = self.layers
        for layer in layers:
            x = layer(x)
        # In float32 under autocast, too: on CPUs PyTorch 2.13 (oneDNN) reads unset memory
        # for the bfloat16 gradient of a kernel with one output on 3 x 3 x 3 voxels.
        with torch.autocast(x.device.type, enabled=False):
            return last(x.float())


class _Layer(nn.Module):
    """(Leaky) ReLU, convolution with kernel 4 and padding 1, batch normalisation."""

    def __init__(
        self, n_in: int, n_out: int, *, norm: bool, slope: float, up: bool = False,
        stride: int = 2, bias: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        kind = nn.ConvTranspose3d if up else nn.Conv3d
        # The outermost transposed convolution alone has a bias by default.
        biased = up and not norm if bias is None else bias
        self.convolution = kind(n_in, n_out, 4, stride, 1, bias=biased)
        self.norm = Norm(n_out) if norm else nn.Identity()
        self.slope = slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.slope != 1:
            x = functional.leaky_relu(x, self.slope)
        return self.norm(self.convolution(x))


class Norm(nn.Module):
    """Batch normalisation whose state is floating-point only, without PyTorch's counter."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mean: torch.Tensor
        self.variance: torch.Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.momentum = 0.1  # weight of the newest batch in the running statistics

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, X, Y, Z) over all but the channels."""
        return functional.batch_norm(
            x, self.mean, self.variance, self.weight, self.bias, self.training, self.momentum
        )


def initialise(network: nn.Module) -> None:
    """Draw weights from N(0, 0.02), those of normalisations from N(1, 0.02); biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d | Norm):
            nn.init.normal_(module.weight, 1.0 if isinstance(module, Norm) else 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
