"""From the options to the pairs of scans to train on, and why other subjects have none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from h2lo_bids.bids.derivatives import given_mask
from h2lo_bids.bids.gather import Result, Search
from h2lo_bids.bids.names import ORDER
from h2lo_bids.bids.pair_sides import Key, Sides, gather_sides, mask_donor, use_precomputed
from h2lo_bids.bids.query import HIGH, LOW, Conditions, Filter, compile_words, describe, matches
from h2lo_bids.bids.scan import ORTHOGONAL, TITLES, Scan, orientation, rank
from h2lo_bids.errors import H2loError, NoMatchError, UsageError
from h2lo_bids.io import check_content
from h2lo_bids.settings import Settings
from h2lo_bids.wording import counted, listed

_MOST = 6


@dataclass(frozen=True)
class PairSource:
    """The scans of one pair."""

    hf: Scan
    lf: tuple[Scan, ...]  # one, or the axial, coronal and sagittal one to fuse
    registered: bool = False  # the low-field image is a derivative on the high-field grid
    donor: Scan | None = None  # of T2w: the session's T1w scan, which may lend its brain mask

    @property
    def fusion(self) -> str:
        """``"mrr"`` for three scans, ``"none"`` for one."""
        return "mrr" if len(self.lf) > 1 else "none"

    @property
    def subject(self) -> str:
        """Label without ``sub-``."""
        return self.hf.subject

    @property
    def contrast(self) -> str:
        """``"T1w"`` or ``"T2w"``."""
        return self.hf.suffix

    @property
    def name(self) -> str:
        """That of the high-field scan, unique in a dataset."""
        return self.hf.stem


@dataclass(frozen=True)
class PairDiscovery(Result):
    """Pairs that are asked for; of what is skipped, subjects without a partner come first."""

    pairs: tuple[PairSource, ...] = ()


@dataclass(eq=False)
class AmbiguousError(Exception):
    """Several scans could be meant; ``side`` is the option that decides, ``words`` an example."""

    candidates: Sequence[Scan]
    side: str
    words: Filter
    also: str = ""


class UnpairedError(Exception):
    """There is no pair; the message is the reason."""


def discover_pairs(settings: Settings) -> PairDiscovery:
    """Find the high-field scans asked for, with their low-field partners; guess nothing."""
    search = Search(settings, Conditions(settings))
    search.begin()
    sides = gather_sides(search)
    for label in search.subjects:
        if not any((label, contrast) in sides for contrast in search.suffixes):
            search.alone(label, search.empty(label))
    pairs = _pairs(search, sides)
    if not pairs and not search.problems:
        reasons = [text for path, text in search.doubts if path == settings.lf_dir]  # other labels
        reasons += dict.fromkeys(i.reason for i in (*search.lonely, *search.skipped))
        reasons.sort(key=lambda text: "did you mean" not in text)
        raise NoMatchError(_nothing_pairs(search, sides, reasons))
    for scan in (scan for pair in pairs for scan in (pair.hf, *pair.lf)):
        search.use(scan)
    return PairDiscovery(pairs=tuple(pairs), **search.result())


def _pairs(search: Search, sides: dict[Key, Sides]) -> list[PairSource]:
    """Return the pairs whose content is there; report the subjects without one."""
    settings, derived = search.settings, set[str]()
    if settings.lf_fusion != "mrr":
        derived = use_precomputed(search, sides)
    elif settings.derivatives:
        search.notes.append("--lf-fusion mrr: no fused images were looked for in --derivatives")
    pairs: list[PairSource] = []
    doubts: dict[Key, AmbiguousError] = {}
    for (subject, contrast), both in sorted(sides.items()):
        if both.broken:
            continue
        if not (both.high and both.low):
            search.alone(subject, _no_partner(contrast, both, search, contrast in derived))
            continue
        try:
            pairs += _of_subject(search, both, contrast, registered=contrast in derived)
        except AmbiguousError as doubt:
            doubts[subject, contrast] = doubt
    if doubts:
        raise UsageError(_ambiguous(doubts, settings))
    if settings.lf_fusion == "auto":
        pairs = _alike(search, pairs)
    return [pair for pair in pairs if search.present(pair.hf, *pair.lf)]


def _of_subject(
    search: Search, both: Sides, contrast: str, *, registered: bool
) -> list[PairSource]:
    """Match one subject's scans of a contrast."""
    pairs, chosen = [], bool(search.conditions.asked(contrast, *HIGH))
    fusion = "none" if registered else search.settings.lf_fusion
    for hf, low in _by_session(search, both, chosen=chosen):
        try:
            parts = _select(search, hf, low, fusion)
            # The paper's masks are each of its own image.
            donor = None if search.settings.protocol == "paper" else mask_donor(hf, search)
            if donor and (mask := given_mask(search.settings.derivatives, donor)):
                check_content(mask[0])
        except UnpairedError as reason:
            search.alone(hf.subject, str(reason))
        except H2loError as error:
            search.fail(hf.path, error)
        else:
            pairs.append(PairSource(hf, parts, registered, donor))
    return pairs


