"""One fold of a cross-validation: fit, synthesize its test subjects, score."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from h2lo_bids.errors import MissingInputError
from h2lo_bids.evaluation.scores import (
    IDENTITY,
    IDENTITY_TITLES,
    Realism,
    Score,
    write_realism,
    write_scores,
)
from h2lo_bids.evaluation.splits import PARTS
from h2lo_bids.evaluation.statistics import summarise
from h2lo_bids.io import atomic_write_bytes, write_json
from h2lo_bids.models.bundle import save_bundle
from h2lo_bids.training.card import FIELDS, SiteModel, site_card, site_metadata, software, start_of
from h2lo_bids.training.devices import peak_memory
from h2lo_bids.training.fitting import (
    common_frame,
    finite,
)
from h2lo_bids.training.foldjob import (
    BUNDLE,
    HISTORY,
    PICTURES,
    REALISM,
    RECORD,
    SCORES,
    FoldJob,
    fit_folder,
    fold_done,
    prefixed,
    tell_of_others,
    withdraw,
)
from h2lo_bids.training.heldout import predict_pair, realism_of, score_pair, stranger_to
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pictures import pictures_of, write_pictures
from h2lo_bids.training.prepared import PreparedPair, prepared_range, read_prepared
from h2lo_bids.vocabulary import SYNTHESIZE, Say

_DOING = {"synthesize": "synthesizing", "enhance": "enhancing"}

if TYPE_CHECKING:
    from h2lo_bids.models.interface import Model
    from h2lo_bids.training.fit import FitResult


def run_fold(job: FoldJob, progress: Say | None = None) -> Path:
    """Fit, synthesize the test subjects and score, unless that is done already.

    A killed fold goes on from its last checkpoint. Results of another job, such as of
    changed pairs, are replaced once the new fit has ended; the old fit's checkpoints
    stay in the work folder.

    Parameters
    ----------
    job
        The fold.
    progress
        Called with one line of text now and then.

    Returns
    -------
    Path
        The fold's folder: ``bundle``, ``scores.tsv``, ``history.csv``, ``pictures.npz``,
        for synthesis ``realism.tsv`` and, last, ``record.json``.

    Raises
    ------
    UsageError
        If a subject has no pair, or pairs are on different grids.
    H2loError
        As `h2lo_bids.training.fit.fit`, or if a file cannot be read or written.
    """
    say = prefixed(job.title, progress)
    if fold_done(job):
        say("done already")
        return job.folder
    work = fit_folder(job)
    tell_of_others(job, work, say)
    options = job.adapted
    common_frame(job.pairs_in(*PARTS))
    result = job.fit(work, say)
    withdraw(job.folder)
    scores, seconds = _score(job, result.model, options, say)
    _write_bundle(job, options, result, scores)
    atomic_write_bytes(job.folder / HISTORY, _read(job.history(work)))
    # Last: a folder with a record is taken for a whole one.
    measured = {"synthesis_seconds": seconds, "peak_memory_gb": peak_memory()}
    write_json(job.folder / RECORD, {**_record(job, options, result), **measured})
    say(f"done; best validation {result.best_psnr:.2f} dB at step {result.best_step}")
    return job.folder


def _score(
    job: FoldJob, model: Model, options: FitOptions, say: Say
) -> tuple[list[Score], list[float]]:
    """Score the test subjects one by one, so that only one is in memory; time their synthesis."""
    scores: list[Score] = []
    realism: list[Realism] = []
    seconds = []
    pictures = {}
    device, seed = options.device, options.seed
    for prepared in job.pairs_in("test"):
        pair = read_prepared(prepared)
        say(f"{_DOING[job.task]} {pair.name}")
        began = time.perf_counter()
        given = pair.scaled(options.scaling, prepared.contrast, prepared.frame.spacing)
        predicted = predict_pair(model, given, device=device, seed=seed)
        seconds.append(round(time.perf_counter() - began, 3))
        scores += score_pair(None, pair, method=IDENTITY, fold=job.fold.index)
        if job.method != IDENTITY:  # whose row stands there already
            scores += score_pair(
                model, pair, method=job.method, fold=job.fold.index, predicted=predicted
            )
        pictures.update(pictures_of(pair, predicted))
        if job.task == SYNTHESIZE:
            realism += realism_of(
                pair, {job.method: predicted}, prepared.frame.spacing, fold=job.fold.index,
                stranger=stranger_to(prepared, job.pairs_in(*PARTS)),
            )  # fmt: skip
    titles = {IDENTITY: IDENTITY_TITLES[job.task], job.method: job.row_title}
    write_scores(job.folder / SCORES, scores, titles)
    if realism:
        write_realism(job.folder / REALISM, realism, titles)
    write_pictures(job.folder / PICTURES, pictures)
    return scores, seconds


def _write_bundle(
    job: FoldJob, options: FitOptions, result: FitResult, scores: list[Score]
) -> None:
    pairs = job.pairs_in(*PARTS)
    site = SiteModel(
        name=f"{job.method}_{job.contrast}_fold-{job.fold.index}",
        contrast=job.contrast,
        method=job.recipe,
        pairs=pairs,
        subjects={part: getattr(job.fold, part) for part in PARTS},
        options=options,
        steps=result.steps,
        best_step=result.best_step,
        best_psnr=result.best_psnr,
        identity_psnr=result.identity_psnr,
        seconds=result.seconds,
        initial=job.initial,
        stalled=result.stalled,
        summary=summarise(scores),
        input_range=prepared_range(job.pairs_in("train"), options.scaling),
    )
    save_bundle(
        job.folder / BUNDLE,
        result.model,
        contrast=job.contrast,
        frame=common_frame(pairs),
        metadata=site_metadata(site),
        card=site_card(site, _parameters(result.model)),
        method=job.recipe.name,
    )


def _record(job: FoldJob, options: FitOptions, result: FitResult) -> dict[str, Any]:
    pairs = job.pairs_in(*PARTS)
    return {
        **job.identity(),
        "title": job.row_title,
        "task": job.task,
        "options": json.loads(json.dumps({**job.method_options(), **options.to_dict()})),
        "seed": options.seed,
        "given": json.loads(json.dumps(job.options.identity())),
        "steps": result.steps,
        "timed_out": result.timed_out,
        "stalled": result.stalled,
        "initial": start_of(job.initial),
        "best_step": result.best_step,
        "best_psnr": finite(result.best_psnr),
        "identity_psnr": finite(result.identity_psnr),
        "seconds": round(result.seconds, 1),
        "parameters": _parameters(result.model),
        "simulated": any(pair.simulated for pair in pairs),
        "threads": torch.get_num_threads(),  # they decide the last bits, as do the devices
        "devices": job.devices,
        "software": software(),
        "warnings": _warnings(pairs, result, job),
    }


def _warnings(pairs: tuple[PreparedPair, ...], result: FitResult, job: FoldJob) -> list[str]:
    lines = [
        f"{pair.name or pair.subject}: doubtful registration: {'; '.join(pair.check.reasons)}"
        for pair in pairs
        if pair.check.flagged
    ]
    if job.method != IDENTITY and result.best_psnr <= result.identity_psnr:
        target, source = FIELDS[job.task]
        lines.append(
            f"in validation the model is no closer to the {target} images than the {source} "
            "images themselves: take more steps or more pairs"
        )
    return lines


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise MissingInputError(f"{path}: cannot be read ({err.strerror}); run again") from err


def _parameters(model: Model) -> int:
    return sum(p.numel() for p in model.parameters())
