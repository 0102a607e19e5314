"""The methods that can be trained, by name; each has a file in this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from h2lo_bids.models.baselines import NoSizes
from h2lo_bids.training.crops import NONE
from h2lo_bids.training.methods.arnold import ArnoldTrainer, adapt_arnold
from h2lo_bids.training.methods.diffi2i import DiffI2ITrainer, adapt_diffi2i
from h2lo_bids.training.methods.operators import OperatorTrainer, adapt_inr
from h2lo_bids.training.methods.patches import (
    PfsrTrainer,
    Pix2PixTrainer,
    adapt_pfsr,
    adapt_pix2pix,
)
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.trainer import Trainer

TRAINERS: dict[str, type[Trainer]] = {
    "h2lo": OperatorTrainer,
    "inr": OperatorTrainer,
    "arnold": ArnoldTrainer,
    "pix2pix": Pix2PixTrainer,
    "diffi2i": DiffI2ITrainer,
    "pfsr": PfsrTrainer,
}
"""The trainer of each family that has anything to fit."""
SHARED = ("h2lo", "inr")
"""Families whose steps several processes can share."""


def adapt_identity(options: FitOptions) -> FitOptions:
    """Return options of a fit without anything to fit: one step, of which none is done."""
    return replace(
        options, family="identity", architecture=NoSizes(), steps=1, warmup=0,
        lambda_grad=0.0, average=0.0, augmentation=NONE, scaling="max", patience=0,
    )  # fmt: skip


ADAPT: dict[str, Callable[[FitOptions], FitOptions]] = {
    "identity": adapt_identity,
    "arnold": adapt_arnold,
    "pix2pix": adapt_pix2pix,
    "diffi2i": adapt_diffi2i,
    "inr": adapt_inr,
    # The paper's ablations: ReLU in place of sines, and no gradient term.
    "h2lo-mlp": lambda o: replace(o, architecture=replace(o.architecture, trunk="mlp")),
    "h2lo-nograd": lambda o: replace(o, lambda_grad=0.0),
    "h2lo": lambda options: options,
    "pfsr": adapt_pfsr,
}
"""What turns the user's options into those of each method."""
