"""The options of the levels that work on pairs, declared as in `h2lo_bids.settings.options`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from h2lo_bids.settings import convert
from h2lo_bids.settings.options import (
    ALL,
    ALL_FITS,
    BENCHMARK,
    BENCHMARK_ENHANCE,
    COUNT,
    DIR,
    ENHANCED,
    ENTITIES,
    EVALUATE,
    FITS,
    GROUP,
    GROUP_ENHANCE,
    MODES,
    ON_PAIRS,
    PAIRS,
    PARTICIPANT,
    PATH,
    TRIAL,
    option,
)
from h2lo_bids.vocabulary import ARMS, CONTRASTS, FLIP_ROTATE, SAMPLINGS

INIT = convert.NONE
"""What h2lo's fits start from by default: one of `convert.STARTS`."""


@dataclass(frozen=True)
class Pairs:
    """Which pairs are used, and how they are prepared."""

    taken_by: ClassVar[tuple[str, ...]] = ON_PAIRS

    pairs: bool = option(
        False,
        "participant: prepare the chosen participants' pairs for a later group or evaluate, and "
        "write nothing else",
        modes=(PARTICIPANT, PAIRS),
    )
    contrast: tuple[str, ...] = option(
        (),
        "only these contrasts; a T2w scan whose T1w one is left out so has a brain mask of its own "
        "at the participant level (default: each that has pairs, or scans)",
        choices=CONTRASTS,
        modes=MODES,
    )
    hf: tuple[str, ...] = option(
        (),
        "entities of the high-field scan, such as ses-GE or acq=MPRAGE,BRAVO (default: by "
        "field strength)",
        ENTITIES,
    )
    lf: tuple[str, ...] = option(
        (),
        "entities of the low-field scan, such as ses-HFC acq-iso; of runs, as run=1,null, pairs "
        "take the first that is there (default: by field strength)",
        ENTITIES,
        modes=(*ON_PAIRS, ENHANCED),
    )
    lf_dir: Path | None = option(
        None,
        "dataset that holds the low-field scans, if it is another one",
        DIR,
    )
    lf_fusion: str = option(
        "auto",
        "mrr: fuse three orthogonal thick-slice scans on the high-field grid; auto: where there "
        "are three",
        choices=("auto", "none", "mrr"),
        modes=(*ON_PAIRS, ENHANCED),
    )
    resolution: float | None = option(
        None,
        "voxel size in mm of the grid on which pairs are compared and models are fitted "
        "(default: 1; evaluate: that of the models)",
        (convert.number(0.5, 8), "MM"),
    )
    keep_flagged_pairs: bool = option(
        False,
        "also use the pairs that the registration check flags",
        modes=(*ALL_FITS, EVALUATE),
    )
    metrics_convention: str = option(
        "clipped",
        "what PSNR, SSIM and NCC in the tables are of: predictions clipped to [0, 1], or as they "
        "come, as in the authors' release",
        choices=("clipped", "release"),
        modes=(*ALL_FITS, EVALUATE),
    )


@dataclass(frozen=True)
class Fitting:
    """How models of synthesis are fitted; None leaves a value to the protocol."""

    taken_by: ClassVar[tuple[str, ...]] = FITS

    init: tuple[tuple[str, str | Path], ...] = option(
        (),
        "what the fits of h2lo start from: the embedded model of the contrast, random weights, "
        f"or a model bundle of the same sizes, scaling and grid (default: {INIT})",
        (convert.start, "[T1w=|T2w=]embedded|none|PATH"),
    )
    protocol: str = option(
        "default",
        "paper: each image of a pair keeps its own brain mask; whole volumes, 8000 voxels and a "
        "32^3 sub-volume per step, 500 passes over the training pairs; default: one mask for both; "
        "crops with exact halos, for a CPU or a small GPU; the options below win; with --task "
        "enhance paper decides the masks alone, and that patches are not varied",
        choices=("default", "paper"),
        modes=(PAIRS, *ALL_FITS, EVALUATE),
    )
    steps: int | None = option(
        None,
        "optimiser steps of a fit; h2lo, its ablations and inr end earlier once their validation "
        "no longer rises (default: 5000; --protocol paper: 500 passes over "
        "the training pairs, to the end)",
        COUNT,
    )
    sampling: str | None = option(
        None,
        "what a step sees: crops, or a whole volume (default: patch; --protocol paper: volume)",
        choices=SAMPLINGS,
    )
    crop: int | None = option(
        None,
        "side in voxels of a crop, or with --sampling volume of the sub-volume of the gradient "
        "loss (default: 24; --protocol paper: 32)",
        (convert.integer(4, 512), "N"),
    )
    batch: int | None = option(
        None,
        "crops or volumes per step (default: 2; --protocol paper: 1)",
        (convert.integer(1, 4096), "N"),
    )
    lambda_grad: float | None = option(
        None,
        "weight of the gradient loss; --method h2lo-nograd is without (default: 10)",
        (convert.number(0, 1e6), "X"),
    )
    learning_rate: float | None = option(
        None,
        "Adam's rate at the start of its cosine (default: 0.0003; from the weights of a model, "
        "and with --protocol paper: 0.0001)",
        (convert.number(1e-9, 1), "X"),
    )
    validate_every: int | None = option(
        None,
        "steps from one validation to the next (default: 100; --protocol paper: 5 passes over the "
        "training pairs)",
        COUNT,
        modes=ALL_FITS,
    )
    devices: int = option(
        1,
        "GPUs of this machine, or processes on its CPU, that share a fit",
        COUNT,
    )
    max_time: float | None = option(
        None,
        "a fit, with its schedule of learning rates, ends after so many minutes of training, and "
        "is scored with what it has; an --external may take so long for an image (default: no "
        "limit)",
        (convert.number(1e-3, 1e6), "MINUTES"),
        modes=ALL_FITS,
    )


