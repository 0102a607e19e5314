"""Which low-field scans belong to which high-field scan of one subject and contrast."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from h2lo_bids.bids.choose import rank
from h2lo_bids.bids.names import ORDER, Name
from h2lo_bids.bids.orientation import ORTHOGONAL, TITLES, orientation
from h2lo_bids.bids.scan import Scan
from h2lo_bids.io import check_content

Tell = Callable[[Scan, str], None]


class Match(NamedTuple):
    """A high-field scan, its one or three low-field scans, and how these become one."""

    hf: Scan
    lf: tuple[Scan, ...]
    fusion: str


class AmbiguousError(Exception):
    """Several scans could be meant; ``side`` is the option that decides, ``words`` an example."""

    def __init__(self, candidates: Sequence[Scan], side: str, words: str, also: str = "") -> None:
        self.candidates, self.side, self.words, self.also = tuple(candidates), side, words, also


class UnpairedError(Exception):
    """There is no pair; the message is the reason."""


def by_session(
    high: Sequence[Scan], low: Sequence[Scan], *, chosen: bool, tell: Tell
) -> list[tuple[Scan, list[Scan]]]:
    """Bring the sessions of one subject together.

    A partner in the same session wins; with several such sessions each is a
    pair of its own. Otherwise there must be one high-field and one low-field
    session. Of several high-field scans in a session the preferred is taken
    (:func:`h2lo_bids.bids.choose.rank`).

    Parameters
    ----------
    high, low : sequence of Scan
        Of one contrast.
    chosen : bool
        Whether the user chose the high-field scans; if not, those without any
        field strength give way to those that have one.
    tell : callable
        Takes a scan that is left out and the reason.

    Returns
    -------
    list of (Scan, list of Scan)

    Raises
    ------
    UnpairedError
        One side is empty.
    AmbiguousError
        Several sessions could be meant.
    """
    high = high if chosen else _of_known_strength(high, tell)
    if not high or not low:
        raise UnpairedError
    visits, partners = _sessions(high), _sessions(low)
    own = [session for session in visits if session in partners]
    if not own and len(visits) > 1:
        raise AmbiguousError(high, "hf", distinction(high, high[0], ("ses",)))
    if not own and len(partners) > 1:
        raise AmbiguousError(low, "lf", distinction(low, low[0], ("ses",)))
    if not own:
        return [(_preferred(high, tell), list(low))]
    for scan in (*high, *low):
        if scan.session not in own:
            tell(scan, "its session lacks a partner, and other sessions hold whole pairs")
    return [(_preferred(visits[session], tell), partners[session]) for session in own]


def _of_known_strength(high: Sequence[Scan], tell: Tell) -> Sequence[Scan]:
    known = [scan for scan in high if scan.field_strength is not None]
    for scan in high if known else ():
        if scan.field_strength is None:
            tell(scan, "has no field strength, while other scans have; choose it with --hf")
    return known or high


def _preferred(high: Sequence[Scan], tell: Tell) -> Scan:
    best, *others = sorted(
        high, key=lambda scan: rank(scan.path, Name(scan.entities, scan.suffix, ".nii.gz"))
    )
    for scan in others:
        tell(scan, f"{best.path.name} was preferred; choose with --hf")
    return best


def select(hf: Scan, low: list[Scan], fusion: str, tell: Tell) -> Match:
    """Take one low-field scan of a session, or the three to be fused.

    Parameters
    ----------
    hf : Scan
        The high-field scan.
    low : list of Scan
        Candidates, at least one, all of one session.
    fusion : str
        ``"mrr"``: the three orthogonal thick-slice scans; ``"none"``: the only
        one; ``"auto"``: the three if they are there, else the only one.
    tell : callable
        Takes a scan that is left out and the reason.

    Returns
    -------
    Match

    Raises
    ------
    UnpairedError
        Of the three, one or two are missing.
    AmbiguousError
        There are too many.
    MissingInputError
        Only the content of an absent image could tell its slice direction.
    """
    if len(low) == 1 and fusion != "mrr":
        return Match(hf, (low[0],), "none")
    if fusion == "none":
        raise _several(low, also="fuse three with --lf-fusion mrr")
    ways = _ways(low)
    missing = [way for way in ORTHOGONAL if way not in ways]
    if fusion == "auto" and len(missing) > 1:
        raise _several(low)
    if missing:
        lacking = " and no ".join(TITLES[way] for way in missing)
        there = ", ".join(TITLES.get(way or "", "other") for way in ways)
        where = f" in ses-{low[0].session}" if low[0].session else ""
        raise UnpairedError(f"no {lacking} {hf.suffix}{where} (found {there})")
    for way in ORTHOGONAL:
        if len(ways[way]) > 1:
            raise _several(ways[way])
    three = tuple(ways[way][0] for way in ORTHOGONAL)
    for scan in low:
        if scan not in three:
            tell(scan, "the three orthogonal scans were taken; choose it with --lf")
    return Match(hf, three, "mrr")


def _ways(low: Sequence[Scan]) -> dict[str | None, list[Scan]]:
    ways: dict[str | None, list[Scan]] = {}
    for scan in low:
        way = orientation(scan)
        if way is None:
            check_content(scan.path)  # what is not there cannot be told
        ways.setdefault(way, []).append(scan)
    return ways


def distinction(candidates: Sequence[Scan], chosen: Scan, entities: Sequence[str] = ORDER) -> str:
    """Give the words that tell one candidate from the others, such as ``acq-iso``.

    Parameters
    ----------
    candidates : sequence of Scan
        Including the chosen one.
    chosen : Scan
        The one to take.
    entities : sequence of str, optional
        Those that may be used.

    Returns
    -------
    str
        Selection words; empty when the names do not tell.
    """
    rest, words, labels = list(candidates), [], dict(chosen.entities)
    for entity in entities:
        same = [scan for scan in rest if dict(scan.entities).get(entity) == labels.get(entity)]
        if len(same) < len(rest):
            words.append(f"{entity}-{labels[entity]}" if entity in labels else f"{entity}=null")
            rest = same
    return " ".join(words)


def _several(low: Sequence[Scan], also: str = "") -> AmbiguousError:
    cubes = [scan for scan in low if orientation(scan) == "iso"]
    return AmbiguousError(low, "lf", distinction(low, (cubes or list(low))[0]), also)


def _sessions(scans: Sequence[Scan]) -> dict[str | None, list[Scan]]:
    found: dict[str | None, list[Scan]] = defaultdict(list)
    for scan in scans:
        found[scan.session].append(scan)
    return found
