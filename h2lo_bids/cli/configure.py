"""From argv and a configuration file to `Settings`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from h2lo_bids.cli.levels import canonical, check_options
from h2lo_bids.cli.parser import build_parser, normalise_argv
from h2lo_bids.errors import MissingInputError, UsageError
from h2lo_bids.io import read_text
from h2lo_bids.settings import Settings
from h2lo_bids.wording import did_you_mean

_MOST_VERBOSE = 9
_ONCE = {"contrast", "method", "fold", "arm", "cohort", "pretrain_derivatives", "lf_grid"}
"""Options whose values are to be done once each."""


def read_settings(argv: Sequence[str]) -> Settings:
    """Read the command line, and the configuration file that it names.

    Parameters
    ----------
    argv
        Words after the program's name.

    Returns
    -------
    Settings
        The command line wins over the file, the file over the defaults.

    Raises
    ------
    UsageError
        If a word or a key of the file makes no sense, or another level takes it.
    UnknownLevelError
        If the analysis level is not one of ours.
    MissingInputError
        If the configuration file cannot be read.
    """
    given = vars(build_parser().parse_args(normalise_argv(argv)))
    config = given.pop("config_file", None)
    given["level"] = canonical(given["level"])
    if config is not None:
        given = {**_read_config(config), **given}
    lists = {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
    for key in lists.keys() & {"hf", "lf"}:  # each item may be several words
        lists[key] = tuple(word for words in lists[key] for word in words)
    for key in lists.keys() & _ONCE:
        lists[key] = tuple(dict.fromkeys(lists[key]))
    told = {key: given[key] for key in ("pairs", "task") if key in given}
    check_options(given["level"], given, **told)
    return Settings(**{**given, **lists})


def _read_config(path: Path) -> dict[str, Any]:
    """Read a TOML file as if its keys were options on a command line."""
    try:
        table = tomllib.loads(read_text(path))
    except OSError as err:
        raise MissingInputError(f"{path}: cannot read the configuration: {err.strerror}") from err
    except (ValueError, RecursionError) as err:
        raise UsageError(f"{path}: not TOML: {' '.join(str(err).split())}") from err
    table.pop("run", None)  # what an earlier run wrote about itself
    parser = build_parser()
    actions = {
        option.removeprefix("--"): action
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--")
        and action.dest not in ("help", "version", "boutiques", "config_file")
    }
    words: list[str] = []
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in actions:
            meant = did_you_mean(name, actions) or "; see h2lo --help"
            raise UsageError(f"{path}: unknown option {key!r}{meant}")
        words += _words(path, name, value, actions[name].nargs)
    try:
        given = vars(parser.parse_args(["bids", "out", "participant", *words]))
    except UsageError as err:
        raise UsageError(f"{path}: {err}") from err
    return {key: v for key, v in given.items() if key not in ("bids_dir", "out_dir", "level")}


def _words(path: Path, name: str, value: Any, nargs: int | str | None) -> list[str]:
    """Return an option of the file as it would stand on the command line."""
    if nargs == 0:
        if isinstance(value, bool) or (name == "verbose" and value in range(_MOST_VERBOSE + 1)):
            return [f"--{name}"] * int(value)
        kind = f"0 to {_MOST_VERBOSE}" if name == "verbose" else "true or false"
        raise UsageError(f"{path}: {name} is {kind}, not {value!r}")
    items = value if isinstance(value, list) else [value]
    if nargs is None and len(items) > 1:
        raise UsageError(f"{path}: {name} takes one value, not {len(items)}")
    if not items:
        return []
    if any(isinstance(item, bool | dict | list) for item in items):
        raise UsageError(f"{path}: {name} = {value!r} is not a value of this option")
    return [f"--{name}", *(str(item) for item in items)]
