"""The outputs of a Boutiques descriptor, from ``io_spec.json``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import bids_app_spec

_SESSION = "[/ses-{ses}]"
_OPTIONAL = re.compile(r"\[[^\[\]]*\]")
_FIELD = re.compile(r"\{(\w+)(?:<([^>]*)>)?\}")
_STARS = re.compile(r"\*+(?:_?\*)*")


def output_files(root: str) -> list[dict[str, Any]]:
    """List every kind of output as a pattern with ``*``.

    Parameters
    ----------
    root
        Value key of the output folder.

    Returns
    -------
    list of dict
        Of ``output-files``. The images of a dataset with sessions and of one without
        lie in different folders and are two entries.
    """
    found = {path: (name, text) for path, name, text in (*_images(), *_results())}
    return [
        {
            "id": f"out_{re.sub(r'[^0-9A-Za-z]+', '_', name).strip('_')}",
            "name": name,
            **({"description": text} if text else {}),
            "path-template": f"{root}/{path}",
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
        for desc in choices.split("|") if choices else [""]:
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
    """Yield pattern and name of what is written beside the images."""
    for key, result in bids_app_spec.load("io_spec.json")["results"].items():
        for end in result.get("files", [""]):
            path = _FIELD.sub("*", result["path"] + end)
            yield path, f"{key} {end}".strip(), ""
