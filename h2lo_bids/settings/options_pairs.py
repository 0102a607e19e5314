"""The options of the levels that work on pairs, declared as in `h2lo_bids.settings.options`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from h2lo_bids.settings import convert, options
from h2lo_bids.settings.options import flag, option, optional, several
from h2lo_bids.vocabulary import ARMS, CONTRASTS, FLIP_ROTATE


@dataclass(frozen=True)
class Pairs:
    """Which pairs are used, and how they are prepared."""

    taken_by: ClassVar[tuple[str, ...]] = options.ON_PAIRS

    pairs: bool = flag(
        "participant: only prepare the participants' pairs for a later group or evaluate",
        modes=(options.PARTICIPANT, options.PAIRS),
    )
    contrast: tuple[str, ...] = several(
        "only these contrasts; at the participant level, a T2w scan without its T1w scan gets its "
        "own brain mask (default: all that have pairs, or scans; evaluate: those of the models)",
        choices=CONTRASTS,
        modes=options.MODES,
    )
    hf: tuple[str, ...] = several(
        "entities of the high-field scan, such as ses-GE or acq=MPRAGE,BRAVO (default: by "
        "field strength)",
        options.ENTITIES,
    )
    lf: tuple[str, ...] = several(
        "entities of the low-field scan, such as ses-HFC acq-iso; of several runs, as run=1,null, "
        "pairs use the first that exists (default: by field strength)",
        options.ENTITIES,
        modes=(*options.ON_PAIRS, options.ENHANCED),
    )
    lf_dir: Path | None = optional("dataset of the low-field scans, if not bids_dir", options.DIR)
    lf_fusion: str = option(
        "auto",
        "mrr: fuse three orthogonal thick-slice scans on the high-field grid; none: use one scan; "
        "auto: fuse if there are three",
        choices=("auto", "none", "mrr"),
        modes=(*options.ON_PAIRS, options.ENHANCED),
    )
    resolution: float | None = optional(
        "voxel size in mm of the grid to compare pairs and fit models on "
        "(default: 1; evaluate: that of the models)",
        (convert.number(0.5, 8), "MM"),
    )
    keep_flagged_pairs: bool = flag(
        "also use pairs that the registration check flags",
        modes=(*options.ALL_FITS, options.EVALUATE),
    )
    metrics_convention: str = option(
        "clipped",
        "PSNR, SSIM and NCC in the tables: of predictions clipped to [0, 1], or not clipped, as in "
        "the authors' release",
        choices=("clipped", "release"),
        modes=(*options.ALL_FITS, options.EVALUATE),
    )


@dataclass(frozen=True)
class Fitting:
    """How models of synthesis are fitted; None leaves a value to the protocol."""

    taken_by: ClassVar[tuple[str, ...]] = options.FITS

    init: tuple[tuple[str, str | Path], ...] = several(
        "start of h2lo's fits: the embedded model of the contrast, random weights, "
        "or a model bundle of the same sizes, scaling and grid (default: none)",
        (convert.start, "[T1w=|T2w=]embedded|none|PATH"),
    )
    protocol: str = option(
        "default",
        "paper: each image of a pair keeps its own brain mask; whole volumes, 8000 voxels and a "
        "32^3 sub-volume per step, 500 epochs; default: one mask for both; crops with exact "
        "halos, for a CPU or a small GPU; the options below win; with --task enhance, paper only "
        "sets the masks and turns the default augmentation off",
        choices=("default", "paper"),
        modes=(options.PAIRS, *options.ALL_FITS, options.EVALUATE),
    )
    steps: int | None = optional(
        "optimiser steps of a fit; h2lo, its ablations and inr stop early once their validation no "
        "longer improves (default: 5000; --protocol paper: 500 epochs, without early stopping)",
        options.COUNT,
    )
    sampling: str | None = optional(
        "input of a step: crops, or a whole volume (default: patch; --protocol paper: volume)",
        choices=("patch", "volume"),
    )
    crop: int | None = optional(
        "side in voxels of a crop, or with --sampling volume of the gradient loss's sub-volume "
        "(default: 24; --protocol paper: 32)",
        (convert.integer(4, 512), "N"),
    )
    batch: int | None = optional(
        "crops or volumes per step (default: 2; --protocol paper: 1)",
        (convert.integer(1, 4096), "N"),
    )
    lambda_grad: float | None = optional(
        "weight of the gradient loss; --method h2lo-nograd has none (default: 10)",
        (convert.number(0, 1e6), "X"),
    )
    learning_rate: float | None = optional(
        "Adam's learning rate at the start of its cosine (default: 0.0003; with --init from a "
        "model, or --protocol paper: 0.0001)",
        (convert.number(1e-9, 1), "X"),
    )
    validate_every: int | None = optional(
        "steps between validations (default: 100; --protocol paper: 5 epochs)",
        options.COUNT,
        modes=options.ALL_FITS,
    )
    devices: int = option(
        1,
        "GPUs of this machine, or processes on its CPU, per fit; not with --protocol paper",
        options.COUNT,
    )
    max_time: float | None = optional(
        "end a fit, with its learning-rate schedule, after this training time and score it; also "
        "the time limit of an --external tool per image (default: no limit)",
        (convert.number(1e-3, 1e6), "MINUTES"),
        modes=options.ALL_FITS,
    )


@dataclass(frozen=True)
class Folds:
    """How subjects are divided for cross-validation."""

    taken_by: ClassVar[tuple[str, ...]] = options.ALL_FITS

    folds: str = option(
        "5",
        "number of folds, the paper's own, a splits.tsv, or 0 for no cross-validation",
        (convert.folds, "K|ds006557|FILE|0"),
    )
    val_count: int | None = optional(
        "validation subjects of a fold (default: a tenth, at least one)", options.COUNT
    )
    test_count: int | None = optional(
        "test subjects of a fold, so that test sets may overlap (default: a K-th of all)",
        options.COUNT,
    )
    fold: tuple[int, ...] = several(
        "fit only these folds, counted from 0, as a task of a job array; a later run without "
        "this option collects",
        (convert.integer(0), "k"),
    )
    n_folds_parallel: int = option(
        1,
        "number of folds to fit at a time, which share --nprocs",
        options.COUNT,
    )
    no_final: bool = flag(
        "do not fit the final model to all pairs", modes=(options.GROUP, options.GROUP_ENHANCE)
    )
    collect: bool = flag(
        "fit nothing and report missing folds, as the last job of an array; trial: write the "
        "study's tables and report from the existing ratings",
        modes=(*options.ALL_FITS, options.TRIAL),
    )


@dataclass(frozen=True)
class Comparison:
    """What is compared at benchmark and evaluate."""

    external: tuple[tuple[str, str], ...] = several(
        "external tool to run on each test subject and score like the methods: a command with "
        "{input} and {output}, optionally {mask} and {contrast}; it runs without a shell",
        (convert.external, "NAME='COMMAND'"),
        modes=(options.BENCHMARK,),
    )
    realism_reference: tuple[tuple[str, Path], ...] = several(
        "unpaired real low-field scans to compare with the synthesized images in tissue levels, "
        "noise, spectrum and histogram; the file name may give the contrast (_T1w.nii.gz)",
        (convert.reference, "[T1w=|T2w=]IMAGE"),
        modes=(options.EVALUATE,),
    )


@dataclass(frozen=True)
class Enhancement:
    """How an enhancer is fitted, from low to high field."""

    taken_by: ClassVar[tuple[str, ...]] = (options.GROUP_ENHANCE, options.BENCHMARK_ENHANCE)

    pretrain_derivatives: tuple[Path, ...] = several(
        "out_dir of participant for a high-field cohort, to pretrain on its desc-preproc images; "
        "group: with its desc-lowfield images, by any method; benchmark: with low-field images by "
        "the synthesis benchmark's model of each fold",
        options.PATH,
    )
    augment: str = option(
        "none",
        "flip-rotate: axial flips and quarter rotations of the patches",
        choices=("none", FLIP_ROTATE),
        modes=(options.GROUP_ENHANCE,),
    )
    schedule_factor: float = option(
        1.0,
        "factor of the epochs of the paper's schedules: 200 of real pairs alone, 400 with "
        "flip-rotate, 150 of pretraining and 50 of fine-tuning",
        (convert.number(1e-6, 1e3), "X"),
    )
    finetune_rate: float | None = optional(
        "initial learning rate of fine-tuning (default: the paper's 2e-6)",
        (convert.number(1e-9, 1), "X"),
    )
    features: int | None = optional(
        "channels of the enhancer; use fewer on a CPU (default: 64)", options.COUNT
    )
    arm: tuple[str, ...] = several(
        "real pairs alone, with flips and rotations, one curve of grey levels learned from them, "
        "or pretraining on the images of a synthesis method; the others are tested against the "
        "first (default: all)",
        choices=(*ARMS, options.ALL),
        modes=(options.BENCHMARK_ENHANCE,),
    )
