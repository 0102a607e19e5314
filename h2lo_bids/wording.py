"""Counts, lists, many alike in one line, and the word that was meant, for every message."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

_NAMED = 3
_HERE = "\0"
_SUBJECT = re.compile(r"sub-[A-Za-z0-9+]+")


def counted(number: int, word: str) -> str:
    """Return a number and its noun, in the singular only for one.

    Examples
    --------
    >>> counted(1, "scan"), counted(2, "scan")
    ('1 scan', '2 scans')
    """
    return f"{number} {word}{'s' * (number != 1)}"


def listed(names: Sequence[str], most: int = _NAMED) -> str:
    """Return the first few of several names, and how many more there are.

    Examples
    --------
    >>> listed(["a", "b", "c", "d", "e"]), listed(["a", "b"])
    ('a, b, c and 2 more', 'a, b')
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def summarise(items: Iterable[tuple[Path, str]]) -> list[str]:
    """Return one line for each kind of message, in the order of their first.

    Messages are of a kind if they differ in nothing but the file they are about and
    its subject. A pattern that a shell expands stands for the files of several.

    Examples
    --------
    >>> summarise([(Path(f"/d/sub-{n}/a.nii"), f"/d/sub-{n}/a.nii: is empty") for n in (1, 2)])
    ['/d/sub-{1,2}/a.nii: is empty (2 images)']
    """
    kinds: dict[str, dict[Path, str]] = defaultdict(dict)
    for path, text in items:
        kind = text.replace(str(path), _HERE)
        subject = next((part for part in path.parts[::-1] if _SUBJECT.fullmatch(part)), None)
        if subject is not None:
            kind = re.sub(rf"{re.escape(subject)}(?![A-Za-z0-9+])", "sub-*", kind)
        kinds[kind].setdefault(path, text)
    return [_line(kind, same) for kind, same in kinds.items()]


def _line(kind: str, same: dict[Path, str]) -> str:
    paths = list(same)
    if len(paths) == 1:
        return same[paths[0]]
    where = pattern(paths)
    names = [] if "{" in where and "*" not in where else [path.name for path in paths]
    text = f"{kind.replace(_HERE, where)} ({counted(len(paths), _noun(paths[0]))}"
    return f"{text}: {listed(names)})" if names else f"{text})"


def _noun(path: Path) -> str:
    if ".nii" in path.name.lower():
        return "image"
    return "participant" if _SUBJECT.fullmatch(path.name) else "file"


def pattern(paths: Sequence[Path]) -> str:
    """Return shell patterns that match all of some paths, one for each depth of folders.

    Examples
    --------
    >>> pattern([Path(f"/d/sub-{n:02d}/anat/sub-{n:02d}_T1w.nii.gz") for n in range(1, 24)])
    '/d/sub-*/anat/sub-*_T1w.nii.gz'
    """
    depths: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    for path in paths:
        depths[len(path.parts)].append(path.parts)
    return " ".join(str(Path(*_parts(group))) for group in depths.values())


def _parts(group: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a pattern for each folder and the file; braces but once, as they multiply."""
    parts: list[str] = []
    for column in zip(*group, strict=True):
        names = list(dict.fromkeys(column))
        is_file, before = len(parts) == len(group[0]) - 1, "".join(parts)
        braces = len(names) <= _NAMED and not set("{*" if is_file else "{") & set(before)
        parts.append(names[0] if len(names) == 1 else _part(names, braces))
    return parts


def _part(names: list[str], braces: bool) -> str:
    # Whole labels: sub-0* would not match a sub-10, and ses-HF{C,E} is hard to read.
    begin = re.sub(r"(?<=-)[A-Za-z0-9+]+$", "", _shared(names))
    rests = [name[len(begin) :] for name in names]
    end = _shared([rest[::-1] for rest in rests])[::-1]
    if braces:
        return f"{begin}{{{','.join(rest[: len(rest) - len(end)] for rest in rests)}}}{end}"
    return f"{begin}*{end}"


def _shared(names: Sequence[str]) -> str:
    """Return the characters with which all names begin."""
    columns = zip(*names, strict=False)
    return "".join(same[0] for same in takewhile(lambda column: len(set(column)) == 1, columns))


def all_counted(number: int, word: str) -> str:
    """Return what `counted` does, with "all" before more than one.

    Examples
    --------
    >>> all_counted(1, "scan"), all_counted(2, "scan")
    ('1 scan', 'all 2 scans')
    """
    return "all " * (number > 1) + counted(number, word)


def duration(seconds: float) -> str:
    """Return a time in the unit that fits.

    Examples
    --------
    >>> duration(12.3), duration(600), duration(9000)
    ('12 s', '10 min', '2 h 30 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, rest = divmod(int(seconds), 3600)
    return f"{seconds / 60:.0f} min" if hours < 2 else f"{hours} h {rest // 60} min"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message that names the known word closest to an unknown one.

    Examples
    --------
    >>> did_you_mean("--sloopy", ["--sloppy", "--steps"]), did_you_mean("x", ["--steps"])
    ('; did you mean --sloppy?', '')
    """
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]}?" if close else ""
