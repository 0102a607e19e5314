"""One fold of a cross-validation: fit, synthesize its test subjects, score."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from h2lo_bids.bids.derivatives import result_path
from h2lo_bids.errors import CannotCreateError, UsageError
from h2lo_bids.evaluation.scores import IDENTITY_TITLES
from h2lo_bids.evaluation.splits import PARTS, Fold
from h2lo_bids.evaluation.statistics import summarise
from h2lo_bids.io import atomic_write_bytes, digest, read_json, write_json
from h2lo_bids.models.bundle import Bundle, load_model
from h2lo_bids.models.registry import task_of
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.training.devices import launch, peak_memory
from h2lo_bids.training.experiments import arms, heldout, site
from h2lo_bids.training.experiments.heldout import PICTURES, SCORES, Scored
from h2lo_bids.training.experiments.leaks import check_images
from h2lo_bids.training.fit import HISTORY, FitResult, fit, prefixed
from h2lo_bids.training.methods import ADAPT, SHARED
from h2lo_bids.training.options import LATER, FitOptions
from h2lo_bids.training.pairs import (
    Pair,
    PreparedPair,
    common_frame,
    open_prepared,
    pairs_fingerprint,
    read_prepared,
)
from h2lo_bids.vocabulary import ENHANCER, IDENTITY, SYNTHESIZE, Say

if TYPE_CHECKING:
    import numpy as np


RECORD, BUNDLE = "record.json", "bundle"
_SPELLED = {
    "max_seconds": "--max-time", "architecture": "--features", "seed": "--random-seed",
    "starts_from": "--init", "flip_rotate": "--augment", "cohort": "--pretrain-derivatives",
}  # fmt: skip
"""Options of a record that the command line has by another name."""


@dataclass(frozen=True, kw_only=True)
class FoldWork:
    """A row of the table on one fold: what fits, the curve and external tools have in common."""

    results: ClassVar[tuple[str, ...]] = (SCORES, PICTURES)
    """Files without which the fold is not done."""
    contrast: str
    method: str  # row of the table
    fold: Fold
    pairs: tuple[PreparedPair, ...]  # at least those of the fold's subjects
    out_dir: Path
    work_dir: Path

    @property
    def folder(self) -> Path:
        """Where the fold's results go."""
        contrast, method, index = self.contrast, self.method, self.fold.index
        return result_path(self.out_dir, "fold", contrast=contrast, method=method, fold=index)

    @property
    def task(self) -> str:
        """What the method is for; the name of an arm begins with that of the enhancer."""
        return task_of(self.method.partition("-")[0])

    @property
    def title(self) -> str:
        """The fold for a person."""
        return f"{self.contrast} {self.method} fold {self.fold.index}"

    @property
    def work(self) -> Path:
        """Work folder of the fold: another job, another folder, so that no fit is lost."""
        name = f"fold-{self.fold.index}_{digest(self.identity(), 4)}"
        return Path(self.work_dir) / "training" / self.contrast / self.method / name

    @property
    def cache(self) -> Path:
        """Where all fits of a run share their pairs."""
        return Path(self.work_dir) / "training" / "pairs"

    def pairs_in(self, *parts: str) -> tuple[PreparedPair, ...]:
        """Return the pairs of some parts of the fold, for its task, or raise `UsageError`."""
        subjects = {subject for part in parts for subject in getattr(self.fold, part)}
        found = [replace(p, task=self.task) for p in self.pairs if p.subject in subjects]
        if missing := sorted(subjects - {pair.subject for pair in found}):
            raise UsageError(
                f"sub-{missing[0]} has no {self.contrast} pair; prepare its pair or divide anew"
            )
        return tuple(sorted(found, key=lambda pair: pair.record.name))

    @property
    def row_title(self) -> str:
        """The row of the table, for a person."""
        return arms.find_arm(self.method).title

    def method_options(self) -> dict[str, Any]:
        """Return what decides the results besides pairs and fold."""
        raise NotImplementedError

    def run(self, say: Say, lost: Say) -> None:
        """Make the images of the test subjects, score them and write the results."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Return what decides the fold's results, as it stands in the record."""
        pairs = self.pairs_in(*PARTS)
        values = {
            "contrast": self.contrast,
            "method": self.method,
            "fold": self.fold.recorded,
            "options": self.method_options(),
            "pairs": {pair.record.stem: pair.fingerprint for pair in pairs},
            "pairs_fingerprint": pairs_fingerprint(pairs),
            # Folds of earlier versions say nothing of it, and stay what they are.
            **({"task": self.task} if self.task != SYNTHESIZE else {}),
        }
        return json.loads(json.dumps(values))  # tuples become lists, as in the file

    def score(
        self, scored: Scored, prepared: PreparedPair, pair: Pair, predicted: np.ndarray
    ) -> None:
        """Add a test subject's prediction, and its input itself, to the scores."""
        images, spacing = {IDENTITY: pair.hf, self.method: predicted}, prepared.frame.spacing
        for name, image in images.items():
            scored.scores += heldout.score_pair(pair, image, method=name, fold=self.fold.index)
        scored.pictures |= heldout.pictures_of(pair, predicted)
        if self.task == SYNTHESIZE:
            scored.realism += heldout.realism_of(
                pair, {self.method: predicted}, spacing, fold=self.fold.index,
                stranger=heldout.stranger_to(prepared, self.pairs_in(*PARTS)),
            )  # fmt: skip
        else:
            scored.detail.append(heldout.detail_of(pair, images, spacing))

    def withdraw(self) -> None:
        """Remove the record, so that results that are being replaced are not taken for whole."""
        path = self.folder / RECORD
        try:
            path.unlink(missing_ok=True)
        except OSError as err:
            raise CannotCreateError(f"{path}: cannot be replaced: {err.strerror}") from err

    def write(
        self, scored: Scored, record: Mapping[str, Any], parts: Sequence[str] = PARTS
    ) -> None:
        """Write scores and record; the record is the last, as it stands for whole results."""
        self.withdraw()
        scored.write(
            self.folder, {IDENTITY: IDENTITY_TITLES[self.task], self.method: self.row_title}
        )
        common = {
            "title": self.row_title,
            "simulated": any(pair.simulated for pair in self.pairs_in(*parts)),
            **({"detail": scored.detail} if scored.detail else {}),
            "software": site.software(),
        }
        write_json(self.folder / RECORD, {**self.identity(), **common, **record})