def _by_session(search: Search, both: Sides, *, chosen: bool) -> list[tuple[Scan, list[Scan]]]:
    """Pair scans within each session, or of the only session of either side if none has both."""
    high, low = both.high, both.low
    known = [scan for scan in high if chosen or scan.field_strength is not None] or high
    for scan in (scan for scan in high if scan not in known):
        reason = "has no field strength, while other scans have; choose it with --hf"
        search.skip(scan.path, reason)
    high = known
    visits, partners = (
        {scan.session: [s for s in side if s.session == scan.session] for scan in side}
        for side in (high, low)
    )
    common = [session for session in visits if session in partners]
    one, two = (_distinction(side, side[0], ("ses",)) for side in (high, low))
    if not common and len(visits) > 1:
        each = f"{_option(search.settings, 'hf', one)} {_option(search.settings, 'lf', two)}"
        also = f"run once per visit, as with {each}, unless both sides name their sessions alike"
        raise AmbiguousError(high, "hf", one, also if len(partners) > 1 else "")
    if not common and len(partners) > 1:
        raise AmbiguousError(low, "lf", two)
    if not common:
        return [(_preferred(search, high), low)]
    for scan in (*high, *low):
        if scan.session not in common:
            reason = "its session lacks a partner, and other sessions hold whole pairs"
            search.skip(scan.path, reason)
    return [(_preferred(search, visits[session]), partners[session]) for session in common]


def _preferred(search: Search, high: Sequence[Scan]) -> Scan:
    best, *others = sorted(high, key=rank)
    for scan in others:
        search.skip(scan.path, f"{best.path.name} was preferred; choose with --hf")
    return best


def _select(search: Search, hf: Scan, low: list[Scan], fusion: str) -> tuple[Scan, ...]:
    """Take one low-field scan of a session, or the three to be fused."""
    low = _first_runs(search, low)
    if len(low) == 1 and fusion != "mrr":
        return (low[0],)
    if fusion == "none":
        raise _several(low, also="fuse three with --lf-fusion mrr")
    ways: dict[str | None, list[Scan]] = defaultdict(list)
    for scan in low:
        way = orientation(scan)
        if way is None:
            check_content(scan.path)  # an absent scan has no orientation
        ways[way].append(scan)
    missing = [way for way in ORTHOGONAL if way not in ways]
    if fusion == "auto" and len(missing) > 1:
        raise _several(low)
    if missing:
        lacking = " and no ".join(TITLES[way] for way in missing)
        there = ", ".join(TITLES.get(way or "", "other") for way in ways)
        where = f" in ses-{low[0].session}" if low[0].session else ""
        raise UnpairedError(f"no {lacking} {hf.suffix}{where} (found {there})")
    if doubled := next((ways[way] for way in ORTHOGONAL if len(ways[way]) > 1), None):
        raise _several(doubled, beside=[scan for scan in low if scan not in doubled])
    three = tuple(ways.pop(way)[0] for way in ORTHOGONAL)
    for scan in (scan for rest in ways.values() for scan in rest):
        search.skip(scan.path, "the three orthogonal scans were taken; choose it with --lf")
    return three


def _first_runs(search: Search, low: list[Scan]) -> list[Scan]:
    """Of scans that differ in the run alone, keep that of the run which is asked for first."""
    runs = search.conditions.asked(low[0].suffix, *LOW).get("run")
    if not runs:
        return low

    def place(scan: Scan) -> int:
        return next(n for n, run in enumerate(runs) if matches(scan.name, {"run": (run,)}))

    def alike(scan: Scan) -> tuple[object, ...]:
        return orientation(scan), *(pair for pair in scan.entities if pair[0] != "run")

    kept = []
    for scan in low:
        first = min((other for other in low if alike(other) == alike(scan)), key=place)
        if place(scan) == place(first):
            kept.append(scan)
        else:
            search.skip(scan.path, f"the run of {first.path.name} is asked for first")
    return kept


