"""What a run on pairs fits: its pairs, grid and options, and the jobs of its folds and models."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from typing import Any, cast

from h2lo_bids.errors import BadDataError, UsageError
from h2lo_bids.evaluation.splits import Fold
from h2lo_bids.io import exclusive
from h2lo_bids.models.bundle import Bundle, default_bundle, load_bundle
from h2lo_bids.models.choice import choose_bundles, given_bundles, is_collection
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.registry import FAMILIES, METHODS, sizes_of
from h2lo_bids.settings import Settings
from h2lo_bids.settings.convert import NONE
from h2lo_bids.settings.options_pairs import INIT
from h2lo_bids.training.experiments import FinalTask, FoldTask
from h2lo_bids.training.experiments.crossvalidation import FoldJob, run_fold
from h2lo_bids.training.experiments.enhancement import CurveJob, run_curve, with_arm
from h2lo_bids.training.experiments.external import Command, ExternalJob, run_external
from h2lo_bids.training.experiments.final import FinalJob, fit_final
from h2lo_bids.training.experiments.leaks import check_no_leak
from h2lo_bids.training.experiments.noise import measure_noise
from h2lo_bids.training.options import FitOptions, default_options, paper_options
from h2lo_bids.training.prepared import PreparedPair, find_prepared, training_frame
from h2lo_bids.vocabulary import CONTRASTS, CURVE, ENHANCER, IDENTITY, Say, Send


def fit_fold(task: FoldTask, send: Send) -> None:
    """Fit and score one method on one fold, unless that is done."""
    settings = task.settings
    _take_threads(task.threads)
    used, _ = usable_pairs(settings, task.contrast, task.sources)
    job = job_of_fold(settings, task.contrast, task.method, task.fold, used)
    with _alone(settings, task.name, send):
        if isinstance(job, ExternalJob):
            run_external(job, _said(send), lambda line: send({"event": "lost", "text": line}))
        elif isinstance(job, CurveJob):
            run_curve(job, _said(send))
        else:
            run_fold(job, _said(send))


def fit_all(task: FinalTask, send: Send) -> None:
    """Fit the final model of a contrast with the first method, unless that is done."""
    _take_threads(task.threads)
    job = final_job(task)
    with _alone(task.settings, task.name, send):
        fit_final(job, _said(send), noise=lambda: _noise(job, send))


def _alone(settings: Settings, name: str, send: Send) -> AbstractContextManager[bool]:
    """Wait until no other run is at the fit of a name."""
    lock = settings.work / "locks" / f"{name.replace('/', '-')}.lock"
    text = "waiting for another run of this fit ({})"
    return exclusive(lock, lambda by: send({"event": "note", "text": text.format(by)}))


def _said(send: Send) -> Say:
    return lambda line: send({"event": "said", "text": line})


def job_of_fold(
    settings: Settings, contrast: str, name: str, fold: Fold, pairs: tuple[PreparedPair, ...]
) -> FoldJob | ExternalJob | CurveJob:
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
    n_train = sum(pair.subject in fold.train for pair in pairs)
    options = fit_options(settings, n_train, start)
    job = FoldJob(**where, options=options, devices=settings.devices, initial=start)
    if start is not None:
        check_no_leak(job.pairs_in("test"), None, (start,))
    return with_arm(settings, job, fold) if settings.fits_enhancer else job


def final_job(task: FinalTask) -> FinalJob:
    """Return the job of a final model, from what is on disk."""
    settings, contrast, method = task.settings, task.contrast, task.settings.methods[0]
    used, _ = usable_pairs(settings, contrast, task.sources)
    folds = [job_of_fold(settings, contrast, method, fold, used) for fold in task.folds]
    everybody = {pair.subject for pair in used} - {*task.held}
    start, _ = find_start(settings, contrast, method)
    n_train = sum(pair.subject in everybody for pair in used)
    job = FinalJob(
        contrast=contrast, method=method, pairs=used, out_dir=settings.out_dir,
        work_dir=settings.work, devices=settings.devices, initial=start,
        fold=Fold(0, tuple(sorted(everybody)), tuple(sorted(task.held)), ()),
        options=fit_options(settings, n_train, start),
        folds=cast("tuple[FoldJob, ...]", tuple(folds)),
        carries=method != IDENTITY and not settings.fits_enhancer,
    )  # fmt: skip
    return with_arm(settings, job, None) if settings.fits_enhancer else job


def _noise(job: FinalJob, send: Send) -> dict[str, Any] | None:
    """Measure the noise where held-out subjects allow it; without it a model is of use, too."""
    if not job.folds or job.method == IDENTITY or job.arm is not None:
        return None
    if FAMILIES[METHODS[job.method]].random:
        text = f"{job.contrast}: no noise model is measured: {job.method} draws noise by itself"
        send({"event": "note", "text": text})
        return None
    try:
        return measure_noise(job.folds, job.options.device)
    except BadDataError as err:
        text = f"{job.contrast}: no noise model: {err}"
        send({"event": "note", "level": "warning", "text": text})
        return None


def _take_threads(threads: int) -> None:
    """Set PyTorch's threads, whose number decides the last bits."""
    import torch

    from h2lo_bids.training.devices import keep_freed_memory

    torch.set_num_threads(threads)
    keep_freed_memory()


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
    changed = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(options, seed=settings.random_seed, **changed)


def find_start(settings: Settings, contrast: str, method: str) -> tuple[Bundle | None, str]:
    """Return the model from whose weights a method's fits start, and words that name it.

    None is for random weights, the only start of methods other than h2lo. Without
    ``--init`` a model that the fits cannot start from is not an error: the words say why
    they start from random weights.
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
    """Return the grid on which pairs are prepared.

    Without ``--resolution`` it has voxels of 1 mm, or at the evaluate level of
    the size that the models were fitted on, if that is one and the same.
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
    settings: Settings, contrast: str, sources: tuple[str, ...]
) -> tuple[tuple[PreparedPair, ...], tuple[PreparedPair, ...]]:
    """Return the prepared pairs of some scans: those to use, and those that are flagged."""
    # A damaged pair that is wanted was made again before: others are no concern of this run.
    found = find_prepared(
        settings.out_dir, contrast=contrast, sources=set(sources), damaged=lambda line: None
    )
    if settings.keep_flagged_pairs:
        return found, ()
    used = tuple(pair for pair in found if not pair.doubts)
    return used, tuple(pair for pair in found if pair.doubts)


def flagged_line(pair: PreparedPair) -> str:
    """Say why the registration of a pair is doubtful."""
    return (
        f"{pair.contrast}: sub-{pair.name} is flagged, its registration is "
        f"doubtful: {'; '.join(pair.doubts)}"
    )


def all_flagged(settings: Settings) -> BadDataError:
    """Return the error of a run that the registration check has left no pair."""
    return BadDataError(
        f"{settings.out_dir}: the registration check flagged every pair; inspect them in "
        "group.html, which --reports-only writes, and use --keep-flagged-pairs if they are good"
    )