@dataclass(frozen=True)
class Folds:
    """How subjects are divided for cross-validation."""

    taken_by: ClassVar[tuple[str, ...]] = ALL_FITS

    folds: str = option(
        "5",
        "number of folds, the paper's own, a splits.tsv, or 0 for no cross-validation",
        (convert.folds, "K|ds006557|FILE|0"),
    )
    val_count: int | None = option(
        None,
        "validation subjects of a fold (default: a tenth, at least one)",
        COUNT,
    )
    test_count: int | None = option(
        None,
        "test subjects of a fold; test sets may overlap then (default: a K-th of all)",
        COUNT,
    )
    fold: tuple[int, ...] = option(
        (),
        "fit only these folds, counted from 0, as one task of a job array; a later run without "
        "it collects",
        (convert.integer(0), "k"),
    )
    n_folds_parallel: int = option(
        1,
        "folds fitted at the same time, which share --nprocs",
        COUNT,
    )
    no_final: bool = option(
        False,
        "do not fit the final model on all pairs",
        modes=(GROUP, GROUP_ENHANCE),
    )
    collect: bool = option(
        False,
        "fit nothing and report which folds are missing, as the last job of an array does; trial: "
        "make the study's tables and report from what is there",
        modes=(*ALL_FITS, TRIAL),
    )


@dataclass(frozen=True)
class Comparison:
    """What is compared at benchmark and evaluate."""

    external: tuple[tuple[str, str], ...] = option(
        (),
        "external tool, run on each test subject and scored like the rest: a command with "
        "{input} and {output}, and {mask} and {contrast} if it wants them; no shell reads it",
        (convert.external, "NAME='COMMAND'"),
        modes=(BENCHMARK,),
    )
    realism_reference: tuple[tuple[str, Path], ...] = option(
        (),
        "real low-field scans without partner, whose tissue levels, noise, spectrum and "
        "histogram the synthesized images are compared with; the contrast may stand in the file's "
        "name (_T1w.nii.gz)",
        (convert.reference, "[T1w=|T2w=]IMAGE"),
        modes=(EVALUATE,),
    )


@dataclass(frozen=True)
class Enhancement:
    """How an enhancer is fitted, from low to high field."""

    taken_by: ClassVar[tuple[str, ...]] = (GROUP_ENHANCE, BENCHMARK_ENHANCE)

    pretrain_derivatives: tuple[Path, ...] = option(
        (),
        "what participant wrote for a high-field cohort, whose desc-preproc images are pretrained "
        "on before the pairs; group: with its desc-lowfield images, by any method; benchmark: with "
        "low-field images that the synthesis benchmark's model of each fold makes",
        PATH,
    )
    augment: str = option(
        "none",
        "flip-rotate: axial mirror images and quarter turns of the patches",
        choices=("none", FLIP_ROTATE),
        modes=(GROUP_ENHANCE,),
    )
    schedule_factor: float = option(
        1.0,
        "multiplies the epochs of the paper's schedules: 200 of real pairs alone, 400 with "
        "flip-rotate, 150 of pretraining and 50 of fine-tuning",
        (convert.number(1e-6, 1e3), "X"),
    )
    finetune_rate: float | None = option(
        None,
        "rate at which fine-tuning starts (default: the paper's 2e-6)",
        (convert.number(1e-9, 1), "X"),
    )
    features: int | None = option(
        None,
        "channels of the enhancer; fewer are faster, as a CPU needs (default: 64)",
        COUNT,
    )
    arm: tuple[str, ...] = option(
        (),
        "real pairs alone, with flips and turns, one curve of grey levels learned from them, or "
        "pretrained on the images of a synthesis method; the first is what the others are tested "
        "against (default: all)",
        choices=(*ARMS, ALL),
        modes=(BENCHMARK_ENHANCE,),
    )
