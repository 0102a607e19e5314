"""The options of the levels that work on pairs, as text and as types."""

from __future__ import annotations

import argparse

from h2lo_bids.cli import convert
from h2lo_bids.settings import (
    FUSIONS,
    INIT,
    METRICS_CONVENTIONS,
    PROTOCOLS,
    SAMPLINGS,
    TRUNKS,
    default_of,
)
from h2lo_bids.vocabulary import CONTRASTS


def add_pairs(group: argparse._ArgumentGroup) -> None:
    """Add what selects and prepares pairs."""
    add = group.add_argument
    add(
        "--pairs",
        action="store_true",
        help="participant: prepare the chosen participants' pairs for a later group or evaluate, "
        "and write nothing else",
    )
    add(
        "--contrast",
        nargs="+",
        action="extend",
        choices=CONTRASTS,
        help="only these contrasts (default: each that has pairs)",
    )
    add(
        "--hf",
        nargs="+",
        action="extend",
        type=convert.entities,
        metavar="WORD",
        help="entities of the high-field scan, such as ses-GE or acq=MPRAGE,BRAVO (default: by "
        "field strength)",
    )
    add(
        "--lf",
        nargs="+",
        action="extend",
        type=convert.entities,
        metavar="WORD",
        help="entities of the low-field scan, such as ses-HFC acq-iso (default: by field strength)",
    )
    add(
        "--lf-dir",
        type=convert.path,
        metavar="DIR",
        help="dataset that holds the low-field scans, if it is another one",
    )
    add(
        "--lf-fusion",
        choices=FUSIONS,
        help="mrr: fuse three orthogonal thick-slice scans on the high-field grid; auto: where "
        "there are three " + _default("lf_fusion"),
    )
    add(
        "--resolution",
        type=convert.number(0.5, 8),
        metavar="MM",
        help="voxel size of the grid on which pairs are compared and models are fitted "
        "(default: 1; evaluate: that of the models)",
    )
    add(
        "--keep-flagged-pairs",
        action="store_true",
        help="also use the pairs that the registration check flags",
    )
    add(
        "--metrics-convention",
        choices=METRICS_CONVENTIONS,
        help="what PSNR, SSIM and NCC in the tables are of: predictions clipped to [0, 1], or as "
        "they come, as in the authors' release " + _default("metrics_convention"),
    )


def add_fitting(group: argparse._ArgumentGroup) -> None:
    """Add what decides a fit."""
    add = group.add_argument
    add(
        "--init",
        nargs="+",
        action="extend",
        type=convert.start,
        metavar="[T1w=|T2w=]embedded|none|PATH",
        help="what the fits of h2lo start from: the embedded model of the contrast, random "
        f"weights, or a model bundle of the same sizes, scaling and grid (default: {INIT}; "
        "--protocol paper, --trunk mlp and other methods: none)",
    )
    add(
        "--protocol",
        choices=PROTOCOLS,
        help="paper: each image of a pair keeps its own brain mask; whole volumes, 8000 voxels "
        "and a 32^3 sub-volume per step, 500 epochs; default: one mask for both; crops with "
        "exact halos, for a CPU or a small GPU; the options below win",
    )
    add(
        "--steps",
        type=convert.integer(1),
        metavar="N",
        help="optimiser steps of a fit; unless with --protocol paper it ends earlier if its "
        "validation no longer rises",
    )
    add(
        "--epochs",
        type=convert.integer(1),
        metavar="N",
        help="the same, in passes over the training pairs",
    )
    add(
        "--sampling",
        choices=SAMPLINGS,
        help="what a step sees: crops, or a whole volume",
    )
    add(
        "--crop",
        type=convert.integer(4, 512),
        metavar="N",
        help="side of a crop or of the sub-volume of the gradient loss, voxels",
    )
    add("--batch", type=convert.integer(1, 4096), metavar="N", help="crops or volumes per step")
    add("--trunk", choices=TRUNKS, help="network of positions; mlp: with ReLU instead of sines")
    add(
        "--lambda-grad",
        type=convert.number(0, 1e6),
        metavar="X",
        help="weight of the gradient loss",
    )
    add(
        "--learning-rate",
        type=convert.number(1e-9, 1),
        metavar="X",
        help="Adam's rate at the start of its cosine",
    )
    add(
        "--validate-every",
        type=convert.integer(1),
        metavar="N",
        help="steps from one validation to the next",
    )
    add(
        "--devices",
        type=convert.integer(1),
        metavar="N",
        help="GPUs, or processes on the CPU, that share a fit " + _default("devices"),
    )


def add_folds(group: argparse._ArgumentGroup) -> None:
    """Add what concerns cross-validation."""
    add = group.add_argument
    add(
        "--folds",
        type=convert.folds,
        metavar="K|ds006557|FILE|0",
        help="number of folds, the paper's own, a splits.tsv, or 0 for no cross-validation "
        + _default("folds"),
    )
    add(
        "--val-count",
        type=convert.integer(1),
        metavar="N",
        help="validation subjects of a fold (default: a tenth, at least one)",
    )
    add(
        "--test-count",
        type=convert.integer(1),
        metavar="N",
        help="test subjects of a fold; test sets may overlap then (default: a K-th of all)",
    )
    add(
        "--fold",
        nargs="+",
        action="extend",
        type=convert.integer(0),
        metavar="k",
        help="fit only these folds, counted from 0, as one task of a job array; a later run "
        "without it collects",
    )
    add(
        "--n-folds-parallel",
        type=convert.integer(1),
        metavar="N",
        help="folds fitted at the same time, which share --nprocs " + _default("n_folds_parallel"),
    )
    add("--no-final", action="store_true", help="do not fit the final model on all pairs")
    add(
        "--collect",
        action="store_true",
        help="fit nothing and report which folds are missing, as the last job of an array does",
    )


def _default(name: str) -> str:
    return f"(default: {default_of(name)})"
