"""From the options to the scans to work on, and why the others are skipped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from h2lo_bids.bids.gather import Result, Search, check_fit, find_images, read_scan
from h2lo_bids.bids.names import ORDER
from h2lo_bids.bids.query import ENHANCED, HIGH, LOW, Conditions, Filter, describe, mismatch
from h2lo_bids.bids.scan import (
    ORTHOGONAL,
    PREFERENCE,
    TITLES,
    Scan,
    not_an_input,
    orientation,
    rank,
)
from h2lo_bids.errors import H2loError, NoMatchError
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import ENHANCE
from h2lo_bids.wording import counted, listed

_RANK = ("iso", *ORTHOGONAL, None)


@dataclass(frozen=True)
class ImageSource:
    """What an image is made from: a scan, or the orthogonal low-field ones of a session, fused."""

    scan: Scan  # what outputs are named after: the first part, with the entities that all share
    parts: tuple[Scan, ...]  # the first that can be used gives the frame its place


@dataclass(frozen=True)
class Discovery(Result):
    """Scans that are asked for."""

    sources: tuple[ImageSource, ...] = ()  # by subject, session and contrast

    @property
    def scans(self) -> tuple[Scan, ...]:
        """All parts of the sources, with the entities of the outputs, as a run lists them."""
        pairs = ((part, source.scan) for source in self.sources for part in source.parts)
        return tuple(replace(part, entities=scan.entities) for part, scan in pairs)


def discover(settings: Settings) -> Discovery:
    """Find the T1w and T2w scans that are asked for: of high field, or of low field to enhance."""
    sides, choose = (ENHANCED, _low_field) if settings.task == ENHANCE else (HIGH, _high_field)
    search = Search(settings, Conditions(settings))
    search.begin()
    every = find_images(search)
    asked = {suffix: search.conditions.asked(suffix, *sides) for suffix in search.suffixes}
    images = []
    for image in every:
        conditions = asked[image.suffix]
        if reason := mismatch(image.name, conditions) or not_an_input(image.name, conditions):
            search.skip(image.path, reason)
        else:
            images.append(image)
    if images:
        check_fit(search, every, sides)
    search.validate(image.path for image in images)
    sources = choose(images, search)
    if not sources and not search.problems:
        given = {item.reason for item in search.skipped}
        reasons = sorted(given, key=lambda text: ("did you mean" not in text, text))
        reasons = [one for one in reasons if not any(r.startswith(f"{one};") for r in reasons)]
        raise NoMatchError(_nothing_found(search, asked, reasons))
    _report_empty(search, {search.root / f"sub-{source.scan.subject}" for source in sources})
    return Discovery(sources=tuple(sources), **search.result())


def _nothing_found(search: Search, asked: dict[str, Filter], reasons: list[str]) -> str:
    """Report in one line what was searched and what exists."""
    filters = "; ".join(f"{suffix}: {describe(of)}" for suffix, of in asked.items())
    text = (
        f"{search.root}: no scan to work on; searched subjects {listed(search.subjects)}, sessions "
        f"{listed(search.settings.session_label) or 'all'}, images {'/'.join(search.suffixes)}, "
        f"filters {filters}; found {counted(len(search.existing), 'subject')}, "
        f"sessions {listed(search.visits()) or 'none'}"
    )
    return f"{text}, and images were skipped: {'; '.join(reasons[:3])}" if reasons else text


def _high_field(images: list[Scan], search: Search) -> list[ImageSource]:
    """Read sidecars, drop low field, choose one by `rank`, and check that the content is there."""
    # It is never replaced silently: content that is missing is a problem, not a reason for another.
    scans, errors = [], {}
    for image in images:
        try:
            scan = read_scan(image, search.sidecars)
        except H2loError as error:  # it matters only if the scan would be chosen
            scan, errors[image.path] = image, error
        if scan.low:
            reason = f"low field ({scan.strength}): never an input to synthesis"
            if scan.field_source == "label":
                reason += "; if it is high field, write MagneticFieldStrength into its sidecar"
            search.skip(scan.path, reason)
            search.doubt(scan.path, *scan.warnings)
        else:
            scans.append(scan)
    chosen: list[ImageSource] = []
    for group in _by_session(scans):
        best, *others = sorted(group, key=rank)
        for scan in (best, *others) if search.settings.all_scans else (best,):
            if scan.path in errors:
                search.fail(scan.path, errors[scan.path])
            elif search.present(scan):
                used = search.use(scan)
                chosen.append(ImageSource(used, (used,)))
        for scan in () if search.settings.all_scans else others:
            search.skip(
                scan.path,
                f"{best.path.name} was preferred ({PREFERENCE}); "
                "take all with --all-scans or choose with --filter ENTITY=VALUE",
            )
    return chosen


def _by_session(scans: Iterable[Scan]) -> list[list[Scan]]:
    """Return the scans of each subject, session and contrast, in this order."""
    groups: dict[tuple[str, str, str], list[Scan]] = defaultdict(list)
    for scan in scans:
        groups[scan.subject, scan.session or "", scan.suffix].append(scan)
    return [groups[key] for key in sorted(groups)]


def _report_empty(search: Search, known: set[Path]) -> None:
    """Name each subject without any scan; one that was asked for by name is a problem."""

    def top(path: Path) -> Path:
        return search.root.joinpath(*path.relative_to(search.root).parts[:1])

    known |= {top(problem.path) for problem in search.problems}
    # The first of each is looked up: there may be thousands of subjects and images.
    reasons = {top(item.path): item.reason for item in reversed(search.skipped)}
    for label in search.subjects:
        folder = search.root / f"sub-{label}"
        if folder in known:
            continue
        skipped = reasons.get(folder)
        empty = "" if skipped else search.empty(label)
        if search.settings.participant_label:
            reason = empty or f"no scan to work on ({skipped})"
            search.refuse(folder, f"{reason}; check the labels and filters")
        else:
            search.skip(folder, empty or "all its images are skipped")


def _low_field(images: list[Scan], search: Search) -> list[ImageSource]:
    """Choose three scans of a session to be fused, of which one may be lost, or a single one."""
    sources = []
    for group in _by_session(_low(images, search)):
        for parts in _choices(group, search):
            there = tuple(search.use(part) for part in parts if search.present(part))
            if there:
                sources.append(ImageSource(_named_after(parts, there[0]), there))
    return sources


def _low(images: list[Scan], search: Search) -> Iterator[Scan]:
    """Read sidecars, and keep what is low field."""
    for image in images:
        try:
            scan = read_scan(image, search.sidecars)
        except H2loError as error:
            search.fail(image.path, error)
            continue
        if scan.low:
            yield scan
        elif scan.field_strength is not None:
            search.skip(scan.path, f"high field ({scan.strength}): never an input to enhancement")
            search.doubt(scan.path, *scan.warnings)
        elif search.conditions.asked(scan.suffix, *LOW):
            yield scan.taken_as_low("it was chosen with --lf")
        else:
            search.skip(scan.path, f"{scan.warnings[0]}; take it with --lf ENTITY-LABEL")


def _choices(group: list[Scan], search: Search) -> list[tuple[Scan, ...]]:
    """Return which scans of a session are enhanced, alone or together."""
    group = sorted(group, key=_order)
    if search.settings.all_scans:
        return [(scan,) for scan in group]
    fusion = search.settings.lf_fusion
    ways = {orientation(scan): scan for scan in reversed(group)}  # of each, the preferred scan
    whole = fusion != "none" and {*ORTHOGONAL} <= {*ways}
    three = tuple(ways[way] for way in ORTHOGONAL) if whole else ()
    if fusion == "mrr" and not three:
        there = ", ".join(TITLES.get(orientation(scan) or "", "other") for scan in group)
        for scan in group:
            search.skip(scan.path, f"not three orthogonal scans to fuse (found {there})")
        return []
    chosen = three or (group[0],)
    taken = "the three orthogonal scans are fused" if three else f"{group[0].path.name} is taken"
    for scan in group:
        if scan not in chosen:
            search.skip(
                scan.path,
                f"{taken}; choose with --lf ENTITY-LABEL, or take each alone with --all-scans",
            )
    return [chosen]


def _order(scan: Scan) -> tuple[object, ...]:
    partial, several, *rest = rank(scan)
    return (partial, several, _RANK.index(orientation(scan)), *rest)


def _named_after(parts: Sequence[Scan], first: Scan) -> Scan:
    """Return the scan that outputs are named after: of several, with what all share."""
    if len(parts) == 1:
        return first
    shared = set.intersection(*(set(part.entities) for part in parts))
    entities = tuple(pair for pair in first.entities if pair in shared)
    scan = replace(first, entities=entities)
    taken = (first.path.with_name(scan.stem + end) for end in (".nii.gz", ".nii"))
    if not any(path.is_symlink() or path.exists() for path in taken):
        return scan
    # Another image, its content there or not, has this name: its outputs would be taken for those
    # of the fused one.
    named = {**dict(entities), "acq": "mrr"}
    return replace(first, entities=tuple((key, named[key]) for key in ORDER if key in named))
