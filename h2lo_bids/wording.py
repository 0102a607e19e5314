"""Words that follow a number, and the word that was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def counted(number: int, word: str) -> str:
    """Return a number and its noun, in the singular only for one.

    Parameters
    ----------
    number
        0 or more.
    word
        A noun whose plural ends in s.

    Examples
    --------
    >>> counted(1, "scan"), counted(2, "scan")
    ('1 scan', '2 scans')
    """
    return f"{number} {word}{'s' * (number != 1)}"


def all_counted(number: int, word: str) -> str:
    """Return what `counted` does, with "all" before more than one.

    Examples
    --------
    >>> all_counted(1, "scan"), all_counted(2, "scan")
    ('1 scan', 'all 2 scans')
    """
    return "all " * (number > 1) + counted(number, word)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message that names the known word closest to an unknown one.

    Parameters
    ----------
    word
        As the user wrote it.
    known
        What may stand in its place.

    Returns
    -------
    str
        Begins with a semicolon; empty where nothing is close. Upper and lower case count
        as one, for that is how most names are misspelt.

    Examples
    --------
    >>> did_you_mean("--sloopy", ["--sloppy", "--steps"]), did_you_mean("x", ["--steps"])
    ('; did you mean --sloppy?', '')
    """
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]}?" if close else ""
