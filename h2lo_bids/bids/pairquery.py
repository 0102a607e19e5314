"""Which pairs of high-field and low-field scans are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from h2lo_bids.bids.filters import Filter, compile_filters
from h2lo_bids.bids.query import Query
from h2lo_bids.bids.selection import compile_words
from h2lo_bids.errors import UsageError
from h2lo_bids.vocabulary import CONTRASTS

FUSIONS = ("auto", "none", "mrr")
LF_DATASET = "lf"


@dataclass(frozen=True)
class PairQuery:
    """Which pairs are wanted; checked when made.

    Attributes
    ----------
    bids_dir : Path
        Root of the raw dataset.
    participant_labels, session_labels, database_dir, skip_bids_validation
        As in :class:`h2lo_bids.bids.query.Query`; sessions are those of both scans.
    contrasts : tuple of str
        ``"T1w"``, ``"T2w"`` or both.
    filters : mapping
        Content of a filter file: ``t1w`` and ``t2w`` (and, more exactly,
        ``hf_t1w``, ``hf_t2w``) choose high-field scans, ``lf_t1w`` and
        ``lf_t2w`` low-field ones.
    inline : tuple of str
        ``ENTITY=VALUE`` filters of the high-field scans.
    hf, lf : tuple of str
        Selection words (:mod:`h2lo_bids.bids.selection`); they win over filters.
    lf_dir : Path or None
        Second root, where the low-field scans are; called ``lf`` in BIDS URIs.
    derivatives : tuple of (str, Path)
        Derivative datasets by name that may hold low-field images on the
        high-field grid.
    fusion : str
        ``"mrr"`` (three orthogonal scans), ``"none"`` (one scan) or ``"auto"``.

    Raises
    ------
    UsageError
        A word, label, filter or combination makes no sense.
    """

    bids_dir: Path
    participant_labels: tuple[str, ...] = ()
    session_labels: tuple[str, ...] = ()
    contrasts: tuple[str, ...] = CONTRASTS
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    inline: tuple[str, ...] = ()
    hf: tuple[str, ...] = ()
    lf: tuple[str, ...] = ()
    lf_dir: Path | None = None
    derivatives: tuple[tuple[str, Path], ...] = ()
    fusion: str = "auto"
    database_dir: Path | None = None
    skip_bids_validation: bool = False

    def __post_init__(self) -> None:
        raw, set_ = self.raw(), object.__setattr__
        for name in ("bids_dir", "participant_labels", "session_labels", "database_dir"):
            set_(self, name, getattr(raw, name))
        set_(self, "contrasts", tuple(dict.fromkeys(self.contrasts)))
        if self.fusion not in FUSIONS:
            raise UsageError(f"--lf-fusion {self.fusion}: choose of {', '.join(FUSIONS)}")
        if self.lf_dir is not None:
            set_(self, "lf_dir", Path(self.lf_dir).absolute())
            if self.lf_dir.resolve() == self.bids_dir.resolve():
                raise UsageError(
                    f"--lf-dir {self.lf_dir}: is bids_dir itself; leave it out, "
                    "and choose scans with --hf and --lf"
                )
        roots = tuple((name, Path(root).absolute()) for name, root in self.derivatives)
        names = [name for name, _ in roots]
        if len(set(names)) < len(names) or {"raw", LF_DATASET} & set(names):
            raise UsageError(
                f"--derivatives {' '.join(names)}: give each dataset a name of its own, "
                f"other than raw and {LF_DATASET}"
            )
        set_(self, "derivatives", roots)
        for contrast in self.contrasts:
            self.conditions("hf", contrast)
            self.conditions("lf", contrast)

    def raw(self) -> Query:
        """Ask for every scan of the wanted contrasts in ``bids_dir``."""
        return Query(
            bids_dir=self.bids_dir,
            participant_labels=self.participant_labels,
            session_labels=self.session_labels,
            suffixes=self.contrasts,
            database_dir=self.database_dir,
            skip_bids_validation=self.skip_bids_validation,
        )

    def second(self) -> Query | None:
        """Ask for every scan of the wanted contrasts in ``lf_dir``, if there is one."""
        if self.lf_dir is None:
            return None
        return Query(
            bids_dir=self.lf_dir,
            participant_labels=self.participant_labels,
            session_labels=self.session_labels,
            suffixes=self.contrasts,
            skip_bids_validation=self.skip_bids_validation,
        )

    def conditions(self, side: str, contrast: str) -> Filter:
        """Give what the user asks of one side's scans of a contrast; empty for nothing.

        Parameters
        ----------
        side : str
            ``"hf"`` or ``"lf"``.
        contrast : str
            ``"T1w"`` or ``"T2w"``.

        Returns
        -------
        Filter
        """
        key = contrast.lower()
        compiled = compile_filters(self.filters)
        own = compiled.get(f"{side}_{key}", {})
        if side == "lf":
            return own | compile_words(self.lf, "--lf")
        inline = compile_filters({}, self.inline)[key]
        return compiled[key] | own | inline | compile_words(self.hf, "--hf")
