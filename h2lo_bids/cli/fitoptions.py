"""From the user's options to those of a fit; imported by child processes alone."""

from __future__ import annotations

import dataclasses
from typing import Any

from h2lo_bids.cli.prepared import frame_of
from h2lo_bids.errors import UsageError
from h2lo_bids.models.bundle import Bundle, default_bundle, load_bundle
from h2lo_bids.models.collection import choose_bundles, is_collection
from h2lo_bids.settings import Settings
from h2lo_bids.settings.convert import NONE
from h2lo_bids.settings.options_pairs import INIT
from h2lo_bids.training.fitting import start_fault
from h2lo_bids.training.options import FitOptions, default_options, paper_options


def fit_options(settings: Settings, n_train: int, start: Bundle | None = None) -> FitOptions:
    """Return the options of a fit: the protocol's, where the user says nothing else.

    Parameters
    ----------
    settings
        Of the run.
    n_train
        Number of training pairs.
    start
        From `find_start`.

    Raises
    ------
    UsageError
        If they make no sense together.
    """
    digest = None if start is None else start.sha256
    if settings.protocol == "paper":
        options = paper_options(n_train, device=settings.device)
        options = dataclasses.replace(options, starts_from=digest)
    else:  # warm-up and validation follow from the number of steps
        length = {} if settings.steps is None else {"steps": settings.steps}
        options = default_options(n_train, device=settings.device, starts_from=digest, **length)
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
    return dataclasses.replace(options, seed=settings.random_seed, **changed)


def find_start(settings: Settings, contrast: str, method: str) -> tuple[Bundle | None, str]:
    """Return the model from whose weights a method's fits start, and words that name it.

    None is for random weights, the only start of methods other than h2lo. Without
    ``--init`` a model that the fits cannot start from is not an error: the words say why
    they start from random weights.

    Raises
    ------
    UsageError
        If the model that ``--init`` names is of another contrast, method, scaling, grid or
        other sizes.
    H2loError
        As `h2lo_bids.models.bundle.load_bundle`.
    """
    given = dict(settings.init)
    asked = given.get(contrast, given.get(""))
    usual = INIT if settings.protocol == "default" else NONE
    chosen = usual if asked is None else asked
    if method != "h2lo":
        return None, ""
    if chosen == NONE:
        return None, "starts from random weights"
    if isinstance(chosen, str):
        bundle = default_bundle(contrast)
    elif is_collection(chosen):
        found, *_ = choose_bundles(chosen, contrasts=(contrast,), methods=(method,))
        bundle = load_bundle(found.path)
    else:
        bundle = load_bundle(chosen)
    fault = start_fault(bundle, contrast, fit_options(settings, 1), frame_of(settings))
    if fault is None:
        name = bundle.metadata.get("name", bundle.path.name)
        return bundle, f"starts from the weights of {name} (SHA-256 {bundle.sha256})"
    if asked is None:
        return None, f"starts from random weights, as the {chosen} model {fault}"
    raise UsageError(f"--init {chosen}: the {contrast} fits cannot start from it, as it {fault}")
