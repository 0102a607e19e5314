"""The identity: the high-field image as it is, the baseline that any method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class IdentityArchitecture:
    """The identity has no sizes."""

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes as JSON-ready values: none."""
        return {}


class Identity(nn.Module):
    """Returns what it is given; no parameters. The row "HF image" of the paper's Table 1."""

    def __init__(self, architecture: IdentityArchitecture | None = None) -> None:
        super().__init__()
        self.architecture = architecture or IdentityArchitecture()

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Return the volume, of any shape, as it is."""
        return volume
