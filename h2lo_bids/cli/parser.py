"""The parsers, one for each level, and what is printed in place of a run; imports nothing heavy."""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import bids_app_spec
from h2lo_bids import __version__
from h2lo_bids.errors import UsageError
from h2lo_bids.settings import GROUPS, convert
from h2lo_bids.settings.options import Option, options_of
from h2lo_bids.vocabulary import LEVELS
from h2lo_bids.wording import did_you_mean

if TYPE_CHECKING:
    from h2lo_bids.models.catalogue import Entry

SUMMARY = "Low-field MRI synthesized from high-field MRI with a neural operator."
ABOUT = {
    "participant": "synthesize the low-field partner of each high-field scan; --task enhance: "
    "enhance low-field scans; --pairs: prepare pairs for group or evaluate",
    "group": "fit, cross-validate and package a model from paired scans; also: train; "
    "--task enhance: an enhancer",
    "evaluate": "score models on paired scans",
    "benchmark": "fit and score every method on the same folds: Table 1 of the paper; --task "
    "enhance: the enhancer with and without synthetic pairs: Table 2",
    "trial": "a virtual trial: which lesions of --labels scanners of each --condition would show",
}
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
_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit code 64."""

    replaced: Mapping[str, str] = {}
    """Earlier options, and what is given in their place."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the whole usage; name what was probably meant."""
        raise UsageError(f"{message}{self._meant(message) or f'; see {self.prog} --help'}")

    def _meant(self, message: str) -> str:
        """Return the option or value that is closest to the one that is not known."""
        if message.startswith("unrecognized arguments: "):
            unknown = [word.partition("=")[0] for word in message.split() if word[0] == "-"]
            if unknown and unknown[0] in self.replaced:
                return f"; {unknown[0]} is gone: give {self.replaced[unknown[0]]}"
            return did_you_mean(unknown[0], self._option_string_actions) if unknown else ""
        choice = _CHOICE.search(message)
        return did_you_mean(choice[1], re.findall(r"'([^']*)'", choice[2])) if choice else ""


class _Collect(argparse.Action):
    """Gather the values of a repeated option, each once, in a tuple."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Add values; a reader that returns a list adds several."""
        new = [item for one in values for item in (one if isinstance(one, list) else [one])]
        earlier = getattr(namespace, self.dest, ())
        # Two conditions may have a value in common.
        both = [*earlier, *new]
        each = both if self.dest == "condition" else dict.fromkeys(both)
        setattr(namespace, self.dest, tuple(each))


class _PrintDescriptor(argparse.Action):
    """Print the Boutiques descriptor, which `docs/make_usage.py` writes from the options."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> NoReturn:
        """Print, and end the program."""
        print(json.dumps(bids_app_spec.load("boutiques.json"), indent=2, ensure_ascii=False))
        raise SystemExit(0)


def build_parser(level: str | None = None) -> Parser:
    """Return the parser of a level, or of the options of all; what is not given is absent."""
    parser = Parser(
        prog=f"h2lo {level}" if level else "h2lo",
        usage=f"h2lo bids_dir out_dir {level or 'LEVEL'} [options]",
        description=textwrap.fill(ABOUT[level], 90) if level else SUMMARY,
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("bids_dir", type=convert.path, help="folder of the input dataset; never written")
    add(
        "out_dir",
        type=convert.place,
        help="folder of the derivative dataset, outside bids_dir or in its derivatives/NAME",
    )
    add("level", metavar="analysis_level", help=f"{', '.join(LEVELS[:-1])} or {LEVELS[-1]}")
    _add_general(parser)
    for title, declared in GROUPS.items():
        group = None
        for option in options_of(declared):
            if level is not None and level not in levels_of(option):
                continue
            group = group or parser.add_argument_group(title)
            _add(group, option, option.text + ("" if level is None else _only(option, level)))
    (group or parser).add_argument(
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
    parser = Parser(
        prog="h2lo",
        usage="h2lo bids_dir out_dir LEVEL [options]\n       h2lo LEVEL --help    all options of a "
        "level\n       h2lo methods         what can be fitted and applied\n"
        "       h2lo outputs         the pattern of every output",
        description=f"{SUMMARY}\n\nlevels:\n{levels}",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_general(parser)
    group = parser.add_argument_group("common options")
    for declared in GROUPS.values():
        for option in options_of(declared):
            if option.common:
                _add(group, option, option.text)
    return parser


def levels_of(option: Option) -> tuple[str, ...]:
    """Return the levels that take an option, in one of their modes."""
    return tuple(dict.fromkeys(mode.partition(" ")[0] for mode in option.modes))


def refuse(option: Option, mode: str) -> NoReturn:
    """Raise that a level, or a mode of it, does not take an option, with those that do."""
    plain = [mode for mode in option.modes if mode in LEVELS]
    takers = [m for m in option.modes if m in plain or m.partition(" ")[0] not in plain]
    raise UsageError(
        f"{option.flag} is an option of {' and '.join(takers)}; {mode} does not take it"
    )


def _only(option: Option, level: str) -> str:
    """Return in which modes of its level an option is taken, unless it is taken without any."""
    modes = [mode.partition(" ")[2] for mode in option.modes if mode.partition(" ")[0] == level]
    return "" if "" in modes else f" [with {' or '.join(modes)}]"


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
        given |= {"action": _Collect, "nargs": "+"}
    group.add_argument(*flags, **given)
    for flag, reader in option.synonyms.items():
        group.add_argument(
            flag, **{**given, "type": reader or given["type"], "help": argparse.SUPPRESS}
        )


def _add_general(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action="version", version=f"h2lo {__version__}")
    parser.add_argument(
        "--boutiques",
        action=_PrintDescriptor,
        nargs=0,
        help="print the Boutiques descriptor of this program, and exit",
    )


def _epilog() -> str:
    codes: Iterable[str] = (f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
    return "exit codes:\n" + textwrap.fill(
        "; ".join(codes) + ".", width=78, initial_indent="  ", subsequent_indent="  "
    )


def find_listing(words: Sequence[str]) -> Callable[[Sequence[str]], int] | None:
    """Return what prints a listing; in front of an output folder its name is a dataset."""
    if not words or not all(word.startswith("-") for word in words[1:]):
        return None
    return {"methods": list_methods, "outputs": list_outputs}.get(words[0])


def list_methods(words: Sequence[str]) -> int:
    """Print the methods; return the exit code."""
    from h2lo_bids.models.catalogue import CATALOGUE

    parser = Parser(prog="h2lo methods", allow_abbrev=False)
    parser.description = (
        "List the methods that --method takes: title, parameters, paper, what is exact and what "
        "is our choice."
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    if parser.parse_args(words).json:
        print(json.dumps([entry.to_dict() for entry in CATALOGUE.values()], indent=2))
    else:
        print("\n\n".join("\n".join(_method_lines(entry)) for entry in CATALOGUE.values()))
    return 0


def list_outputs(words: Sequence[str]) -> int:
    """Print what ``io_spec.json`` holds about outputs; return the exit code."""
    parser = Parser(prog="h2lo outputs", allow_abbrev=False)
    parser.description = (
        "Print the patterns of all outputs as JSON; --output-spec lists the files of one run."
    )
    parser.parse_args(words)
    spec = bids_app_spec.load("io_spec.json")
    patterns = {key: spec[key] for key in ("outputs", "figures", "results")}
    patterns["descriptions"] = bids_app_spec.load("descriptions.tsv")
    print(json.dumps(patterns, indent=2))
    return 0


def _method_lines(entry: Entry) -> Iterator[str]:
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
