"""What a run on pairs takes from its settings: fit options, grid, and prepared pairs."""

from __future__ import annotations

import dataclasses
from typing import Any

from h2lo_bids.errors import BadDataError, UsageError
from h2lo_bids.models.bundle import Bundle, default_bundle, load_bundle
from h2lo_bids.models.choice import choose_bundles, given_bundles, is_collection
from h2lo_bids.models.frame import Frame
from h2lo_bids.settings import Settings
from h2lo_bids.settings.convert import NONE
from h2lo_bids.settings.options_pairs import INIT
from h2lo_bids.training.fitting import start_fault
from h2lo_bids.training.options import FitOptions, default_options, paper_options
from h2lo_bids.training.prepared import PreparedPair, find_prepared, training_frame
from h2lo_bids.vocabulary import CONTRASTS


def fit_options(settings: Settings, n_train: int, start: Bundle | None = None) -> FitOptions:
    """Return the options of a fit: the protocol's, where the user says nothing else."""
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


def frame_of(settings: Settings) -> Frame:
    """Return the grid on which pairs are prepared.

    Without ``--resolution`` it has voxels of 1 mm, or at the evaluate level of
    the size that the models were fitted on, if that is one and the same.
    """
    if settings.resolution is not None:
        return training_frame(settings.resolution)
    if settings.level != "evaluate" or not settings.model:
        return training_frame()
    sizes = set()
    for bundle in given_bundles(settings, CONTRASTS):
        if bundle.frame.anchor == "brain":
            sizes |= set(bundle.frame.spacing)
    return training_frame(sizes.pop()) if len(sizes) == 1 else training_frame()


def usable_pairs(
    settings: Settings, contrast: str, sources: tuple[str, ...]
) -> tuple[tuple[PreparedPair, ...], tuple[PreparedPair, ...]]:
    """Return the prepared pairs of some scans: those to use, and those that are flagged."""
    # A damaged pair that is wanted was made again before: others are no concern of this run.
    found = find_prepared(
        settings.out_dir, contrast=contrast, sources=set(sources), damaged=lambda line: None
    )
    if settings.keep_flagged_pairs:
        return found, ()
    used = tuple(pair for pair in found if not pair.check.flagged)
    return used, tuple(pair for pair in found if pair.check.flagged)


def flagged_line(pair: PreparedPair) -> str:
    """Say why the registration of a pair is doubtful."""
    return (
        f"{pair.contrast}: sub-{pair.name or pair.subject} is flagged, its registration is "
        f"doubtful: {'; '.join(pair.check.reasons)}"
    )


def all_flagged(settings: Settings) -> BadDataError:
    """Return the error of a run that the registration check has left no pair."""
    return BadDataError(
        f"{settings.out_dir}: the registration check flagged every pair; inspect them in "
        "group.html, which --reports-only writes, and use --keep-flagged-pairs if they are good"
    )
