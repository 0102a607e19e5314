"""From settings to the jobs that fit an enhancer; imported by child processes alone."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from h2lo_bids.bids.results import result_pattern
from h2lo_bids.cli.fitoptions import fit_options
from h2lo_bids.errors import H2loError, UsageError
from h2lo_bids.evaluation.splits import PARTS, Fold
from h2lo_bids.models.bundle import Bundle, load_bundle
from h2lo_bids.models.catalogue import CATALOGUE
from h2lo_bids.settings import Settings
from h2lo_bids.training.armjob import ArmFinalJob, ArmJob, Cohort
from h2lo_bids.training.arms import Arm, Schedule, find_arm
from h2lo_bids.training.cohort import CohortScan, find_cohort
from h2lo_bids.training.final import FinalJob
from h2lo_bids.training.foldjob import BUNDLE, fold_folder, read_record
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.prepared import PreparedPair
from h2lo_bids.vocabulary import ENHANCER, SYNTHESIZE


def enhance_job(
    settings: Settings, contrast: str, name: str, fold: Fold, pairs: tuple[PreparedPair, ...]
) -> ArmJob:
    """Return the job of an arm, or of the group level's enhancer, on one fold.

    Parameters
    ----------
    settings
        Of the run.
    contrast, name, fold, pairs
        As in `h2lo_bids.training.foldjob.FoldWork`.

    Raises
    ------
    UsageError
        If a stage has seen a test subject, or the synthesis benchmark has no model of
        this fold.
    H2loError
        If the cohort cannot be read.
    """
    arm = arm_of(settings, name)
    job = ArmJob(
        contrast=contrast,
        method=name,
        fold=fold,
        pairs=pairs,
        options=arm_options(settings, sum(pair.subject in fold.train for pair in pairs)),
        out_dir=settings.out_dir,
        work_dir=settings.work,
        arm=arm,
        schedule=schedule_of(settings),
        cohort=_cohort(settings, contrast, arm, fold),
    )
    job.check_leaks()
    return job


def enhance_final(settings: Settings, job: FinalJob) -> ArmFinalJob:
    """Return the final job of an enhancer, of that which other methods would have."""
    arm = arm_of(settings, job.method)
    values = {item.name: getattr(job, item.name) for item in dataclasses.fields(job)}
    values["options"] = arm_options(settings, len(job.subjects["train"]))
    return ArmFinalJob(
        **values,
        arm=arm,
        schedule=schedule_of(settings),
        cohort=_cohort(settings, job.contrast, arm, None),
    )


def arm_of(settings: Settings, name: str) -> Arm:
    """Return what a row's name stands for; the group level's enhancer is one of its own."""
    if name != ENHANCER:
        return find_arm(name)
    pretrain = "cohort" if settings.pretrain_derivatives else None
    return Arm(ENHANCER, CATALOGUE[ENHANCER].title, pretrain, settings.augment)


def schedule_of(settings: Settings) -> Schedule:
    """Return the schedule that the user asks for."""
    return Schedule(factor=settings.schedule_factor).with_rate(settings.finetune_rate)


def arm_options(settings: Settings, n_train: int) -> FitOptions:
    """Return the options that an arm's stages begin with."""
    options = fit_options(settings, n_train)
    if settings.features is None:
        return options
    from h2lo_bids.models.pfsr import PfsrArchitecture

    usual = PfsrArchitecture().reduction
    sizes = PfsrArchitecture(
        features=settings.features, reduction=math.gcd(usual, settings.features)
    )
    return dataclasses.replace(options, family=ENHANCER, architecture=sizes)


_find_cohort = functools.cache(find_cohort)  # every arm and fold asks for it


def _cohort(settings: Settings, contrast: str, arm: Arm, fold: Fold | None) -> Cohort | None:
    if arm.pretrain is None:
        return None
    seed = settings.random_seed
    if arm.name == ENHANCER:
        scans = _find_cohort(settings.pretrain_derivatives, contrast)
        return Cohort(scans, seed, models=_makers(settings, scans))
    assert fold is not None
    if not settings.cohort:
        raise UsageError(f"--arms {arm.pretrain}: give --cohort, whose images it is pretrained on")
    scans = _find_cohort(settings.cohort, contrast, low=False)
    return Cohort(scans, seed, _synthesizer(settings, contrast, arm.pretrain, fold))


def check_cohorts(settings: Settings, contrasts: Iterable[str]) -> None:
    """Read what is known of a cohort's images, for the complaints alone.

    Parameters
    ----------
    settings
        Of the run.
    contrasts
        Those of which there are pairs.

    Raises
    ------
    H2loError
        As `h2lo_bids.training.cohort.find_cohort`.
    """
    for contrast in contrasts:
        if settings.pretrain_derivatives:
            _find_cohort(settings.pretrain_derivatives, contrast)
        if settings.cohort:
            _find_cohort(settings.cohort, contrast, low=False)


def check_synthesis(settings: Settings, contrast: str, folds: Sequence[int]) -> None:
    """Refuse arms whose synthesis models are not there.

    Parameters
    ----------
    settings
        Of the run.
    contrast, folds
        Whose models.

    Raises
    ------
    UsageError
        With the command that makes what is missing.
    """
    for arm in map(find_arm, settings.arms):
        if arm.pretrain is not None:
            for fold in folds:
                _synthesis_record(settings, contrast, arm.pretrain, fold)


def _synthesis_record(settings: Settings, contrast: str, method: str, fold: int) -> dict[str, Any]:
    """Read the record of the synthesis benchmark's model of a fold."""
    folder = fold_folder(settings.out_dir, contrast, method, fold)
    record = read_record(folder)
    if record is None or not (folder / BUNDLE).is_dir():
        raise UsageError(
            f"{folder / BUNDLE}: is missing, and the arm {method} is pretrained on its images; "
            f"make it first: {_synthesis_command(settings, method)}"
        )
    return record


def _synthesis_command(settings: Settings, method: str) -> str:
    return (
        f"h2lo {settings.bids_dir} {settings.out_dir} benchmark --methods {method} "
        f"--folds {settings.folds}"
    )


def _synthesizer(settings: Settings, contrast: str, method: str, fold: Fold) -> Bundle:
    """Load the synthesis benchmark's model of a fold."""
    folder = fold_folder(settings.out_dir, contrast, method, fold.index)
    record = _synthesis_record(settings, contrast, method, fold.index)
    told = record.get("fold") or {}
    if any(sorted(told.get(part, ())) != sorted(getattr(fold, part)) for part in PARTS):
        raise UsageError(
            f"{folder}: is of another division of the subjects; give the same --folds and pairs as "
            f"the synthesis benchmark had, or make it anew: {_synthesis_command(settings, method)}"
        )
    return load_bundle(folder / BUNDLE, contrast=contrast, task=SYNTHESIZE)


def _makers(settings: Settings, scans: tuple[CohortScan, ...]) -> tuple[Bundle, ...]:
    """Find the models, given or of this folder, that made a cohort's images."""
    wanted = {image.sha256 for scan in scans for image in scan.low}
    patterns = result_pattern("model"), result_pattern("fold", f"/{BUNDLE}")
    places = [path for pattern in patterns for path in sorted(settings.out_dir.glob(pattern))]
    found = []
    for path in [*(path for _, path in settings.model), *places]:
        try:
            bundle = load_bundle(path)
        except H2loError:
            continue  # none that could have made an image
        if bundle.sha256 in wanted:
            found.append(bundle)
    return tuple(found)
