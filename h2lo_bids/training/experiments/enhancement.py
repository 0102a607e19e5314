"""The enhancer and the arms of Table 2: their jobs on a fold and on all pairs."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2lo_bids.bids.derivatives import result_pattern
from h2lo_bids.cache import file_digest
from h2lo_bids.errors import H2loError, UsageError
from h2lo_bids.evaluation.splits import PARTS, Fold
from h2lo_bids.models.bundle import Bundle, load_bundle
from h2lo_bids.models.catalogue import CATALOGUE
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.pfsr import PfsrArchitecture
from h2lo_bids.settings import Settings
from h2lo_bids.training.experiments.arms import (
    FINETUNE,
    PRETRAIN,
    Arm,
    Schedule,
    find_arm,
    fit_arm,
    stages_of,
)
from h2lo_bids.training.experiments.cohort import (
    CohortScan,
    cohort_pairs,
    find_cohort,
    provenance,
    split_cohort,
)
from h2lo_bids.training.experiments.crossvalidation import (
    BUNDLE,
    HISTORY,
    FoldJob,
    fold_folder,
    read_record,
)
from h2lo_bids.training.experiments.final import FinalJob
from h2lo_bids.training.experiments.leaks import check_images, check_no_leak
from h2lo_bids.training.experiments.options import fit_options
from h2lo_bids.training.fitting import pairs_cache
from h2lo_bids.training.methods import Method, find_method
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair, open_pairs
from h2lo_bids.training.prepared import PreparedPair, common_frame, pair_files
from h2lo_bids.vocabulary import ENHANCER, SYNTHESIZE, Say

if TYPE_CHECKING:
    from h2lo_bids.training.fit import FitResult


@dataclass(frozen=True)
class Cohort:
    """High-field scans of other people, and low-field images of them, to pretrain on."""

    scans: tuple[CohortScan, ...]
    seed: int = 42
    bundle: Bundle | None = None
    """Makes the low-field images; None takes those that the cohort brings."""
    models: tuple[Bundle, ...] = ()
    """What made the images that the cohort brings, as far as it is known."""

    @property
    def subjects(self) -> tuple[str, ...]:
        """Labels of all."""
        return tuple(sorted({scan.subject for scan in self.scans}))

    @cached_property
    def parts(self) -> tuple[tuple[CohortScan, ...], tuple[CohortScan, ...]]:
        """Scans to train and to validate on."""
        train, held = split_cohort(self.subjects, self.seed)
        both = [tuple(s for s in self.scans if s.subject in part) for part in (train, held)]
        return both[0], both[1]

    @property
    def pairs(self) -> int:
        """Pairs to train on."""
        return sum(len(s.low) if self.bundle is None else 1 for s in self.parts[0])

    def identity(self) -> dict[str, Any]:
        """Return what decides the pairs, JSON-ready."""
        made = provenance(self.scans)["models"]
        model = {"method": self.bundle.method, "sha256": self.bundle.sha256} if self.bundle else {}
        return {
            "scans": {scan.name: self._digest(scan) for scan in self.scans},
            "validation": list(split_cohort(self.subjects, self.seed)[1]),
            "models": [model] if model else made,
            "subjects": len({scan.subject for scan in self.parts[0]}),
        }

    def open(self, frame: Frame, cache: Path, device: str, say: Say) -> tuple[list[Pair], ...]:
        """Return the pairs to train and to validate on, swapped, on a frame."""
        return tuple(
            open_pairs(
                cohort_pairs(
                    part, frame, cache / "cohort", bundle=self.bundle, seed=self.seed,
                    device=device, progress=say,
                ),
                cache,
            )
            for part in self.parts
        )  # fmt: skip

    def _digest(self, scan: CohortScan) -> str:
        low = () if self.bundle else (image.path for image in scan.low)
        return " ".join(file_digest(path) for path in (scan.high, scan.mask, *low))


class _Staged:
    """What the jobs of an arm share: its stages, and what decides its weights."""

    if TYPE_CHECKING:
        arm: Arm
        schedule: Schedule
        cohort: Cohort | None
        options: FitOptions

        def pairs_in(self, *parts: str) -> tuple[PreparedPair, ...]: ...

    @property
    def stages(self) -> dict[str, FitOptions]:
        """Options of each stage."""
        train = self.pairs_in("train")
        return stages_of(
            self.arm, self.options, self.schedule, pairs=len(train),
            cohort=self.cohort.pairs if self.cohort else 0, spacing=common_frame(train).spacing,
        )  # fmt: skip

    @property
    def adapted(self) -> FitOptions:
        """Options of the stage that sees the real pairs."""
        return self.stages[FINETUNE]

    def method_options(self) -> dict[str, Any]:
        """Return what decides the weights besides fold and pairs: both stages, and the cohort."""
        stages, cohort = self.stages, self.cohort
        first = stages.get(PRETRAIN)
        return {
            **stages[FINETUNE].identity(),
            "pretrain": first.identity() if first else None,
            "cohort": cohort.identity() if cohort and self.arm.pretrain else None,
            "schedule": self.schedule.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class ArmJob(_Staged, FoldJob):
    """An arm on one fold."""

    arm: Arm
    schedule: Schedule = field(default_factory=Schedule)
    cohort: Cohort | None = None

    @property
    def recipe(self) -> Method:
        """The enhancer."""
        return find_method(ENHANCER)

    @property
    def row_title(self) -> str:
        """The arm's row."""
        return self.arm.title

    def history(self, work: Path) -> Path:
        """Name the log of the last stage."""
        return work / FINETUNE / HISTORY

    def check_leaks(self) -> None:
        """Refuse an arm of which a stage has seen a test subject.

        By labels, by the files of the scans, and by whom the models were trained on; that
        none of the cohort's images is a test subject's is seen when they are read.
        """
        if self.cohort is None:
            return
        own = self.cohort.bundle
        check_no_leak(
            self.pairs_in("test"), self.cohort.scans, (own,) if own else self.cohort.models,
            out_dir=self.out_dir, applied=own is not None,
        )  # fmt: skip

    def fit(self, work: Path, say: Say) -> FitResult:
        """Pretrain and fine-tune in a work folder, or go on there."""
        self.check_leaks()
        parts = [self.pairs_in(part) for part in PARTS]
        return fit_stages(self, parts[0], parts[1], work, say, tested=parts[2])


