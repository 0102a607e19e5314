"""The fits of a run: one method on one fold, and the final model of a contrast."""

from __future__ import annotations

from typing import Any, cast

from h2lo_bids.errors import BadDataError
from h2lo_bids.evaluation.splits import Fold
from h2lo_bids.io import exclusive
from h2lo_bids.models.registry import FAMILIES, METHODS
from h2lo_bids.settings import Settings
from h2lo_bids.training.experiments import FinalTask, FoldTask
from h2lo_bids.training.experiments.crossvalidation import BUNDLE, FoldJob, run_fold
from h2lo_bids.training.experiments.external import Command, ExternalJob, run_external
from h2lo_bids.training.experiments.final import FinalJob, fit_final
from h2lo_bids.training.experiments.leaks import check_no_leak
from h2lo_bids.training.experiments.noise import measure_noise
from h2lo_bids.training.experiments.options import find_start, fit_options, usable_pairs
from h2lo_bids.training.prepared import PreparedPair
from h2lo_bids.vocabulary import IDENTITY, Say, Send


def fit_fold(task: FoldTask, send: Send) -> None:
    """Fit and score one method on one fold, unless that is done."""
    settings = task.settings
    _take_threads(task.threads)
    used, _ = usable_pairs(settings, task.contrast, task.sources)
    job = job_of_fold(settings, task.contrast, task.method, task.fold, used)
    lock = f"fold-{task.contrast}-{task.method}-{task.fold.index}.lock"
    with exclusive(settings.work / "locks" / lock, _waiting(send)):
        if isinstance(job, ExternalJob):
            run_external(job, _say(send), lambda line: send({"event": "lost", "text": line}))
        else:
            run_fold(job, _say(send))


def fit_all(task: FinalTask, send: Send) -> None:
    """Fit the final model of a contrast with the first method, unless that is done."""
    _take_threads(task.threads)
    job = final_job(task)
    noise = _noise(task, job, send)
    carried = job.method != IDENTITY and not task.settings.fits_enhancer
    lock = f"final-{task.contrast}-{job.method}.lock"
    with exclusive(task.settings.work / "locks" / lock, _waiting(send)):
        fit_final(
            job,
            _say(send),
            noise=noise,
            members=[fold.folder / BUNDLE for fold in job.folds if carried],
        )


def job_of_fold(
    settings: Settings, contrast: str, name: str, fold: Fold, pairs: tuple[PreparedPair, ...]
) -> FoldJob | ExternalJob:
    """Return the job of a method, an arm, or an external tool, on one fold."""
    if settings.fits_enhancer:
        from h2lo_bids.training.experiments.enhancement import enhance_job

        return enhance_job(settings, contrast, name, fold, pairs)
    template = dict(settings.external).get(name)
    if template is None:
        return _job_of_method(settings, contrast, name, fold, pairs)
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


def _job_of_method(
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


def final_job(task: FinalTask) -> FinalJob:
    """Return the job of a final model, from what is on disk."""
    settings, contrast, method = task.settings, task.contrast, task.settings.methods[0]
    used, _ = usable_pairs(settings, contrast, task.sources)
    folds = [job_of_fold(settings, contrast, method, fold, used) for fold in task.folds]
    n_train = sum(pair.subject not in task.held for pair in used)
    start, _ = find_start(settings, contrast, method)
    job = FinalJob(
        contrast=contrast,
        method=method,
        pairs=used,
        options=fit_options(settings, n_train, start),
        folds=cast("tuple[FoldJob, ...]", tuple(folds)),
        out_dir=settings.out_dir,
        work_dir=settings.work,
        devices=settings.devices,
        validation=task.held,
        initial=start,
    )
    if not settings.fits_enhancer:
        return job
    from h2lo_bids.training.experiments.enhancement import enhance_final

    return enhance_final(settings, job)


def _noise(task: FinalTask, job: FinalJob, send: Send) -> dict[str, Any] | None:
    """Measure the noise where held-out subjects allow it; without it a model is of use, too."""
    if not job.folds or job.method == IDENTITY or task.settings.fits_enhancer:
        return None
    if FAMILIES[METHODS[job.method]].random:
        text = f"{job.contrast}: no noise model is measured: {job.method} draws noise by itself"
        send({"event": "note", "text": text})
        return None
    try:
        return measure_noise(job.folds, task.settings.work, job.options.device)
    except BadDataError as err:
        text = f"{job.contrast}: no noise model: {err}"
        send({"event": "note", "level": "warning", "text": text})
        return None


def _say(send: Send) -> Say:
    """Return what sends the lines and steps of a fit."""
    return lambda line: send({"event": "said", "text": line})


def _waiting(send: Send) -> Say:
    return lambda holder: send(
        {"event": "note", "text": f"waiting for another run of this fit ({holder})"}
    )


def _take_threads(threads: int) -> None:
    """Set PyTorch's threads, whose number decides the last bits."""
    import torch

    from h2lo_bids.training.devices import keep_freed_memory

    torch.set_num_threads(threads)
    keep_freed_memory()
