"""Laying out the folds, in a child process, before anything is fitted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from h2lo_bids.cli.checks_values import KNOWN_FOLDS
from h2lo_bids.cli.fitoptions import find_start, fit_options
from h2lo_bids.cli.locks import exclusive
from h2lo_bids.cli.prepared import all_flagged, flagged_line, usable_pairs
from h2lo_bids.cli.tasks import FoldTask, PlanTask
from h2lo_bids.errors import H2loError, UsageError
from h2lo_bids.evaluation.splits import PARTS, Fold, read_folds, read_splits, write_splits
from h2lo_bids.settings import Settings
from h2lo_bids.synthesis.options import resolve_device
from h2lo_bids.training.cohort_leaks import check_no_leak
from h2lo_bids.training.command import Command
from h2lo_bids.training.devices import check_shares
from h2lo_bids.training.experiments.folds import (
    check_together,
    ds006557_folds,
    hold_out,
    make_folds,
)
from h2lo_bids.training.external_fold import ExternalJob
from h2lo_bids.training.foldjob import FoldJob, FoldWork, changes, fold_done, read_record
from h2lo_bids.training.leaks import same_people
from h2lo_bids.training.methods import find_method
from h2lo_bids.training.prepared import PreparedPair
from h2lo_bids.vocabulary import Send

SPLITS = "splits.tsv"


def plan_folds(task: PlanTask, send: Send) -> dict[str, Any]:
    """Choose the pairs, divide the subjects and write ``splits.tsv``.

    Parameters
    ----------
    task
        What was prepared.
    send
        Takes ``note`` events about what is left out.

    Returns
    -------
    dict
        ``{"event": "planned", "contrasts": {name: {"pairs": number, "sources":
        [uri], "folds": [{index, train, validation, test: numbers}], "done":
        ["method/index"]}}}``.

    Raises
    ------
    BadDataError
        If every pair is flagged.
    UsageError
        If the folds cannot be made, or results of other options are there.
    """
    settings = task.settings
    planned: dict[str, Any] = {}
    splits: dict[str, tuple[Fold, ...]] = {}
    for contrast, sources in task.sources.items():
        used = _choose(settings, contrast, sources, send)
        if not used:
            continue
        same = same_people(used)
        for group in same:
            send({"event": "note", "level": "warning", "text": f"{contrast}: {_one_person(group)}"})
        subjects = sorted({pair.subject for pair in used})
        with _or_without(contrast, task.sources):
            folds = divide_subjects(
                settings,
                contrast,
                subjects,
                lambda text: send({"event": "note", "text": text}),
                same,
            )
            if not folds:
                held_out(settings, subjects, same)
        _check_chosen(settings, contrast, folds)
        _check_same_folds(settings, contrast, folds)
        splits[contrast] = folds
        for method in settings.methods:
            if line := find_start(settings, contrast, method)[1]:
                send({"event": "note", "text": f"{contrast} {method}: {line}"})
        jobs = [arm_job(settings, contrast, m, f, used) for m in settings.arms for f in folds]
        _check_unchanged(jobs)
        planned[contrast] = {
            "pairs": len(used),
            "sources": [pair.sources[0] for pair in used],
            "folds": [
                {"index": f.index, **{part: len(getattr(f, part)) for part in PARTS}} for f in folds
            ],
            "done": [f"{job.method}/{job.fold.index}" for job in jobs if fold_done(job)],
        }
    if not planned:
        raise all_flagged(settings)
    _write(settings, {c: folds for c, folds in splits.items() if folds})
    return {"event": "planned", "contrasts": planned}


def divide(
    settings: Settings,
    contrast: str,
    pairs: tuple[PreparedPair, ...],
    note: Callable[[str], None] | None = None,
) -> tuple[Fold, ...]:
    """Return the folds of a contrast; none with ``--folds 0``."""
    subjects = sorted({pair.subject for pair in pairs})
    return divide_subjects(settings, contrast, subjects, note, same_people(pairs))


def divide_subjects(
    settings: Settings,
    contrast: str,
    subjects: list[str],
    note: Callable[[str], None] | None = None,
    same: Sequence[Sequence[str]] = (),
) -> tuple[Fold, ...]:
    """Return the folds of some subjects; none with ``--folds 0``.

    Parameters
    ----------
    settings, contrast
        Whose folds.
    subjects
        Labels without ``sub-``.
    note
        Called with one line when subjects are not used.
    same
        Groups of labels that are one person each; none is in two parts of a fold.

    Raises
    ------
    UsageError
        If they cannot be made.
    """
    if settings.folds == "0":
        return ()
    if settings.folds.isdigit():
        try:
            return make_folds(
                subjects,
                folds=int(settings.folds),
                validation=settings.val_count,
                test=settings.test_count,
                seed=settings.random_seed,
                same=same,
                optional=settings.level != "benchmark",
            )
        except UsageError as err:
            raise UsageError(f"{contrast}: {err}") from err
    if settings.folds == KNOWN_FOLDS:
        folds = ds006557_folds(subjects, contrast, note)
    else:
        folds = read_folds(Path(settings.folds), subjects, contrast)
    try:
        check_together(folds, same)
    except UsageError as err:
        raise UsageError(f"--folds {settings.folds}: {contrast}: {err}") from err
    return folds


def held_out(
    settings: Settings, subjects: list[str], same: Sequence[Sequence[str]] = ()
) -> tuple[str, ...]:
    """Return the validation subjects of a model without cross-validation, or raise `UsageError`."""
    return hold_out(subjects, validation=settings.val_count, seed=settings.random_seed, same=same)


def check_ahead(settings: Settings, people: Mapping[str, Collection[str]]) -> None:
    """Refuse what no fold can be made of, or no fit can follow.

    Parameters
    ----------
    settings
        Of the run.
    people
        Subjects with a pair, by contrast; some may yet be lost, none is gained.

    Raises
    ------
    H2loError
        With what is wrong.
    """
    device = resolve_device(settings.device)
    if settings.precision == "fp16" and device.type != "cuda":
        raise UsageError("--precision fp16 needs a CUDA device; take bf16 or fp32")
    if settings.fits_enhancer:
        from h2lo_bids.cli.armwork import check_cohorts

        check_cohorts(settings, sorted(people))
    for contrast in sorted(people):
        subjects = sorted(people[contrast])
        with _or_without(contrast, people):
            folds = divide_subjects(settings, contrast, subjects)
            if not folds:
                held_out(settings, subjects)
        _check_chosen(settings, contrast, folds)
        for method in settings.methods:
            found = find_method(method)
            start, _ = find_start(settings, contrast, method)
            options = found.adapt(fit_options(settings, len(subjects), start))
            if settings.devices > 1 and found.shares:
                check_shares(len(subjects), options, settings.devices)


@contextlib.contextmanager
def _or_without(contrast: str, contrasts: Collection[str]) -> Iterator[None]:
    """Add to an error that the other contrasts, if there are any, can be had alone."""
    try:
        yield
    except UsageError as err:
        others = " ".join(sorted({*contrasts} - {contrast}))
        if not others:
            raise
        raise UsageError(f"{err}; or go on without {contrast}: --contrast {others}") from err


def job_of(task: FoldTask) -> FoldJob | ExternalJob:
    """Return the job that a task names, from what is on disk."""
    settings = task.settings
    used, _ = usable_pairs(settings, task.contrast, task.sources)
    folds = {fold.index: fold for fold in divide(settings, task.contrast, used)}
    return arm_job(settings, task.contrast, task.method, folds[task.index], used)


def arm_job(
    settings: Settings, contrast: str, name: str, fold: Fold, pairs: tuple[PreparedPair, ...]
) -> FoldJob | ExternalJob:
    """Return the job of a method, an arm, or a simulator of others, on one fold."""
    if settings.fits_enhancer:
        from h2lo_bids.cli.armwork import enhance_job

        return enhance_job(settings, contrast, name, fold, pairs)
    template = dict(settings.external).get(name)
    if template is None:
        return fold_job(settings, contrast, name, fold, pairs)
    return ExternalJob(
        contrast=contrast,
        method=name,
        fold=fold,
        pairs=pairs,
        out_dir=settings.out_dir,
        work_dir=settings.work,
        command=Command(name, template),
        limit=None if settings.max_time is None else 60 * settings.max_time,
    )


def fold_job(
    settings: Settings, contrast: str, method: str, fold: Fold, pairs: tuple[PreparedPair, ...]
) -> FoldJob:
    """Return the job of one method on one fold."""
    n_train = sum(pair.subject in fold.train for pair in pairs)
    start, _ = find_start(settings, contrast, method)
    job = FoldJob(
        contrast=contrast,
        method=method,
        fold=fold,
        pairs=pairs,
        options=fit_options(settings, n_train, start),
        out_dir=settings.out_dir,
        work_dir=settings.work,
        devices=settings.devices,
        initial=start,
    )
    if start is not None:
        tested = job.pairs_in("test")
        check_no_leak(tested, (), (start,), out_dir=settings.out_dir, applied=True)
    return job


def _choose(
    settings: Settings, contrast: str, sources: tuple[str, ...], send: Send
) -> tuple[PreparedPair, ...]:
    """Drop flagged pairs, and say which and why."""
    used, flagged = usable_pairs(settings, contrast, sources)
    for pair in flagged:
        text = f"{flagged_line(pair)}; skipped without --keep-flagged-pairs"
        send({"event": "note", "level": "warning", "text": text})
    return used


def _one_person(labels: Sequence[str]) -> str:
    *first, last = [f"sub-{label}" for label in labels]
    return (
        f"{', '.join(first)} and {last} have the same high-field image: they count as one person "
        "and stay in one part of every fold; remove one of them if it is a copy"
    )


def _check_chosen(settings: Settings, contrast: str, folds: tuple[Fold, ...]) -> None:
    known = [fold.index for fold in folds]
    for index in settings.fold:
        if index not in known:
            raise UsageError(
                f"--fold {index}: {contrast} has the folds {', '.join(map(str, known))}, counted "
                "from 0"
            )


def _check_same_folds(settings: Settings, contrast: str, folds: tuple[Fold, ...]) -> None:
    """Refuse to enhance on other folds than those of the synthesis models that are there."""
    known = _known(settings.out_dir / SPLITS).get(contrast)
    if settings.fits_enhancer and known and folds and known != folds:
        raise UsageError(
            f"{settings.out_dir / SPLITS}: has other folds of {contrast}; give the options and "
            "pairs that the synthesis models had, or another out_dir"
        )


def _check_unchanged(jobs: Sequence[FoldWork]) -> None:
    """Refuse to mix results of other options or pairs with those to come."""
    for job in jobs:
        if read_record(job.folder) is not None and (differing := changes(job)):
            raise UsageError(
                f"{job.folder}: was fitted with other input ({', '.join(differing[:3])}); give the "
                f"same options and pairs, another out_dir, or remove {job.out_dir / 'folds'}"
            )


def _write(settings: Settings, splits: dict[str, tuple[Fold, ...]]) -> None:
    """Write the folds, beside those of contrasts that this run does not have."""
    if not splits:
        return
    path = settings.out_dir / SPLITS
    with exclusive(settings.work / "locks" / "splits.lock"):
        write_splits(path, {**_known(path), **splits})


def _known(path: Path) -> dict[str, tuple[Fold, ...]]:
    """Read the folds of earlier runs; what is damaged is made anew."""
    try:
        return read_splits(path)
    except H2loError:
        return {}
