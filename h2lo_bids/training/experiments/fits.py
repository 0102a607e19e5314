"""What a run on pairs fits: its pairs and folds, and the jobs of its folds and models."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from h2lo_bids.bids.derivatives import result_path, result_pattern
from h2lo_bids.errors import BadDataError, H2loError, UsageError
from h2lo_bids.evaluation import splits
from h2lo_bids.evaluation.splits import Fold
from h2lo_bids.io import common_lock, exclusive
from h2lo_bids.models.bundle import METADATA, Bundle, load_bundle
from h2lo_bids.models.registry import CATALOGUE
from h2lo_bids.processes import note
from h2lo_bids.settings import Settings
from h2lo_bids.settings.options_pairs import Enhancement
from h2lo_bids.synthesis.options import resolve_device
from h2lo_bids.training.devices import check_shares, keep_freed_memory
from h2lo_bids.training.experiments import FitTask, Plan, Sources, leaks
from h2lo_bids.training.experiments.arms import Arm, Schedule, find_arm
from h2lo_bids.training.experiments.cohort import Cohort, CohortScan, find_cohort
from h2lo_bids.training.experiments.crossvalidation import (
    BUNDLE,
    CurveJob,
    FoldJob,
    FoldWork,
    changes,
    fold_done,
    read_record,
    run_fold,
)
from h2lo_bids.training.experiments.external import Command, ExternalJob
from h2lo_bids.training.experiments.final import FinalJob, fit_final
from h2lo_bids.training.methods import ADAPT, SHARED
from h2lo_bids.training.options import find_start, fit_options
from h2lo_bids.training.pairs import PreparedPair, find_prepared
from h2lo_bids.vocabulary import CURVE, ENHANCER, IDENTITY, SYNTHESIZE, Say, Send
from h2lo_bids.wording import listed

SPLITS = "splits.tsv"
Pairs = tuple[PreparedPair, ...]


def plan_folds(settings: Settings, found: Sources, send: Send) -> dict[str, Plan]:
    """Choose the pairs, divide the subjects and write ``splits.tsv``; return plans by contrast."""
    plans, refused = dict[str, Plan](), list[UsageError]()
    for contrast, used in usable_pairs(settings, found, send).items():
        if any(scan.scaling == "robust" for scan in cohort_scans(settings, contrast)):
            text = (
                f"{contrast}: the images to pretrain on are scaled by two tissues, and pairs are "
                "divided by their maxima: the fit has to learn other levels; simulate the cohort "
                "with a model of `group --protocol paper`, or raise --finetune-rate"
            )
            send(note(text, "warning"))
        subjects = sorted({pair.subject for pair in used})
        start, _ = find_start(settings, contrast, settings.methods[0])
        seen = {pair.subject for pair in leaks.seen_in_training(start, used)} if start else ()
        try:
            folds, held = divide_subjects(settings, contrast, subjects, used, seen, send)
        except UsageError as err:  # too few pairs were sound, which the other contrast may have
            refused.append(err)
            continue
        _check_same_folds(settings, contrast, folds)
        for method in settings.methods:
            if line := find_start(settings, contrast, method)[1]:
                send(note(f"{contrast} {method}: {line}"))
        jobs = [
            job_of_fold(settings, contrast, method, fold, used)
            for method, fold in itertools.product(settings.arms, folds)
            if _is_due(settings, contrast, method, fold)
        ]
        _check_unchanged(jobs)
        done = frozenset((job.method, job.fold.index) for job in jobs if fold_done(job))
        plans[contrast] = Plan(tuple(pair.sources[0] for pair in used), folds, held, done)
    tell_refused(refused, plans, send)
    divided = {name: plan.folds for name, plan in plans.items() if plan.folds}
    if divided:  # those of contrasts that this run does not have are kept
        path = settings.out_dir / SPLITS
        with exclusive(common_lock(settings.out_dir, "splits")):
            splits.write_splits(path, {**_known(path), **divided})
    return plans


def _is_due(settings: Settings, contrast: str, method: str, fold: Fold) -> bool:
    """Return whether a fold is looked at: of others an arm's synthesis model need not be there."""
    if settings.collect:
        out, index = settings.out_dir, fold.index
        done = result_path(out, "fold", contrast=contrast, method=method, fold=index)
        return read_record(done) is not None
    return not (settings.fits_enhancer and settings.fold) or fold.index in settings.fold


