"""The plan of a cross-validation: its pairs, its folds, and what is done already."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from h2lo_bids.errors import H2loError, UsageError
from h2lo_bids.evaluation.splits import (
    AUTHORS,
    Fold,
    check_together,
    ds006557_folds,
    hold_out,
    make_folds,
    read_folds,
    read_splits,
    write_splits,
)
from h2lo_bids.io import exclusive
from h2lo_bids.processes import note
from h2lo_bids.settings import Settings
from h2lo_bids.synthesis.options import resolve_device
from h2lo_bids.training.devices import check_shares
from h2lo_bids.training.experiments import Plan, Sources
from h2lo_bids.training.experiments.crossvalidation import FoldWork, changes, fold_done, read_record
from h2lo_bids.training.experiments.fits import (
    cohort_scans,
    find_start,
    fit_options,
    job_of_fold,
    usable_pairs,
)
from h2lo_bids.training.experiments.leaks import same_people
from h2lo_bids.training.methods import ADAPT, shares_steps
from h2lo_bids.vocabulary import Say, Send

SPLITS = "splits.tsv"


def plan_folds(settings: Settings, found: Sources, send: Send) -> dict[str, Plan]:
    """Choose the pairs, divide the subjects and write ``splits.tsv``; return plans by contrast."""
    plans: dict[str, Plan] = {}
    for contrast, used in usable_pairs(settings, found, send).items():
        same = same_people(used)
        for group in same:
            *first, last = [f"sub-{label}" for label in group]
            text = (
                f"{contrast}: {', '.join(first)} and {last} have the same high-field image: they "
                "count as one person and stay in one part of every fold; remove one of them if it "
                "is a copy"
            )
            send(note(text, "warning"))
        subjects = sorted({pair.subject for pair in used})
        folds, held = divide_subjects(
            settings, contrast, subjects, lambda line: send(note(line)), same
        )
        _check_chosen(settings, contrast, folds)
        _check_same_folds(settings, contrast, folds)
        for method in settings.methods:
            if line := find_start(settings, contrast, method)[1]:
                send(note(f"{contrast} {method}: {line}"))
        jobs = [job_of_fold(settings, contrast, m, f, used) for m in settings.arms for f in folds]
        _check_unchanged(jobs)
        done = frozenset((job.method, job.fold.index) for job in jobs if fold_done(job))
        plans[contrast] = Plan(tuple(pair.sources[0] for pair in used), folds, held, done)
    splits = {name: plan.folds for name, plan in plans.items() if plan.folds}
    if splits:  # those of contrasts that this run does not have are kept
        path = settings.out_dir / SPLITS
        with exclusive(settings.work / "locks" / "splits.lock"):
            write_splits(path, {**_known(path), **splits})
    return plans


def divide_subjects(
    settings: Settings,
    contrast: str,
    subjects: list[str],
    note: Say | None = None,
    same: Sequence[Sequence[str]] = (),
) -> tuple[tuple[Fold, ...], tuple[str, ...]]:
    """Return the folds of some subjects, or with ``--folds 0`` those held out to validate on."""
    how: dict[str, Any] = {
        "validation": settings.val_count,
        "seed": settings.random_seed,
        "same": same,
    }
    try:
        if settings.folds == "0":
            return (), hold_out(subjects, **how)
        if settings.folds.isdigit():
            k = int(settings.folds)
            return make_folds(subjects, folds=k, test=settings.test_count, **how), ()
    except UsageError as err:
        raise UsageError(f"{contrast}: {err}") from err
    if settings.folds == AUTHORS:
        folds = ds006557_folds(subjects, contrast, note)
    else:
        folds = read_folds(Path(settings.folds), subjects, contrast)
    try:
        check_together(folds, same)
    except UsageError as err:
        raise UsageError(f"--folds {settings.folds}: {contrast}: {err}") from err
    return folds, ()


def check_ahead(settings: Settings, people: Mapping[str, Collection[str]]) -> None:
    """Refuse what no fold can be made of, or no fit can follow."""
    device = resolve_device(settings.device)
    if settings.precision == "fp16" and device.type != "cuda":
        raise UsageError("--precision fp16 needs a CUDA device; take bf16 or fp32")
    for contrast in sorted(people):
        cohort_scans(settings, contrast)  # only for the errors that it raises
    for contrast in sorted(people):
        subjects = sorted(people[contrast])
        folds, _ = divide_subjects(settings, contrast, subjects)
        _check_chosen(settings, contrast, folds)
        for method in settings.methods:
            start, _ = find_start(settings, contrast, method)
            options = ADAPT[method](fit_options(settings, len(subjects), start))
            if settings.devices > 1 and shares_steps(options.family):
                check_shares(len(subjects), options, settings.devices)


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


def _known(path: Path) -> dict[str, tuple[Fold, ...]]:
    """Read the folds of earlier runs; what is damaged is made anew."""
    try:
        return read_splits(path)
    except H2loError:
        return {}