def _distinction(
    candidates: Sequence[Scan],
    chosen: Scan,
    entities: Sequence[str] = ORDER,
    beside: Sequence[Scan] = (),
) -> Filter:
    """Return what sets one candidate apart from the others, but not from the scans beside them."""
    # Other subjects' scans may have no run, or only runs: `_first_runs` takes what they have.
    rest, words = list(candidates), Filter()
    for entity in entities:
        own, found = chosen.name.get(entity), {scan.name.get(entity) for scan in rest}
        if len(found) > 1:
            kept = {scan.name.get(entity) for scan in beside} - found
            kept |= {None if own else "1"} if entity == "run" else set()
            words[entity] = (own, *sorted(kept, key=lambda label: (label is None, label or "")))
            rest = [scan for scan in rest if scan.name.get(entity) == own]
    return words


def _several(low: Sequence[Scan], also: str = "", beside: Sequence[Scan] = ()) -> AmbiguousError:
    cubes = [scan for scan in low if orientation(scan) == "iso"]
    plainest = min(cubes or low, key=lambda scan: len(scan.stem))
    return AmbiguousError(low, "lf", _distinction(low, plainest, beside=beside), also)


def _alike(search: Search, pairs: list[PairSource]) -> list[PairSource]:
    """Skip single scans of a contrast of which other subjects have three to fuse."""
    fused = {pair.contrast for pair in pairs if pair.fusion == "mrr"}
    for pair in pairs:
        if pair.fusion == "none" and pair.contrast in fused:
            way = TITLES.get(orientation(pair.lf[0]) or "", "single")
            reason = (
                f"only one (the {way}) low-field {pair.contrast}, "
                "while others have three to fuse; use single scans with --lf-fusion none"
            )
            search.alone(pair.subject, reason)
    return [pair for pair in pairs if pair.fusion == "mrr" or pair.contrast not in fused]


def _ambiguous(doubts: Mapping[Key, AmbiguousError], settings: Settings) -> str:
    """Report in one line which scans could be meant, how many subjects, and the option."""
    (subject, contrast), doubt = min(doubts.items(), key=lambda item: item[0])
    kind = "high-field" if doubt.side == "hf" else "low-field"
    affected = counted(len({name for name, _ in doubts}), "subject")
    option = _option(settings, doubt.side, doubt.words) if doubt.words else "--bids-filter-file"
    return (
        f"sub-{subject}: {len(doubt.candidates)} {kind} {contrast} scans could be meant "
        f"({_names(doubt.candidates)}); {affected} affected; "
        f"choose, for example with {option}" + (f", or {doubt.also}" if doubt.also else "")
    )


def _option(settings: Settings, side: str, words: Filter) -> str:
    """Write an option of one side, as it was given but for some words."""
    text = describe(compile_words(getattr(settings, side)) | words)
    return f'--{side} "{text}"' if " " in text else f"--{side} {text}"


def _no_partner(contrast: str, both: Sides, search: Search, derived: bool) -> str:
    """Report which side a subject lacks, and what it has of the other."""
    if not both.high and not both.low:
        return f"no {contrast} of either field that is asked for"
    kind, side, there = (
        ("low-field", LOW, both.high) if both.high else ("high-field", HIGH, both.low)
    )
    asked, settings = search.conditions.asked(contrast, *side), search.settings
    words = f" with {describe(asked)}" if asked else ""
    if side == LOW and derived:
        words += f" in --derivatives {' '.join(name for name, _ in settings.derivatives)}"
    elif side == LOW and settings.lf_dir is not None:
        words += f" in {settings.lf_dir}"
    return f"no {kind} {contrast}{words} to go with {_names(there)}"


def _nothing_pairs(search: Search, sides: Mapping[Key, Sides], reasons: Sequence[str]) -> str:
    """Report in one line what there is, when nothing pairs."""
    high = [scan for both in sides.values() for scan in both.high]
    low = [scan for both in sides.values() for scan in both.low]
    why, remedy = f"; {'; '.join(reasons[:2])}" if reasons else "", ""
    if not low:
        remedy = (
            "; low-field scans (below 1 T) may also come from --lf-dir DIR or "
            "--derivatives NAME=PATH, and those without a field strength are chosen with --lf"
        )
    elif not high:
        remedy = "; high-field scans (1 T or more) are chosen with --hf"
    if chosen := search.settings.session_label:
        remedy += f"; --session-label {' '.join(chosen)} leaves other sessions out"
    there = f"{counted(len(high), 'high-field scan')} and {counted(len(low), 'low-field scan')}"
    people = counted(len(search.subjects), "subject")
    return f"{search.root}: nothing pairs; {people} with {there}{why}{remedy}"


def _names(scans: Sequence[Scan]) -> str:
    """Name scans without their subject, which the message begins with."""
    return listed([scan.stem.removeprefix(f"sub-{scan.subject}_") for scan in scans], _MOST)
