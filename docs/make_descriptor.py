"""The Boutiques descriptor (schema 0.5) of the command line, read off the parser.

`boutiques.creator.CreateDescriptor` takes no subclass of a parser, no types but int and
float, and no groups, outputs, error codes, or options that need or exclude others.

Boutiques: Glatard et al., GigaScience 2018, https://boutiques.github.io.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from typing import Any

import bids_app_spec
from h2lo_bids import __version__
from h2lo_bids.cli.parser import EXIT_CODES
from h2lo_bids.settings import OPTIONS, convert
from h2lo_bids.settings.options import MODES, PAIRS
from h2lo_bids.vocabulary import LEVEL_ALIASES, LEVELS

TAKEN_BY = {o.name: o.modes for o in OPTIONS.values() if set(o.modes) != set(MODES)}
EXCLUSIVE = {"without_work": ("dry_run", "reports_only")}
"""Sets of options of which one is given at most."""
REQUIRED = {
    "realisations": ("noise",),
    "noise_scale": ("noise",),
    "slice_profile": ("lf_grid",),
    "slice_thickness": ("lf_grid",),
    "template_file": ("output_spaces",),
}
"""What an option is of no use without."""
USELESS = {"skull_strip": {way: ["synthstrip_weights"] for way in ("skip", "deepbet")}}
"""By option and value: what is refused together with it."""
_LEVEL = "analysis_level"
_FIRST = ("bids_dir", "out_dir", _LEVEL, "participant_label", "session_label")
_KEYS = {"out_dir": "[OUTPUT_DIR]"}  # as BIDS Apps' descriptors call it
_GROUPS = {"positional arguments": "arguments", "options": "information"}
_SESSION = "[/ses-{ses}]"
_OPTIONAL = re.compile(r"\[[^\[\]]*\]")
_FIELD = re.compile(r"\{(\w+)(?:<([^>]*)>)?\}")
_STARS = re.compile(r"\*+(?:_?\*)*")


def descriptor_text(parser: argparse.ArgumentParser) -> str:
    """Describe a parser from `h2lo_bids.cli.parser.build_parser`."""
    actions = {
        _LEVEL if action.dest == "level" else action.dest: action
        for action in parser._actions
        if action.dest not in ("help", "version")  # these only print something
    }
    ids = [*_FIRST, *(name for name in actions if name not in _FIRST)]
    inputs = [_input(name, actions[name], ids) for name in ids]
    keys = " ".join(str(item["value-key"]) for item in inputs)
    image = {"type": "docker", "image": f"h2lo-bids:{__version__}", "entrypoint": True}
    descriptor = {
        "name": "h2lo",
        "description": str(parser.description).partition("\n")[0],
        "tool-version": __version__,
        "schema-version": "0.5",
        "url": "https://arxiv.org/abs/2603.24968",
        "command-line": f"h2lo {keys}",
        "container-image": image,
        "inputs": inputs,
        "groups": [*_groups(parser, actions), *_exclusive()],
        "output-files": _outputs(),
        "error-codes": [
            {"code": code, "description": text} for code, text in EXIT_CODES.items() if code
        ],
        "tags": {"domain": ["neuroinformatics", "mri"], "bids-app": True},
    }
    return json.dumps(descriptor, indent=2, ensure_ascii=False) + "\n"


def _titled(words: str) -> str:
    return words[0].upper() + words[1:]


def _input(name: str, action: argparse.Action, known: list[str]) -> dict[str, Any]:
    """Describe one option or argument."""
    item: dict[str, Any] = {
        "id": name,
        "name": _titled(name.replace("_", " ")),
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
        levels = {**{level: level for level in LEVELS}, **LEVEL_ALIASES}
        item["value-choices"] = list(levels)
        item["value-disables"] = {
            word: [option for option in _refused_at(level) if option in known]
            for word, level in levels.items()
        }
    elif action.choices:
        item["value-choices"] = list(action.choices)
    if name in USELESS:
        item["value-disables"] = {v: USELESS[name].get(v, []) for v in item["value-choices"]}
    needed = [other for other in REQUIRED.get(name, ()) if _always_with(name, other)]
    if needed:
        item["requires-inputs"] = needed
    if name == "pairs":
        refused = sorted(o for o, takers in TAKEN_BY.items() if PAIRS not in takers)
        item["disables-inputs"] = [option for option in refused if option in known]
    return item


def _always_with(name: str, other: str) -> bool:
    """Whether every mode that takes an option takes the other, too."""
    return set(OPTIONS[name].modes) <= set(OPTIONS[other].modes)


def _kind(action: argparse.Action) -> dict[str, Any]:
    """Return the type of an option's value."""
    reader = action.type
    if isinstance(action, argparse._CountAction):
        return {"type": "String"}
    if action.nargs == 0:
        return {"type": "Flag"}
    if isinstance(reader, convert.number):
        whole = {"integer": True} if reader.kind is int else {}
        most = {"maximum": reader.most} if reader.most < convert.MOST else {}
        return {"type": "Number", **whole, "minimum": reader.least, **most}
    return {"type": "File" if reader is convert.path else "String"}


