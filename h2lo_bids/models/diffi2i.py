"""DiffI2I: a transformer steered by a prior that a four-step diffusion estimates."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from h2lo_bids.models.prior import Denoiser, PriorExtractor, reverse_chain
from h2lo_bids.models.restormer import STRIDE, DynamicTransformer

LEVELS = 4


@dataclass(frozen=True)
class DiffI2IArchitecture:
    """The sizes of a model; the defaults give the 16.39 million of the paper's Table 1.

    Parameters
    ----------
    width
        Channels of the transformer at full resolution; even.
    blocks, heads
        Transformer blocks and attention heads of the four levels.
    refinement
        Transformer blocks behind the last level.
    expansion
        Width of the feed-forward layers relative to their input.
    features
        Width of the extractors; z has four times as many numbers.
    residual
        Residual blocks of the extractors.
    denoiser_layers
        Linear layers of the denoiser behind the first.
    chain
        Steps T of the diffusion.

    Raises
    ------
    ValueError
        If the sizes do not fit each other.
    """

    width: int = 32
    blocks: tuple[int, ...] = (4, 6, 6, 8)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    refinement: int = 3
    expansion: float = 2.0
    features: int = 64
    residual: int = 6
    denoiser_layers: int = 1
    chain: int = 4

    def __post_init__(self) -> None:
        # Metadata holds lists; the sizes must compare and hash all the same.
        for name in ("blocks", "heads"):
            object.__setattr__(self, name, tuple(int(n) for n in getattr(self, name)))
        if len(self.blocks) != LEVELS or len(self.heads) != LEVELS:
            raise ValueError(f"blocks and heads need {LEVELS} numbers: {self.blocks}, {self.heads}")
        if min(self.width, *self.blocks, *self.heads, self.features, self.chain) < 1:
            raise ValueError("width, blocks, heads, features and chain must be at least 1")
        if self.width % 2 or any(self.width * 2**i % h for i, h in enumerate(self.heads)):
            raise ValueError(
                f"width {self.width} is odd or cannot be split into {self.heads} heads"
            )

    @property
    def prior(self) -> int:
        """Length of z."""
        return 4 * self.features

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes as JSON-ready values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def extractor(self, images: int) -> PriorExtractor:
        """Return an untrained extractor that sees so many images."""
        return PriorExtractor(images, self.features, self.residual)


class DiffI2I(nn.Module):
    """What turns a high-field slice into a low-field one; 16,389,619 parameters.

    They are the transformer's 15,091,635, the 1,100,608 of the condition
    extractor (it sees the source) and the denoiser's 197,376: all that stage 2
    trains, and all that synthesis needs. The extractor of stage 1, which sees
    source and target (1,109,824), is not among them. DiffI2I's authors
    publish no count for this task: these sizes were found from the count in the
    paper's Table 1, with the shapes of DiffIR's public code.

    Parameters
    ----------
    architecture
        Sizes; None takes the defaults.

    References
    ----------
    Xia et al. 2023, DiffI2I: Efficient Diffusion Model for Image-to-Image
    Translation, arXiv 2308.13767; and DiffIR (ICCV 2023).
    """

    def __init__(self, architecture: DiffI2IArchitecture | None = None) -> None:
        super().__init__()
        a = architecture or DiffI2IArchitecture()
        self.architecture = a
        self.transformer = DynamicTransformer(
            a.width, a.blocks, a.heads, a.refinement, a.expansion, a.prior
        )
        self.condition = a.extractor(1)
        self.denoiser = Denoiser(a.prior, a.denoiser_layers, a.chain)

    def estimate_prior(self, source: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
        """Run the chain from z_T (B, prior) for slices (B, 1, H, W): z (B, prior)."""
        return reverse_chain(self.denoiser, self.condition(source), noisy)

    def forward(self, source: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
        """Synthesize slices.

        Parameters
        ----------
        source
            (B, 1, H, W), in [0, 1]; sides are multiples of 8 (see `pad_slices`).
        noisy
            (B, prior), standard normal: the start z_T of the chain.

        Returns
        -------
        torch.Tensor
            (B, 1, H, W), without an output activation.
        """
        return self.transformer(source, self.estimate_prior(source, noisy))


def pad_slices(slices: torch.Tensor) -> torch.Tensor:
    """Add zeros, the background, behind both axes of (..., H, W) up to multiples of 8."""
    height, width = slices.shape[-2:]
    return functional.pad(slices, (0, -width % STRIDE, 0, -height % STRIDE))
