"""Options of the low-field scan that is imitated: its voxels and its noise."""

from __future__ import annotations

import argparse

from h2lo_bids.cli import convert
from h2lo_bids.settings import NOISES, PROFILES, default_of


def add_lowfield(group: argparse._ArgumentGroup) -> None:
    """Add the options of low-field grids, noise and uncertainty."""
    add = group.add_argument
    add(
        "--lf-grid",
        nargs="+",
        action="extend",
        type=convert.grid,
        metavar="XxYxZ",
        help="also on grids of these voxel sizes in mm along the scan's axes, such as 1.6x1.6x5, "
        "each voxel integrated; named res-1p6x1p6x5",
    )
    add(
        "--slice-profile",
        choices=PROFILES,
        help="across the longest side of these voxels: gauss by its full width at half maximum, "
        "sinc with a Hamming window over three lobes (default: box)",
    )
    add(
        "--slice-thickness",
        type=convert.number(0.1, 20),
        metavar="MM",
        help="nominal thickness of these slices (default: the longest side)",
    )
    add(
        "--noise",
        choices=NOISES,
        help="calibrated: add also images with the noise that the model's training pairs show "
        f"(default: {default_of('noise')})",
    )
    add(
        "--noise-scale",
        type=convert.number(0.01, 100),
        metavar="X",
        help="factor of that noise (default: 1)",
    )
    add(
        "--realisations",
        type=convert.integer(1),
        metavar="N",
        help="noisy images of each scan, each with a noise of its own "
        f"(default: {default_of('realisations')})",
    )
    add(
        "--uncertainty",
        action="store_true",
        help="also write a map of the standard deviation over the models of the folds",
    )
