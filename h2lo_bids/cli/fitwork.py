"""What child processes do for fits."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from h2lo_bids.cli.fitoptions import find_start, fit_options
from h2lo_bids.cli.locks import exclusive
from h2lo_bids.cli.planwork import arm_job, divide, held_out, job_of
from h2lo_bids.cli.prepared import usable_pairs
from h2lo_bids.cli.tasks import FinalTask, FoldTask
from h2lo_bids.errors import BadDataError
from h2lo_bids.evaluation.scores import IDENTITY
from h2lo_bids.models.registry import FAMILIES, METHODS
from h2lo_bids.vocabulary import Send

if TYPE_CHECKING:
    from h2lo_bids.training.final import FinalJob
    from h2lo_bids.training.foldjob import FoldJob


_STEP = re.compile(r"\bstep (\d+)/(\d+):")
_PSNR = re.compile(r"validation PSNR (-?[\d.]+) dB")


def fit_fold(task: FoldTask, send: Send) -> dict[str, Any]:
    """Fit and score one method on one fold, unless that is done.

    Parameters
    ----------
    task
        Which.
    send
        Takes ``progress`` and ``note`` events.

    Returns
    -------
    dict
        The last event; ``"partial"`` if some test subjects were lost.
    """
    from h2lo_bids.training.crossval import run_fold
    from h2lo_bids.training.external_fold import ExternalJob, run_external

    _take_threads(task.threads)
    job = job_of(task)
    lock = f"fold-{task.contrast}-{task.method}-{task.index}.lock"
    with exclusive(task.settings.work / "locks" / lock, _waiting(send)):
        if isinstance(job, ExternalJob):
            lost: list[str] = []
            folder = run_external(job, Progress(send), lost.append)
            for line in lost:
                send({"event": "lost", "text": line})
            if lost:
                return {"event": "partial", "folder": str(folder)}
        else:
            folder = run_fold(job, Progress(send))
    return {"event": "fitted", "folder": str(folder)}


def fit_all(task: FinalTask, send: Send) -> dict[str, Any]:
    """Fit the final model of a contrast with the first method, unless that is done.

    Parameters
    ----------
    task
        Which.
    send
        Takes ``progress`` and ``note`` events.

    Returns
    -------
    dict
        ``{"event": "fitted", "folder": path of the bundle}``.
    """
    from h2lo_bids.training.final import fit_final
    from h2lo_bids.training.foldjob import BUNDLE

    _take_threads(task.threads)
    job = final_job(task)
    noise = _noise(task, job, send)
    carried = job.method != IDENTITY and not task.settings.fits_enhancer
    lock = f"final-{task.contrast}-{job.method}.lock"
    with exclusive(task.settings.work / "locks" / lock, _waiting(send)):
        bundle = fit_final(
            job,
            Progress(send),
            noise=noise,
            members=[fold.folder / BUNDLE for fold in job.folds if carried],
        )
    return {"event": "fitted", "folder": str(bundle.path)}


def final_job(task: FinalTask) -> FinalJob:
    """Return the job that a task names, from what is on disk."""
    from h2lo_bids.training.final import FinalJob
    from h2lo_bids.training.leaks import same_people

    settings, contrast, method = task.settings, task.contrast, task.settings.methods[0]
    used, _ = usable_pairs(settings, contrast, task.sources)
    folds = divide(settings, contrast, used)
    held: tuple[str, ...] = ()
    if not folds:
        people = sorted({pair.subject for pair in used})
        held = held_out(settings, people, same_people(used))
    n_train = sum(pair.subject not in held for pair in used)
    start, _ = find_start(settings, contrast, method)
    job = FinalJob(
        contrast=contrast,
        method=method,
        pairs=used,
        options=fit_options(settings, n_train, start),
        folds=tuple(cast("FoldJob", arm_job(settings, contrast, method, f, used)) for f in folds),
        out_dir=settings.out_dir,
        work_dir=settings.work,
        devices=settings.devices,
        validation=held,
        initial=start,
    )
    if not settings.fits_enhancer:
        return job
    from h2lo_bids.cli.armwork import enhance_final

    return enhance_final(settings, job)


def _noise(task: FinalTask, job: FinalJob, send: Send) -> dict[str, Any] | None:
    """Measure the noise where held-out subjects allow it; without it a model is of use, too."""
    if not job.folds or job.method == IDENTITY or task.settings.fits_enhancer:
        return None
    if FAMILIES[METHODS[job.method]].random:
        text = f"{job.contrast}: no noise model is measured: {job.method} draws noise by itself"
        send({"event": "note", "text": text})
        return None
    from h2lo_bids.cli.noisework import measure_noise

    try:
        return measure_noise(job.folds, task.settings.work, job.options.device)
    except BadDataError as err:
        text = f"{job.contrast}: no noise model: {err}"
        send({"event": "note", "level": "warning", "text": text})
        return None


def _waiting(send: Send) -> Callable[[str], None]:
    def tell(holder: str) -> None:
        text = f"waiting for another run of this fit ({holder})"
        send({"event": "note", "text": text})

    return tell


def _take_threads(threads: int) -> None:
    """Set PyTorch's threads, whose number decides the last bits."""
    import torch

    from h2lo_bids.training.devices import keep_freed_memory

    torch.set_num_threads(threads)
    keep_freed_memory()


class Progress:
    """Turns a fit's lines into events with the time that is left.

    Parameters
    ----------
    send
        Takes the events.
    clock
        Seconds.
    """

    def __init__(self, send: Send, clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._first: tuple[int, float] | None = None

    def __call__(self, line: str) -> None:
        """Take in one line."""
        step = _STEP.search(line)
        if step is None:
            self._send({"event": "said", "text": line})
            return
        now, done, total = self._clock(), int(step[1]), int(step[2])
        event: dict[str, Any] = {"event": "progress", "step": done, "steps": total}
        if self._first is None:
            self._first = (done, now)
        elif done > self._first[0]:
            pace = (now - self._first[1]) / (done - self._first[0])
            event["left"] = pace * (total - done)
        psnr = _PSNR.search(line)
        if psnr is not None:
            event["psnr"] = float(psnr[1])
        self._send(event)