@dataclass(frozen=True, kw_only=True)
class FoldJob(FoldWork):
    """A method of this package, or an arm of Table 2, on one fold."""

    results: ClassVar[tuple[str, ...]] = (BUNDLE, SCORES, HISTORY, PICTURES)

    options: FitOptions
    devices: int = 1
    initial: Bundle | None = None  # what the fit starts from
    arm: arms.Arm | None = None

    @property
    def recipe(self) -> str:
        """The method that is fitted, and whose bundle is written."""
        return self.method if self.arm is None else ENHANCER

    @property
    def stages(self) -> dict[str, FitOptions]:
        """Options of each stage of the fit, as the method has them; the last sees the pairs."""
        if self.arm is None:
            return {arms.FINETUNE: ADAPT[self.recipe](self.options)}
        train = self.pairs_in("train")
        return self.arm.stages(self.options, len(train), common_frame(train).spacing)

    @property
    def adapted(self) -> FitOptions:
        """Options of the last stage."""
        return self.stages[arms.FINETUNE]

    def method_options(self) -> dict[str, Any]:
        """Return what decides the weights besides fold and pairs."""
        return self.adapted.identity() if self.arm is None else self.arm.identity(self.stages)

    def fit(self, work: Path, say: Say, stop_at: int | None = None) -> FitResult:
        """Fit the method in a work folder, or go on there."""
        options, start = self.adapted, self.initial
        train, held = (
            open_prepared(self.pairs_in(part), self.cache, options.scaling) for part in PARTS[:2]
        )
        if self.arm is not None:
            more = self.cohort_pairs(say)
            if more[0]:  # nobody of whom is tested
                tested = open_prepared(self.pairs_in("test"), self.cache)
                check_images([*more[0], *more[1]], tested, common_frame(self.pairs).spacing)
            return arms.fit_arm(self.stages, (train, held), more, work, say, stop_at)
        if self.devices > 1 and options.family not in SHARED:
            say(f"{self.recipe} is fitted by one process, not {self.devices}")
        elif self.devices > 1:
            launch(
                train, held, options, work, say, processes=self.devices, stop_at=stop_at,
                initial=None if start is None else start.path,
            )  # fmt: skip
            # What follows finds the finished fit and only reads its weights.
        initial = None if start is None else load_model(start).state_dict()
        return fit(train, held, options, work, say, stop_at=stop_at, initial=initial)

    def cohort_pairs(self, say: Say = lambda line: None) -> tuple[list[Pair], list[Pair]]:
        """Return the pairs to pretrain and to validate that on; none without a cohort."""
        if self.arm is None or self.arm.cohort is None:
            return [], []
        frame = common_frame(self.pairs_in("train"))
        return self.arm.cohort.open(frame, self.cache / "cohort", self.options.device, say)

    def run(self, say: Say, lost: Say) -> None:
        """Fit, or go on from the last checkpoint of a killed fit, and score."""
        options = self.adapted
        common_frame(self.pairs_in(*PARTS))
        result = self.fit(self.work, say)
        self.withdraw()
        tested, seconds, engine = Scored(), [], EngineOptions(options.device)
        doing = "synthesizing" if self.task == SYNTHESIZE else "enhancing"
        for prepared in self.pairs_in("test"):  # one by one, so that only one is in memory
            pair = read_prepared(prepared)
            say(f"{doing} {pair.name}")
            began = time.perf_counter()
            given = pair.scaled(options.scaling, prepared.contrast, prepared.frame.spacing)
            predicted = heldout.predict_pair(result.model, given, engine, options.seed)
            seconds.append(round(time.perf_counter() - began, 3))
            self.score(tested, prepared, pair, predicted)
        name = f"{self.method}_{self.contrast}_fold-{self.fold.index}"
        site.save_site(self.folder / BUNDLE, name, self, result, summarise(tested.scores))
        log = self.work / ("" if self.arm is None else arms.FINETUNE) / HISTORY
        atomic_write_bytes(self.folder / HISTORY, log.read_bytes())
        record = {
            "task": self.task,
            "options": {**self.method_options(), **asdict(options)},
            "seed": options.seed,
            "given": self.options.identity(),
            "steps": result.steps,
            "timed_out": result.timed_out,
            **site.outcome_of(self, result),
            "parameters": site.count_parameters(result.model),
            "threads": torch.get_num_threads(),  # they decide the last bits, as do the devices
            "devices": self.devices,
            "warnings": _warnings(self.pairs_in(*PARTS), result, self),
            "synthesis_seconds": seconds,
            "peak_memory_gb": peak_memory(),
        }
        self.write(tested, record)
        if self.arm is not None and self.arm.cohort is not None:
            self.arm.cohort.forget(common_frame(self.pairs), self.cache / "cohort")
        say(f"done; best validation {result.best_psnr:.2f} dB at step {result.best_step}")


