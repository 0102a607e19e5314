"""Reading text files that others wrote: bounded, and with nothing in it that stops a writer."""

from __future__ import annotations

import csv
import errno
import io
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_TEXT = 2**26
"""Bytes of a sidecar, table or filter: 64 MB, far beyond any."""
MAX_DIGITS = 18
"""Of a whole number; a longer one is read as a float, as other readers of JSON do."""
MAX_DEPTH = 100
"""Lists and objects within each other, far fewer than Python's own limit on recursion."""


def read_json(path: Path) -> Any:
    """Parse a JSON file that others wrote.

    Parameters
    ----------
    path : Path
        As for `read_text`.

    Returns
    -------
    Any
        Its content, of whatever type.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is too large, or as `parse_json` says.
    """
    return parse_json(read_text(path))


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that others wrote.

    Raises
    ------
    ValueError
        It is not UTF-8, not JSON, nested too deeply, or holds half characters.
    """
    try:
        content = json.loads(text, parse_int=_number)
        level = [content]
        for _ in range(MAX_DEPTH):
            level = [part for whole in level for part in _parts(whole)]
        if level:
            raise ValueError("it is nested too deeply")
        # Half a surrogate pair has no UTF-8, and would stop whatever writes it on.
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("it holds half of a character, such as \\ud800 alone") from error
    return content


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.values()]
    return value if isinstance(value, list) else []


def read_text(path: Path) -> str:
    """Read a text file that others wrote, of no more than `MAX_TEXT` bytes.

    Parameters
    ----------
    path : Path
        In UTF-8, with or without a byte order mark. A pipe is waited for only if the
        user named it, as shells do in ``<(command)``.

    Returns
    -------
    str

    Raises
    ------
    OSError
        The file cannot be read, or is no file.
    ValueError
        It is not UTF-8, or too large.
    """
    kind = path.stat().st_mode
    given = path.parts[:3] in (("/", "dev", "fd"), ("/", "proc", "self"))
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or given):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    with path.open("rb") as stream:
        content = stream.read(MAX_TEXT + 1)
    if len(content) > MAX_TEXT:
        raise ValueError(f"it is larger than {MAX_TEXT >> 20} MB")
    return content.decode("utf-8-sig")


def table_rows(text: str, **form: Any) -> Iterator[dict[str, str]]:
    """Give the rows of a tab-separated table that others wrote.

    Parameters
    ----------
    text : str
        With names of columns in the first line.
    **form
        For `csv.DictReader`.

    Yields
    ------
    dict
        A value for each column; empty where the line is too short.

    Raises
    ------
    ValueError
        A value is longer than anything that makes sense.
    """
    rows = csv.DictReader(io.StringIO(text), delimiter="\t", restval="", **form)
    try:
        for row in rows:
            yield {key: value for key, value in row.items() if key is not None}
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}") from error
