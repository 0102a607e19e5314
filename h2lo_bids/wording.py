"""Words that follow a number."""

from __future__ import annotations


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
