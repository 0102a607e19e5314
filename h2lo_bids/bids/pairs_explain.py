"""What to tell a user about pairs that cannot be decided on or do not exist."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from h2lo_bids.bids.pairquery import PairQuery
from h2lo_bids.bids.pairs_choose import AmbiguousError
from h2lo_bids.bids.pairs_sides import Key, Sides
from h2lo_bids.bids.scan import Scan
from h2lo_bids.bids.selection import words_of

_MOST = 6


def ambiguous(doubts: Mapping[Key, AmbiguousError], query: PairQuery) -> str:
    """Say in one line what could be meant, whom it concerns, and which option decides.

    Parameters
    ----------
    doubts : mapping
        By subject and contrast, at least one.
    query : PairQuery
        What was searched; its selection words are repeated in the advice.

    Returns
    -------
    str
    """
    subject, contrast = min(doubts)
    doubt = doubts[subject, contrast]
    kind = "high-field" if doubt.side == "hf" else "low-field"
    affected = len({name for name, _ in doubts})
    said = query.hf if doubt.side == "hf" else query.lf
    words = " ".join([*said, doubt.words])
    option = f"--{doubt.side} {_quoted(words)}" if doubt.words else "--bids-filter-file"
    return (
        f"sub-{subject}: {len(doubt.candidates)} {kind} {contrast} scans could be meant "
        f"({_names(doubt.candidates)}); {affected} {_plural('subject', affected)} affected; "
        f"choose, for example with {option}" + (f", or {doubt.also}" if doubt.also else "")
    )


def no_partner(contrast: str, own: Sides, query: PairQuery, precomputed: bool) -> str:
    """Say what a subject has and lacks.

    Parameters
    ----------
    contrast : str
        ``"T1w"`` or ``"T2w"``.
    own : Sides
        What it has.
    query : PairQuery
        What was searched.
    precomputed : bool
        Whether low-field images came from derivative datasets.

    Returns
    -------
    str
    """
    if not own.high and not own.low:
        return f"no {contrast} of either field that is asked for"
    if not own.high:
        asked = _asked("hf", contrast, query)
        return f"no high-field {contrast} (1 T or more){asked} beside {_names(own.low)}"
    where = ""
    if precomputed:
        where = f" in --derivatives {' '.join(name for name, _ in query.derivatives)}"
    elif query.lf_dir is not None:
        where = f" in {query.lf_dir}"
    asked = _asked("lf", contrast, query)
    return f"no low-field {contrast}{asked}{where} beside {_names(own.high)}"


def _asked(side: str, contrast: str, query: PairQuery) -> str:
    conditions = query.conditions(side, contrast)
    return f" with {words_of(conditions)}" if conditions else ""


def nothing_pairs(
    query: PairQuery, sides: Mapping[Key, Sides], subjects: Sequence[str], reasons: Sequence[str]
) -> str:
    """Say in one line what was found, when nothing pairs.

    Parameters
    ----------
    query : PairQuery
        What was searched.
    sides : mapping
        What there is.
    subjects : sequence of str
        Those looked at.
    reasons : sequence of str
        Why subjects were left out.

    Returns
    -------
    str
    """
    high = [scan for own in sides.values() for scan in own.high]
    low = [scan for own in sides.values() for scan in own.low]
    found = f"{_count(high, 'high-field')} and {_count(low, 'low-field')}"
    why = f"; {'; '.join(reasons[:2])}" if reasons else ""
    remedy = ""
    if not low:
        remedy = (
            "; low-field scans (below 1 T) may also come from --lf-dir DIR or "
            "--derivatives NAME=PATH, and those without a field strength are chosen with --lf"
        )
    elif not high:
        remedy = "; high-field scans (1 T or more) are chosen with --hf"
    people = f"{len(subjects)} {_plural('subject', len(subjects))}"
    return f"{query.bids_dir}: nothing pairs; {people} with {found}{why}{remedy}"


def _count(scans: Sequence[Scan], kind: str) -> str:
    if not scans:
        return f"no {kind} scan"
    contrasts = Counter(scan.suffix for scan in scans)
    visits = sorted({f"ses-{scan.session}" for scan in scans if scan.session})
    where = f" in {', '.join(visits[:_MOST])}" if visits else ""
    return " and ".join(f"{n} {kind} {name}" for name, n in sorted(contrasts.items())) + where


def _names(scans: Sequence[Scan]) -> str:
    """Name scans without their subject, which is said already."""
    names = [scan.stem.removeprefix(f"sub-{scan.subject}_") for scan in scans]
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more


def _quoted(words: str) -> str:
    return f'"{words}"' if " " in words else words


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
