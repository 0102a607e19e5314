"""The options of a benchmark, as text and as types."""

from __future__ import annotations

import argparse

from h2lo_bids.cli import convert

BENCHMARK = """benchmark takes the options of pairs, fitting and cross-validation above, fits every
--methods on every fold and writes table1. With --methods and --fold a run is one task of a job
array; a run without --fold collects."""


def add_benchmark(group: argparse._ArgumentGroup) -> None:
    """Add what bounds and widens a comparison of methods."""
    add = group.add_argument
    add(
        "--external",
        nargs="+",
        action="extend",
        type=convert.external,
        metavar="NAME='COMMAND'",
        help="simulator of others, run on each test subject and scored like the rest: a command "
        "with {input} and {output}, and {mask} and {contrast} if it wants them; no shell reads it",
    )
    add(
        "--max-time",
        type=convert.number(1e-3, 1e6),
        metavar="MINUTES",
        help="a fit ends at the first step after so many minutes of training, and is scored with "
        "what it has; an --external may take so long for an image (default: no limit)",
    )
    add(
        "--max-memory",
        type=convert.memory,
        metavar="GB",
        help="a fit whose processes together hold more is stopped and fails, the others go on; "
        "looked at twice a second (default: no limit)",
    )
