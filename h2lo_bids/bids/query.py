"""Which images a user wants, by entity: ``--bids-filter-file``, ``--filter``, ``--hf``, ``--lf``.

A filter is a mapping from short entity names to the values that are accepted;
within it ``None`` stands for "the entity is absent" and ``"*"`` for "any".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from h2lo_bids import wording
from h2lo_bids.bids.names import LONG_TO_SHORT, ORDER, Name
from h2lo_bids.errors import MissingInputError, UsageError
from h2lo_bids.io import read_json
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import CONTRASTS

Accepted = tuple[str | None, ...]
Filter = dict[str, Accepted]

HIGH, LOW, ENHANCED = ("", "hf"), ("lf",), ("", "lf")
"""Whose conditions count: of high-field scans, of their low-field partners, of scans to enhance."""

_SIDES = ("hf", "lf")
_QUERIES = tuple(contrast.lower() for contrast in CONTRASTS)
_KNOWN = (*_QUERIES, *(f"{side}_{query}" for side in _SIDES for query in _QUERIES))
_FILE_FIELDS = ("suffix", "extension", "datatype")


def load_filter_file(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read a filter file in the style of fMRIPrep's."""
    try:
        content = read_json(Path(path))
        compile_filters(content)
    except OSError as error:
        raise MissingInputError(
            f"{path}: the filter file cannot be read ({error.strerror}); check --bids-filter-file"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{path}: the filter file is not valid JSON ({error}); repair it"
        ) from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return content


def compile_filters(
    filters: Mapping[str, Mapping[str, Any]] | None = None, inline: Iterable[str] = ()
) -> dict[str, Filter]:
    """Check the queries of a filter file, with ``--filter`` over those of high-field scans."""
    filters = {} if filters is None else filters
    if not isinstance(filters, Mapping):
        raise UsageError('a filter file holds an object such as {"t1w": {"acquisition": "MPRAGE"}}')
    for name in other_queries(filters):
        near = difflib.get_close_matches(f"{name.lower().removesuffix('w')}w", _KNOWN, 1, 0.75)
        if near or name.lower().startswith(("hf_", "lf_")):
            hint = f"did you mean {near[0]!r}?" if near else f"the queries are {', '.join(_KNOWN)}"
            raise UsageError(f"unknown query {name!r}; {hint}")
    over, compiled = compile_words(inline), {}
    for query in _KNOWN:
        conditions = filters.get(query, {})
        if not isinstance(conditions, Mapping):
            raise UsageError(f"query {query!r} holds an object of entities, not {conditions!r}")
        asked = dict(_condition(name, value) for name, value in conditions.items())
        compiled[query] = asked if query.startswith("lf_") else asked | over
    return compiled


def other_queries(filters: Mapping[str, Any]) -> list[str]:
    """List the queries of a filter file that are for other programs, such as fMRIPrep's bold."""
    return [name for name in filters if name not in _KNOWN]


def compile_words(words: Iterable[str]) -> Filter:
    """Read selection words: ``ENTITY-VALUE``, or ``ENTITY=VALUE`` with one or several values."""
    chosen: Filter = {}
    for word in (part for text in words for part in text.split()):
        sign = "=" if "=" in word else "-"
        entity, _, values = word.partition(sign)
        listed = (values or "null").split(",")
        accepted = [None if v.lower() in ("", "null", "none") else v for v in listed]
        key, found = _condition(entity, accepted)
        chosen[key] = chosen.get(key, ()) + found
    return chosen


def describe(conditions: Filter) -> str:
    """Write a filter as a user would on the command line."""
    words = (
        f"{entity}={','.join('null' if value is None else value for value in accepted)}"
        for entity, accepted in conditions.items()
    )
    return " ".join(words) or "none"


def mismatch(name: Name, conditions: Filter, option: str = "the filter") -> str:
    """Return why conditions of an option leave an image out, with what was meant; else nothing."""
    if matches(name, conditions):
        return ""
    return f"does not match {option} {describe(conditions)}{did_you_mean(conditions, [name])}"


def did_you_mean(conditions: Filter, names: Iterable[Name], *, similar: bool = False) -> str:
    """Give what was probably meant by conditions that do not match."""
    names, meant = tuple(names), []
    for entity, accepted in conditions.items():
        labels = {label for name in names if (label := _fields(name).get(entity))}
        if not any(_equal(label, value) for label in labels for value in accepted):
            near = (nearest(v, labels, similar=similar) for v in accepted if v not in (None, "*"))
            meant += [f"{entity}={label}" for label in near if label]
    return f"; did you mean {' '.join(meant)}?" if meant else ""


def nearest(label: str | None, labels: Collection[str], *, similar: bool = False) -> str | None:
    """Return the label that differs in case or leading zeros only, or else a ``similar`` one."""
    wanted = str(label).lower()
    forms = {other.lower(): other for other in sorted(labels)}
    found = [form for form in forms if form.lstrip("0") == wanted.lstrip("0")]
    if similar and not found:
        found = difflib.get_close_matches(wanted, forms, n=1, cutoff=0.75)
    return forms[found[0]] if found else None


def matches(name: Name, conditions: Filter) -> bool:
    """Check a file name against every condition of a filter."""
    fields = _fields(name)
    return all(
        any(_equal(fields.get(entity), value) for value in accepted)
        for entity, accepted in conditions.items()
    )


def _fields(name: Name) -> dict[str, str]:
    fixed = {"suffix": name.suffix, "extension": name.extension, "datatype": "anat"}
    return fixed | dict(name.entities)


def _equal(actual: str | None, wanted: str | None) -> bool:
    if actual is None or wanted is None:
        return actual is wanted
    if actual.isdigit() and wanted.isdigit():
        return actual.lstrip("0") == wanted.lstrip("0")
    return wanted in ("*", actual)


def _condition(name: str, value: object) -> tuple[str, Accepted]:
    entity = LONG_TO_SHORT.get(name, name)
    if entity not in ORDER and entity not in _FILE_FIELDS:
        known = sorted({*LONG_TO_SHORT, *ORDER, *_FILE_FIELDS})
        meant = wording.did_you_mean(name, known) or f"; the entities are {', '.join(known)}"
        raise UsageError(f"unknown entity {name!r} in a filter{meant}")
    items = value if isinstance(value, list | tuple) else [value]
    return entity, tuple(_value(entity, item) for item in items)


def _value(entity: str, value: object) -> str | None:
    if value is None or value == "*":
        return value  # type: ignore[return-value]
    text, form = str(value).removeprefix(f"{entity}-"), r"[A-Za-z0-9+]+"
    if entity == "extension":
        text, form = f".{text.lstrip('.')}", r"\.nii(\.gz)?"
    good = isinstance(value, str | int) and not isinstance(value, bool)
    if not good or not re.fullmatch(form, text):
        raise UsageError(
            f"filter {entity}={value!r}: a value is a label of letters and digits, null or '*'"
        )
    return text


class Conditions:
    """What the options ask of the entities of scans: the filter file and the selection words."""

    def __init__(self, settings: Settings) -> None:
        file = settings.bids_filter_file
        self.filters = {} if file is None else load_filter_file(file)
        self.words = {side: compile_words(getattr(settings, side)) for side in _SIDES}
        self._compiled = compile_filters(self.filters, settings.filter)

    def asked(self, suffix: str, *sides: str) -> Filter:
        """Return what is asked of a contrast's scans of a side; words win over filters."""
        asked: Filter = {}
        for side in sides:
            asked |= self._compiled[f"{side}_{suffix.lower()}".lstrip("_")]
            asked |= self.words.get(side, {})
        return asked