@dataclass(frozen=True)
class ArmFinalJob(_Staged, FinalJob):
    """The enhancer of a contrast, fitted to all pairs."""

    arm: Arm = field(default_factory=lambda: Arm(ENHANCER, ENHANCER))
    schedule: Schedule = field(default_factory=Schedule)
    cohort: Cohort | None = None

    def fit(self, work: Path, stop_at: int, say: Say) -> FitResult:
        """Pretrain and fine-tune in a work folder, or go on there."""
        train, held = self.pairs_in("train"), self.pairs_in("validation")
        return fit_stages(self, train, held, work, say, stop_at=stop_at)


def fit_stages(
    job: ArmJob | ArmFinalJob,
    train: Sequence[PreparedPair],
    held: Sequence[PreparedPair],
    work: Path,
    say: Say,
    *,
    tested: Sequence[PreparedPair] = (),
    stop_at: int | None = None,
) -> FitResult:
    """Fit an arm to pairs on disk."""
    cache, frame = pairs_cache(job.work_dir), common_frame(train)
    own = [open_pairs(pair_files(part), cache) for part in (train, held)]
    more: tuple[list[Pair], ...] = ([], [])
    if job.cohort is not None and job.arm.pretrain is not None:
        more = job.cohort.open(frame, cache, job.options.device, say)
        check_images([*more[0], *more[1]], open_pairs(pair_files(tested), cache), frame.spacing)
    return fit_arm(
        job.arm, own[0], own[1], more[0], more[1], job.options, work, say,
        schedule=job.schedule, spacing=frame.spacing, stop_at=stop_at,
    )  # fmt: skip


def enhance_job(
    settings: Settings, contrast: str, name: str, fold: Fold, pairs: tuple[PreparedPair, ...]
) -> ArmJob:
    """Return the job of an arm, or of the group level's enhancer, on one fold."""
    arm = arm_of(settings, name)
    job = ArmJob(
        contrast=contrast,
        method=name,
        fold=fold,
        pairs=pairs,
        options=arm_options(settings, sum(pair.subject in fold.train for pair in pairs)),
        out_dir=settings.out_dir,
        work_dir=settings.work,
        arm=arm,
        schedule=schedule_of(settings),
        cohort=_cohort(settings, contrast, arm, fold),
    )
    job.check_leaks()
    return job


def enhance_final(settings: Settings, job: FinalJob) -> ArmFinalJob:
    """Return the final job of an enhancer, of that which other methods would have."""
    arm = arm_of(settings, job.method)
    values = {item.name: getattr(job, item.name) for item in dataclasses.fields(job)}
    values["options"] = arm_options(settings, len(job.subjects["train"]))
    return ArmFinalJob(
        **values,
        arm=arm,
        schedule=schedule_of(settings),
        cohort=_cohort(settings, job.contrast, arm, None),
    )


