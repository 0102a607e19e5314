"""What a run on pairs fits: its pairs, grid and options, and the jobs of its folds and models."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from h2lo_bids.bids.derivatives import result_path, result_pattern
from h2lo_bids.errors import BadDataError, H2loError, UsageError
from h2lo_bids.evaluation.splits import Fold
from h2lo_bids.io import exclusive
from h2lo_bids.models.bundle import Bundle, default_bundle, load_bundle
from h2lo_bids.models.choice import choose_bundles, given_bundles, is_collection
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.pfsr import PfsrArchitecture
from h2lo_bids.models.registry import CATALOGUE, sizes_of
from h2lo_bids.processes import note
from h2lo_bids.settings import Settings
from h2lo_bids.settings.convert import NONE
from h2lo_bids.settings.options_pairs import INIT
from h2lo_bids.training.experiments import FitTask, Sources
from h2lo_bids.training.experiments.arms import Arm, Schedule, find_arm
from h2lo_bids.training.experiments.cohort import Cohort, CohortScan, find_cohort
from h2lo_bids.training.experiments.crossvalidation import (
    BUNDLE,
    CurveJob,
    FoldJob,
    FoldWork,
    read_record,
    run_fold,
)
from h2lo_bids.training.experiments.external import Command, ExternalJob
from h2lo_bids.training.experiments.final import FinalJob, fit_final
from h2lo_bids.training.experiments.leaks import check_no_leak
from h2lo_bids.training.options import FitOptions, default_options, paper_options
from h2lo_bids.training.pairs import PreparedPair, find_prepared, training_frame
from h2lo_bids.vocabulary import CONTRASTS, CURVE, ENHANCER, IDENTITY, SYNTHESIZE, Say, Send

Pairs = tuple[PreparedPair, ...]


def run_fit(task: FitTask, send: Send) -> None:
    """Run a fit or make a final model, unless done; a lock keeps other runs from the same fit."""
    import torch

    from h2lo_bids.training.devices import keep_freed_memory

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
    return _fit_job(settings, **where)


def final_job(task: FitTask, pairs: Pairs) -> FinalJob:
    """Return the job of a final model, from what is on disk."""
    settings, method, plan = task.settings, task.method, task.plan
    everybody = {pair.subject for pair in pairs} - {*plan.held}
    *folds, whole = (
        job_of_fold(settings, task.contrast, method, fold, pairs)
        for fold in (*plan.folds, Fold.of(0, everybody, plan.held, ()))
    )
    carries = method != IDENTITY and not settings.fits_enhancer
    return FinalJob(**vars(whole), folds=cast("tuple[FoldJob, ...]", tuple(folds)), carries=carries)


def _fit_job(settings: Settings, **values: Any) -> FoldJob:
    """Return the job of a fit: its options, what it starts from, and its arm if it is of one."""
    contrast, method, fold = values["contrast"], values["method"], values["fold"]
    start, _ = find_start(settings, contrast, method)
    train = sum(pair.subject in fold.train for pair in values["pairs"])
    options = fit_options(settings, train, start)
    arm = _arm(settings, contrast, method, fold.index) if settings.fits_enhancer else None
    job = FoldJob(**values, options=options, devices=settings.devices, initial=start, arm=arm)
    if start is not None:
        check_no_leak(job.pairs_in("test"), None, (start,))
    if arm is not None and (cohort := arm.cohort) is not None:
        makers = (cohort.bundle,) if cohort.bundle else _makers(settings, cohort)
        check_no_leak(job.pairs_in("test"), cohort, makers)
    return job


def _arm(settings: Settings, contrast: str, method: str, fold: int) -> Arm:
    """Return an arm of Table 2, or the group level's enhancer, which is one, too."""
    if method == ENHANCER:
        pretrain = "cohort" if settings.pretrain_derivatives else None
        arm = Arm(CATALOGUE[ENHANCER].title, pretrain, settings.augment)
    else:
        arm = find_arm(method)
    cohort = None
    if arm.pretrain is not None:
        bundle = None
        if method != ENHANCER:
            made = _synthesis_folder(settings, contrast, arm.pretrain, fold)
            bundle = load_bundle(made, contrast=contrast, task=SYNTHESIZE)
        cohort = Cohort(cohort_scans(settings, contrast), settings.random_seed, bundle)
    schedule = Schedule(factor=settings.schedule_factor).with_rate(settings.finetune_rate)
    return dataclasses.replace(arm, schedule=schedule, cohort=cohort)


_find_cohort = functools.cache(find_cohort)  # every arm and fold asks for it


def cohort_scans(settings: Settings, contrast: str) -> tuple[CohortScan, ...]:
    """Return the cohort to pretrain on; at the group level only scans with a low-field image."""
    roots, low = settings.pretrain_derivatives or settings.cohort, not settings.cohort
    return _find_cohort(roots, contrast, low=low) if roots else ()


