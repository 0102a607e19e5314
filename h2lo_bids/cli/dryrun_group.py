"""What the levels that work on pairs would read, and how they would go about it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from h2lo_bids.bids.pairs import PairDiscovery
from h2lo_bids.settings import Settings
from h2lo_bids.wording import counted

_BYTES_PER_VOXEL = 3.0
"""Of a prepared pair on disk: two compressed images that are zero outside the brain."""
_FIT_GB = 0.12
"""Of a fit: its bundle, pictures and checkpoints."""


def describe_pairs(settings: Settings, found: PairDiscovery) -> Iterator[str]:
    """Yield one line per scan of a pair, and the room that the pairs take."""
    from h2lo_bids.cli.prepared import frame_of

    for pair in found.pairs:
        way = "fused on the high-field grid" if pair.fusion == "mrr" else "registered"
        way = "already on the high-field grid" if pair.registered else way
        yield f"pair  {pair.hf.path} [{pair.contrast}]"
        for scan in pair.lf:
            yield f"      {scan.path} [{way}]"
    frame = frame_of(settings)
    size = len(found.pairs) * math.prod(frame.shape) * _BYTES_PER_VOXEL / 1e9
    sides = " x ".join(str(n) for n in frame.shape)
    verb = "takes" if len(found.pairs) == 1 else "take"
    pairs = counted(len(found.pairs), "pair")
    yield f"{pairs} on a grid of {sides} voxels {verb} about {size:.1f} GB of disk"


def describe_group(settings: Settings, found: PairDiscovery) -> Iterator[str]:
    """Yield what `describe_pairs` does, then folds, options and the room for fits.

    Raises
    ------
    UsageError
        If the folds cannot be made of the pairs that were found.
    """
    from h2lo_bids.cli.fits import threads_of
    from h2lo_bids.cli.planwork import check_ahead, divide_subjects
    from h2lo_bids.cli.promise_group import people_of

    people = people_of(found)
    check_ahead(settings, people)
    yield from describe_pairs(settings, found)
    fits = 0
    for contrast, subjects in people.items():
        folds = divide_subjects(settings, contrast, subjects)
        fits += len(settings.arms) * len(settings.fold or folds)
        fits += settings.level == "group" and not settings.no_final and not settings.fold
        for fold in folds:
            yield (
                f"{contrast} fold {fold.index}: train on {len(fold.train)}; validate on "
                f"{', '.join(fold.validation)}; test on {', '.join(fold.test)}"
            )
        yield from _options(settings, contrast, len(folds[0].train) if folds else len(subjects))
    yield (
        f"{counted(fits, 'fit')}, about {fits * _FIT_GB:.1f} GB of disk; "
        f"{settings.n_folds_parallel} at a time, "
        f"{counted(threads_of(settings), 'thread')} each"
    )
    yield "the folds change if the registration check flags a pair, or two subjects are one person"


def describe_evaluation(settings: Settings, found: PairDiscovery) -> Iterator[str]:
    """Yield what `describe_pairs` does, then the models."""
    yield from describe_pairs(settings, found)
    for contrast, path in settings.model:
        yield f"score {path}{f' on {contrast} pairs' if contrast else ''}"
    if not settings.model:
        yield "score the embedded models"
    for contrast, path in settings.realism_reference:
        yield f"compare with {path} [{contrast}]"


def _options(settings: Settings, contrast: str, n_train: int) -> Iterator[str]:
    from h2lo_bids.cli.fitoptions import find_start, fit_options
    from h2lo_bids.cli.fits import duration
    from h2lo_bids.training.card import steps_sentence
    from h2lo_bids.training.methods import find_method

    for method in settings.methods:
        start, line = find_start(settings, contrast, method)
        options = find_method(method).adapt(fit_options(settings, n_train, start)).to_dict()
        text = f"{contrast} {method}: {line}{'; ' * bool(line)}{steps_sentence(options)}"
        if options["family"] != "identity":
            text += f", validated every {counted(options['validate_every'], 'step')}"
        if options["max_seconds"]:
            text += f", ended after {duration(options['max_seconds'])}"
        yield f"{text}; device {options['device']}"
    for name, template in settings.external:
        yield f"{contrast} {name}: {template}"
