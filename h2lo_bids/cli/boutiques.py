"""The command line as a Boutiques descriptor (schema 0.5), read off the parser.

Boutiques: Glatard et al., GigaScience 2018, https://boutiques.github.io.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from h2lo_bids import __version__
from h2lo_bids.cli import convert
from h2lo_bids.cli.boutiques_outputs import output_files
from h2lo_bids.cli.dependencies import (
    EXCLUSIVE,
    REQUIRED,
    USELESS,
    refused_by_level,
    refused_with_pairs,
)
from h2lo_bids.cli.levels import ALIASES, LEVELS

IMAGE = "h2lo-bids"
"""Name of the container image, as the Dockerfile has it; its tag is the version."""
_LEVEL = "analysis_level"
_FIRST = ("bids_dir", "out_dir", _LEVEL, "participant_label", "session_label")
_KEYS = {"out_dir": "[OUTPUT_DIR]"}  # as BIDS Apps' descriptors call it
_GROUPS = {"positional arguments": "arguments", "options": "information"}


def descriptor_text(parser: argparse.ArgumentParser) -> str:
    """Return the descriptor as the text of ``boutiques.json``."""
    return json.dumps(descriptor(parser), indent=2, ensure_ascii=False) + "\n"


def descriptor(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Describe a parser.

    Parameters
    ----------
    parser
        From `h2lo_bids.cli.parser.build_parser`.

    Returns
    -------
    dict
        Ready for JSON.
    """
    from h2lo_bids.cli.parser import EXIT_CODES

    actions = {input_id(action): action for action in parser._actions if _is_input(action)}
    ids = [*_FIRST, *(name for name in actions if name not in _FIRST)]
    inputs = [_input(name, actions[name], set(ids)) for name in ids]
    keys = " ".join(str(item["value-key"]) for item in inputs)
    return {
        "name": "h2lo",
        "description": str(parser.description).partition("\n")[0],
        "tool-version": __version__,
        "schema-version": "0.5",
        "url": "https://arxiv.org/abs/2603.24968",
        "command-line": f"h2lo {keys}",
        "container-image": {
            "type": "docker",
            "image": f"{IMAGE}:{__version__}",
            "entrypoint": True,
        },
        "inputs": inputs,
        "groups": [*_groups(parser, set(ids)), *_exclusive(set(ids))],
        "output-files": output_files(_KEYS["out_dir"]),
        "error-codes": [
            {"code": code, "description": text} for code, text in EXIT_CODES.items() if code
        ],
        "tags": {"domain": ["neuroinformatics", "mri"], "bids-app": True},
    }


def input_id(action: argparse.Action) -> str:
    """Return what the descriptor calls an option: the field of `Settings`, but for the level."""
    return _LEVEL if action.dest == "level" else action.dest


def _is_input(action: argparse.Action) -> bool:
    """Tell what decides a run from what only prints something, as ``--help`` does."""
    return action.dest not in ("help", "version", "boutiques")


def _input(name: str, action: argparse.Action, known: set[str]) -> dict[str, Any]:
    """Describe one option or argument."""
    item: dict[str, Any] = {
        "id": name,
        "name": _title(action),
        "description": (action.help or "").replace("%%", "%"),
        "value-key": _KEYS.get(name, f"[{name.upper()}]"),
        **_kind(action),
    }
    if action.option_strings:
        item["optional"] = True
    if isinstance(action, argparse._CountAction):
        # An input stands on a command line once: each count is a choice of its own.
        item["value-choices"] = ["-v", "-vv"]
    elif action.option_strings:
        item["command-line-flag"] = next(o for o in action.option_strings if o[:2] == "--")
    if action.nargs == "+":
        item |= {"list": True, "list-separator": " ", "min-list-entries": 1}
    if name == _LEVEL:
        item["value-choices"] = [*LEVELS, *ALIASES]
        levels = {**{level: level for level in LEVELS}, **ALIASES}
        refused = refused_by_level()
        item["value-disables"] = {
            word: _only(refused[level], known) for word, level in levels.items()
        }
    elif action.choices:
        item["value-choices"] = list(action.choices)
    if name in USELESS:
        values = {value: list(USELESS[name].get(value, ())) for value in item["value-choices"]}
        item["value-disables"] = values
    return item | _relations(name, known)


def _kind(action: argparse.Action) -> dict[str, Any]:
    """Return the type of an option's value."""
    reader = action.type
    if isinstance(action, argparse._CountAction):
        return {"type": "String"}
    if action.nargs == 0:
        return {"type": "Flag"}
    if isinstance(reader, convert.integer):
        return {"type": "Number", "integer": True, "minimum": reader.least}
    if isinstance(reader, convert.number):
        return {"type": "Number", "minimum": reader.least, "maximum": reader.most}
    return {"type": "File" if reader is convert.path else "String"}


def _relations(name: str, known: set[str]) -> dict[str, Any]:
    """Return which inputs one needs, and which it excludes."""
    found: dict[str, Any] = {}
    if name in REQUIRED:
        found["requires-inputs"] = list(REQUIRED[name])
    if name == "pairs":
        found["disables-inputs"] = _only(refused_with_pairs(), known)
    return found


def _only(names: tuple[str, ...], known: set[str]) -> list[str]:
    return [name for name in names if name in known]


def _title(action: argparse.Action) -> str:
    words = action.dest.replace("_", " ") if action.dest != "level" else "analysis level"
    return words[0].upper() + words[1:]


def _groups(parser: argparse.ArgumentParser, known: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the groups of the help text."""
    for group in parser._action_groups:
        title = _GROUPS.get(str(group.title), str(group.title))
        members = list(dict.fromkeys(input_id(a) for a in group._group_actions))
        if members := [name for name in members if name in known]:
            yield {
                "id": f"group_{title.replace(' ', '_').replace('-', '_')}",
                "name": title[0].upper() + title[1:],
                **({"description": group.description} if group.description else {}),
                "members": members,
            }


def _exclusive(known: set[str]) -> Iterator[dict[str, Any]]:
    for name, members in EXCLUSIVE.items():
        if known.issuperset(members):
            title = name.replace("_", " ")
            yield {
                "id": name,
                "name": title[0].upper() + title[1:],
                "members": list(members),
                "mutually-exclusive": True,
            }