def _refused_at(level: str) -> list[str]:
    """List the options that a level does not take in any mode."""
    modes = {option: {taker.split()[0] for taker in takers} for option, takers in TAKEN_BY.items()}
    return sorted(option for option, levels in modes.items() if level not in levels)


def _groups(
    parser: argparse.ArgumentParser, known: dict[str, argparse.Action]
) -> Iterator[dict[str, Any]]:
    """Yield the groups of the help text."""
    ids = {action: name for name, action in known.items()}
    for group in parser._action_groups:
        title = _GROUPS.get(str(group.title), str(group.title))
        if members := [ids[action] for action in group._group_actions if action in ids]:
            yield {
                "id": f"group_{title.replace(' ', '_').replace('-', '_')}",
                "name": _titled(title),
                **({"description": group.description} if group.description else {}),
                "members": members,
            }


def _exclusive() -> Iterator[dict[str, Any]]:
    for name, members in EXCLUSIVE.items():
        own = {"id": name, "name": _titled(name.replace("_", " ")), "members": list(members)}
        yield {**own, "mutually-exclusive": True}


def _outputs() -> list[dict[str, Any]]:
    """List every kind of output in ``io_spec.json`` as a pattern with ``*``.

    The images of a dataset with sessions and of one without lie in different folders
    and are two entries.
    """
    found = {path: (name, text) for path, name, text in (*_images(), *_results())}
    return [
        {
            "id": f"out_{re.sub(r'[^0-9A-Za-z]+', '_', name).strip('_')}",
            "name": name,
            **({"description": text} if text else {}),
            "path-template": f"{_KEYS['out_dir']}/{path}",
            "list": "*" in path,
            "optional": True,
        }
        for path, (name, text) in found.items()
    ]


def _images() -> Iterator[tuple[str, str, str]]:
    """Yield pattern, name and meaning of what is made of a scan."""
    meanings = {
        row["desc_id"].removeprefix("desc-"): row["description"]
        for row in bids_app_spec.load("descriptions.tsv")
    }
    for key, output in bids_app_spec.load("io_spec.json")["outputs"].items():
        pattern = output["pattern"]
        folders = {"": pattern.replace(_SESSION, "", 1)}
        if _SESSION in pattern:
            folders[" by session"] = pattern.replace(_SESSION, "/ses-{ses}", 1)
        choices = dict(_FIELD.findall(pattern)).get("desc", "")
        for desc in choices.split("|"):
            for where, one in folders.items():
                name = " ".join(word for word in (key, desc) if word) + where
                yield _glob(one, desc), name, meanings.get(desc, "")


def _glob(pattern: str, desc: str) -> str:
    """Fill what is known, and leave the rest open; the first extension is the file's own."""

    def field(match: re.Match[str]) -> str:
        name, allowed = match[1], (match[2] or "").split("|")
        if name == "desc" and desc:
            return desc
        return allowed[0] if name == "extension" or (len(allowed) == 1 and allowed[0]) else "*"

    return _STARS.sub("*", _FIELD.sub(field, _OPTIONAL.sub("*", pattern)))


def _results() -> Iterator[tuple[str, str, str]]:
    """Yield pattern and name of tables, models and logs."""
    for key, result in bids_app_spec.load("io_spec.json")["results"].items():
        for end in result.get("files", [""]):
            yield _FIELD.sub("*", result["path"] + end), f"{key} {end}".strip(), ""
