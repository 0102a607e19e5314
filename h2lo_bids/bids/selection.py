"""Selection words: ``--hf ses-GE``, ``--lf "ses-HFC acq-iso"``."""

from __future__ import annotations

from collections.abc import Iterable

from h2lo_bids.bids.filters import Filter, read_condition


def compile_words(words: Iterable[str], option: str) -> Filter:
    """Read selection words.

    Parameters
    ----------
    words : iterable of str
        Each holds one or more words, apart by spaces: ``ses-HFC`` as in a file
        name, or ``acq=axi,cor,sag`` (either), ``rec=`` (absent), ``run=*``
        (present). Given again, an entity accepts the further value as well.
    option : str
        ``--hf`` or ``--lf``, for the message.

    Returns
    -------
    Filter
        See :mod:`h2lo_bids.bids.filters`.

    Raises
    ------
    UsageError
        A word is neither, or names no entity.

    Examples
    --------
    >>> compile_words(["ses-HFC acq-iso"], "--lf")
    {'ses': ('HFC',), 'acq': ('iso',)}
    >>> compile_words(["acq=axi,cor", "acq-sag"], "--lf")
    {'acq': ('axi', 'cor', 'sag')}
    """
    chosen: Filter = {}
    for word in (part for text in words for part in text.split()):
        key, values = read_condition(word, option)
        chosen[key] = chosen.get(key, ()) + values
    return chosen


def words_of(conditions: Filter) -> str:
    """Write conditions as selection words."""
    words = []
    for entity, accepted in conditions.items():
        (first, *others) = accepted
        plain = first is not None and first != "*" and not others
        values = ",".join("null" if value is None else value for value in accepted)
        words.append(f"{entity}-{first}" if plain else f"{entity}={values}")
    return " ".join(words)