def arm_of(settings: Settings, name: str) -> Arm:
    """Return what a row's name stands for; the group level's enhancer is one of its own."""
    if name != ENHANCER:
        return find_arm(name)
    pretrain = "cohort" if settings.pretrain_derivatives else None
    return Arm(ENHANCER, CATALOGUE[ENHANCER].title, pretrain, settings.augment)


def schedule_of(settings: Settings) -> Schedule:
    """Return the schedule that the user asks for."""
    return Schedule(factor=settings.schedule_factor).with_rate(settings.finetune_rate)


def arm_options(settings: Settings, n_train: int) -> FitOptions:
    """Return the options that an arm's stages begin with."""
    options = fit_options(settings, n_train)
    if settings.features is None:
        return options
    usual = PfsrArchitecture().reduction
    sizes = PfsrArchitecture(
        features=settings.features, reduction=math.gcd(usual, settings.features)
    )
    return dataclasses.replace(options, family=ENHANCER, architecture=sizes)


_find_cohort = functools.cache(find_cohort)  # every arm and fold asks for it


def _cohort(settings: Settings, contrast: str, arm: Arm, fold: Fold | None) -> Cohort | None:
    if arm.pretrain is None:
        return None
    seed = settings.random_seed
    if arm.name == ENHANCER:
        scans = _find_cohort(settings.pretrain_derivatives, contrast)
        return Cohort(scans, seed, models=_makers(settings, scans))
    assert fold is not None
    if not settings.cohort:
        raise UsageError(f"--arm {arm.pretrain}: give --cohort, whose images it is pretrained on")
    scans = _find_cohort(settings.cohort, contrast, low=False)
    return Cohort(scans, seed, _synthesizer(settings, contrast, arm.pretrain, fold))


def check_cohorts(settings: Settings, contrasts: Iterable[str]) -> None:
    """Read what is known of a cohort's images, only for the errors that it raises."""
    for contrast in contrasts:
        if settings.pretrain_derivatives:
            _find_cohort(settings.pretrain_derivatives, contrast)
        if settings.cohort:
            _find_cohort(settings.cohort, contrast, low=False)


def check_synthesis(settings: Settings, contrast: str, folds: Sequence[int]) -> None:
    """Refuse arms whose synthesis models are not there."""
    for arm in map(find_arm, settings.arms):
        if arm.pretrain is not None:
            for fold in folds:
                _synthesis_record(settings, contrast, arm.pretrain, fold)


def _synthesis_record(settings: Settings, contrast: str, method: str, fold: int) -> dict[str, Any]:
    """Read the record of the synthesis benchmark's model of a fold."""
    folder = fold_folder(settings.out_dir, contrast, method, fold)
    record = read_record(folder)
    if record is None or not (folder / BUNDLE).is_dir():
        raise UsageError(
            f"{folder / BUNDLE}: is missing, and the arm {method} is pretrained on its images; "
            f"make it first: {_synthesis_command(settings, method)}"
        )
    return record


def _synthesis_command(settings: Settings, method: str) -> str:
    return (
        f"h2lo {settings.bids_dir} {settings.out_dir} benchmark --method {method} "
        f"--folds {settings.folds}"
    )


def _synthesizer(settings: Settings, contrast: str, method: str, fold: Fold) -> Bundle:
    """Load the synthesis benchmark's model of a fold."""
    folder = fold_folder(settings.out_dir, contrast, method, fold.index)
    record = _synthesis_record(settings, contrast, method, fold.index)
    recorded = record.get("fold") or {}
    if any(sorted(recorded.get(part, ())) != sorted(getattr(fold, part)) for part in PARTS):
        raise UsageError(
            f"{folder}: is of another division of the subjects; give the same --folds and pairs as "
            f"the synthesis benchmark had, or make it anew: {_synthesis_command(settings, method)}"
        )
    return load_bundle(folder / BUNDLE, contrast=contrast, task=SYNTHESIZE)


def _makers(settings: Settings, scans: tuple[CohortScan, ...]) -> tuple[Bundle, ...]:
    """Find the models, given or of this folder, that made a cohort's images."""
    wanted = {image.sha256 for scan in scans for image in scan.low}
    patterns = result_pattern("model"), result_pattern("fold", f"/{BUNDLE}")
    places = [path for pattern in patterns for path in sorted(settings.out_dir.glob(pattern))]
    found = []
    for path in [*(path for _, path in settings.model), *places]:
        try:
            bundle = load_bundle(path)
        except H2loError:
            continue  # none that could have made an image
        if bundle.sha256 in wanted:
            found.append(bundle)
    return tuple(found)
