"""From the user's options to those of a fit; imported by child processes alone."""

from __future__ import annotations

import dataclasses
from typing import Any

from h2lo_bids.cli.settings import Settings
from h2lo_bids.models.h2lo import H2loArchitecture
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.protocols import default_options, paper_options
from h2lo_bids.training.sampling import epoch_steps


def fit_options(settings: Settings, n_train: int) -> FitOptions:
    """Return the options of a fit: the protocol's, where the user says nothing else.

    Parameters
    ----------
    settings
        Of the run.
    n_train
        Number of training pairs.

    Raises
    ------
    UsageError
        If they make no sense together.
    """
    if settings.protocol == "paper":
        words = {} if settings.epochs is None else {"epochs": settings.epochs}
        options = paper_options(n_train, device=settings.device, **words)
    else:
        options = default_options(n_train, device=settings.device, **_length(settings, n_train))
    given: dict[str, Any] = {
        "steps": settings.steps,
        "sampling": settings.sampling,
        "crop": settings.crop,
        "batch": settings.batch,
        "lambda_grad": settings.lambda_grad,
        "learning_rate": settings.learning_rate,
        "validate_every": settings.validate_every,
        "precision": settings.precision,
        "max_seconds": None if settings.max_time is None else 60 * settings.max_time,
    }
    changed = {name: value for name, value in given.items() if value is not None}
    if settings.trunk is not None:
        changed["architecture"] = H2loArchitecture(trunk=settings.trunk)
    return dataclasses.replace(options, seed=settings.random_seed, **changed)


def _length(settings: Settings, n_train: int) -> dict[str, int]:
    """Return the steps, if the user says how many: warm-up and validation follow from them."""
    if settings.steps is not None:
        return {"steps": settings.steps}
    if settings.epochs is not None:
        batch = settings.batch or default_options(n_train, device=settings.device).batch
        return {"steps": settings.epochs * epoch_steps(n_train, batch)}
    return {}
