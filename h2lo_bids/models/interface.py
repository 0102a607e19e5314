"""What every synthesis model offers, whatever is inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    import torch


class Architecture(Protocol):
    """The sizes of a model: a frozen dataclass, which alone decides what is built."""

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes as JSON-ready values, from which an equal one can be made."""


class Model(Protocol):
    """A PyTorch module that is built from its architecture and nothing else.

    Its state dict holds floating-point tensors only, so that a bundle can keep it.
    How an image is made with it is no part of the model; see
    `h2lo_bids.synthesis.predict`.
    """

    @property
    def architecture(self) -> Architecture:
        """The sizes that it was built from."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the weights by name."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Iterate over what is trained."""

    def to(self, device: Any) -> Self:
        """Move the weights to a device."""

    def eval(self) -> Self:
        """Switch to evaluation."""
