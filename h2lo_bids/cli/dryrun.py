"""``--dry-run``: what a run would read, write and return, without the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from h2lo_bids.bids.dataset import require_own
from h2lo_bids.bids.discover import Discovery
from h2lo_bids.bids.pairs import PairDiscovery
from h2lo_bids.cli.checks import check_usage
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.execution import skipped_lines, stand_somewhere
from h2lo_bids.cli.failures import Failed, exit_code
from h2lo_bids.cli.outputs import expected_outputs, subjects_of
from h2lo_bids.errors import MissingInputError, UsageError, error_of_code
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import CONTRASTS
from h2lo_bids.wording import counted, summarise

_BYTES_PER_VOXEL = 3.0
"""Of a prepared pair on disk: two compressed images that are zero outside the brain."""
_FIT_GB = 0.12
"""Of a fit: its bundle, pictures and checkpoints."""


def dry_run(settings: Settings, console: Console) -> int:
    """Print what a run would do; return its exit code.

    What cannot be used counts as failed, all else as done; what would keep the run from
    beginning is raised.
    """
    stand_somewhere()
    check_usage(settings)
    if settings.reports_only:
        raise UsageError("--reports-only writes nothing but pages; leave --dry-run out")
    require_own(settings.out_dir)
    found, described = _find(settings)
    code = exit_code(
        [
            Failed(str(p.path), "discovery", error_of_code(p.exit_code, p.message))
            for p in found.problems
        ],
        len(getattr(found, "scans", ()) or getattr(found, "pairs", ())),
    )
    console.line(f"dry run: nothing is written; the work folder would be {settings.work}")
    for line in (*found.notes, *described(settings, found)):
        console.line(line)
    for output in expected_outputs(settings, found):
        console.line(f"write {output.path}{' (exists)' if output.path.exists() else ''}")
    for warning in found.warnings:
        console.line(warning, level="warning")
    unusable = summarise((p.path, f"cannot use: {p.message}") for p in found.problems)
    for line in (*unusable, *skipped_lines(found.skipped)):
        console.line(line)
    if code:
        console.line(f"the run would exit with code {code}: some inputs cannot be used")
    return code


def _find(settings: Settings) -> tuple[Any, Callable[[Settings, Any], Iterator[str]]]:
    """Return what a level works on, and what describes it."""
    if settings.level in ("participant", "trial") and not settings.pairs:
        from h2lo_bids.cli.participant import find

        scans = find(settings)
        _check_models_and_templates(settings, scans)
        return scans, _scan_lines
    from h2lo_bids.cli.pairs import find_pairs

    lines = {"participant": _pair_lines, "evaluate": _evaluation_lines}
    return find_pairs(settings), lines.get(settings.level, _fit_lines)


def _check_models_and_templates(settings: Settings, found: Discovery) -> None:
    """Load the models and find the templates; those that the run would fetch may be missing."""
    from h2lo_bids.cli.checks import check_models_and_templates
    from h2lo_bids.cli.tasks import CheckTask

    suffixes = tuple(sorted({scan.suffix for scan in found.scans}))
    if not suffixes:
        return
    try:
        check_models_and_templates(CheckTask(replace(settings, fetch_templates=False), suffixes))
    except MissingInputError:
        if not settings.fetch_templates:
            raise


def _scan_lines(settings: Settings, found: Discovery) -> Iterator[str]:
    from h2lo_bids.cli.subject import mask_words
    from h2lo_bids.outputs import grids_for

    models = {scan.suffix: _model(settings, scan.suffix) for scan in found.scans}
    for scan in found.scans:
        mask = f"; brain mask: {mask_words(settings, scan)}" if settings.derivatives else ""
        yield f"read  {scan.path} [{scan.strength}; model: {models[scan.suffix]}{mask}]"
    for source in found.sources:
        if source.fusion != "none":
            names = ", ".join(part.path.name for part in source.parts)
            yield f"fuse  {names} [as {source.scan.stem}]"
    for grid in grids_for(settings) if found.scans else ():
        if grid.kind == "lf":
            yield f"grid  res-{grid.res} [{grid.meaning}]"


def _model(settings: Settings, suffix: str) -> str:
    """Name the model that a contrast gets; weights are not read for that."""
    from h2lo_bids.models.choice import choose_bundles, is_collection

    given = dict(settings.model)
    embedded = f"embedded {settings.method[0]}" if settings.method else "embedded"
    path = given.get(suffix, given.get(""))
    if path is None:
        return embedded
    if is_collection(path):
        bundles = choose_bundles(
            path, contrasts=CONTRASTS, methods=settings.method, task=settings.task
        )
        paths = [str(item.path) for item in bundles if item.contrast == suffix]
        return " or ".join(paths) or embedded
    return str(path) if suffix in given else f"{path} if it is for {suffix}, else {embedded}"


def _pair_lines(settings: Settings, found: PairDiscovery) -> Iterator[str]:
    from h2lo_bids.training.experiments.options import frame_of

    for pair in found.pairs:
        way = "fused on the high-field grid" if pair.fusion == "mrr" else "registered"
        way = "already on the high-field grid" if pair.registered else way
        yield f"pair  {pair.hf.path} [{pair.contrast}]"
        for scan in pair.lf:
            yield f"      {scan.path} [{way}]"
    if not found.pairs:
        return
    frame = frame_of(settings)
    size = len(found.pairs) * math.prod(frame.shape) * _BYTES_PER_VOXEL / 1e9
    sides = " x ".join(str(n) for n in frame.shape)
    verb = "takes" if len(found.pairs) == 1 else "take"
    pairs = counted(len(found.pairs), "pair")
    yield f"{pairs} on a grid of {sides} voxels {verb} about {size:.1f} GB of disk"


def _fit_lines(settings: Settings, found: PairDiscovery) -> Iterator[str]:
    """Yield pairs, folds, options and the disk space of fits; raise if folds cannot be made."""
    from h2lo_bids.cli.resources import fit_threads
    from h2lo_bids.training.experiments.plan import check_ahead, divide_subjects

    people = subjects_of(found)
    check_ahead(settings, people)
    yield from _pair_lines(settings, found)
    fits = 0
    for contrast, subjects in people.items():
        folds, _ = divide_subjects(settings, contrast, subjects)
        fits += len(settings.arms) * len(settings.fold or folds)
        fits += settings.level == "group" and not settings.no_final and not settings.fold
        for fold in folds:
            yield (
                f"{contrast} fold {fold.index}: train on {len(fold.train)}; validate on "
                f"{', '.join(fold.validation)}; test on {', '.join(fold.test)}"
            )
        yield from _method_lines(
            settings, contrast, len(folds[0].train) if folds else len(subjects)
        )
    if not fits:
        return
    yield (
        f"{counted(fits, 'fit')}, about {fits * _FIT_GB:.1f} GB of disk; "
        f"{settings.n_folds_parallel} at a time, "
        f"{counted(fit_threads(settings), 'thread')} each"
    )
    yield "the folds change if the registration check flags a pair, or two subjects are one person"


def _method_lines(settings: Settings, contrast: str, n_train: int) -> Iterator[str]:
    from h2lo_bids.training.card import steps_sentence
    from h2lo_bids.training.experiments.options import find_start, fit_options
    from h2lo_bids.training.methods import find_method
    from h2lo_bids.wording import duration

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


def _evaluation_lines(settings: Settings, found: PairDiscovery) -> Iterator[str]:
    yield from _pair_lines(settings, found)
    for contrast, path in settings.model:
        yield f"score {path}{f' on {contrast} pairs' if contrast else ''}"
    if not settings.model:
        yield "score the embedded models"
    for contrast, path in settings.realism_reference:
        yield f"compare with {path} [{contrast}]"
