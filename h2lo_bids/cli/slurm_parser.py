"""The command line of ``h2lo-slurm``, as text and as types."""

from __future__ import annotations

import argparse
from pathlib import Path

from h2lo_bids import __version__
from h2lo_bids.cli import convert
from h2lo_bids.cli.parser_base import Parser

_DESCRIPTION = """Write, and submit, job arrays that do on a Slurm cluster what h2lo does elsewhere.

Each participant and session, or each fold of each method, is one task. Give the options
of the cluster first, then what would follow h2lo:

  h2lo-slurm --time 1:00:00 --mem 4G --cpus 4 --submit /data/bids /data/out participant

Scripts, lists of tasks and logs go to out_dir/logs/slurm. The same command again submits
only what is not done. See docs/hpc.md."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``h2lo-slurm``."""
    parser = Parser(
        prog="h2lo-slurm",
        usage="h2lo-slurm [options] bids_dir out_dir analysis_level [options of h2lo]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"h2lo-slurm {__version__}")
    add("--submit", action="store_true", help="submit the scripts as soon as they are written")
    add("--all", action="store_true", help="submit also the tasks that are done")
    add("--failures", type=Path, metavar="DIR", help="write the table of failures of a run, only")
    _add_task(parser)
    _add_array(parser)
    _add_start(parser)
    add("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _add_task(parser: argparse.ArgumentParser) -> None:
    """Add what sbatch gives each task."""
    group = parser.add_argument_group("of each task, as sbatch takes them")
    for name, metavar in (
        ("time", "TIME"),
        ("mem", "SIZE"),
        ("partition", "NAME"),
        ("account", "NAME"),
    ):
        group.add_argument(f"--{name}", metavar=metavar)
    group.add_argument("--cpus", type=convert.integer(1), metavar="N", help="processors")
    group.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="=--OPTION",
        help="any other, as --sbatch=--gres=gpu:1",
    )


def _add_array(parser: argparse.ArgumentParser) -> None:
    """Add what concerns the array as a whole."""
    group = parser.add_argument_group("the array")
    group.add_argument(
        "--throttle", type=convert.integer(1), metavar="N", help="tasks that may run at once"
    )
    group.add_argument(
        "--max-array",
        type=convert.integer(1),
        default=1000,
        metavar="N",
        help="elements of one array; the cluster's MaxArraySize less one (default: 1000)",
    )
    group.add_argument(
        "--requeue",
        action="store_true",
        help="put a task back into the queue when its time is up or its machine fails; it goes on "
        "where it was",
    )
    group.add_argument(
        "--max-requeues",
        type=convert.integer(1),
        default=10,
        metavar="N",
        help="how often at most (default: 10)",
    )
    group.add_argument(
        "--warn",
        type=convert.integer(1),
        default=60,
        metavar="SECONDS",
        help="before the time is up, for a fit to end its step and save (default: 60)",
    )
    group.add_argument(
        "--scratch",
        metavar="DIR",
        help="where each participant's task has its work folder, such as /scratch/me or '$TMPDIR' "
        "of the machine it runs on; removed when all went well (default: h2lo's own -w)",
    )


def _add_start(parser: argparse.ArgumentParser) -> None:
    """Add how a task starts h2lo."""
    group = parser.add_argument_group("how h2lo is started")
    group.add_argument("--image", type=convert.path, metavar="SIF", help="container image")
    group.add_argument(
        "--runtime",
        default="apptainer",
        metavar="PROGRAM",
        help="or singularity (default: apptainer)",
    )
    group.add_argument(
        "--bind",
        action="append",
        default=[],
        metavar="SRC[:DST[:OPTS]]",
        help="further paths for the container; those on the command line are bound already",
    )
    group.add_argument(
        "--setup",
        action="append",
        default=[],
        metavar="LINE",
        help="shell first, as 'module load x'",
    )
