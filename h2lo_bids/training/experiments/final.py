"""The model that a site takes home: fitted to all pairs after the cross-validation."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from h2lo_bids.bids.derivatives import result_path
from h2lo_bids.errors import BadDataError, H2loError
from h2lo_bids.evaluation.scores import read_scores
from h2lo_bids.evaluation.statistics import summarise
from h2lo_bids.io import digest, sha256
from h2lo_bids.models.bundle import Bundle, load_bundle, member_files
from h2lo_bids.models.registry import FAMILIES, METHODS
from h2lo_bids.processes import note
from h2lo_bids.training.experiments.crossvalidation import BUNDLE, SCORES, FoldJob, read_record
from h2lo_bids.training.experiments.noise import RECIPE, measure_noise
from h2lo_bids.training.experiments.site import save_site
from h2lo_bids.training.fit import prefixed
from h2lo_bids.training.pairs import common_frame, pairs_fingerprint
from h2lo_bids.vocabulary import IDENTITY, Say, Send
from h2lo_bids.wording import counted

if TYPE_CHECKING:
    from h2lo_bids.training.fit import FitResult


@dataclass(frozen=True, kw_only=True)
class FinalJob(FoldJob):
    """A final model; its fold has nobody to test on, and after a cross-validation to validate."""

    folds: tuple[FoldJob, ...] = ()  # the finished cross-validation, if any
    carries: bool = False  # whether the bundle carries the folds' weights, for its uncertainty

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
    """Return a final model's steps: to where in the schedule the folds were best, their median."""
    # After a cross-validation nobody is left to validate on. The authors keep the folds' weights.
    if not job.folds:
        return job.adapted.steps
    shares = [_share(r) for r in job.records if r["best_step"]]
    return max(1, round((median(shares) if shares else 1.0) * job.adapted.steps))


def fit_final(
    job: FinalJob, say: Say = lambda line: None, send: Send = lambda event: None
) -> Bundle:
    """Fit a model to all pairs and package it, unless that is done already."""
    say = prefixed(job.title, say)
    end = final_steps(job)
    extras = member_files([fold.folder / BUNDLE for fold in job.folds if job.carries])
    pairs = job.pairs_in("train", "validation")
    subjects = {"train": job.fold.train, "validation": job.fold.validation}
    # A fit that went further has other weights than those of this step.
    decides = [subjects, job.method_options(), pairs_fingerprint(pairs), end]
    identity = digest(
        [
            *decides,
            [fold.identity() for fold in job.folds],
            [record["best_step"] for record in job.records],
            {name: sha256(content) for name, content in extras.items()},
            RECIPE,
        ],
        16,
    )
    with contextlib.suppress(H2loError):  # none yet, or a damaged one, which is made again
        done = load_bundle(job.folder)
        if done.metadata.get("job") == identity:
            lacks = "" if "noise" in done.metadata else "; it has no noise model"
            say(f"done already{lacks}")
            return done
    common_frame(pairs)
    say(f"fitting to {counted(len(job.fold.train), 'subject')} for {counted(end, 'step')}")
    work = Path(job.work_dir) / "training" / job.contrast / job.method
    result = job.fit(work / f"final_{digest(decides, 4)}", say, end)
    bundle = save_site(
        job.folder,
        f"{job.method}_{job.contrast}_site",
        job,
        dataclasses.replace(result, best_step=result.best_step or result.steps),
        summarise([s for f in job.folds for s in read_scores(f.folder / SCORES)]),
        schedule=_schedule(job, result),
        more={
            "members": len(job.folds) if job.carries else 0,
            "noise": _noise(job, send),
            "job": identity,
        },
        extras=extras,
    )
    say(f"wrote {bundle.path}")
    return bundle


def _noise(job: FinalJob, send: Send) -> dict[str, Any] | None:
    """Measure the noise where held-out subjects allow it; without it a model is of use, too."""
    if not job.folds or job.method == IDENTITY or job.arm is not None:
        return None
    if FAMILIES[METHODS[job.method]].random:
        text = f"{job.contrast}: no noise model is measured: {job.method} draws noise by itself"
        send(note(text))
        return None
    try:
        return measure_noise(job.folds, job.options.device)
    except BadDataError as err:
        send(note(f"{job.contrast}: no noise model: {err}", "warning"))
        return None


def _share(record: Mapping[str, Any]) -> float:
    """Return at which part of its schedule, by steps or by time, a fold was best."""
    best, options = int(record["best_step"]), record["options"]
    limit = options.get("max_seconds")
    spent = min(record["seconds"] / limit, 1.0) if limit else 0.0
    return max(best / options["steps"], spent * best / record["steps"])


def _schedule(job: FinalJob, result: FitResult) -> str:
    """Say where the fit ended, and why there."""
    options = job.adapted
    if options.family == "identity":
        return ""
    if job.folds:
        best = ", ".join(f"{_share(r):.0%}" for r in job.records)
        return (
            "Nobody was left to choose the weights by: the fit stopped at step "
            f"{result.steps} of {options.steps}, the median of where in the schedule the folds' "
            f"validations were best ({best} of it{', by time' * bool(options.max_seconds)}), and "
            "the last weights were kept."
        )
    if job.fold.validation:
        return ""
    return "No subject was held out to choose the weights by: the last ones were kept."
