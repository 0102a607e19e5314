"""An arm of Table 2 on one fold, and the enhancer that a site takes home."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2lo_bids.evaluation.splits import PARTS
from h2lo_bids.models.bundle import Bundle, read_bytes
from h2lo_bids.models.frame import Frame
from h2lo_bids.training.arms import BACKBONE, FINETUNE, PRETRAIN, Arm, Schedule, fit_arm, stages_of
from h2lo_bids.training.cohort import CohortScan, provenance, split_cohort
from h2lo_bids.training.cohort_leaks import check_no_leak
from h2lo_bids.training.cohort_pairs import cohort_pairs, split_pairs
from h2lo_bids.training.final import FinalJob
from h2lo_bids.training.fitting import common_frame, pair_files, pairs_cache
from h2lo_bids.training.foldjob import HISTORY, FoldJob
from h2lo_bids.training.leaks import check_images
from h2lo_bids.training.methods import Method, find_method
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair, open_pairs
from h2lo_bids.training.prepared import PreparedPair
from h2lo_bids.vocabulary import Say

if TYPE_CHECKING:
    from h2lo_bids.training.fit import FitResult


@cache
def _content(path: Path) -> str:
    """Return a digest of a file; every arm asks for those of the whole cohort."""
    return hashlib.blake2b(read_bytes(path), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Cohort:
    """High-field scans of others, and low-field images of them, to pretrain on.

    Parameters
    ----------
    scans
        Of one contrast, from `h2lo_bids.training.cohort.find_cohort`.
    seed
        Of the division, and of methods that draw.
    bundle
        Makes the low-field images: the synthesis benchmark's model of the fold. None
        takes those that the cohort brings.
    models
        Bundles that made the images that the cohort brings, as far as they are known.
    """

    scans: tuple[CohortScan, ...]
    seed: int = 42
    bundle: Bundle | None = None
    models: tuple[Bundle, ...] = ()

    @property
    def subjects(self) -> tuple[str, ...]:
        """Labels of all."""
        return tuple(sorted({scan.subject for scan in self.scans}))

    @cached_property
    def parts(self) -> tuple[tuple[CohortScan, ...], tuple[CohortScan, ...]]:
        """Scans to train and to validate on."""
        train, held = split_cohort(self.subjects, self.seed)
        return split_pairs(self.scans, train), split_pairs(self.scans, held)

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
        return " ".join(_content(path) for path in (scan.high, scan.mask, *low))


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
    """An arm on one fold.

    Parameters
    ----------
    contrast, method, fold, pairs, out_dir, work_dir, options, devices
        As in `FoldJob`; `method` names the row and its folder.
    arm
        What is fitted.
    schedule
        How long.
    cohort
        To pretrain on, for an arm that is.
    """

    arm: Arm
    schedule: Schedule = field(default_factory=Schedule)
    cohort: Cohort | None = None

    @property
    def recipe(self) -> Method:
        """The enhancer."""
        return find_method(BACKBONE)

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

        Raises
        ------
        UsageError
            With who it is.
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
    """The enhancer of a contrast, fitted to all pairs.

    Parameters
    ----------
    contrast, method, pairs, options, folds, out_dir, work_dir, devices, validation
        As in `FinalJob`.
    arm, schedule, cohort
        As in `ArmJob`.
    """

    arm: Arm = field(default_factory=lambda: Arm(BACKBONE, BACKBONE))
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
    """Fit an arm to pairs on disk.

    Parameters
    ----------
    job
        Names arm, schedule, cohort and options.
    train, held
        To train and to validate on.
    work
        Work folder of this fit.
    say
        Receives lines of progress.
    tested
        Pairs that no stage may see.
    stop_at
        As for `h2lo_bids.training.arms.fit_arm`.
    """
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
