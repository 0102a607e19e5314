"""From the words of a command line and a configuration file to `Settings`."""

from __future__ import annotations

import math
import re
import shlex
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from h2lo_bids.cli.parser import build_parser, build_short_parser, levels_of, refuse
from h2lo_bids.errors import MissingInputError, UnknownLevelError, UsageError
from h2lo_bids.io import read_text
from h2lo_bids.settings import OPTIONS, Settings
from h2lo_bids.settings.options import PAIRS, Option
from h2lo_bids.vocabulary import ENHANCE, LEVEL_ALIASES, LEVELS
from h2lo_bids.wording import did_you_mean

_ARGUMENTS = ("bids_dir", "out_dir", "analysis_level")
_REPLACED = {
    "--trunk": "--method h2lo-mlp, whose trunk has ReLU instead of sines",
    "--epochs": "--steps: a pass over the training pairs is their number divided by --batch",
    "--max-memory": "--mem, which at group and benchmark also ends a fit that holds more than "
    "its share",
}
"""Earlier spellings, and what is given in their place."""
_IGNORED = ("--notrack",)
"""What other BIDS Apps take, and is true here anyway: nothing is tracked."""
_GENERAL = ("--version", "--boutiques", "-h", "--help", "--config-file")
_SPELLINGS = {
    spelling: option
    for option in OPTIONS.values()
    for spelling in (option.flag, option.short, *option.synonyms)
    if spelling
}
_MOST_VERBOSE = 9


def read_settings(argv: Sequence[str]) -> Settings:
    """Read the command line, and the configuration file that it names; the former wins."""
    words = normalise_argv(argv)
    free, runs = _divide(words)
    _help(words, free)
    _check_names(run[0] for run in runs)
    level = _find_level(free, runs)
    for option in _options(run[0] for run in runs):
        if level not in levels_of(option):
            refuse(option, level)
    parser = build_parser(level)
    given = vars(parser.parse_args(words))
    config = given.pop("config_file", None)
    given["level"] = level
    if config is not None:
        given = {**_read_config(config, level), **given}
    mode = _mode(level, given)
    for option in (OPTIONS[name] for name in given if name in OPTIONS):
        if mode not in option.modes:
            refuse(option, mode)
    return Settings(**given)


def normalise_argv(argv: Sequence[str]) -> list[str]:
    """Let ``--participant_label`` pass for ``--participant-label``, and leave out the ignored."""
    words = []
    for word in argv:
        name, equals, value = word.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        if name not in _IGNORED:
            words.append(name + equals + value)
    return words


