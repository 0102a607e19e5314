"""The command line, as text and as types; imports nothing heavy."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

import bids_app_spec
from h2lo_bids import __version__
from h2lo_bids.cli import convert
from h2lo_bids.cli.parser_base import Parser
from h2lo_bids.cli.parser_benchmark import BENCHMARK, add_benchmark
from h2lo_bids.cli.parser_enhance import ENHANCEMENT, add_enhancement
from h2lo_bids.cli.parser_lowfield import add_lowfield
from h2lo_bids.cli.parser_training import add_fitting, add_folds, add_pairs
from h2lo_bids.settings import ALL, default_of
from h2lo_bids.vocabulary import METHODS, PRECISIONS, SKULL_STRIP, TASKS

DESCRIPTION = """Low-field MRI synthesized from high-field MRI with a neural operator.

analysis levels:
  participant  synthesize the low-field partner of each high-field scan; --task enhance: enhance
               low-field scans
  group        fit, cross-validate and package a model from paired scans; also: train
  evaluate     score models on paired scans
  benchmark    fit and score every method on the same folds: Table 1 of the paper; --task enhance:
               the enhancer with and without synthetic pairs: Table 2"""
_EVALUATION = """evaluate takes the options of pairs above and any number of --model, several of a
contrast too; without --model it scores the embedded models."""
EXIT_CODES = {
    0: "all scans done",
    1: "some scans failed, the rest is complete",
    16: "the input is not valid BIDS",
    17: "unknown analysis level",
    18: "the filters matched no scan",
    64: "wrong usage",
    65: "no scan could be used",
    66: "an input cannot be read",
    73: "an output cannot be created",
    74: "reading or writing failed, for example on a full disk",
    75: "out of memory or killed, try again",
    130: "interrupted from the keyboard",
    143: "stopped by SIGTERM",
}
EPILOG = "exit codes:\n" + textwrap.fill(
    "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
    width=78,
    initial_indent="  ",
    subsequent_indent="  ",
)


class _PrintDescriptor(argparse.Action):
    """Print the Boutiques descriptor, which `docs/make_usage.py` writes from the parser."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> NoReturn:
        """Print, and end the program."""
        print(json.dumps(bids_app_spec.load("boutiques.json"), indent=2, ensure_ascii=False))
        parser.exit()


