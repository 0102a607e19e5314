"""The model that a site takes home: fitted to all pairs after the cross-validation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from h2lo_bids.bids.derivatives import result_path
from h2lo_bids.cache import digest
from h2lo_bids.errors import H2loError, UsageError
from h2lo_bids.evaluation.scores import read_scores
from h2lo_bids.evaluation.statistics import summarise
from h2lo_bids.models.bundle import Bundle, load_bundle, member_files, save_bundle
from h2lo_bids.training.card import SiteModel, site_card, site_metadata
from h2lo_bids.training.experiments.crossvalidation import (
    SCORES,
    FoldJob,
    fold_done,
    read_record,
)
from h2lo_bids.training.fitting import count_parameters, fit_prepared, pairs_cache, prefixed
from h2lo_bids.training.methods import find_method
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.prepared import (
    PreparedPair,
    common_frame,
    pairs_fingerprint,
    pairs_of,
    prepared_range,
)
from h2lo_bids.vocabulary import Say
from h2lo_bids.wording import counted

if TYPE_CHECKING:
    from h2lo_bids.training.fit import FitResult


@dataclass(frozen=True)
class FinalJob:
    """All that a final model depends on; `folds` is its finished cross-validation, if any."""

    contrast: str
    method: str
    pairs: tuple[PreparedPair, ...]
    options: FitOptions
    folds: tuple[FoldJob, ...]
    out_dir: Path
    work_dir: Path
    devices: int = 1
    validation: tuple[str, ...] = ()
    """Without folds the subjects that choose the weights; with none, the last are kept."""
    initial: Bundle | None = None

    @property
    def adapted(self) -> FitOptions:
        """The method's own options."""
        return find_method(self.method).adapt(self.options)

    @property
    def subjects(self) -> dict[str, tuple[str, ...]]:
        """Labels by part."""
        everybody = {pair.subject for pair in self.pairs if pair.contrast == self.contrast}
        held = set() if self.folds else set(self.validation)
        return {"train": tuple(sorted(everybody - held)), "validation": tuple(sorted(held))}

    def pairs_in(self, *parts: str) -> tuple[PreparedPair, ...]:
        """Return the pairs of some parts, for the method's task, or raise `UsageError`."""
        subjects, task = self.subjects, find_method(self.method).task
        found = pairs_of(self.pairs, [s for p in parts for s in subjects[p]], self.contrast)
        return tuple(pair.for_task(task) for pair in found)

    def method_options(self) -> dict[str, Any]:
        """Return the fit's options, as the method has them."""
        return self.adapted.identity()

    def fit(self, work: Path, stop_at: int, say: Say) -> FitResult:
        """Fit the method in a work folder, or go on there."""
        return fit_prepared(
            find_method(self.method), self.pairs_in("train"), self.pairs_in("validation"),
            self.adapted, work, cache=pairs_cache(self.work_dir), devices=self.devices,
            stop_at=stop_at, progress=say, initial=self.initial,
        )  # fmt: skip


def model_folder(out_dir: Path, contrast: str, method: str) -> Path:
    """Name the folder of a final model."""
    return result_path(out_dir, "model", method=method, contrast=contrast)


