"""What a fit depends on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from h2lo_bids.errors import UsageError
from h2lo_bids.models.h2lo import H2loArchitecture
from h2lo_bids.training.augment import NONE, Augmentation
from h2lo_bids.training.losses import LAMBDA_GRAD

SAMPLINGS = ("patch", "volume")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class FitOptions:
    """Everything that decides the weights, besides the pairs and the thread count.

    Parameters
    ----------
    steps
        Optimiser steps of the whole schedule.
    learning_rate, floor
        Adam's rate at the start of the cosine and at its end; the paper takes
        1e-4 and 1e-6.
    warmup
        Steps of linear rise before; the paper has none.
    sampling
        ``"patch"``: crops with an exact halo, centred on the brain.
        ``"volume"``: the paper's, which encodes a whole volume per step.
    crop
        Side of a crop in voxels; with ``"volume"`` of the gradient sub-volume.
    batch
        Crops per step, each of another pair, at one place of the frame.
    points
        Voxels of the L1 term with ``"volume"``; a crop takes all of its own.
    lambda_grad
        Weight of the gradient term.
    seed
        Seeds the weights and every draw.
    precision
        ``"fp32"``, or ``"bf16"`` for autocast.
    average
        Decay of the running average of the weights that is validated and kept;
        0, the paper's way, takes the weights themselves.
    validate_every, checkpoint_every
        In steps.
    validation_crops
        Crops of the validation pairs that a validation takes.
    augmentation
        Variation of the pairs.
    architecture
        Sizes of the operator.
    """

    steps: int = 6500
    learning_rate: float = 1e-4
    floor: float = 1e-6
    warmup: int = 0
    sampling: str = "patch"
    crop: int = 32
    batch: int = 1
    points: int = 8000
    lambda_grad: float = LAMBDA_GRAD
    seed: int = 42
    precision: str = "fp32"
    average: float = 0.0
    validate_every: int = 250
    checkpoint_every: int = 100
    validation_crops: int = 24
    augmentation: Augmentation = NONE
    architecture: H2loArchitecture = field(default_factory=H2loArchitecture)

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise UsageError(f"sampling {self.sampling!r} is not one of {', '.join(SAMPLINGS)}")
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        for name in ("steps", "crop", "batch", "points", "validate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.average < 1:
            raise UsageError(f"average must be from 0 to below 1, not {self.average}")
        if not self.learning_rate > 0:
            raise UsageError(f"the learning rate must be positive, not {self.learning_rate}")

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON-ready values."""
        return asdict(self)
