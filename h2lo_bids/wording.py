"""Counts, lists, many alike in one line, and the word that was meant, for every message."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

_NAMED = 3
_HERE = "\0"
_SUBJECT = re.compile(r"sub-[A-Za-z0-9+]+")


def counted(number: int, word: str) -> str:
    """Return a number and its noun, in the singular only for one."""
    return f"{number} {word}{'s' * (number != 1)}"


def listed(names: Sequence[str], most: int = _NAMED) -> str:
    """Return the first few of several names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def summarise(items: Iterable[tuple[Path, str]]) -> list[str]:
    """Return one line for each kind of message: of those that differ in file and subject alone."""
    kinds: dict[str, dict[Path, str]] = defaultdict(dict)
    for path, text in items:
        kind = text.replace(str(path), _HERE)
        subject = next((part for part in path.parts[::-1] if _SUBJECT.fullmatch(part)), None)
        if subject is not None:
            kind = re.sub(rf"{re.escape(subject)}(?![A-Za-z0-9+])", "sub-*", kind)
        kinds[kind].setdefault(path, text)
    return [_line(kind, same) for kind, same in kinds.items()]


def _line(kind: str, same: dict[Path, str]) -> str:
    first, *others = same
    if not others:
        return same[first]
    noun = "image" if ".nii" in first.name.lower() else "file"
    noun = "participant" if _SUBJECT.fullmatch(first.name) else noun
    names = [path.name if _SUBJECT.match(path.name) else "/".join(path.parts[-2:]) for path in same]
    number = counted(len(same), noun)
    return f"{kind.replace(_HERE, pattern(same))} ({number}: {listed(names)})"


def pattern(paths: Iterable[Path]) -> str:
    """Return shell patterns that match some paths, each for any subject and session."""
    found = (
        re.sub(r"(?<![A-Za-z0-9])(sub|ses)-[A-Za-z0-9+]+", r"\1-*", str(path)) for path in paths
    )
    return " ".join(dict.fromkeys(found))


def all_counted(number: int, word: str) -> str:
    """Return what `counted` does, with "all" before more than one."""
    return "all " * (number > 1) + counted(number, word)


def duration(seconds: float) -> str:
    """Return a time in the unit that fits."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, rest = divmod(int(seconds), 3600)
    return f"{seconds / 60:.0f} min" if hours < 2 else f"{hours} h {rest // 60} min"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message that names the known word closest to an unknown one."""
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]}?" if close else ""
