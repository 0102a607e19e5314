"""The enhancer and the arms of Table 2: their jobs on a fold and on all pairs."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from h2lo_bids.bids.derivatives import result_pattern
from h2lo_bids.errors import H2loError, UsageError
from h2lo_bids.evaluation.splits import PARTS, Fold
from h2lo_bids.models.bundle import Bundle, load_bundle
from h2lo_bids.models.pfsr import PfsrArchitecture
from h2lo_bids.models.registry import CATALOGUE
from h2lo_bids.settings import Settings
from h2lo_bids.training.experiments.arms import Arm, Schedule, find_arm, fit_arm
from h2lo_bids.training.experiments.cohort import Cohort, find_cohort
from h2lo_bids.training.experiments.crossvalidation import (
    BUNDLE,
    FoldJob,
    FoldWork,
    fold_done,
    fold_folder,
    read_record,
    score_subject,
    withdraw,
    write_fold,
)
from h2lo_bids.training.experiments.heldout import Scored
from h2lo_bids.training.experiments.leaks import check_images, check_no_leak
from h2lo_bids.training.fit import prefixed
from h2lo_bids.training.pairs import Pair
from h2lo_bids.training.prepared import common_frame, open_prepared, read_prepared
from h2lo_bids.vocabulary import ENHANCE, ENHANCER, SYNTHESIZE, Say

if TYPE_CHECKING:
    from pathlib import Path

    from h2lo_bids.training.fit import FitResult


def fit_stages(
    job: FoldJob, arm: Arm, work: Path, say: Say, stop_at: int | None = None
) -> FitResult:
    """Pretrain and fine-tune an arm in a work folder, or go on there."""
    train, held, tested = (open_prepared(job.pairs_in(part), job.cache) for part in PARTS)
    more: tuple[list[Pair], list[Pair]] = ([], [])
    if arm.cohort is not None:
        frame = common_frame(job.pairs_in("train"))
        more = arm.cohort.open(frame, job.cache / "cohort", job.options.device, say)
        check_images([*more[0], *more[1]], tested, frame.spacing)
    return fit_arm(job.stages, (train, held), more, work, say, stop_at)


Job = TypeVar("Job", bound=FoldJob)
LEVELS = 200
"""Steps of grey from 0 to 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveJob(FoldWork):
    """One curve of grey levels on a fold: what an enhancer brings beyond it is no contrast."""

    @property
    def task(self) -> str:
        """What it is for."""
        return ENHANCE

    def method_options(self) -> dict[str, Any]:
        """Return the steps of grey, which decide the curve."""
        return {"levels": LEVELS}


def fit_curve(pairs: Iterable[Pair]) -> np.ndarray:
    """Return the target's mean at each level of the input inside the brains."""
    sums, counts = np.zeros((2, LEVELS + 1))
    for pair in pairs:
        level = np.rint(pair.hf[pair.mask].clip(0, 1) * LEVELS).astype(int)
        sums += np.bincount(level, pair.lf[pair.mask], LEVELS + 1)
        counts += np.bincount(level, minlength=LEVELS + 1)
    seen = np.flatnonzero(counts)
    return np.interp(np.arange(LEVELS + 1), seen, sums[seen] / counts[seen])


def apply_curve(curve: np.ndarray, pair: Pair) -> np.ndarray:
    """Return what the curve makes of a pair's input; 0 outside the brain."""
    made = np.interp(pair.hf * LEVELS, np.arange(LEVELS + 1), curve)
    return np.where(pair.mask, made, 0).astype(np.float32)


def run_curve(job: CurveJob, progress: Say | None = None) -> None:
    """Learn the curve of a fold and score it, unless that is done."""
    say = prefixed(job.title, progress)
    if fold_done(job):
        say("done already")
        return
    curve = fit_curve(map(read_prepared, job.pairs_in("train")))
    scored = Scored()
    for prepared in job.pairs_in("test"):
        pair = read_prepared(prepared)
        score_subject(job, scored, prepared, pair, apply_curve(curve, pair))
    withdraw(job.folder)
    write_fold(job, scored, find_arm(job.method).title, PARTS, {"parameters": len(curve)})


def with_arm(settings: Settings, job: Job, fold: Fold | None) -> Job:
    """Return the job of another method as that of an arm, or of the group level's enhancer."""
    arm = _arm_of(settings, job.method)
    arm = dataclasses.replace(
        arm,
        schedule=Schedule(factor=settings.schedule_factor).with_rate(settings.finetune_rate),
        cohort=_cohort(settings, job.contrast, arm, fold),
    )
    options = job.options
    if settings.features is not None:
        reduction = math.gcd(PfsrArchitecture().reduction, settings.features)
        sizes = PfsrArchitecture(features=settings.features, reduction=reduction)
        options = dataclasses.replace(options, family=ENHANCER, architecture=sizes)
    job = dataclasses.replace(job, arm=arm, options=options)
    if arm.cohort is not None:
        own = arm.cohort.bundle
        makers = (own,) if own else _makers(settings, arm.cohort)
        check_no_leak(job.pairs_in("test"), arm.cohort, makers)
    return job


def _arm_of(settings: Settings, name: str) -> Arm:
    if name != ENHANCER:
        return find_arm(name)
    pretrain = "cohort" if settings.pretrain_derivatives else None
    return Arm(ENHANCER, CATALOGUE[ENHANCER].title, pretrain, settings.augment)


_find_cohort = functools.cache(find_cohort)  # every arm and fold asks for it


def _cohort(settings: Settings, contrast: str, arm: Arm, fold: Fold | None) -> Cohort | None:
    if arm.pretrain is None:
        return None
    if arm.name == ENHANCER:
        scans = _find_cohort(settings.pretrain_derivatives, contrast)
        return Cohort(scans, settings.random_seed)
    assert fold is not None
    if not settings.cohort:
        raise UsageError(f"--arm {arm.pretrain}: give --cohort, whose images it is pretrained on")
    scans = _find_cohort(settings.cohort, contrast, low=False)
    made = _synthesis_folder(settings, contrast, arm.pretrain, fold.index)
    bundle = load_bundle(made, contrast=contrast, task=SYNTHESIZE)
    return Cohort(scans, settings.random_seed, bundle)


def check_cohorts(settings: Settings, contrasts: Iterable[str]) -> None:
    """Read what is known of a cohort's images, only for the errors that it raises."""
    for contrast in contrasts:
        if settings.pretrain_derivatives:
            _find_cohort(settings.pretrain_derivatives, contrast)
        if settings.cohort:
            _find_cohort(settings.cohort, contrast, low=False)


def check_synthesis(settings: Settings, contrast: str, folds: Sequence[int]) -> None:
    """Refuse arms whose synthesis models are not there."""
    for arm in map(find_arm, settings.arms):
        if arm.pretrain is not None:
            for fold in folds:
                _synthesis_folder(settings, contrast, arm.pretrain, fold)


def _synthesis_folder(settings: Settings, contrast: str, method: str, fold: int) -> Path:
    """Name the bundle of the synthesis benchmark's model of a fold, or raise `UsageError`."""
    folder = fold_folder(settings.out_dir, contrast, method, fold)
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
