"""What a fit depends on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from h2lo_bids.errors import UsageError
from h2lo_bids.imaging.normalise import SCALINGS
from h2lo_bids.models.h2lo import H2loArchitecture
from h2lo_bids.models.interface import Architecture
from h2lo_bids.models.registry import FAMILIES, make_architecture
from h2lo_bids.training.augment import NONE, Augmentation
from h2lo_bids.training.losses import LAMBDA_GRAD
from h2lo_bids.vocabulary import DEVICE, PRECISIONS

SAMPLINGS = ("patch", "volume")
VALIDATIONS = ("crops", "volume")
_PLACE = ("device",)
"""Where a fit runs: it may go on elsewhere, so this is no part of what it is."""
_LATER = {
    "family": "h2lo", "max_seconds": None, "flip_rotate": False, "warmup_from": 0.0,
    "starts_from": None, "scaling": "max", "patience": 0,
}  # fmt: skip
"""Options that fits of earlier versions do not name, and what they were there."""


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
    warmup, warmup_from
        Steps of linear rise before, and the part of the rate from which it rises; the
        paper has none for synthesis, and rises from 0.5 in fine-tuning an enhancer.
    rate_steps
        Steps for which the rate stays the same: 1, or with ``"volume"`` the
        steps of an epoch, as in the paper.
    sampling
        ``"patch"``: crops with an exact halo, centred on the brain.
        ``"volume"``: the paper's, which encodes a whole volume per step.
    crop
        Side of a crop in voxels; with ``"volume"`` of the gradient sub-volume.
    batch
        Crops per step, each of another pair, at one place of the frame; with
        ``"volume"`` whole volumes per step, of which the paper takes one.
    points
        Voxels of the L1 term with ``"volume"``; a crop takes all of its own.
    lambda_grad
        Weight of the gradient term; with 0 (the paper's ablation) it is not computed.
    seed
        Seeds the weights and every draw.
    precision
        ``"fp32"``, or ``"bf16"`` for autocast, or on CUDA ``"fp16"``.
    average
        Decay of the running average of the weights that is validated and kept;
        0, the paper's way, takes the weights themselves.
    validate_first, validate_every, checkpoint_every
        In steps. The last step is validated, too.
    patience
        Steps after which the fit ends if no validation in them was better than all before
        by more than `h2lo_bids.training.schedule.GAIN`; 0, the paper's way, never ends it.
    validation
        ``"crops"``: PSNR over the brain in some crops of the validation pairs.
        ``"volume"``: the mean of the pairs' whole-volume PSNR, as in the paper.
    validation_crops
        Crops of the validation pairs that a validation takes.
    augmentation
        Variation of the pairs.
    flip_rotate
        Whether each patch is one of its eight axial mirror images and quarter turns,
        drawn at random; for enhancement alone.
    starts_from
        SHA-256 of the weights from which a fine-tuning starts; None draws them
        from the seed.
    family
        A key of `h2lo_bids.models.registry.FAMILIES`: what `architecture` is of.
    architecture
        Sizes of the model; for the operator its trunk, too.
    scaling
        How a model's input is scaled, one of `h2lo_bids.imaging.normalise.SCALINGS`; the
        paper divides by the maximum.
    max_seconds
        Time budget of the steps: the fit ends at the first step after it, its
        schedule unfinished; None sets no limit. With one, the weights depend on
        the machine's speed.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    """

    steps: int = 6500
    learning_rate: float = 1e-4
    floor: float = 1e-6
    warmup: int = 0
    warmup_from: float = 0.0
    rate_steps: int = 1
    sampling: str = "patch"
    crop: int = 32
    batch: int = 1
    points: int = 8000
    lambda_grad: float = LAMBDA_GRAD
    seed: int = 42
    precision: str = "fp32"
    average: float = 0.0
    validate_first: int = 1
    validate_every: int = 250
    checkpoint_every: int = 100
    patience: int = 0
    validation: str = "crops"
    validation_crops: int = 24
    augmentation: Augmentation = NONE
    flip_rotate: bool = False
    starts_from: str | None = None
    family: str = "h2lo"
    architecture: Architecture = field(default_factory=H2loArchitecture)
    scaling: str = "max"
    max_seconds: float | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, known in (
            ("sampling", SAMPLINGS), ("precision", PRECISIONS), ("validation", VALIDATIONS),
            ("family", FAMILIES), ("scaling", SCALINGS),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                listed = ", ".join(known)
                raise UsageError(f"{name} {getattr(self, name)!r} is not one of {listed}")
        wanted = FAMILIES[self.family].architecture
        if type(self.architecture).__name__ != wanted:
            raise UsageError(
                f"{type(self.architecture).__name__} is no architecture of {self.family}, "
                f"which takes {wanted}"
            )
        self._check_numbers()
        if not DEVICE.fullmatch(self.device):
            raise UsageError(f"device {self.device!r} is not one of cpu, cuda, cuda:N, auto")

    def _check_numbers(self) -> None:
        for name in (
            "steps", "crop", "batch", "points", "rate_steps", "validate_first", "validate_every",
            "checkpoint_every", "validation_crops",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.patience < 0:
            raise UsageError(f"patience must be 0 or more, not {self.patience}")
        for name in ("average", "warmup_from"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must be from 0 to below 1, not {getattr(self, name)}")
        for name, what in (("learning_rate", "the learning rate"), ("max_seconds", "max_seconds")):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise UsageError(f"{what} must be positive, not {value}")
        if not 0 <= self.lambda_grad < float("inf"):
            raise UsageError(f"lambda_grad must be 0 or more, not {self.lambda_grad}")

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FitOptions:
        """Read options back from `to_dict`'s output, or raise `UsageError`."""
        try:
            return cls(
                **{
                    **values,
                    "augmentation": Augmentation(**values["augmentation"]),
                    "architecture": make_architecture(
                        values.get("family", "h2lo"), values["architecture"]
                    ),
                }
            )
        except (KeyError, TypeError, ValueError) as err:
            raise UsageError(f"these are no options of a fit: {err}") from err

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights: the options without the device.

        Options that came with a later version count only where they change something,
        so that fits of an earlier one stay what they are.
        """
        return {
            k: v
            for k, v in self.to_dict().items()
            if k not in _PLACE and not (k in _LATER and v == _LATER[k])
        }