@dataclass(frozen=True, kw_only=True)
class CurveJob(FoldWork):
    """One curve of grey levels on a fold: what an enhancer brings beyond it is no contrast."""

    def method_options(self) -> dict[str, Any]:
        """Return the steps of grey, which decide the curve."""
        return {"levels": arms.LEVELS}

    def run(self, say: Say, lost: Say) -> None:
        """Learn the curve from the training subjects and score it."""
        curve = arms.fit_curve(map(read_prepared, self.pairs_in("train")))
        scored = Scored()
        for prepared in self.pairs_in("test"):
            pair = read_prepared(prepared)
            self.score(scored, prepared, pair, arms.apply_curve(curve, pair))
        self.write(scored, {"parameters": len(curve)})


def fold_done(job: FoldWork) -> bool:
    """Return whether the fold's results are there, whole, and of the very same job."""
    record = read_record(job.folder)
    whole = record is not None and not record.get("failed")
    return whole and not changes(job) and all((job.folder / n).exists() for n in job.results)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read a fold's record; None if the fold is not finished or the record damaged."""
    try:
        record = read_json(folder / RECORD)
    except (OSError, ValueError):
        return None
    objects = ("options", "given", "pairs", "fold", "failed", "initial")  # where it holds them
    whole = isinstance(record, dict) and all(isinstance(record.get(k) or {}, dict) for k in objects)
    return record if whole else None


def changes(job: FoldWork) -> tuple[str, ...]:
    """Name what is another in the results that are there: options, pairs or division."""
    record, identity = read_record(job.folder) or {}, job.identity()
    recorded = record.get("options") or {}
    options = {**{k: v for k, v in LATER.items() if k in recorded}, **identity["options"]}.items()
    differs = [f"option {_SPELLED.get(k, k)}" for k, v in options if recorded.get(k, ...) != v]
    if record.get("fold") != identity["fold"]:
        return (*differs, "the division of the subjects")
    before, now = record.get("pairs") or {}, identity["pairs"]
    names = sorted(n for n in {*before, *now} if before.get(n) != now.get(n))
    return (*differs, *(f"pair {name.partition('_res-')[0]}" for name in names))


def run_fold(job: FoldWork, say: Say = lambda line: None, lost: Say = lambda line: None) -> Path:
    """Make the results of a fold, unless that is done, and return their folder."""
    say = prefixed(job.title, say)
    if fold_done(job):
        say("done already")
        return job.folder
    if read_record(job.folder) is not None:
        say("making its results anew: some are missing")
    job.run(say, lost)
    return job.folder


def _warnings(pairs: tuple[PreparedPair, ...], result: FitResult, job: FoldJob) -> list[str]:
    lines = [
        f"{pair.name}: doubtful registration: {'; '.join(pair.doubts)}"
        for pair in pairs
        if pair.doubts
    ]
    if job.method != IDENTITY and result.best_psnr <= result.identity_psnr:
        target, source = site.FIELDS[job.task]
        lines.append(
            f"in validation the model is no closer to the {target} images than the {source} "
            "images themselves: take more steps or more pairs"
        )
    return lines
