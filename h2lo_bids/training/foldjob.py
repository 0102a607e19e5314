"""What one fold of a cross-validation depends on, and whether its results are there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from h2lo_bids.bids.results import result_path
from h2lo_bids.errors import CannotCreateError
from h2lo_bids.evaluation.splits import PARTS, Fold
from h2lo_bids.io import read_json
from h2lo_bids.training.fitting import (
    fit_prepared,
    pairs_cache,
    pairs_fingerprint,
    pairs_of,
)
from h2lo_bids.training.methods import Method, find_method
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.prepared import PreparedPair
from h2lo_bids.vocabulary import SYNTHESIZE, Say

if TYPE_CHECKING:
    from h2lo_bids.models.bundle import Bundle
    from h2lo_bids.training.fit import FitResult

RECORD, SCORES, HISTORY, PICTURES, BUNDLE, REALISM = (
    "record.json", "scores.tsv", "history.csv", "pictures.npz", "bundle", "realism.tsv"
)  # fmt: skip
_OBJECTS = ("options", "given", "pairs", "fold", "failed", "initial")
"""What a record holds as objects, where it holds it."""


@dataclass(frozen=True, kw_only=True)
class FoldWork:
    """What every kind of method shares on one fold.

    Parameters
    ----------
    contrast
        ``"T1w"`` or ``"T2w"``.
    method
        Its name, and that of its folder.
    fold
        Who trains, validates and tests.
    pairs
        Prepared pairs, at least those of the fold's subjects.
    out_dir, work_dir
        Root of the derivative dataset, and of work folders.
    """

    results: ClassVar[tuple[str, ...]] = (SCORES, PICTURES)
    """Files without which the fold is not done."""

    contrast: str
    method: str
    fold: Fold
    pairs: tuple[PreparedPair, ...]
    out_dir: Path
    work_dir: Path

    @property
    def folder(self) -> Path:
        """Where the fold's results go."""
        return fold_folder(self.out_dir, self.contrast, self.method, self.fold.index)

    @property
    def task(self) -> str:
        """What the method is for; a simulator of others synthesizes."""
        return SYNTHESIZE

    @property
    def title(self) -> str:
        """The fold for a person."""
        return f"{self.contrast} {self.method} fold {self.fold.index}"

    def pairs_in(self, *parts: str) -> tuple[PreparedPair, ...]:
        """Return the pairs of some parts of the fold, for its task, or raise `UsageError`."""
        subjects = [s for part in parts for s in getattr(self.fold, part)]
        found = pairs_of(self.pairs, subjects, self.contrast)
        return tuple(pair.for_task(self.task) for pair in found)

    def method_options(self) -> dict[str, Any]:
        """Return what decides the results besides pairs and fold."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Return what decides the fold's results, as it stands in the record."""
        values = {
            "contrast": self.contrast,
            "method": self.method,
            "fold": asdict(self.fold),
            "options": self.method_options(),
            "pairs": {p.record.stem: p.fingerprint for p in self.pairs_in(*PARTS)},
            "pairs_fingerprint": pairs_fingerprint(self.pairs_in(*PARTS)),
            # Folds of earlier versions say nothing of it, and stay what they are.
            **({"task": self.task} if self.task != SYNTHESIZE else {}),
        }
        return json.loads(json.dumps(values))  # tuples become lists, as in the file


@dataclass(frozen=True, kw_only=True)
class FoldJob(FoldWork):
    """A method of ours on one fold.

    Parameters
    ----------
    contrast, fold, pairs, out_dir, work_dir
        As in `FoldWork`.
    method
        A key of `h2lo_bids.training.methods.METHODS`, whose task is the fold's.
    options
        As the user gave them; the method changes what makes it that method.
    devices
        Processes that share each step.
    initial
        The model whose weights the fit starts from; ``options.starts_from`` is their digest.
    """

    results: ClassVar[tuple[str, ...]] = (BUNDLE, SCORES, HISTORY, PICTURES)

    options: FitOptions
    devices: int = 1
    initial: Bundle | None = None

    @property
    def recipe(self) -> Method:
        """What is fitted, and whose bundle is written; `method` names the row of the table."""
        return find_method(self.method)

    @property
    def row_title(self) -> str:
        """The row of the table."""
        return self.recipe.title

    @property
    def task(self) -> str:
        """What the method is for."""
        return self.recipe.task

    @property
    def adapted(self) -> FitOptions:
        """The options of the fit, as the method has them."""
        return self.recipe.adapt(self.options)

    def method_options(self) -> dict[str, Any]:
        """Return the fit's options, as the method has them."""
        return self.adapted.identity()

    def history(self, work: Path) -> Path:
        """Name the fit's log in its work folder."""
        return work / HISTORY

    def fit(self, work: Path, say: Say) -> FitResult:
        """Fit the method in a work folder, or go on there."""
        return fit_prepared(
            self.recipe, self.pairs_in("train"), self.pairs_in("validation"), self.adapted, work,
            cache=pairs_cache(self.work_dir), devices=self.devices, progress=say,
            initial=self.initial,
        )  # fmt: skip


def fold_folder(out_dir: Path, contrast: str, method: str, index: int) -> Path:
    """Name the folder of a fold's results."""
    return result_path(out_dir, "fold", contrast=contrast, method=method, fold=index)


def fold_done(job: FoldWork) -> bool:
    """Tell whether the fold's results are there, whole, and of the very same job."""
    record = read_record(job.folder)
    whole = record is not None and not record.get("failed") and not _lost(job)
    return whole and not changes(job)


def _lost(job: FoldWork) -> tuple[str, ...]:
    """Name the results that somebody removed since."""
    return tuple(name for name in job.results if not (job.folder / name).exists())


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read a fold's record; None if the fold is not finished or the record damaged."""
    try:
        record = read_json(folder / RECORD)
    except (OSError, ValueError):
        return None
    whole = isinstance(record, dict) and all(
        isinstance(record.get(key) or {}, dict) for key in _OBJECTS
    )
    return record if whole else None


def changes(job: FoldWork) -> tuple[str, ...]:
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


def fit_folder(job: FoldWork) -> Path:
    """Name the fold's work folder: another job, another folder, so that no fit is lost."""
    digest = hashlib.blake2b(json.dumps(job.identity(), sort_keys=True).encode(), digest_size=4)
    name = f"fold-{job.fold.index}_{digest.hexdigest()}"
    return Path(job.work_dir) / "training" / job.contrast / job.method / name


def tell_of_others(job: FoldWork, work: Path, say: Say) -> None:
    """Say when what is there belongs to a fit of other pairs, options or subjects."""
    if read_record(job.folder) is not None:
        if differing := changes(job):
            say(f"fitting anew, for its results are of other input: {', '.join(differing)}")
        else:
            say(f"making anew what is gone from its results: {', '.join(_lost(job))}")
    elif not work.exists():
        for other in sorted(work.parent.glob(f"fold-{job.fold.index}_*")):
            say(f"fitting anew, for {other} is of other pairs, options or subjects; it is kept")


def withdraw(folder: Path) -> None:
    """Remove the record, so that results that are being replaced are not taken for whole."""
    try:
        (folder / RECORD).unlink(missing_ok=True)
    except OSError as err:
        raise CannotCreateError(f"{folder / RECORD}: cannot be replaced: {err.strerror}") from err


def prefixed(title: str, progress: Say | None) -> Say:
    """Return what says lines with a title in front, or nothing at all."""
    return lambda line: progress(f"{title}: {line}") if progress else None
