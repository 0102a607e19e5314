"""``h2lo-phantom``: simulate paired high- and low-field heads as a BIDS dataset."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from h2lo_bids import __version__
from h2lo_bids.cli.console import complain
from h2lo_bids.cli.parser import INTERRUPTED, Parser
from h2lo_bids.errors import H2loError, TemporaryError
from h2lo_bids.settings.convert import integer, number
from h2lo_bids.vocabulary import CONTRASTS

_ACQUISITIONS = ("axi", "cor", "sag", "iso")
_NUMBERS: tuple[tuple[str, str, Any, float, str], ...] = (
    ("--subjects", "N", integer(1), 1, "number of subjects"),
    ("--seed", "S", integer(0, 2**63), 0, "random seed"),
    ("--resolution", "MM", number(0.5, 4), 1.0, "voxel size of the 3 T scans, 0.5 to 4; 2 or more "
     "is fast, 0.5 takes 8 GB of memory"),
    ("--lesions", "N", integer(0), 0, "balls of lesion tissue at random white-matter places of "
     "each subject; derivatives/h2lo-phantom gets their mask"),
    ("--lesion-severity", "S", number(0, 2), 1.0, "T1, T2 and proton density of lesions, between "
     "white matter (0) and multiple sclerosis (1), or beyond; the mask's sidecar has the contrast"),
)  # fmt: skip
"""Flag, what its value is called, type, default and help."""
_REPLACED = {
    "--negative-signal": "h2lo-phantom without it: low-field T1w scans show a fifth of the "
    "inverted fluid signal",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``h2lo-phantom``."""
    parser = Parser(
        prog="h2lo-phantom",
        allow_abbrev=False,
        description="Simulate paired 3 T and 64 mT brain MRI as a BIDS dataset in the style of "
        "OpenNeuro ds006557. The same command makes the same bytes.",
    )
    parser.replaced = _REPLACED
    add = parser.add_argument
    add("out", metavar="OUT", type=Path, help="folder to create, or an empty one")
    for flag, metavar, kind, default, text in _NUMBERS:
        words = f"{text} (default: {default:g})"
        add(flag, metavar=metavar, type=kind, default=default, help=words)
    labels = "FreeSurfer label maps of whole heads (default: the tissue maps nilearn ships)"
    add("--labels", metavar="DIR", type=Path, help=labels)
    add("--contrast", nargs="+", choices=CONTRASTS, default=[*CONTRASTS], help="default: both")
    lf = "low-field acquisitions (default: all; --lf alone: no low-field session)"
    add("--lf", nargs="*", choices=_ACQUISITIONS, default=[*_ACQUISITIONS], help=lf)
    place: dict[str, Any] = {"metavar": ("X", "Y", "Z"), "nargs": 3, "type": float}
    at = "additional lesion at this place, in mm of the 3 T images; repeatable"
    add("--lesion-at", **place, action="append", default=[], help=at)
    diameter = "diameters of lesions, taken in turn (default: 6)"
    side = number(1, 40)
    add("--lesion-diameter", metavar="MM", nargs="+", type=side, default=[6.0], help=diameter)
    add("--version", action="version", version=f"h2lo-phantom {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``h2lo-phantom`` and return its exit code."""
    from h2lo_bids.phantom.dataset import Plan, make_dataset
    from h2lo_bids.phantom.lesions import LesionPlan

    try:
        options = vars(build_parser().parse_args(argv))
        options["contrasts"] = tuple(dict.fromkeys(options.pop("contrast")))
        options["acquisitions"] = tuple(dict.fromkeys(options.pop("lf")))
        lesions = LesionPlan(
            options.pop("lesions"),
            tuple(options.pop("lesion_diameter")),
            tuple(tuple(place) for place in options.pop("lesion_at")),
            options.pop("lesion_severity"),
        )
        plan = Plan(**options, lesions=lesions)
        make_dataset(plan, lambda line: print(line, flush=True))
    except H2loError as err:
        return complain("h2lo-phantom", str(err), err.exit_code)
    except MemoryError:
        text = "memory ran out; give a larger --resolution, or use a machine with more of it"
        return complain("h2lo-phantom", text, TemporaryError.exit_code)
    except KeyboardInterrupt:
        text = "interrupted; delete what is in OUT, or name another folder, and run again"
        return complain("h2lo-phantom", text, INTERRUPTED)
    print(f"dataset: {plan.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
