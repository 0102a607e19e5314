"""The methods that can be trained, by name; each has a file in this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from h2lo_bids.errors import UsageError
from h2lo_bids.models.baselines import NoSizes
from h2lo_bids.models.registry import CATALOGUE, task_of
from h2lo_bids.training.crops import NONE
from h2lo_bids.training.methods.arnold import ArnoldTrainer, adapt_arnold
from h2lo_bids.training.methods.diffi2i import DiffI2ITrainer, adapt_diffi2i
from h2lo_bids.training.methods.operators import (
    OperatorTrainer,
    adapt_inr,
    adapt_mlp,
    adapt_nograd,
)
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


@dataclass(frozen=True)
class Method:
    """A method that is fitted to pairs."""

    name: str  # as on the command line and in a bundle
    adapt: Callable[[FitOptions], FitOptions]  # turns the user's options into the method's
    title: str  # the row in the paper's Table 1
    task: str  # what it is for: one of `h2lo_bids.vocabulary.TASKS`
    shares: bool  # whether several processes can share a step


def shares_steps(family: str) -> bool:
    """Return whether several processes can share the steps of a family's fit."""
    return family in TRAINERS and TRAINERS[family].shares


def adapt_identity(options: FitOptions) -> FitOptions:
    """Return options of a fit without anything to fit: one step, of which none is done."""
    return replace(
        options, family="identity", architecture=NoSizes(), steps=1, warmup=0,
        lambda_grad=0.0, average=0.0, augmentation=NONE, scaling="max", patience=0,
    )  # fmt: skip


METHODS: dict[str, Method] = {
    name: Method(
        name, adapt, CATALOGUE[name].title, task_of(name), shares_steps(CATALOGUE[name].family)
    )
    for name, adapt in (
        ("identity", adapt_identity),
        ("arnold", adapt_arnold),
        ("pix2pix", adapt_pix2pix),
        ("diffi2i", adapt_diffi2i),
        ("inr", adapt_inr),
        ("h2lo-mlp", adapt_mlp),
        ("h2lo-nograd", adapt_nograd),
        ("h2lo", lambda options: options),
        ("pfsr", adapt_pfsr),
    )
}
"""In the order of the paper's Table 1, then those for other tasks."""


def methods_of(task: str) -> dict[str, Method]:
    """Return the methods for a task by name, in the order of `METHODS`."""
    return {name: method for name, method in METHODS.items() if method.task == task}


def find_method(name: str) -> Method:
    """Return a method by its name, or raise `UsageError`."""
    if name not in METHODS:
        raise UsageError(f"method {name!r} is not one of {', '.join(METHODS)}")
    return METHODS[name]
