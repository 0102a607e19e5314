"""One fold of a cross-validation: fit, synthesize its test subjects, score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from h2lo_bids.bids.atomic import atomic_write_bytes
from h2lo_bids.bids.content import read_json
from h2lo_bids.bids.dataset import write_json
from h2lo_bids.errors import CannotCreateError, MissingInputError
from h2lo_bids.evaluation.scores import IDENTITY, Score
from h2lo_bids.evaluation.statistics import summarise
from h2lo_bids.evaluation.tables import write_scores
from h2lo_bids.models.bundle import save_bundle
from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.training.card_parts import software
from h2lo_bids.training.card_site import SiteModel, site_card, site_metadata
from h2lo_bids.training.fitting import (
    Say,
    common_frame,
    finite,
    fit_prepared,
    pairs_cache,
    pairs_fingerprint,
    pairs_of,
)
from h2lo_bids.training.folds import PARTS, Fold
from h2lo_bids.training.heldout import predict_pair, score_pair
from h2lo_bids.training.methods import Method, find_method
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pictures import pictures_of, write_pictures
from h2lo_bids.training.prepared import PreparedPair, read_prepared

if TYPE_CHECKING:
    from h2lo_bids.training.fit import FitResult

RECORD, SCORES, HISTORY, PICTURES, BUNDLE = (
    "record.json", "scores.tsv", "history.csv", "pictures.npz", "bundle"
)  # fmt: skip


@dataclass(frozen=True)
class FoldJob:
    """All that one fold depends on.

    Parameters
    ----------
    contrast
        ``"T1w"`` or ``"T2w"``.
    method
        A key of `h2lo_bids.training.methods.METHODS`.
    fold
        Who trains, validates and tests.
    pairs
        Prepared pairs, at least those of the fold's subjects.
    options
        As the user gave them; the method changes what makes it that method.
    out_dir, work_dir
        Root of the derivative dataset, and of work folders.
    devices
        Processes that share each step.
    """

    contrast: str
    method: str
    fold: Fold
    pairs: tuple[PreparedPair, ...]
    options: FitOptions
    out_dir: Path
    work_dir: Path
    devices: int = 1

    @property
    def folder(self) -> Path:
        """Where the fold's results go."""
        return fold_folder(self.out_dir, self.contrast, self.method, self.fold.index)

    @property
    def title(self) -> str:
        """The fold for a person."""
        return f"{self.contrast} {self.method} fold {self.fold.index}"

    def pairs_in(self, *parts: str) -> tuple[PreparedPair, ...]:
        """Return the pairs of some parts of the fold, or raise `UsageError`."""
        subjects = [s for part in parts for s in getattr(self.fold, part)]
        return pairs_of(self.pairs, subjects, self.contrast)

    def identity(self) -> dict[str, Any]:
        """Return what decides the fold's results, as it stands in the record."""
        options = find_method(self.method).adapt(self.options)
        values = {
            "contrast": self.contrast,
            "method": self.method,
            "fold": asdict(self.fold),
            "options": options.identity(),
            "pairs": {p.record.stem: p.fingerprint for p in self.pairs_in(*PARTS)},
            "pairs_fingerprint": pairs_fingerprint(self.pairs_in(*PARTS)),
        }
        return json.loads(json.dumps(values))  # tuples become lists, as in the file


def fold_folder(out_dir: Path, contrast: str, method: str, index: int) -> Path:
    """Name the folder of a fold's results."""
    return Path(out_dir) / "folds" / contrast / method / f"fold-{index}"


def fold_done(job: FoldJob) -> bool:
    """Tell whether the fold's results are there, whole, and of the very same job."""
    return read_record(job.folder) is not None and not _lost(job) and not changes(job)


def _lost(job: FoldJob) -> tuple[str, ...]:
    """Name the results that somebody removed since."""
    return tuple(n for n in (BUNDLE, SCORES, HISTORY, PICTURES) if not (job.folder / n).exists())


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read a fold's record; None if the fold is not finished or the record damaged."""
    try:
        record = read_json(folder / RECORD)
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def changes(job: FoldJob) -> tuple[str, ...]:
    """Name what is another in the results that are there: options, pairs or division."""
    record = read_record(job.folder) or {}
    recorded = dict(record.get("options") or {})
    recorded.pop("device", None)
    identity = job.identity()
    differs = [
        f"option {name}"
        for name, value in identity["options"].items()
        if recorded.get(name, ...) != value
    ]
    if record.get("fold") != identity["fold"]:
        differs.append("the division of the subjects")
    before, now = record.get("pairs") or {}, identity["pairs"]
    names = sorted(n for n in {*before, *now} if before.get(n) != now.get(n))
    if names and "the division of the subjects" not in differs:
        differs.append(
            f"pair {names[0].partition('_res-')[0]}" if len(names) == 1 else f"{len(names)} pairs"
        )
    return tuple(differs)


