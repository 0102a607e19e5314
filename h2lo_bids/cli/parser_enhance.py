"""The options of fitting an enhancer, as text and as types."""

from __future__ import annotations

import argparse

from h2lo_bids.cli import convert
from h2lo_bids.settings import ALL, AUGMENTATIONS, default_of
from h2lo_bids.vocabulary import ARMS

ENHANCEMENT = """group --task enhance fits a PF-SR-style enhancer to the pairs, from low to high
field; benchmark --task enhance writes table2. Schedules are the paper's, in epochs: the options
of fitting that set steps, rates and crops are not taken."""


def add_enhancement(group: argparse._ArgumentGroup) -> None:
    """Add what decides the fit of an enhancer, and which arms are compared."""
    add = group.add_argument
    add(
        "--pretrain-derivatives",
        nargs="+",
        action="extend",
        type=convert.path,
        metavar="PATH",
        help="group: what participant wrote for a high-field cohort, by any method: its "
        "desc-preproc and desc-lowfield images are pretrained on, the pairs then fine-tuned on",
    )
    add(
        "--augment",
        choices=AUGMENTATIONS,
        help="flip-rotate: axial mirror images and quarter turns of the patches "
        + _default("augment"),
    )
    add(
        "--schedule-factor",
        type=convert.number(1e-6, 1e3),
        metavar="X",
        help="multiplies all epochs: 200 of real pairs alone, 400 with flip-rotate, 150 of "
        "pretraining and 50 of fine-tuning " + _default("schedule_factor"),
    )
    add(
        "--finetune-rate",
        type=convert.number(1e-9, 1),
        metavar="X",
        help="rate at which fine-tuning starts (default: the paper's 2e-6)",
    )
    add(
        "--features",
        type=convert.integer(1),
        metavar="N",
        help="channels of the enhancer; fewer make a CPU do (default: 64)",
    )
    add(
        "--arm",
        "--arms",
        nargs="+",
        action="extend",
        choices=(*ARMS, ALL),
        help="benchmark: real pairs alone, with flips and turns, or pretrained on the images of a "
        "synthesis method; the first is what the others are tested against (default: all)",
    )
    add(
        "--cohort",
        nargs="+",
        action="extend",
        type=convert.path,
        metavar="PATH",
        help="benchmark: what participant wrote for a high-field cohort: its desc-preproc images, "
        "of which the synthesis benchmark's model of each fold makes low-field ones",
    )


def _default(name: str) -> str:
    return f"(default: {default_of(name)})"
