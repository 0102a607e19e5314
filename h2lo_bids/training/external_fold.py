"""One fold of a simulator of others: its images of the test subjects, scored."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids.errors import H2loError
from h2lo_bids.evaluation.scores import Realism, Score, write_realism, write_scores
from h2lo_bids.evaluation.splits import PARTS
from h2lo_bids.io import atomic_path, read_json, write_json
from h2lo_bids.training.card import software
from h2lo_bids.training.command import Command
from h2lo_bids.training.external import Made, run_command
from h2lo_bids.training.foldjob import (
    PICTURES,
    REALISM,
    RECORD,
    SCORES,
    FoldWork,
    fit_folder,
    fold_done,
    prefixed,
    tell_of_others,
    withdraw,
)
from h2lo_bids.training.heldout import realism_of, score_pair, stranger_to
from h2lo_bids.training.pictures import pictures_of, write_pictures
from h2lo_bids.training.prepared import PreparedPair, read_prepared
from h2lo_bids.vocabulary import Say


@dataclass(frozen=True, kw_only=True)
class ExternalJob(FoldWork):
    """A simulator of others on one fold; it trains nothing.

    Parameters
    ----------
    contrast, method, fold, pairs, out_dir, work_dir
        As in `FoldWork`.
    command
        What is run.
    limit
        Seconds that one image may take; it decides no result.
    """

    command: Command
    limit: float | None = None

    def method_options(self) -> dict[str, Any]:
        """Return the command, which decides what is made."""
        return {"command": self.command.template}


def run_external(
    job: ExternalJob,
    progress: Say | None = None,
    lost: Say | None = None,
) -> Path:
    """Run a simulator on the test subjects of a fold and score it, unless that is done.

    One subject that fails does not stop the others: the fold is then scored
    without it, says so, and counts as unfinished. Images are kept in the work
    folder, so that a later run makes only those that are missing.

    Parameters
    ----------
    job
        The fold.
    progress
        Called with one line of text now and then.
    lost
        Called with one line per subject that failed.

    Returns
    -------
    Path
        The fold's folder: ``scores.tsv``, ``realism.tsv``, ``pictures.npz`` and, last,
        ``record.json``.

    Raises
    ------
    H2loError
        If no subject could be made, or a file cannot be read or written.
    """
    say = prefixed(job.title, progress)
    if fold_done(job):
        say("done already")
        return job.folder
    work = fit_folder(job)
    tell_of_others(job, work, say)
    scores: list[Score] = []
    realism: list[Realism] = []
    pictures: dict[str, np.ndarray] = {}
    seconds, notes, failed = [], {}, {}
    for prepared in job.pairs_in("test"):
        pair = read_prepared(prepared)
        say(f"synthesizing {pair.name}")
        try:
            made = _make(job, prepared, pair.name, work)
            own = score_pair(
                None, pair, method=job.method, fold=job.fold.index, predicted=made.volume
            )
        except H2loError as err:
            failed[pair.name] = str(err)
            if lost is not None:
                lost(f"sub-{pair.name}: {err}")
            continue
        scores += [*score_pair(None, pair, fold=job.fold.index), *own]
        pictures.update(pictures_of(pair, made.volume))
        realism += realism_of(
            pair, {job.method: made.volume}, prepared.frame.spacing, fold=job.fold.index,
            stranger=stranger_to(prepared, job.pairs_in(*PARTS)),
        )  # fmt: skip
        seconds.append(round(made.seconds, 3))
        notes.update(dict.fromkeys(f"{pair.name}: {note}" for note in made.notes))
    if not scores:
        raise H2loError(
            f"{job.title}: no test subject could be made: {next(iter(failed.values()))}"
        )
    withdraw(job.folder)
    write_scores(job.folder / SCORES, scores, {job.method: job.method})
    write_realism(job.folder / REALISM, realism)
    write_pictures(job.folder / PICTURES, pictures)
    # Last: a folder with a record is taken for a whole one.
    write_json(job.folder / RECORD, _record(job, seconds, tuple(notes), failed))
    return job.folder


def _make(job: ExternalJob, prepared: PreparedPair, name: str, work: Path) -> Made:
    """Return the image of a subject, from the work folder if an earlier run has made it."""
    kept = work / f"{name}_{_digest(prepared.fingerprint)}"
    image, account = kept.with_suffix(".npy"), kept.with_suffix(".json")
    with contextlib.suppress(OSError, ValueError, KeyError):
        told = read_json(account)
        return Made(
            np.load(image, allow_pickle=False), float(told["seconds"]), tuple(told["notes"])
        )
    scratch = Path(tempfile.mkdtemp(prefix="h2lo-external-"))
    try:
        made = run_command(
            job.command,
            hf=prepared.hf,
            mask=prepared.mask,
            contrast=job.contrast,
            scratch=scratch,
            log=work / f"{name}.log",
            limit=job.limit,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    with atomic_path(image) as temporary:
        np.save(temporary, made.volume)
    write_json(account, {"seconds": made.seconds, "notes": list(made.notes)})
    return made


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _record(
    job: ExternalJob, seconds: list[float], notes: tuple[str, ...], failed: dict[str, str]
) -> dict[str, Any]:
    lost = [f"{name}: not made: {line}" for name, line in failed.items()]
    return {
        **json.loads(json.dumps(job.identity())),
        "title": job.method,
        "external": True,
        "seconds": None,
        "synthesis_seconds": seconds,
        "parameters": None,
        "simulated": any(pair.simulated for pair in job.pairs_in("test")),
        "software": software(),
        "warnings": [*notes, *lost],
        "failed": failed,
    }
