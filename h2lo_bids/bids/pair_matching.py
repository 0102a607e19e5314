"""Which high-field and low-field scans of one subject belong together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from h2lo_bids.bids.gather import Image, is_low, read_scan
from h2lo_bids.bids.index import folder_names
from h2lo_bids.bids.metadata import Sidecars
from h2lo_bids.bids.names import ORDER, Name, in_place, parse_name
from h2lo_bids.bids.pair_sides import PairQuery
from h2lo_bids.bids.query import matches
from h2lo_bids.bids.scan import ORTHOGONAL, TITLES, Scan, not_an_input, orientation, rank
from h2lo_bids.errors import H2loError
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
    (`h2lo_bids.bids.scan.rank`).
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
    """Take one low-field scan of a session, or the three to be fused."""
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
    """Give the words that tell one candidate from the others, such as ``acq-iso``."""
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


def mask_donor(hf: Scan, query: PairQuery) -> Scan | None:
    """Find the high-field T1w scan beside a T2w scan, if there is one.

    It is looked for in the scan's own folder and not among the pairs, so that a
    pair comes out the same whether T1w pairs are asked for or not, exist or not.
    """
    if hf.suffix != "T2w":
        return None
    asked, sidecars = query.conditions("hf", "T1w"), Sidecars(hf.root)
    for image in _beside(hf):
        if not matches(image.name, asked) or not_an_input(image.name, asked):
            continue
        try:
            check_content(image.path)
            scan = read_scan(image, sidecars, hf.dataset)
        except H2loError:
            continue
        # Of unknown strength, it may be the low-field scan.
        if not is_low(scan) and (asked or scan.field_strength is not None):
            return scan
    return None


def _beside(hf: Scan) -> list[Image]:
    """List the T1w images of a scan's folder, the preferred one first."""
    paths = [hf.path.with_name(filename) for filename in folder_names(hf.path.parent)]
    images = [Image(path, name) for path in paths if (name := parse_name(path.name))]
    wanted = [i for i in images if i.name.suffix == "T1w" and in_place(i.path, i.name)]
    return sorted(wanted, key=lambda i: (*rank(i.path, i.name), i.name.extension == ".nii"))