def _divide(words: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the words that no option takes, and each option with its values, as argparse would."""
    free: list[str] = []
    runs: list[list[str]] = []
    room: float = 0
    for number, word in enumerate(words):
        if word == "--":  # only arguments follow
            return [*free, *words[number + 1 :]], runs
        if word[:1] == "-" and not re.match(r"-\d|-?$", word):
            name, equals, _ = word.partition("=")
            known = _SPELLINGS.get(name)
            nargs = known.nargs if known else None if name == "--config-file" else 0
            room = 0 if equals else math.inf if nargs == "+" else 1 if nargs is None else 0
            runs.append([word])
        elif room > 0:
            room -= 1
            runs[-1].append(word)
        else:
            free.append(word)
    return free, runs


def _help(words: Sequence[str], free: Sequence[str]) -> None:
    """Print what is asked for instead of a run, and end the program: help of a level, or short."""
    if {"-h", "--help"} & set(words):
        level = next((word for word in free if word in (*LEVELS, *LEVEL_ALIASES)), None)
        parser = build_parser(canonical(level)) if level else build_short_parser()
        parser.parse_args(["--help"])
    for flag in ("--version", "--boutiques"):
        if flag in words:
            build_short_parser().parse_args([flag])


def _option(word: str) -> Option | None:
    """Return the option that a word names; a short one may have its value attached."""
    name = word.partition("=")[0]
    return _SPELLINGS.get(name) or (None if name[:2] == "--" else _SPELLINGS.get(name[:2]))


def _options(words: Iterable[str]) -> list[Option]:
    return [option for word in words if (option := _option(word))]


def _check_names(words: Iterable[str]) -> None:
    """Refuse names that no level knows, with what was probably meant or came in their place."""
    for word in words:
        name = word.partition("=")[0]
        if name in _REPLACED:
            raise UsageError(f"{name} is no longer an option; use {_REPLACED[name]}")
        if _option(word) is None and name not in _GENERAL:
            meant = did_you_mean(name, (*_SPELLINGS, *_GENERAL)) or "; see h2lo LEVEL --help"
            raise UsageError(f"unrecognized arguments: {name}{meant}")


def _find_level(free: list[str], runs: list[list[str]]) -> str:
    """Return the analysis level, the last of the three arguments."""
    if not free and [run[0] for run in runs] == ["--output-spec"]:
        raise UsageError(
            "--output-spec lists the files of a run: give bids_dir, out_dir and the level; "
            "`h2lo outputs` prints the patterns of all outputs"
        )
    if len(free) < len(_ARGUMENTS):
        missing = ", ".join(_ARGUMENTS[len(free) :])
        raise UsageError(
            _swallowed(free, runs)
            or f"the following arguments are required: {missing}; see h2lo --help"
        )
    level = canonical(free[2])
    if more := free[len(_ARGUMENTS) :]:
        if set(more) <= {*LEVELS, *LEVEL_ALIASES}:
            raise UsageError(
                f"{' and '.join([level, *more])}: run one analysis level per call, as each takes "
                "its own options and ends with its own exit code"
            )
        raise UsageError(f"unrecognized arguments: {' '.join(more)}; see h2lo {level} --help")
    return level


def canonical(level: str) -> str:
    """Return the name of a level that may be given by an alias."""
    level = LEVEL_ALIASES.get(level, level)
    if level not in LEVELS:
        known = [*LEVELS, *LEVEL_ALIASES]
        meant = did_you_mean(level, known) or f"; use {', '.join(known)}"
        raise UnknownLevelError(f"analysis level {level!r} is unknown{meant}")
    return level


def _swallowed(free: list[str], runs: list[list[str]]) -> str:
    """Name an option that took bids_dir, out_dir or the level for its values.

    argparse gives an option of several values every word up to the next option. The
    level is always the last of the three, so it is by this that they are known.
    """
    level = next((run for run in runs if run[-1] in (*LEVELS, *LEVEL_ALIASES)), None)
    needed = len(_ARGUMENTS) - len(free)
    if level is None or not 1 <= needed < len(level) - 1:
        return ""
    taken = level[-needed:]
    kept = [word for run in runs for word in (run[:-needed] if run is level else run)]
    return (
        f"{level[0]} takes all words up to the next option, and so took "
        f"{' and '.join([*filter(None, [', '.join(taken[:-1])]), taken[-1]])} as well; write "
        f"{', '.join(_ARGUMENTS)} first: {shlex.join(['h2lo', *free, *taken, *kept])}"
    )


def _mode(level: str, given: dict[str, Any]) -> str:
    """Return the mode of a level, which decides what else it takes."""
    if given.get("pairs"):
        return PAIRS
    enhances = given.get("task") == ENHANCE and level != "evaluate"
    return f"{level} --task {ENHANCE}" if enhances else level


def _read_config(path: Path, level: str) -> dict[str, Any]:
    """Read a TOML file as if its keys were options on a command line."""
    try:
        table = tomllib.loads(read_text(path))
    except OSError as err:
        raise MissingInputError(f"{path}: cannot read the configuration: {err.strerror}") from err
    except (ValueError, RecursionError) as err:
        raise UsageError(f"{path}: not TOML: {' '.join(str(err).split())}") from err
    table.pop("run", None)  # what an earlier run wrote about itself
    names = {word[2:]: option for word, option in _SPELLINGS.items() if word[:2] == "--"}
    words: list[str] = []
    try:
        for key, value in table.items():
            name = key.replace("_", "-")
            if f"--{name}" in _IGNORED:
                continue
            if name not in names:
                _check_names([f"--{name}"] if f"--{name}" in _REPLACED else [])
                meant = did_you_mean(name, names) or "; see h2lo LEVEL --help"
                raise UsageError(f"unknown option {key!r}{meant}")
            if level not in levels_of(names[name]):
                refuse(names[name], level)
            words += _words(name, value, names[name].nargs)
        given = vars(build_parser(level).parse_args(["bids", "out", level, *words]))
    except UsageError as err:
        raise UsageError(f"{path}: {err}") from err
    return {key: value for key, value in given.items() if key in OPTIONS}


def _words(name: str, value: Any, nargs: int | str | None) -> list[str]:
    """Return an option of the file as it would stand on the command line."""
    if nargs == 0:
        if isinstance(value, bool) or (name == "verbose" and value in range(_MOST_VERBOSE + 1)):
            return [f"--{name}"] * int(value)
        kind = f"0 to {_MOST_VERBOSE}" if name == "verbose" else "true or false"
        raise UsageError(f"{name} is {kind}, not {value!r}")
    items = value if isinstance(value, list) else [value]
    if nargs is None and len(items) > 1:
        raise UsageError(f"{name} takes one value, not {len(items)}")
    if not items:
        return []
    if any(isinstance(item, bool | dict | list) for item in items):
        raise UsageError(f"{name} = {value!r} is not a value of this option")
    return [f"--{name}", *(str(item) for item in items)]