def build_parser() -> Parser:
    """Return the parser of ``h2lo``; options that are not given are absent from its result."""
    parser = Parser(
        prog="h2lo",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument(
        "bids_dir", type=convert.path, help="folder of the input dataset; never written"
    )
    parser.add_argument(
        "out_dir",
        type=convert.place,
        help="folder of the derivative dataset, outside bids_dir or in its derivatives/NAME",
    )
    parser.add_argument(
        "level", metavar="analysis_level", help="participant, group, evaluate or benchmark"
    )
    parser.add_argument("--version", action="version", version=f"h2lo {__version__}")
    parser.add_argument(
        "--boutiques",
        action=_PrintDescriptor,
        nargs=0,
        help="print the Boutiques descriptor of this program, and exit",
    )
    _selection(parser.add_argument_group("which scans"))
    _method(parser.add_argument_group("method"))
    _outputs(parser.add_argument_group("outputs"))
    add_pairs(parser.add_argument_group("which pairs"))
    add_fitting(parser.add_argument_group("fitting"))
    add_folds(parser.add_argument_group("cross-validation"))
    add_benchmark(parser.add_argument_group("benchmark", BENCHMARK))
    add_enhancement(parser.add_argument_group("enhancement", ENHANCEMENT))
    parser.add_argument_group("evaluation", _EVALUATION).add_argument(
        "--realism-reference",
        nargs="+",
        action="extend",
        type=convert.reference,
        metavar="[T1w=|T2w=]IMAGE",
        help="real low-field scans without partner, whose tissue levels, noise, spectrum and "
        "histogram the synthesized images are compared with; the contrast may stand in the "
        "file's name (_T1w.nii.gz)",
    )
    _resources(parser.add_argument_group("resources"))
    _run(parser.add_argument_group("the run"))
    return parser


def _selection(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--participant-label",
        nargs="+",
        action="extend",
        type=convert.label("sub"),
        metavar="LABEL",
        help="only these participants, with or without sub-",
    )
    add(
        "--session-label",
        nargs="+",
        action="extend",
        type=convert.label("ses"),
        metavar="LABEL",
        help="only these sessions, with or without ses-",
    )
    add(
        "--bids-filter-file",
        type=convert.path,
        metavar="FILE",
        help='JSON of {"t1w": {ENTITY: VALUE}, "t2w": {…}}; null means absent, "*" means any',
    )
    add(
        "--filter",
        nargs="+",
        action="extend",
        type=convert.pair,
        metavar="ENTITY=VALUE",
        help="only scans with these entities: acq=MPRAGE, run=1,2 (either), rec= (absent), "
        "ses=* (present)",
    )
    add(
        "--all-scans",
        action="store_true",
        help="use every matching scan of a session, not only the preferred one of each contrast",
    )
    add(
        "--bids-database-dir",
        type=convert.place,
        metavar="DIR",
        help="where to keep the index of a large dataset between runs; remade when out of date",
    )
    add("--skip-bids-validation", action="store_true", help="do not check the input's layout first")
    add(
        "-d",
        "--derivatives",
        nargs="+",
        action="extend",
        type=convert.named_path("NAME"),
        metavar="NAME=PATH",
        help="derivative datasets: brain masks in them are used instead of computed ones, "
        "low-field images instead of raw ones",
    )


def _method(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--task",
        choices=TASKS,
        help="synthesize: from high field to low field; enhance: from low field to high field, "
        "with models that `group --task enhance` fits " + _default("task"),
    )
    add(
        "--method",
        "--methods",
        nargs="+",
        action="extend",
        choices=(*METHODS, ALL),
        help="group and benchmark: what is fitted; the first becomes the final model, and what the "
        "others are tested against (default: h2lo; benchmark: all); participant and evaluate: "
        "which of the models in the folder that --model names; `h2lo methods` lists them",
    )
    add(
        "--model",
        nargs="+",
        action="extend",
        type=convert.model,
        metavar="[T1w=|T2w=]PATH",
        help="model bundle, a folder that holds several, or a .pth file of the authors' release; "
        "default: the embedded model of each contrast, trained on simulated pairs",
    )
    add(
        "--skull-strip",
        choices=SKULL_STRIP,
        help="how the brain is found; skip: the input is brain already " + _default("skull_strip"),
    )
    add(
        "--synthstrip-weights",
        type=convert.path,
        metavar="FILE",
        help="FreeSurfer's synthstrip.1.pt; default: $FREESURFER_HOME/models, if there",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        help="bf16 is within 60 dB of fp32, and faster where the processor multiplies in it "
        "(lscpu: amx_bf16, avx512_bf16), elsewhere far slower; fp16 is for fitting on a GPU "
        "(default: fp32; group: bf16 where that is faster)",
    )
    add(
        "--random-seed",
        type=convert.integer(0, 2**63 - 1),
        metavar="N",
        help="random seed " + _default("random_seed"),
    )
    add(
        "--sloppy",
        action="store_true",
        help="coarse registration, and bf16 where the processor multiplies in it: for trying "
        "things out, not for results",
    )


def _outputs(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--output-spaces",
        nargs="+",
        action="extend",
        type=convert.space,
        metavar="SPACE",
        help="further grids of the low-field image: model (the model's own frame) or a "
        "TemplateFlow space such as MNI152NLin2009cAsym:res-1; native, the scan's own grid, is "
        "always written",
    )
    add(
        "--template-file",
        type=convert.path,
        metavar="FILE",
        help="T1w image of the template space, instead of TemplateFlow's",
    )
    add(
        "--fetch-templates",
        action="store_true",
        help="let TemplateFlow's client fetch a missing template; the only use of the network",
    )
    add_lowfield(group)


def _resources(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--nprocs",
        type=convert.integer(1),
        metavar="N",
        help="number of processors (default: all that this process may use)",
    )
    add(
        "--omp-nthreads",
        type=convert.integer(1),
        metavar="N",
        help="threads per step (default: --nprocs, at most 4)",
    )
    add(
        "--mem",
        type=convert.memory,
        metavar="GB",
        help="memory limit of the run, such as 8 or 8000M (default: what this machine or its "
        "control group has free)",
    )
    add(
        "--device",
        type=convert.device,
        metavar="auto|cpu|cuda[:i]",
        help="where the operator runs; the CPU takes over when the GPU's memory is full "
        + _default("device"),
    )
    add(
        "-w",
        "--work-dir",
        type=convert.place,
        metavar="DIR",
        help="folder of intermediate results, from which a later run resumes; outside bids_dir "
        "(default: .h2lo-work in out_dir)",
    )
    add(
        "--clean-workdir",
        action="store_true",
        help="delete the intermediate results of each participant once all is done",
    )
    add(
        "--use-plugin",
        type=convert.path,
        metavar="FILE",
        help="YAML with a Nipype plugin and plugin_args, instead of the built-in one",
    )


def _run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--config-file",
        type=convert.path,
        metavar="FILE",
        help="TOML with any of these options; the command line wins",
    )
    add(
        "--dry-run",
        action="store_true",
        help="print what would be read and written, and touch nothing; exits as the run would, as "
        "far as that is known before it: 1 if some scans cannot be used",
    )
    add(
        "--output-spec",
        action="store_true",
        help="print every file that the run would write as JSON, and touch nothing; as the only "
        "argument of h2lo: the patterns of all outputs",
    )
    add(
        "--reports-only",
        action="store_true",
        help="assemble the reports again from what is in out_dir",
    )
    add("--stop-on-first-crash", action="store_true", help="give up at the first failure")
    add("--write-graph", action="store_true", help="write each workflow's graph to logs")
    add(
        "-v",
        "--verbose",
        action="count",
        help="print each step and its time; -vv also logs Nipype's debugging messages",
    )


def _default(name: str) -> str:
    return f"(default: {default_of(name)})"


def normalise_argv(argv: Sequence[str]) -> list[str]:
    """Let ``--participant_label`` pass for ``--participant-label``."""
    words = []
    for word in argv:
        name, equals, value = word.partition("=")
        words.append(name.replace("_", "-") + equals + value if name.startswith("--") else word)
    return words
