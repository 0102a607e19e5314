"""Which images a user wants, by entity: ``--bids-filter-file`` and ``--filter``.

A filter is a mapping from short entity names to the values that are accepted;
within it ``None`` stands for "the entity is absent" and ``"*"`` for "any".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bids_app_spec
from h2lo_bids import wording
from h2lo_bids.bids.names import LONG_TO_SHORT, ORDER, Name
from h2lo_bids.errors import MissingInputError, UsageError
from h2lo_bids.io import read_json
from h2lo_bids.vocabulary import CONTRASTS

Accepted = tuple[str | None, ...]
Filter = dict[str, Accepted]

_FILE_FIELDS = ("suffix", "extension", "datatype")


def load_filter_file(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read a filter file in the style of fMRIPrep's."""
    try:
        content = read_json(Path(path))
    except OSError as error:
        raise MissingInputError(
            f"{path}: the filter file cannot be read ({error.strerror}); check --bids-filter-file"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{path}: the filter file is not valid JSON ({error}); repair it"
        ) from error
    try:
        compile_filters(content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return content


def compile_filters(
    filters: Mapping[str, Mapping[str, Any]] | None = None, inline: Iterable[str] = ()
) -> dict[str, Filter]:
    """Check filters and bring them to one form; see `other_queries` for those passed over."""
    filters = {} if filters is None else filters
    if not isinstance(filters, Mapping):
        raise UsageError('a filter file holds an object such as {"t1w": {"acquisition": "MPRAGE"}}')
    queries, of_pairs = _queries()
    for name in other_queries(filters):
        known = (*queries, *of_pairs)
        near = difflib.get_close_matches(f"{name.lower().removesuffix('w')}w", known, 1, 0.75)
        if near or name.lower().startswith(("hf_", "lf_")):
            hint = f"did you mean {near[0]!r}?" if near else f"the queries are {', '.join(known)}"
            raise UsageError(f"unknown query {name!r}; {hint}")
    over: Filter = {}
    for text in inline:
        entity, values = read_condition(text, "--filter")
        over[entity] = over.get(entity, ()) + values
    compiled = {}
    for query in (*queries, *(name for name in of_pairs if name in filters)):
        conditions = filters.get(query, {})
        if not isinstance(conditions, Mapping):
            raise UsageError(f"query {query!r} holds an object of entities, not {conditions!r}")
        compiled[query] = {
            _entity(name): _values(name, value) for name, value in conditions.items()
        } | (over if query in queries else {})
    return compiled


def _queries() -> tuple[tuple[str, ...], tuple[str, ...]]:
    queries = tuple(bids_app_spec.load("io_spec.json")["queries"])
    return queries, tuple(f"{side}_{query}" for side in ("hf", "lf") for query in queries)


def other_queries(filters: Mapping[str, Any]) -> list[str]:
    """List the queries of a filter file that are for other programs, such as fMRIPrep's bold."""
    queries, of_pairs = _queries()
    return [name for name in filters if name not in (*queries, *of_pairs)]


def did_you_mean(conditions: Filter, names: Iterable[Name], *, similar: bool = False) -> str:
    """Give what was probably meant by conditions that do not match."""
    names, meant = tuple(names), []
    for entity, accepted in conditions.items():
        labels = {label for name in names if (label := _fields(name).get(entity))}
        if not any(_equal(label, value) for label in labels for value in accepted):
            given = [value for value in accepted if value not in (None, "*")]
            near = (nearest(value, labels, similar=similar) for value in given)
            meant += [f"{entity}={label}" for label in near if label]
    return f"; did you mean {' '.join(meant)}?" if meant else ""


def nearest(label: str | None, labels: Collection[str], *, similar: bool = False) -> str | None:
    """Return the label that differs in case or leading zeros only, or else a ``similar`` one.

    Examples
    --------
    >>> nearest("mprage", ["FSPGR", "MPRAGE"]), nearest("1", ["01", "11"]), nearest("a1", ["a2"])
    ('MPRAGE', '01', None)
    >>> nearest("mparge", ["FSPGR", "MPRAGE"], similar=True)
    'MPRAGE'
    """
    wanted = str(label).lower()
    for other in sorted(labels):
        if other.lower().lstrip("0") == wanted.lstrip("0"):
            return other
    forms = {other.lower(): other for other in sorted(labels)}
    close = difflib.get_close_matches(wanted, forms, n=1, cutoff=0.75) if similar else []
    return forms[close[0]] if close else None


def matches(name: Name, conditions: Filter) -> bool:
    """Say whether a file name meets every condition of a filter."""
    fields = _fields(name)
    return all(
        any(_equal(fields.get(entity), value) for value in accepted)
        for entity, accepted in conditions.items()
    )


def _fields(name: Name) -> dict[str, str]:
    fixed = {"suffix": name.suffix, "extension": name.extension, "datatype": "anat"}
    return fixed | dict(name.entities)


def describe(conditions: Filter) -> str:
    """Write a filter as a user would on the command line."""
    words = (
        f"{entity}={','.join('null' if value is None else value for value in accepted)}"
        for entity, accepted in conditions.items()
    )
    return " ".join(words) or "none"


def read_condition(text: str, option: str) -> tuple[str, Accepted]:
    """Read ``ENTITY-VALUE`` or ``ENTITY=VALUE[,VALUE]``; ``null``, ``none`` and nothing: absent."""
    sign = "=" if "=" in text else "-"
    entity, given, values = text.partition(sign)
    if not (given and entity and (values or sign == "=")):
        raise UsageError(
            f"{option} {text!r}: write ENTITY-LABEL as in file names, for example ses-HFC, or "
            "ENTITY=LABEL,LABEL"
        )
    words = values.split(",") if values else ["null"]
    chosen = [None if word.lower() in ("", "null", "none") else word for word in words]
    return _entity(entity), _values(entity, chosen)


def _equal(actual: str | None, wanted: str | None) -> bool:
    if wanted == "*":
        return actual is not None
    if actual is None or wanted is None:
        return actual is wanted
    if actual.isdigit() and wanted.isdigit():
        return actual.lstrip("0") == wanted.lstrip("0")
    return actual == wanted


def _entity(name: str) -> str:
    short = LONG_TO_SHORT.get(name, name)
    if short not in ORDER and short not in _FILE_FIELDS:
        known = sorted({*LONG_TO_SHORT, *ORDER, *_FILE_FIELDS})
        meant = wording.did_you_mean(name, known) or f"; the entities are {', '.join(known)}"
        raise UsageError(f"unknown entity {name!r} in a filter{meant}")
    return short


def _values(entity: str, value: object) -> Accepted:
    items = value if isinstance(value, list | tuple) else [value]
    return tuple(_value(entity, item) for item in items)


def _value(entity: str, value: object) -> str | None:
    if value is None or value == "*":
        return value  # type: ignore[return-value]
    text = str(value)
    if entity == "extension":
        text = f".{text.lstrip('.')}"
    if isinstance(value, bool) or not isinstance(value, str | int) or not _is_label(entity, text):
        raise UsageError(
            f"filter {entity}={value!r}: a value is a label of letters and digits, null or '*'"
        )
    for prefix in ("sub-", "ses-"):
        if _entity(entity) == prefix[:3]:
            text = text.removeprefix(prefix)
    return text


def _is_label(entity: str, text: str) -> bool:
    if entity == "extension":
        return text in (".nii", ".nii.gz")
    if _entity(entity) in ("sub", "ses"):
        text = text.removeprefix(f"{_entity(entity)}-")
    return text.replace("+", "").isalnum() and text.isascii()


def compile_words(words: Iterable[str], option: str) -> Filter:
    """Read selection words.

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


@dataclass(frozen=True)
class Query:
    """Which scans of a dataset are wanted; checked when made."""

    bids_dir: Path
    participant_labels: tuple[str, ...] = ()
    session_labels: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = CONTRASTS
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    inline: tuple[str, ...] = ()  # ENTITY=VALUE
    all_scans: bool = False
    database_dir: Path | None = None
    skip_bids_validation: bool = False

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "bids_dir", Path(self.bids_dir).absolute())
        set_(self, "participant_labels", clean_labels(self.participant_labels, "sub"))
        set_(self, "session_labels", clean_labels(self.session_labels, "ses"))
        unknown = [suffix for suffix in self.suffixes if suffix not in CONTRASTS]
        if unknown or not self.suffixes:
            raise UsageError(f"unknown image type {unknown or 'none'}; choose T1w, T2w or both")
        if self.database_dir is not None:
            folder = Path(self.database_dir).absolute()
            inside = folder.resolve().is_relative_to(self.bids_dir.resolve())
            if inside and not in_derivatives(folder, self.bids_dir):
                raise UsageError(
                    f"{folder}: the index would be written inside the input dataset; "
                    "give --bids-database-dir a folder outside it"
                )
            set_(self, "database_dir", folder)
        self.conditions()

    def conditions(self) -> dict[str, Filter]:
        """Give the filter of each wanted suffix."""
        compiled = compile_filters(self.filters, self.inline)
        return {suffix: compiled[suffix.lower()] for suffix in self.suffixes}


def in_derivatives(path: Path, root: Path) -> bool:
    """Say whether a path lies in ``derivatives/NAME`` of a dataset, where outputs may be."""
    inside, whole = path.resolve(), root.resolve()
    parts = inside.relative_to(whole).parts if inside.is_relative_to(whole) else ()
    return len(parts) > 1 and parts[0] == "derivatives"


def clean_labels(labels: tuple[str, ...], prefix: str) -> tuple[str, ...]:
    """Drop prefixes and repetitions, keep the order, refuse what is no label."""
    clean = []
    for label in labels:
        bare = str(label).strip().removeprefix(f"{prefix}-")
        if not re.fullmatch(r"[A-Za-z0-9+]+", bare):
            option = {"sub": "--participant-label", "ses": "--session-label"}[prefix]
            raise UsageError(f"{option} {label!r}: a BIDS label holds letters and digits only")
        clean.append(bare)
    return tuple(dict.fromkeys(clean))