def check_synthesis(settings: Settings, contrast: str, folds: Sequence[int]) -> None:
    """Refuse arms whose synthesis models are not there."""
    for arm in map(find_arm, settings.arms):
        if arm.pretrain is not None:
            for fold in folds:
                _synthesis_folder(settings, contrast, arm.pretrain, fold)


def _synthesis_folder(settings: Settings, contrast: str, method: str, fold: int) -> Path:
    """Name the bundle of the synthesis benchmark's model of a fold, or raise `UsageError`."""
    folder = result_path(settings.out_dir, "fold", contrast=contrast, method=method, fold=fold)
    if read_record(folder) is None or not (folder / BUNDLE).is_dir():
        raise UsageError(
            f"{folder / BUNDLE}: is missing, and the arm {method} is pretrained on its images; "
            f"make it first: h2lo {settings.bids_dir} {settings.out_dir} benchmark --method "
            f"{method} --folds {settings.folds}"
        )
    return folder / BUNDLE


def _makers(settings: Settings, cohort: Cohort) -> tuple[Bundle, ...]:
    """Find the models, given or of this folder, that made a cohort's images."""
    wanted = {image.sha256 for scan in cohort.scans for image in scan.low}
    patterns = result_pattern("model"), result_pattern("fold", f"/{BUNDLE}")
    places = [path for pattern in patterns for path in sorted(settings.out_dir.glob(pattern))]
    found = []
    for path in [*(path for _, path in settings.model), *places]:
        try:
            found.append(load_bundle(path))
        except H2loError:
            continue  # none that could have made an image
    return tuple(bundle for bundle in found if bundle.sha256 in wanted)


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
    if settings.features is not None:
        reduction = math.gcd(PfsrArchitecture().reduction, settings.features)
        sizes = PfsrArchitecture(features=settings.features, reduction=reduction)
        given |= {"family": ENHANCER, "architecture": sizes}
    changed = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(options, seed=settings.random_seed, **changed)


def find_start(settings: Settings, contrast: str, method: str) -> tuple[Bundle | None, str]:
    """Return the model from whose weights a method's fits start, and words that name it.

    Without ``--init`` a model that the fits cannot start from is no error: the words say why they
    start from random weights, for which None stands.
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
    fault = _fault(bundle, contrast, fit_options(settings, 1), frame_of(settings))
    if fault is None:
        name = bundle.metadata.get("name", bundle.path.name)
        return bundle, f"starts from the weights of {name} (SHA-256 {bundle.sha256})"
    if asked is None:
        return None, f"starts from random weights, as the {chosen} model {fault}"
    raise UsageError(f"--init {chosen}: the {contrast} fits cannot start from it, as it {fault}")


def _fault(bundle: Bundle, contrast: str, options: FitOptions, frame: Frame) -> str | None:
    """Return why an operator's fit cannot start from a model; None if it can."""
    own, sizes = bundle.architecture, sizes_of(options.architecture)
    other = ", ".join(f"{k} {own.get(k)}, not {v}" for k, v in sizes.items() if own.get(k) != v)
    if bundle.contrast != contrast:
        return f"is a model of {bundle.contrast}"
    if bundle.method != options.family:
        return f"is a model of {bundle.method}"
    if other:
        return f"has other sizes ({other})"
    if bundle.scaling != options.scaling:
        return f"takes an input of {bundle.scaling} scaling, not {options.scaling}"
    if bundle.frame != frame:
        return f"sees positions on another grid, of {bundle.frame.spacing[0]:g} mm voxels"
    return None


def frame_of(settings: Settings) -> Frame:
    """Return the grid on which pairs are prepared, of 1 mm without ``--resolution``.

    At the evaluate level it is of the models' voxel size, if that is one and the same.
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
    settings: Settings, sources: Sources, send: Send = lambda event: None
) -> dict[str, Pairs]:
    """Return the prepared pairs of some scans by contrast, but for those that are flagged."""
    used, doubtful = {}, False
    for contrast, scans in sources.items():
        found = find_prepared(settings.out_dir, contrast=contrast, sources=set(scans))
        flagged = [] if settings.keep_flagged_pairs else [pair for pair in found if pair.doubts]
        for pair in flagged:
            send(note(f"{flagged_line(pair)}; skipped without --keep-flagged-pairs", "warning"))
        doubtful |= bool(flagged)
        if kept := tuple(pair for pair in found if pair not in flagged):
            used[contrast] = kept
    if not used and not doubtful:
        raise BadDataError(
            f"{settings.out_dir}: its prepared pairs are gone or damaged; run the same command "
            "again, which prepares them"
        )
    if not used:
        raise BadDataError(
            f"{settings.out_dir}: the registration check flagged every pair; inspect them in "
            "group.html, which --reports-only writes, and use --keep-flagged-pairs if they are good"
        )
    return used


def flagged_line(pair: PreparedPair) -> str:
    """Say why the registration of a pair is doubtful."""
    return (
        f"{pair.contrast}: sub-{pair.name} is flagged, its registration is "
        f"doubtful: {'; '.join(pair.doubts)}"
    )
