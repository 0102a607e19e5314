"""Names of what is written beside the images: tables, models, logs; from ``io_spec.json``."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import bids_app_spec

_FIELD = re.compile(r"\{(\w+)\}")
_WORD = re.compile(r"[\w+<>][\w.+<>-]*")


def result_path(out_dir: str | Path, key: str, **fields: str | int) -> Path:
    """Name a result: a file, a folder, or what the names of several files begin with.

    Parameters
    ----------
    out_dir
        Root of the derivative dataset.
    key
        Of ``results`` in ``io_spec.json``, e.g. ``"fold"``.
    **fields
        What its path leaves open, e.g. ``contrast``, ``method`` and ``fold``.

    Raises
    ------
    ValueError
        If a field is missing or cannot stand in a name, as ``../x`` cannot.

    Examples
    --------
    >>> result_path("/out", "model", method="h2lo", contrast="T1w").as_posix()
    '/out/models/h2lo_T1w'
    """
    return Path(out_dir) / _filled(key, fields)


def result_files(out_dir: str | Path, key: str, **fields: str | int) -> tuple[Path, ...]:
    """Name every file of a result.

    Parameters
    ----------
    out_dir, key, **fields
        As for `result_path`.

    Examples
    --------
    >>> [path.name for path in result_files("/out", "splits")]
    ['splits.tsv', 'splits.json']
    """
    begin = _filled(key, fields)
    return tuple(Path(out_dir) / (begin + end) for end in _results()[key].get("files", [""]))


def result_pattern(key: str, end: str = "", **fields: str | int) -> str:
    """Return the pattern, for `Path.glob`, of all results of a kind.

    Parameters
    ----------
    key, **fields
        As for `result_path`; a field that is not given may be anything.
    end
        What follows, such as ``"/record.json"``.

    Examples
    --------
    >>> result_pattern("fold", "/record.json", contrast="T1w")
    'folds/T1w/*/fold-*/record.json'
    """
    open_ = dict.fromkeys(_FIELD.findall(_results()[key]["path"]), "*")
    return _FIELD.sub(lambda m: str({**open_, **fields}[m[1]]), _results()[key]["path"]) + end


def _filled(key: str, fields: dict[str, str | int]) -> str:
    path = _results()[key]["path"]
    names = set(_FIELD.findall(path))
    if names != set(fields):
        raise ValueError(f"{key}: needs {sorted(names)}, not {sorted(fields)}")
    for name, value in fields.items():
        if not _WORD.fullmatch(str(value)):
            raise ValueError(f"{name} {value!r} cannot stand in the name of a result")
    return _FIELD.sub(lambda match: str(fields[match[1]]), path)


@cache
def _results() -> dict[str, Any]:
    results: dict[str, Any] = bids_app_spec.load("io_spec.json")["results"]
    return results