def final_steps(job: FinalJob) -> int:
    """Return the steps that a final model takes.

    Nobody is left to validate on after a cross-validation, so it stops at the
    part of the schedule at which the folds were best: the median over folds of
    best step by steps, times its own steps. The rate follows the schedule of the
    folds up to there. The authors keep each fold's best weights instead and fit
    no model to all subjects.

    Raises
    ------
    UsageError
        If a fold is not finished, or of other input.
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
    shares = [r["best_step"] / _planned(r) for r in _records(job) if r["best_step"]]
    share = median(shares) if shares else 1.0
    return max(1, round(share * job.adapted.steps))


def fit_final(
    job: FinalJob,
    progress: Say | None = None,
    *,
    noise: Mapping[str, Any] | None = None,
    members: Sequence[Path] = (),
) -> Bundle:
    """Fit a model to all pairs and package it, unless that is done already.

    Parameters
    ----------
    job
        What to fit.
    progress
        Called with a line, or a step of the fit, now and then.
    noise
        A calibrated noise model, for the metadata.
    members
        Bundles of the folds, whose weights the bundle is to carry for its uncertainty.

    Returns
    -------
    Bundle
        ``models/<method>_<contrast>`` in the output folder.

    Raises
    ------
    UsageError
        If a fold is missing, or the pairs are on different grids.
    H2loError
        As `h2lo_bids.training.fit.fit`, or if a file cannot be read or written.
    """
    say = prefixed(f"{job.contrast} {job.method} final model", progress)
    end = final_steps(job)
    extras = member_files(members)
    identity = _identity(job, end, noise, extras)
    folder = model_folder(job.out_dir, job.contrast, job.method)
    done = _done(folder, identity)
    if done:
        say("done already")
        return done
    common_frame(job.pairs_in("train", "validation"))
    say(f"fitting to {counted(len(job.subjects['train']), 'subject')} for {counted(end, 'step')}")
    result = job.fit(_work(job, end), end, say)
    site = SiteModel(
        name=f"{job.method}_{job.contrast}_site",
        contrast=job.contrast,
        method=find_method(job.method),
        pairs=job.pairs_in("train", "validation"),
        subjects=job.subjects,
        options=job.adapted,
        steps=result.steps,
        best_step=result.best_step or result.steps,
        best_psnr=result.best_psnr,
        identity_psnr=result.identity_psnr,
        seconds=result.seconds,
        initial=job.initial,
        stalled=result.stalled,
        schedule=_schedule(job, result),
        summary=summarise(_scores(job)) if job.folds else (),
        members=len(members),
        noise=noise,
        job=identity,
        input_range=prepared_range(job.pairs_in("train"), job.adapted.scaling),
    )
    bundle = save_bundle(
        folder,
        result.model,
        contrast=job.contrast,
        frame=common_frame(site.pairs),
        metadata=site_metadata(site),
        card=site_card(site, count_parameters(result.model)),
        method=job.method,
        extras=extras,
    )
    say(f"wrote {bundle.path}")
    return bundle


def _records(job: FinalJob) -> list[dict[str, Any]]:
    return [record for fold in job.folds if (record := read_record(fold.folder))]


def _planned(record: Mapping[str, Any]) -> int:
    """Return the steps of a fold's schedule, which its validation may have ended early."""
    return int((record["options"] if record.get("stalled") else record)["steps"])


def _scores(job: FinalJob) -> list[Any]:
    return [score for fold in job.folds for score in read_scores(fold.folder / SCORES)]


def _schedule(job: FinalJob, result: FitResult) -> str:
    """Say where the fit ended, and why there."""
    options, end = job.adapted, result.steps
    if options.family == "identity":
        return ""
    late = result.timed_out and end < final_steps(job)
    budget = f"The time budget of {options.max_seconds:g} s ended the fit. " if late else ""
    if job.folds:
        best = ", ".join(f"{r['best_step']} of {_planned(r)}" for r in _records(job))
        return (
            f"{budget}Nobody was left to choose the weights by: the fit stopped at step {end} of "
            f"{options.steps}, {'no later than ' if late else ''}the median of where in the "
            f"schedule the folds' validations were best (steps {best}), and the last weights were "
            "kept."
        )
    if job.subjects["validation"]:
        return budget.strip()
    return f"{budget}No subject was held out to choose the weights by: the last ones were kept."


def _work(job: FinalJob, end: int) -> Path:
    # The end, too: a fit that went further has other weights than those of that step.
    pairs = pairs_fingerprint(job.pairs_in("train", "validation"))
    name = f"final_{digest([job.subjects, job.method_options(), pairs, end], 4)}"
    return Path(job.work_dir) / "training" / job.contrast / job.method / name


def _identity(
    job: FinalJob, end: int, noise: Mapping[str, Any] | None, extras: Mapping[str, bytes]
) -> str:
    """Name the job, so that the very same one is not done twice."""
    pairs = pairs_fingerprint(job.pairs_in("train", "validation"))
    files = {name: hashlib.sha256(content).hexdigest() for name, content in extras.items()}
    folds = [fold.identity() for fold in job.folds]
    best = [record["best_step"] for record in _records(job)]
    values = [job.subjects, job.method_options(), pairs, end, folds, best, noise, files]
    return digest(values, 16)


def _done(folder: Path, identity: str) -> Bundle | None:
    try:
        bundle = load_bundle(folder)
    except H2loError:
        return None  # none yet, or a damaged one, which is made again
    return bundle if bundle.metadata.get("job") == identity else None