def divide_subjects(
    settings: Settings,
    contrast: str,
    subjects: list[str],
    pairs: Iterable[PreparedPair] = (),
    seen: Collection[str] = (),
    send: Send = lambda event: None,
) -> tuple[tuple[Fold, ...], tuple[str, ...]]:
    """Return the folds of some subjects, or with ``--folds 0`` those held out to validate on."""
    same = leaks.same_people(pairs)
    for group in same:
        *first, last = [f"sub-{label}" for label in group]
        text = (
            f"{contrast}: {', '.join(first)} and {last} have the same high-field image: they "
            "count as one person and stay in one part of every fold; remove one of them if it is "
            "a copy"
        )
        send(note(text, "warning"))
    if settings.folds.isdigit():
        count, seed = settings.val_count, settings.random_seed
        how: dict[str, Any] = {"validation": count, "seed": seed, "same": same}
        try:
            if settings.folds == "0":
                return (), splits.hold_out(subjects, seen=seen, **how)
            k = int(settings.folds)
            folds = splits.make_folds(subjects, folds=k, test=settings.test_count, **how)
        except UsageError as err:
            more = "" if settings.contrast else f", or leave {contrast} out with --contrast"
            raise UsageError(f"{contrast}: {err}{more}") from err
    else:
        folds = _given_folds(settings, contrast, subjects, send)
        try:
            splits.check_together(folds, same)
        except UsageError as err:
            raise UsageError(f"--folds {settings.folds}: {contrast}: {err}") from err
    known = [fold.index for fold in folds]
    for index in settings.fold:
        if index not in known:
            raise UsageError(
                f"--fold {index}: {contrast} has the folds {', '.join(map(str, known))}, counted "
                "from 0"
            )
    return folds, ()


def _given_folds(
    settings: Settings, contrast: str, subjects: list[str], send: Send
) -> tuple[Fold, ...]:
    """Return the authors' folds, or those of a table; say who is in none of them."""
    if settings.folds == splits.AUTHORS:
        return splits.ds006557_folds(subjects, contrast, lambda line: send(note(line)))
    folds = splits.read_folds(Path(settings.folds), subjects, contrast)
    named = {s for fold in folds for part in splits.PARTS for s in getattr(fold, part)}
    if unused := [f"sub-{s}" for s in subjects if s not in named]:
        send(note(f"{contrast}: in no fold of {settings.folds}: {listed(unused)}"))
    return folds


def check_ahead(settings: Settings, people: Mapping[str, list[str]]) -> None:
    """Refuse what no fold can be made of, or no fit can follow."""
    if resolve_device(settings.device).type != "cuda" and settings.precision == "fp16":
        raise UsageError("--precision fp16 needs a CUDA device; take bf16 or fp32")
    for contrast, subjects in people.items():
        cohort_scans(settings, contrast)  # only for the errors that it raises
        divide_subjects(settings, contrast, subjects)
        for method in settings.methods:
            start, _ = find_start(settings, contrast, method)
            options = ADAPT[method](fit_options(settings, len(subjects), start))
            if settings.devices > 1 and options.family in SHARED:
                check_shares(len(subjects), options, settings.devices)


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
    there = [job for job in jobs if read_record(job.folder) is not None]
    stale = [(job, differing) for job in there if (differing := changes(job))]
    if not stale:
        return
    first, differing = stale[0]
    # That of a machine is no option that the user remembers to have given.
    mixed = " (--precision follows the processor)" * ("option precision" in differing)
    # No more than has to go: an arm's other option leaves the synthesis models as they are.
    root, methods = first.folder.parents[1], {job.folder.parent for job, _ in stale}
    places = [root] if methods >= {*root.glob("[!.]*")} else sorted(methods)
    raise UsageError(
        f"{first.folder}: was fitted with other input ({', '.join(differing[:3])}); give the same "
        f"options{mixed} and pairs, another out_dir, or remove {' and '.join(map(str, places))}"
    )


def _known(path: Path) -> dict[str, tuple[Fold, ...]]:
    """Read the folds of earlier runs; what is damaged is made anew."""
    try:
        return splits.read_splits(path)
    except H2loError:
        return {}