def run_fold(job: FoldJob, progress: Callable[[str], None] | None = None) -> Path:
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
        The fold's folder: ``bundle``, ``scores.tsv``, ``history.csv``,
        ``pictures.npz`` and, last, ``record.json``.

    Raises
    ------
    UsageError
        If a subject has no pair, or pairs are on different grids.
    H2loError
        As `h2lo_bids.training.fit.fit`, or if a file cannot be read or written.
    """
    say = _prefixed(job.title, progress)
    if fold_done(job):
        say("done already")
        return job.folder
    work = fit_folder(job)
    _tell_of_others(job, work, say)
    method = find_method(job.method)
    options = method.adapt(job.options)
    common_frame(job.pairs_in(*PARTS))
    result = fit_prepared(
        method, job.pairs_in("train"), job.pairs_in("validation"), options, work,
        cache=pairs_cache(job.work_dir), devices=job.devices, progress=say,
    )  # fmt: skip
    _withdraw(job.folder)
    scores = _score(job, result.model, options.device, say)
    _write_bundle(job, method, options, result, scores)
    atomic_write_bytes(job.folder / HISTORY, _read(work / HISTORY))
    # Last: a folder with a record is taken for a whole one.
    write_json(job.folder / RECORD, _record(job, method, options, result))
    say(f"done; best validation {result.best_psnr:.2f} dB at step {result.best_step}")
    return job.folder


def fit_folder(job: FoldJob) -> Path:
    """Name the fold's work folder: another job, another folder, so that no fit is lost."""
    digest = hashlib.blake2b(json.dumps(job.identity(), sort_keys=True).encode(), digest_size=4)
    name = f"fold-{job.fold.index}_{digest.hexdigest()}"
    return Path(job.work_dir) / "training" / job.contrast / job.method / name


def _tell_of_others(job: FoldJob, work: Path, say: Say) -> None:
    """Say when what is there belongs to a fit of other pairs, options or subjects."""
    if read_record(job.folder) is not None:
        if differing := changes(job):
            say(f"fitting anew, for its results are of other input: {', '.join(differing)}")
        else:
            say(f"making anew what is gone from its results: {', '.join(_lost(job))}")
    elif not work.exists():
        for other in sorted(work.parent.glob(f"fold-{job.fold.index}_*")):
            say(f"fitting anew, for {other} is of other pairs, options or subjects; it is kept")


def _score(job: FoldJob, model: H2lo, device: str, say: Say) -> list[Score]:
    """Score the test subjects one by one, so that only one is in memory."""
    scores: list[Score] = []
    pictures = {}
    for prepared in job.pairs_in("test"):
        pair = read_prepared(prepared)
        say(f"synthesizing {pair.name}")
        predicted = predict_pair(model, pair, device=device)
        scores += score_pair(None, pair, method=IDENTITY, fold=job.fold.index)
        scores += score_pair(
            model, pair, method=job.method, fold=job.fold.index, predicted=predicted
        )
        pictures.update(pictures_of(pair, predicted))
    write_scores(job.folder / SCORES, scores, {job.method: find_method(job.method).title})
    write_pictures(job.folder / PICTURES, pictures)
    return scores


def _write_bundle(
    job: FoldJob, method: Method, options: FitOptions, result: FitResult, scores: list[Score]
) -> None:
    pairs = job.pairs_in(*PARTS)
    site = SiteModel(
        name=f"{job.method}_{job.contrast}_fold-{job.fold.index}",
        contrast=job.contrast,
        method=method,
        pairs=pairs,
        subjects={part: getattr(job.fold, part) for part in PARTS},
        options=options,
        steps=result.steps,
        best_step=result.best_step,
        best_psnr=result.best_psnr,
        identity_psnr=result.identity_psnr,
        seconds=result.seconds,
        summary=summarise(scores),
    )
    save_bundle(
        job.folder / BUNDLE,
        result.model,
        contrast=job.contrast,
        frame=common_frame(pairs),
        metadata=site_metadata(site),
        card=site_card(site, _parameters(result.model)),
        method=job.method,
    )


def _record(job: FoldJob, method: Method, options: FitOptions, result: FitResult) -> dict[str, Any]:
    pairs = job.pairs_in(*PARTS)
    return {
        **job.identity(),
        "title": method.title,
        "options": json.loads(json.dumps(options.to_dict())),
        "seed": options.seed,
        "steps": result.steps,
        "best_step": result.best_step,
        "best_psnr": finite(result.best_psnr),
        "identity_psnr": finite(result.identity_psnr),
        "seconds": round(result.seconds, 1),
        "parameters": _parameters(result.model),
        "simulated": any(pair.simulated for pair in pairs),
        "threads": torch.get_num_threads(),  # they decide the last bits, as do the devices
        "devices": job.devices,
        "software": software(),
        "warnings": _warnings(pairs, result),
    }


def _warnings(pairs: tuple[PreparedPair, ...], result: FitResult) -> list[str]:
    lines = [
        f"{pair.name or pair.subject}: doubtful registration: {'; '.join(pair.check.reasons)}"
        for pair in pairs
        if pair.check.flagged
    ]
    if result.best_psnr <= result.identity_psnr:
        lines.append(
            "in validation the model is no closer to the low-field images than the high-field "
            "images themselves: take more steps or more pairs"
        )
    return lines


def _withdraw(folder: Path) -> None:
    """Remove the record, so that results that are being replaced are not taken for whole."""
    try:
        (folder / RECORD).unlink(missing_ok=True)
    except OSError as err:
        raise CannotCreateError(f"{folder / RECORD}: cannot be replaced: {err.strerror}") from err


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise MissingInputError(f"{path}: cannot be read ({err.strerror}); run again") from err


def _parameters(model: H2lo) -> int:
    return sum(p.numel() for p in model.parameters())


def _prefixed(title: str, progress: Callable[[str], None] | None) -> Say:
    return lambda line: progress(f"{title}: {line}") if progress else None
