"""A tiny problem that an operator can learn in seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from h2lo_bids.models.h2lo import H2loArchitecture
from h2lo_bids.training.devices import make_fabric
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair

SMALL = H2loArchitecture(channels=4, n_basis=8, width=16)


def ball_pair(name: str, seed: int, shape: tuple[int, int, int] = (22, 26, 24)) -> Pair:
    """A brain-like ball of smooth texture; its partner is inverted and blurred."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.mgrid[tuple(slice(n) for n in shape)], -1) - (np.array(shape) - 1) / 2
    mask = (at**2).sum(-1) < (0.42 * min(shape)) ** 2
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


def trainer_of(
    kind: Callable[..., Any], train: Sequence[Pair], held: Sequence[Pair], options: FitOptions
) -> Any:
    """A method's trainer, alone."""
    return kind(train, held, options, make_fabric(options))
