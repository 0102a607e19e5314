"""The model that a site takes home: fitted to all pairs after the cross-validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from h2lo_bids.bids.derivatives import result_path
from h2lo_bids.cache import digest, sha256
from h2lo_bids.errors import H2loError, UsageError
from h2lo_bids.evaluation.scores import read_scores
from h2lo_bids.evaluation.statistics import summarise
from h2lo_bids.models.bundle import Bundle, load_bundle, member_files
from h2lo_bids.training.experiments.crossvalidation import (
    BUNDLE,
    SCORES,
    FoldJob,
    fold_done,
    read_record,
)
from h2lo_bids.training.experiments.noise import RECIPE
from h2lo_bids.training.experiments.site import SiteModel, save_site
from h2lo_bids.training.fit import prefixed
from h2lo_bids.training.prepared import common_frame, pairs_fingerprint
from h2lo_bids.vocabulary import Say
from h2lo_bids.wording import counted

if TYPE_CHECKING:
    from h2lo_bids.training.fit import FitResult


@dataclass(frozen=True, kw_only=True)
class FinalJob(FoldJob):
    """A final model; its fold has nobody to test on, and after a cross-validation to validate."""

    folds: tuple[FoldJob, ...] = ()
    """The finished cross-validation, if any."""
    carries: bool = False
    """Whether the bundle carries the folds' weights, for its uncertainty."""

    @property
    def folder(self) -> Path:
        """Where the bundle goes."""
        return result_path(self.out_dir, "model", method=self.method, contrast=self.contrast)

    @property
    def title(self) -> str:
        """The model for a person."""
        return f"{self.contrast} {self.method} final model"

    @property
    def records(self) -> list[dict[str, Any]]:
        """Records of the folds."""
        return [record for fold in self.folds if (record := read_record(fold.folder))]


def final_steps(job: FinalJob) -> int:
    """Return the steps that a final model takes.

    Nobody is left to validate on after a cross-validation, so it stops at the
    part of the schedule at which the folds were best: the median over folds of
    best step by steps, times its own steps. The rate follows the schedule of the
    folds up to there. The authors keep each fold's best weights instead and fit
    no model to all subjects.
    """
    if not job.folds:
        return job.adapted.steps
    lacking = [str(fold.fold.index) for fold in job.folds if not fold_done(fold)]
    if lacking:
        raise UsageError(
            f"{job.contrast} {job.method}: fold{'s' * (len(lacking) > 1)} {', '.join(lacking)} "
            "not finished, or of other pairs or options; run "
            f"--fold {' '.join(lacking)} before the final model"
        )
    shares = [r["best_step"] / _planned(r) for r in job.records if r["best_step"]]
    return max(1, round((median(shares) if shares else 1.0) * job.adapted.steps))


def fit_final(
    job: FinalJob,
    progress: Say | None = None,
    *,
    noise: Callable[[], Mapping[str, Any] | None] = lambda: None,
) -> Bundle:
    """Fit a model to all pairs and package it, unless that is done already.

    `noise` measures a noise model for the metadata.
    """
    say = prefixed(job.title, progress)
    end = final_steps(job)
    extras = member_files([fold.folder / BUNDLE for fold in job.folds if job.carries])
    identity = _identity(job, end, extras)
    if done := _done(job.folder, identity):
        say("done already" if "noise" in done.metadata else "done already; it has no noise model")
        return done
    common_frame(job.pairs_in("train", "validation"))
    say(f"fitting to {counted(len(job.fold.train), 'subject')} for {counted(end, 'step')}")
    result = job.fit(_work(job, end), say, end)
    model = SiteModel(
        f"{job.method}_{job.contrast}_site",
        job,
        dataclasses.replace(result, best_step=result.best_step or result.steps),
        schedule=_schedule(job, result, end),
        summary=summarise([s for f in job.folds for s in read_scores(f.folder / SCORES)]),
        members=len(job.folds) if job.carries else 0,
        noise=noise(),
        digest=identity,
    )
    bundle = save_site(job.folder, model, extras)
    say(f"wrote {bundle.path}")
    return bundle


def _planned(record: Mapping[str, Any]) -> int:
    """Return the steps of a fold's schedule, which its validation may have ended early."""
    return int((record["options"] if record.get("stalled") else record)["steps"])


def _schedule(job: FinalJob, result: FitResult, end: int) -> str:
    """Say where the fit ended, and why there."""
    options = job.adapted
    if options.family == "identity":
        return ""
    late = result.timed_out and result.steps < end
    budget = f"The time budget of {options.max_seconds:g} s ended the fit. " if late else ""
    if job.folds:
        best = ", ".join(f"{r['best_step']} of {_planned(r)}" for r in job.records)
        return (
            f"{budget}Nobody was left to choose the weights by: the fit stopped at step "
            f"{result.steps} of {options.steps}, {'no later than ' if late else ''}the median of "
            f"where in the schedule the folds' validations were best (steps {best}), and the last "
            "weights were kept."
        )
    if job.fold.validation:
        return budget.strip()
    return f"{budget}No subject was held out to choose the weights by: the last ones were kept."


def _decides(job: FinalJob, end: int) -> list[Any]:
    """Return what decides the weights; a fit that went further has others than that step's."""
    subjects = {"train": job.fold.train, "validation": job.fold.validation}
    pairs = pairs_fingerprint(job.pairs_in("train", "validation"))
    return [subjects, job.method_options(), pairs, end]


def _work(job: FinalJob, end: int) -> Path:
    name = f"final_{digest(_decides(job, end), 4)}"
    return Path(job.work_dir) / "training" / job.contrast / job.method / name


def _identity(job: FinalJob, end: int, extras: Mapping[str, bytes]) -> str:
    """Name the job, so that the very same one is not done twice."""
    files = {name: sha256(content) for name, content in extras.items()}
    folds = [fold.identity() for fold in job.folds]
    best = [record["best_step"] for record in job.records]
    return digest([*_decides(job, end), folds, best, files, RECIPE], 16)


def _done(folder: Path, identity: str) -> Bundle | None:
    try:
        bundle = load_bundle(folder)
    except H2loError:
        return None  # none yet, or a damaged one, which is made again
    return bundle if bundle.metadata.get("job") == identity else None