def run_fit(task: FitTask, send: Send) -> None:
    """Run a fit or make a final model, unless done; a lock keeps other runs from the same fit."""

    def sender(event: str) -> Say:
        return lambda line: send({"event": event, "text": line})

    torch.set_num_threads(task.threads)  # they decide the last bits
    keep_freed_memory()
    settings = task.settings
    pairs = usable_pairs(settings, {task.contrast: task.plan.sources})[task.contrast]
    job = final_job(task, pairs) if task.fold is None else job_of_fold(
        settings, task.contrast, task.method, task.fold, pairs
    )  # fmt: skip
    lock = settings.work / "locks" / f"{task.name.replace('/', '-')}.lock"
    with exclusive(lock, lambda by: send(note(f"waiting for another run of this fit ({by})"))):
        if isinstance(job, FinalJob):
            fit_final(job, sender("said"), send)
        else:
            run_fold(job, sender("said"), sender("lost"))


def job_of_fold(settings: Settings, contrast: str, name: str, fold: Fold, pairs: Pairs) -> FoldWork:
    """Return the job of a method, an arm, or an external tool, on one fold."""
    where: dict[str, Any] = {
        "contrast": contrast, "method": name, "fold": fold, "pairs": pairs,
        "out_dir": settings.out_dir, "work_dir": settings.work,
    }  # fmt: skip
    if name == f"{ENHANCER}-{CURVE}":
        return CurveJob(**where)
    template = dict(settings.external).get(name)
    if template is not None:
        limit = None if settings.max_time is None else 60 * settings.max_time
        return ExternalJob(**where, command=Command(name, template), limit=limit)
    start, _ = find_start(settings, contrast, name)
    train = sum(pair.subject in fold.train for pair in pairs)
    options = fit_options(settings, train, start)
    arm = _arm(settings, contrast, name, fold.index) if settings.fits_enhancer else None
    job = FoldJob(**where, options=options, devices=settings.devices, initial=start, arm=arm)
    if start is not None:
        leaks.check_no_leak(job.pairs_in("test"), None, (start,))
    if arm is not None and (cohort := arm.cohort) is not None:
        makers = (cohort.bundle,) if cohort.bundle else _makers(settings, cohort)
        leaks.check_no_leak(job.pairs_in("test"), cohort, makers)
        fitted = read_record(cohort.bundle.path.parent) if cohort.bundle else None
        own = {pair.record.stem: pair.fingerprint for pair in job.pairs_in(*splits.PARTS)}
        if fitted and fitted.get("pairs") != own:
            raise fitted_otherwise(makers[0].path)
    return job


def final_job(task: FitTask, pairs: Pairs) -> FinalJob:
    """Return the job of a final model, from what is on disk."""
    settings, method, plan = task.settings, task.method, task.plan
    everybody = {pair.subject for pair in pairs} - {*plan.held}
    *folds, whole = (
        job_of_fold(settings, task.contrast, method, fold, pairs)
        for fold in (*plan.folds, Fold.of(0, everybody, plan.held, ()))
    )
    carries = len(plan.folds) > 1 and method != IDENTITY and not settings.fits_enhancer
    return FinalJob(**vars(whole), folds=cast("tuple[FoldJob, ...]", tuple(folds)), carries=carries)


def fitted_otherwise(path: Path) -> UsageError:
    """Return the error of a fold or its model that does not go with the pairs that are wanted."""
    return UsageError(
        f"{path}: was fitted to pairs that were prepared otherwise, or of other scans; give the "
        "options that it was fitted with, such as --protocol paper or --resolution, another "
        "out_dir, or remove it and fit it again"
    )


def _arm(settings: Settings, contrast: str, method: str, fold: int) -> Arm:
    """Return an arm of Table 2, or the group level's enhancer, which is one, too."""
    if method == ENHANCER:
        pretrain = "cohort" if settings.pretrain_derivatives else None
        arm = Arm(CATALOGUE[ENHANCER].title, pretrain, settings.augment)
    else:
        arm = find_arm(method)
    cohort, schedule = None, Schedule(factor=settings.schedule_factor)
    if arm.pretrain is not None:
        schedule, bundle = schedule.with_rate(settings.finetune_rate), None
        if method != ENHANCER:
            made = _synthesis_folder(settings, contrast, arm.pretrain, fold)
            bundle = load_bundle(made, contrast=contrast, task=SYNTHESIZE)
        cohort = Cohort(cohort_scans(settings, contrast), settings.random_seed, bundle)
    return dataclasses.replace(arm, schedule=schedule, cohort=cohort)


_find_cohort = functools.cache(find_cohort)  # every arm and fold asks for it


