"""``h2lo-phantom``: simulate paired high- and low-field heads as a BIDS dataset."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from h2lo_bids import __version__
from h2lo_bids.cli.parser import Parser
from h2lo_bids.errors import H2loError
from h2lo_bids.vocabulary import CONTRASTS


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``h2lo-phantom``."""
    parser = Parser(
        prog="h2lo-phantom",
        allow_abbrev=False,
        description="Simulate paired 3 T and 64 mT brain MRI as a BIDS dataset in the style of "
        "OpenNeuro ds006557. The same command makes the same bytes.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to create, or an empty one")
    parser.add_argument(
        "--subjects", metavar="N", type=int, default=1, help="number of people (default: 1)"
    )
    parser.add_argument(
        "--labels",
        metavar="DIR",
        type=Path,
        help="FreeSurfer label maps of whole heads (default: the tissue maps nilearn ships)",
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--resolution",
        metavar="MM",
        type=float,
        default=1.0,
        help="voxel size of the 3 T scans, 0.5 to 4 (default: 1; 2 or more is quick)",
    )
    parser.add_argument(
        "--contrast",
        nargs="+",
        choices=CONTRASTS,
        default=[*CONTRASTS],
        help="default: both",
    )
    parser.add_argument(
        "--lf",
        nargs="*",
        choices=("axi", "cor", "sag", "iso"),
        default=["axi", "cor", "sag", "iso"],
        help="low-field acquisitions (default: all; nothing after --lf: no low-field session)",
    )
    parser.add_argument(
        "--negative-signal",
        metavar="SHARE",
        type=float,
        default=0.2,
        help="share of inverted fluid signal that low-field T1w scans show: 1 magnitude image, "
        "0 phase-sensitive image (default: 0.2, between the two as real scans are)",
    )
    _add_lesions(parser.add_argument_group("lesions"))
    parser.add_argument("--version", action="version", version=f"h2lo-phantom {__version__}")
    return parser


def _add_lesions(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--lesions",
        metavar="N",
        type=int,
        default=0,
        help="balls of lesion tissue at random white-matter places of each person; their mask is "
        "written to derivatives/h2lo-phantom (default: 0)",
    )
    group.add_argument(
        "--lesion-at",
        metavar=("X", "Y", "Z"),
        nargs=3,
        type=float,
        action="append",
        default=[],
        help="one more at this place, in mm of the 3 T images; may be given several times",
    )
    group.add_argument(
        "--lesion-diameter",
        metavar="MM",
        nargs="+",
        type=float,
        default=[6.0],
        help="their diameters, taken in turn (default: 6)",
    )
    group.add_argument(
        "--lesion-severity",
        metavar="S",
        type=float,
        default=1.0,
        help="their T1, T2 and proton density on the line from white matter (0) to multiple "
        "sclerosis (1, the default); the mask's sidecar holds the contrast that follows",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``h2lo-phantom`` and return its exit code."""
    from h2lo_bids.phantom.dataset import make_dataset
    from h2lo_bids.phantom.lesions import LesionPlan

    try:
        options = build_parser().parse_args(argv)
        lesions = LesionPlan(
            options.lesions,
            tuple(options.lesion_diameter),
            tuple(tuple(place) for place in options.lesion_at),
            options.lesion_severity,
        )
        out = make_dataset(
            options.out,
            subjects=options.subjects,
            seed=options.seed,
            resolution=options.resolution,
            contrasts=tuple(dict.fromkeys(options.contrast)),
            acquisitions=tuple(dict.fromkeys(options.lf)),
            labels=options.labels,
            negative_kept=options.negative_signal,
            lesions=lesions,
            progress=lambda line: print(line, flush=True),
        )
    except H2loError as err:
        print(f"h2lo-phantom: error: {err}", file=sys.stderr)
        return err.exit_code
    print(f"dataset: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
