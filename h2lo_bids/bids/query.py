"""What is searched for in a dataset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from h2lo_bids.bids.filters import Filter, compile_filters
from h2lo_bids.errors import UsageError
from h2lo_bids.vocabulary import CONTRASTS


@dataclass(frozen=True)
class Query:
    """Which scans of a dataset are wanted; checked when made.

    Attributes
    ----------
    bids_dir : Path
        Root of the raw dataset.
    participant_labels, session_labels : tuple of str
        With or without ``sub-`` / ``ses-``; kept without. Empty means all.
    suffixes : tuple of str
        ``"T1w"``, ``"T2w"`` or both.
    filters : mapping
        Content of a filter file: ``{"t1w": {entity: value}, "t2w": {...}}``.
    inline : tuple of str
        ``ENTITY=VALUE`` filters, for both.
    all_scans : bool
        Every scan instead of the preferred one of its session and contrast.
    database_dir : Path or None
        Where PyBIDS keeps its index between runs; outside ``bids_dir``.
    skip_bids_validation : bool
        Take the dataset as it is.

    Raises
    ------
    UsageError
        A label holds something other than letters and digits, a filter makes
        no sense, or ``database_dir`` lies inside ``bids_dir`` (but its ``derivatives/NAME``).
    """

    bids_dir: Path
    participant_labels: tuple[str, ...] = ()
    session_labels: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = CONTRASTS
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    inline: tuple[str, ...] = ()
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
    """Drop prefixes and repetitions, keep the order, refuse what is no label.

    Parameters
    ----------
    labels : iterable of str
        As typed, e.g. ``("sub-01", "02")``.
    prefix : str
        ``"sub"`` or ``"ses"``.

    Returns
    -------
    tuple of str

    Raises
    ------
    UsageError
        A label holds something other than letters, digits and ``+``.
    """
    clean = []
    for label in labels:
        bare = str(label).strip().removeprefix(f"{prefix}-")
        if not re.fullmatch(r"[A-Za-z0-9+]+", bare):
            option = {"sub": "--participant-label", "ses": "--session-label"}[prefix]
            raise UsageError(f"{option} {label!r}: a BIDS label holds letters and digits only")
        clean.append(bare)
    return tuple(dict.fromkeys(clean))