def cohort_scans(settings: Settings, contrast: str) -> tuple[CohortScan, ...]:
    """Return the cohort to pretrain on; at the group level only scans with a low-field image."""
    roots = settings.pretrain_derivatives
    return _find_cohort(roots, contrast, low=settings.level == "group") if roots else ()


def check_synthesis(settings: Settings, contrast: str, folds: Sequence[int]) -> None:
    """Refuse arms whose synthesis models are not there."""
    methods = [arm.pretrain for arm in map(find_arm, settings.arms) if arm.pretrain]
    for method, fold in itertools.product(methods, folds):
        _synthesis_folder(settings, contrast, method, fold)


def _synthesis_folder(settings: Settings, contrast: str, method: str, fold: int) -> Path:
    """Name the bundle of the synthesis benchmark's model of a fold, or raise `UsageError`."""
    folder = result_path(settings.out_dir, "fold", contrast=contrast, method=method, fold=fold)
    if read_record(folder) is None or not (folder / BUNDLE).is_dir():
        # With the other options of this run: without its --resolution, pairs are prepared anew.
        how: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Enhancement)}
        how |= {"task": SYNTHESIZE, "method": (method,), "dry_run": False}
        words = ["h2lo", *dataclasses.replace(settings, **how).words()]
        raise UsageError(
            f"{folder / BUNDLE}: is missing, and the arm {method} is pretrained on its images; "
            f"make it first: {shlex.join(words)}"
        )
    return folder / BUNDLE


def _makers(settings: Settings, cohort: Cohort) -> tuple[Bundle, ...]:
    """Find the models, given or of this folder, that made a cohort's images."""
    wanted = {image.sha256 for scan in cohort.scans for image in scan.low}
    patterns = result_pattern("model"), result_pattern("fold", f"/{BUNDLE}")
    places = [path for pattern in patterns for path in sorted(settings.out_dir.glob(pattern))]
    found = []
    given = [[*path.glob(f"[!.]*/{METADATA}")] or [path / METADATA] for _, path in settings.model]
    for path in [*(file.parent for files in given for file in files), *places]:
        try:
            found.append(load_bundle(path))
        except H2loError:
            continue  # none that could have made an image
    return tuple(bundle for bundle in found if bundle.sha256 in wanted)


def usable_pairs(
    settings: Settings, sources: Sources, send: Send = lambda event: None
) -> dict[str, Pairs]:
    """Return the prepared pairs of some scans by contrast, but for those that are flagged."""
    used, refused = {}, list[BadDataError]()
    for contrast, scans in sources.items():
        found = find_prepared(settings.out_dir, contrast=contrast, sources=set(scans))
        flagged = skipped_pairs(settings, found)
        for line in flagged.values():
            send(note(line, "warning"))
        if kept := tuple(pair for pair in found if pair not in flagged):
            used[contrast] = kept
        elif flagged:
            refused.append(every_pair_flagged(contrast))
        elif scans:  # a contrast without any has failed before
            text = "its prepared pairs are gone or damaged; run the same command again"
            refused.append(BadDataError(f"{contrast}: {text}, which prepares them"))
    tell_refused(refused, used, send)
    return used


def tell_refused(refused: Sequence[H2loError], others: Collection[Any], send: Send) -> None:
    """Report the contrasts that nothing can be made of; raise if there is nothing else."""
    if refused and not others:
        raise refused[0]
    for each in refused:
        send({"event": "lost", "text": str(each)})


def every_pair_flagged(contrast: str) -> BadDataError:
    """Return the error of a contrast whose pairs are all of doubtful registration."""
    return BadDataError(
        f"{contrast}: the registration check flagged every pair; inspect them on the page "
        "that --reports-only writes, and use --keep-flagged-pairs if they are good"
    )


def skipped_pairs(settings: Settings, pairs: Iterable[PreparedPair]) -> dict[PreparedPair, str]:
    """Return the pairs that are not used as their registration is doubtful, and what to say."""
    flagged = [pair for pair in pairs if pair.doubts and not settings.keep_flagged_pairs]
    return {p: f"{flagged_line(p)}; skipped without --keep-flagged-pairs" for p in flagged}


def flagged_line(pair: PreparedPair) -> str:
    """Say why the registration of a pair is doubtful."""
    return (
        f"{pair.contrast}: sub-{pair.name} is flagged, its registration is "
        f"doubtful: {'; '.join(pair.doubts)}"
    )
