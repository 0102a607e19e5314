"""The command line: a parser for each level, and the words and TOML files that they read.

Imports nothing heavy, so that help and refusals come at once.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import bids_app_spec
from h2lo_bids import __version__
from h2lo_bids.errors import MissingInputError, UnknownLevelError, UsageError
from h2lo_bids.io import read_text
from h2lo_bids.settings import GROUPS, OPTIONS, Settings, convert
from h2lo_bids.settings.options import PAIRS, Option, options_of
from h2lo_bids.vocabulary import ENHANCE, LEVEL_ALIASES, LEVELS
from h2lo_bids.wording import did_you_mean

SUMMARY = "Low-field MRI synthesized from high-field MRI with a neural operator."
ABOUT = {
    "participant": "synthesize the low-field partner of each high-field scan; --task enhance: "
    "enhance low-field scans; --pairs: prepare pairs for group or evaluate",
    "group": "fit, cross-validate and package a model of paired scans; alias: train; "
    "--task enhance: an enhancer",
    "evaluate": "score models on paired scans",
    "benchmark": "fit and score every method on the same folds: Table 1 of the paper; --task "
    "enhance: the enhancer with and without synthetic pairs: Table 2",
    "trial": "virtual trial: predict which lesions of --labels each --condition's scanner shows",
}
INTERRUPTED = 130
EXIT_CODES = {
    0: "all scans done",
    1: "some scans failed, the rest are complete",
    16: "the input is not valid BIDS",
    17: "unknown analysis level",
    18: "the filters matched no scan",
    64: "wrong usage",
    65: "no scan could be used",
    66: "an input cannot be read",
    73: "an output cannot be created",
    74: "reading or writing failed, for example on a full disk",
    75: "out of memory, killed or hung up; try again",
    INTERRUPTED: "interrupted from the keyboard",
    143: "stopped by SIGTERM",
}
_REPLACED = {
    "--trunk": "--method h2lo-mlp, whose trunk has ReLU instead of sines",
    "--epochs": "--steps: a pass over the training pairs is their number divided by --batch",
    "--max-memory": "--mem",
    "--methods": "--method",
    "--arms": "--arm",
    "--cohort": "--pretrain-derivatives",
    "--output-spec": "--dry-run",
    "--use-plugin": "--nprocs here, or h2lo-slurm on a cluster",
    "--write-graph": "-v, which prints each step",
    "--boutiques": "the file bids_app_spec/boutiques.json",
    "--json": "h2lo methods, which prints text",
}
"""Options of earlier versions, and what is given in their place."""
_SPELLINGS = {
    "--n-cpus": "--nprocs",
    "--nthreads": "--nprocs",
    "--mem-gb": "--mem",
    "--mem-mb": "--mem",
}
"""What options are called by other BIDS Apps."""
_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit code 64."""

    replaced: Mapping[str, str] = _REPLACED

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the whole usage; name what was probably meant."""
        raise UsageError(f"{message}{self._meant(message) or f'; see {self.prog} --help'}")

    def _meant(self, message: str) -> str:
        """Return the option or value that is closest to the one that is not known."""
        if message.startswith("unrecognized arguments: "):
            words = message.split()[2:]
            if not words:
                return "an empty word, as of a variable that is not set; leave it out"
            if words[0] in LEVELS:
                return "; run one analysis level per call: each has its own options and exit code"
            unknown = [word.partition("=")[0] for word in words if word[0] == "-"]
            if unknown and unknown[0] in self.replaced:
                return f"; {unknown[0]} is no longer an option; use {self.replaced[unknown[0]]}"
            return did_you_mean(unknown[0], self._option_string_actions) if unknown else ""
        choice = _CHOICE.search(message)
        if "arguments are required" in message or (
            choice and choice[1] in (*LEVELS, *LEVEL_ALIASES)
        ):
            return (
                "; give positional arguments before the options, some of which take all words up "
                f"to the next option; see {self.prog} --help"
            )
        return did_you_mean(choice[1], re.findall(r"'([^']*)'", choice[2])) if choice else ""


def build_parser(level: str | None = None) -> Parser:
    """Return the parser of a level, or of the options of all; what is not given is absent."""
    parser = _new_parser(
        f"h2lo {level}" if level else "h2lo",
        f"h2lo bids_dir out_dir {level or 'LEVEL'} [options]",
        textwrap.fill(ABOUT[level], 90) if level else SUMMARY,
    )
    add = parser.add_argument
    add("bids_dir", type=convert.path, help="folder of the input dataset; never written")
    add(
        "out_dir",
        type=convert.place,
        help="folder of the derivative dataset, outside bids_dir or in its derivatives/NAME",
    )
    add("level", metavar="analysis_level", help=f"{', '.join(LEVELS[:-1])} or {LEVELS[-1]}")
    for title, declared in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options_of(declared):
            taken = (mode.partition(" ") for mode in option.modes)
            modes = [others for taker, _, others in taken if level in (None, taker)]
            only = "" if level is None or "" in modes else f" [with {' or '.join(modes)}]"
            if modes:
                _add(group, option, option.text + only)
    group.add_argument(
        "--config-file",
        type=convert.path,
        metavar="FILE",
        help="TOML with any of these options; the command line wins",
    )
    return parser


def build_short_parser() -> Parser:
    """Return the parser whose help is that of ``h2lo --help``: levels and the common options."""
    levels = "\n".join(
        textwrap.fill(f"{level:<13}{text}", 92, initial_indent="  ", subsequent_indent=" " * 15)
        for level, text in ABOUT.items()
    )
    usage = (
        "h2lo bids_dir out_dir LEVEL [options]\n       h2lo LEVEL --help    all options of a "
        "level\n       h2lo methods         methods to fit and apply\n"
        "       h2lo outputs         name patterns of all outputs"
    )
    parser = _new_parser("h2lo", usage, f"{SUMMARY}\n\nlevels:\n{levels}")
    group = parser.add_argument_group("common options")
    for option in OPTIONS.values():
        if option.common:
            _add(group, option, option.text)
    return parser


def _new_parser(prog: str, usage: str, description: str) -> Parser:
    """Return a parser that lists the exit codes and takes no argument but ``--version``."""
    codes = "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
    parser = Parser(
        prog=prog,
        usage=usage,
        description=description,
        epilog="exit codes:\n" + textwrap.indent(textwrap.fill(f"{codes}.", 76), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"h2lo {__version__}")
    return parser


def _add(group: argparse._ArgumentGroup, option: Option, text: str) -> None:
    flags = [*filter(None, [option.short]), option.flag]
    given: dict[str, Any] = {"dest": option.name, "help": text}
    if option.name == "verbose":
        given["action"] = "count"
    elif option.nargs == 0:
        given["action"] = "store_true"
    else:
        kind, metavar = option.values or (None, None)
        given |= {"type": kind, "metavar": metavar, "choices": option.choices}
    if option.nargs == "+":
        given |= {"action": "extend", "nargs": "+"}
    group.add_argument(*flags, **given)


def _parse(words: Sequence[str]) -> dict[str, Any]:
    """Return what words give; several values, each once, in a tuple."""
    given = vars(build_parser().parse_args(words))
    for name, values in given.items():
        if isinstance(values, list):  # whose readers may have made several of one
            every = [item for one in values for item in (one if isinstance(one, list) else [one])]
            # Two conditions may have a value in common.
            given[name] = tuple(every if name == "condition" else dict.fromkeys(every))
    return given


def read_settings(argv: Sequence[str]) -> Settings:
    """Read the command line, and the configuration file that it names; the former wins."""
    words = [*_spelled(argv)]
    if {"-h", "--help"} & set(words):
        level = next((word for word in words if word in (*LEVELS, *LEVEL_ALIASES)), None)
        parser = build_parser(canonical(level)) if level else build_short_parser()
        parser.parse_args(["--help"])
    given = _parse(words)
    file = given.pop("config_file", None)
    configured = {} if file is None else _read_config(file)
    given = {**configured, **given, "level": canonical(given["level"])}
    mode = _mode(given)
    for option in (OPTIONS[name] for name in given if name in OPTIONS):
        if mode not in option.modes:
            plain = [name for name in option.modes if name in LEVELS]
            takers = [m for m in option.modes if m in plain or m.partition(" ")[0] not in plain]
            raise UsageError(
                f"{f'{file}: ' if option.name in configured else ''}{option.flag} is an option of "
                f"{' and '.join(takers)}; {mode} does not take it"
            )
    return Settings(**given)


def _spelled(words: Iterable[str]) -> Iterator[str]:
    """Yield words with options as they are called here; --notrack goes, as nothing is tracked."""
    before = ""
    for word in words:
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
        unit = "M" if "--mem-mb" in (before, name) and word[-1:].isdigit() else ""
        before = name + equals + value
        if before != "--notrack":
            yield _SPELLINGS.get(name, name) + equals + value + unit


def canonical(level: str) -> str:
    """Return the name of a level that may be given by an alias."""
    level = LEVEL_ALIASES.get(level, level)
    if level not in LEVELS:
        known = [*LEVELS, *LEVEL_ALIASES]
        meant = did_you_mean(level, known) or f"; use {', '.join(known)}"
        raise UnknownLevelError(f"analysis level {level!r} is unknown{meant}")
    return level


def _mode(given: Mapping[str, Any]) -> str:
    """Return the mode of a level, which decides what else it takes."""
    level = str(given["level"])
    if given.get("pairs") and level == "participant":
        return PAIRS
    enhances = given.get("task") == ENHANCE and level != "evaluate"
    return f"{level} --task {ENHANCE}" if enhances else level


def _read_config(path: Path) -> dict[str, Any]:
    """Read a TOML file as if its keys were options on a command line."""
    try:
        table = tomllib.loads(read_text(path))
    except OSError as err:
        raise MissingInputError(f"{path}: cannot read the configuration: {err.strerror}") from err
    except (ValueError, RecursionError) as err:
        raise UsageError(f"{path}: not TOML: {' '.join(str(err).split())}") from err
    table.pop("run", None)  # what an earlier run wrote about itself
    values = {option.flag: option.nargs for option in OPTIONS.values()}
    words, known = list[str](), dict[str, str]()
    for key, value in table.items():
        flag = f"--{key.replace('_', '-')}"
        if (other := known.setdefault(_SPELLINGS.get(flag, flag), key)) != key:
            raise UsageError(f"{path}: {other} and {key} are the same option; remove one of them")
        if flag in ("--help", "--version", "--config-file"):
            raise UsageError(f"{path}: {key} is not allowed in a configuration; remove it")
        if key == "verbose" and isinstance(value, int) and value in range(10):
            words += [flag] * value
        elif isinstance(value, bool) or value == []:
            # The parser knows what takes no value, and refuses a name that is unknown.
            nothing = flag in values if value == [] else not value and values.get(flag) == 0
            words += [] if nothing else [flag]
        else:
            words += [flag, *(str(one) for one in (value if isinstance(value, list) else [value]))]
    try:
        given = _parse(["bids", "out", LEVELS[0], *_spelled(words)])
    except UsageError as err:
        raise UsageError(f"{path}: {err}") from err
    return {name: value for name, value in given.items() if name in OPTIONS}


def print_listing(words: Sequence[str]) -> bool:
    """Print what ``h2lo methods`` or ``h2lo outputs`` asks for; False for other words."""
    asked = words[0] if words and all(w[:1] == "-" for w in words[1:]) else ""
    if asked not in ("methods", "outputs"):
        return False
    Parser(prog=f"h2lo {asked}").parse_args(words[1:])  # which takes no option
    if asked == "outputs":
        spec = bids_app_spec.load("io_spec.json")
        patterns = {key: spec[key] for key in ("outputs", "figures", "results")}
        patterns["descriptions"] = bids_app_spec.load("descriptions.tsv")
        print(json.dumps(patterns, indent=2))
    else:
        from h2lo_bids.models.registry import CATALOGUE

        print("\n\n".join("\n".join(_method_lines(entry)) for entry in CATALOGUE.values()))
    return True


def _method_lines(entry: Any) -> Iterator[str]:
    size = f"{entry.parameters:,} parameters"
    if entry.trained is not None:
        size += f", {entry.trained:,} in training"
    yield f"{entry.name}: {entry.title}, {size}"
    for text in (
        f"{entry.reference}, {entry.link}",
        f"exact: {entry.exact}",
        f"ours: {entry.ours}",
    ):
        yield textwrap.fill(
            text, 92, initial_indent="  ", subsequent_indent="    ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
