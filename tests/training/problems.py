"""A tiny problem that an operator can learn in seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from heads import rows_of
from scipy.ndimage import gaussian_filter
from shapes import ball

from h2lo_bids.models.baselines import Arnold
from h2lo_bids.models.diffi2i import DiffI2IArchitecture
from h2lo_bids.models.h2lo import H2loArchitecture, InrArchitecture
from h2lo_bids.models.pfsr import PfsrArchitecture
from h2lo_bids.models.pix2pix import Pix2PixArchitecture
from h2lo_bids.training.crops import Augmentation
from h2lo_bids.training.devices import make_fabric
from h2lo_bids.training.methods import ADAPT
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair

SMALL = H2loArchitecture(channels=4, n_basis=8, width=16)
VARIED = Augmentation(flip=0.5, shift=1, scale=0.2, gamma=0.1, bias=0.1, noise=0.02)
TINY: dict[str, dict[str, Any]] = {
    "arnold": {"steps": 40},
    "pix2pix": {
        "crop": 16,
        "architecture": Pix2PixArchitecture(
            channels=4, downs=3, discriminator_channels=4, discriminator_layers=2
        ),
    },
    "diffi2i": {
        "crop": 16, "average": 0.9,
        "architecture": DiffI2IArchitecture(
            width=4, blocks=(1, 1, 1, 1), heads=(1, 1, 2, 2), refinement=1, features=4, residual=1
        ),
    },
    "inr": {"architecture": InrArchitecture(4, 8, 16, 4), "average": 0.9},
    "pfsr": {
        "crop": 8, "batch": 2, "flip_rotate": True, "learning_rate": 1e-2,
        "architecture": PfsrArchitecture(features=4, groups=1, blocks=2, reduction=2),
    },
}  # fmt: skip
"""What makes a method fit for the tiny problem."""


def ball_pair(name: str, seed: int, shape: tuple[int, int, int] = (22, 26, 24)) -> Pair:
    """A brain-like ball of smooth texture; its partner is inverted and blurred."""
    rng, mask = np.random.default_rng(seed), ball(shape, 0.42 * min(shape))
    texture = gaussian_filter(rng.standard_normal(shape), 1.5)
    hf = np.clip(0.5 + texture / texture.std() * 0.2, 0.05, 1)
    lf = gaussian_filter(0.9 - 0.8 * hf, 1.0)
    return Pair(name, (hf * mask).astype(np.float32), (lf * mask).astype(np.float32), mask)


def small_options(**changes: object) -> FitOptions:
    """Options that fit the tiny problem."""
    values: dict = {
        "steps": 8, "learning_rate": 3e-3, "crop": 10, "batch": 2, "validate_every": 4,
        "checkpoint_every": 2, "validation_crops": 4, "points": 500, "architecture": SMALL,
    }  # fmt: skip
    return FitOptions(**{**values, **changes})


def simulator(values: Sequence[float]) -> Arnold:
    """Arnold's simulator with these values."""
    model = Arnold()
    model.load_state_dict({"values": torch.tensor(values)})
    return model


def trainer_of(
    kind: Callable[..., Any], train: Sequence[Pair], held: Sequence[Pair], options: FitOptions
) -> Any:
    """A method's trainer, alone."""
    return kind(train, held, options, make_fabric(options))


def tiny_options(name: str, **changes: Any) -> FitOptions:
    """A method's options for the tiny problem."""
    adapted = ADAPT[name](small_options(augmentation=VARIED))
    return dataclasses.replace(adapted, **{**TINY.get(name, {}), **changes})


def vector(module: torch.nn.Module) -> torch.Tensor:
    """All that a module's state holds, in one vector."""
    return torch.cat([value.detach().ravel().clone() for value in module.state_dict().values()])


def history(folder: Path) -> list[dict[str, str]]:
    """The rows of a fit's log."""
    return rows_of(folder / "history.csv")


TRAIN = [ball_pair("a", 1), ball_pair("b", 2), ball_pair("c", 3)]
HELD = [ball_pair("d", 4)]
