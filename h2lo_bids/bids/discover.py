"""From a query to the scans to work on, and why the others are skipped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from h2lo_bids.bids.explain import empty_subject, nothing_found
from h2lo_bids.bids.gather import (
    Findings,
    Image,
    Problem,
    Skipped,
    check_filters,
    choose_subjects,
    find_images,
    is_low,
    read_scan,
    unwanted,
)
from h2lo_bids.bids.index import list_subjects
from h2lo_bids.bids.metadata import Sidecars
from h2lo_bids.bids.names import Name
from h2lo_bids.bids.pair_sides import FUSIONS
from h2lo_bids.bids.query import Filter, Query, compile_filters, compile_words
from h2lo_bids.bids.scan import (
    ORTHOGONAL,
    PREFERENCE,
    TITLES,
    Scan,
    header_warnings,
    orientation,
    rank,
)
from h2lo_bids.bids.validate import read_description, require_valid
from h2lo_bids.errors import H2loError, NoMatchError, UsageError
from h2lo_bids.io import check_content

Choose = Callable[[list[Image], Query, Findings], list[Scan]]


@dataclass(frozen=True)
class Discovery:
    """What a query found."""

    scans: tuple[Scan, ...]  # by subject, session and contrast
    problems: tuple[Problem, ...] = ()  # each of one image or subject; the scans are unaffected
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()  # about the database, the validator, what was derived
    warnings: tuple[str, ...] = ()  # what was assumed, or is contradictory


def discover(query: Query) -> Discovery:
    """Find the high-field T1w and T2w scans that a query asks for.

    Per subject, session and contrast one scan is taken (order of preference in
    `h2lo_bids.bids.scan.rank`), or every one with
    ``query.all_scans``. The preferred scan is never replaced silently: when
    its content is missing, that is a problem, not a reason to take another.
    """
    return search(query, _scans)


def search(query: Query, choose: Choose) -> Discovery:
    """Find the images that a query asks for, and let a function choose the scans among them."""
    root = query.bids_dir
    findings = Findings()
    read_description(root, skip=query.skip_bids_validation, doubt=findings.doubt)
    existing = list_subjects(root)
    subjects = choose_subjects(query, existing, findings)
    paths, images = find_images(query, subjects, existing, findings)
    images = _wanted(images, query, findings)
    if not query.skip_bids_validation and images:
        note = require_valid(root, [image.path for image in images])
        findings.notes += [note] if note else []
    scans = choose(images, query, findings)
    if not scans and not findings.problems:
        reasons = sorted({item.reason for item in findings.skipped})
        reasons.sort(key=lambda text: "did you mean" not in text)
        reasons = [one for one in reasons if not any(r.startswith(f"{one};") for r in reasons)]
        raise NoMatchError(nothing_found(query, subjects, existing, paths, reasons))
    _missing_subjects(query, subjects, scans, findings)
    return Discovery(
        tuple(scans),
        tuple(findings.problems),
        tuple(findings.skipped),
        findings.all_notes,
        findings.warnings,
    )


def _wanted(images: list[Image], query: Query, findings: Findings) -> list[Image]:
    """Apply the filters, and leave out phase images, single echoes and the like."""
    conditions = query.conditions()
    wanted = []
    for image in images:
        reason = unwanted(image.name, conditions[image.name.suffix])
        if reason is None:
            wanted.append(image)
        else:
            findings.skip(image.path, reason)
    if wanted:
        check_filters(query, images, findings)
    return wanted


def _scans(images: list[Image], query: Query, findings: Findings) -> list[Scan]:
    """Read sidecars, drop low field, choose, and check that the content is there."""
    sidecars = Sidecars(query.bids_dir)
    groups: dict[tuple[str, str, str], list[tuple[Image, Scan | H2loError]]] = defaultdict(list)
    for image in images:
        scan: Scan | H2loError
        try:
            scan = read_scan(image, sidecars)
        except H2loError as error:
            scan = error
        if isinstance(scan, Scan) and is_low(scan):
            reason = f"low field ({scan.strength}): never an input to synthesis"
            if scan.field_source == "label":
                reason += "; if it is high field, write MagneticFieldStrength into its sidecar"
            findings.skip(image.path, reason)
            findings.doubt(image.path, *scan.warnings)
            continue
        name = image.name
        groups[name.get("sub") or "", name.get("ses") or "", name.suffix].append((image, scan))
    scans = []
    for _, group in sorted(groups.items(), key=lambda item: item[0]):
        group.sort(key=lambda entry: rank(entry[0].path, entry[0].name))
        count = len(group) if query.all_scans else 1
        scans += _checked(group[:count], findings)
        for image, _ in group[count:]:
            findings.skip(
                image.path,
                f"{group[0][0].path.name} was preferred ({PREFERENCE}); "
                "take all with --all-scans or choose with --filter ENTITY=VALUE",
            )
    return scans


def _checked(group: list[tuple[Image, Scan | H2loError]], findings: Findings) -> list[Scan]:
    scans = []
    for image, scan in group:
        try:
            if isinstance(scan, H2loError):
                raise scan
            check_content(image.path)
        except H2loError as error:
            findings.fail(image.path, error)
        else:
            scan = replace(scan, warnings=(*scan.warnings, *header_warnings(scan)))
            scans.append(scan)
            findings.add_notes(scan)
    return scans


def _missing_subjects(
    query: Query, subjects: tuple[str, ...], scans: list[Scan], findings: Findings
) -> None:
    """Name each subject without any scan; one that was asked for by name is a problem."""
    spoken = {scan.subject for scan in scans}
    for problem in findings.problems:
        spoken |= {part.removeprefix("sub-") for part in _first(problem.path, query)}
    reasons: dict[str, str] = {}  # looked up: there may be thousands of subjects and images
    for item in findings.skipped:
        for part in _first(item.path, query):
            reasons.setdefault(part, item.reason)
    for label in subjects:
        if label in spoken:
            continue
        folder = query.bids_dir / f"sub-{label}"
        own = reasons.get(folder.name)
        empty = "" if own else empty_subject(folder, query.session_labels, query.suffixes)
        if query.participant_labels:
            reason = empty or f"no scan to work on ({own})"
            findings.fail(folder, NoMatchError(f"{folder}: {reason}; check the labels and filters"))
        else:
            findings.skip(folder, empty or "all its images are skipped")


def _first(path: Path, query: Query) -> tuple[str, ...]:
    """Return the subject's folder of a path; nothing for the dataset itself."""
    return path.relative_to(query.bids_dir).parts[:1]


_FUSED = "mrr"
_BEFORE_ACQ = ("sub", "ses", "task")
_RANK = ("iso", *ORTHOGONAL, None)


@dataclass(frozen=True)
class LowFieldQuery(Query):
    """Which low-field scans are wanted; checked when made."""

    lf: tuple[str, ...] = ()  # selection words, which win over filters
    fusion: str = "auto"  # "mrr": only three orthogonal scans; "none": one scan

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fusion not in FUSIONS:
            raise UsageError(f"--lf-fusion {self.fusion}: choose of {', '.join(FUSIONS)}")

    def conditions(self) -> dict[str, Filter]:
        """Give what is asked of the scans of each wanted suffix."""
        return {suffix: own | self.words(suffix) for suffix, own in Query.conditions(self).items()}

    def words(self, suffix: str) -> Filter:
        """Give what is asked of low-field scans alone; a scan that matches counts as one."""
        chosen = compile_filters(self.filters).get(f"lf_{suffix.lower()}", {})
        return chosen | compile_words(self.lf, "--lf")


@dataclass(frozen=True)
class LowFieldSource:
    """One low-field scan, or the orthogonal ones of a session that are to be fused."""

    scan: Scan  # what outputs are named after: the first part, with the entities that all share
    parts: tuple[Scan, ...]  # the first that can be used gives the frame its place

    @property
    def fusion(self) -> str:
        """``"mrr"`` for several scans, ``"none"`` for one."""
        return _FUSED if len(self.parts) > 1 else "none"

    @property
    def named(self) -> tuple[Scan, ...]:
        """The parts with the entities of the outputs: a run's account goes by scans."""
        return tuple(replace(part, entities=self.scan.entities) for part in self.parts)


@dataclass(frozen=True)
class LowFieldDiscovery(Discovery):
    """What a query found."""

    sources: tuple[LowFieldSource, ...] = field(default=())


def discover_lowfield(query: LowFieldQuery) -> LowFieldDiscovery:
    """Find the low-field T1w and T2w scans that a query asks for.

    Per subject, session and contrast: the axial, coronal and sagittal thick-slice
    scans, to be fused, where all three are there (one of them may turn out to be
    absent or broken: the others go on without it); else one scan, isotropic before
    axial, coronal and sagittal. With ``query.all_scans`` every scan by itself. An
    image of unknown field strength counts as high field unless words choose it.
    """
    sources: list[LowFieldSource] = []

    def choose(images: list[Image], query: Query, findings: Findings) -> list[Scan]:
        sources.extend(_sources(images, cast(LowFieldQuery, query), findings))
        return [scan for source in sources for scan in source.named]

    found = search(query, choose)
    return LowFieldDiscovery(**vars(found), sources=tuple(sources))


def _sources(images: list[Image], query: LowFieldQuery, findings: Findings) -> list[LowFieldSource]:
    groups: dict[tuple[str, str, str], list[Scan]] = defaultdict(list)
    for scan in _low(images, query, findings):
        groups[scan.subject, scan.session or "", scan.suffix].append(scan)
    sources = []
    for _, group in sorted(groups.items(), key=lambda item: item[0]):
        for parts in _choices(group, query, findings):
            there = tuple(
                replace(part, warnings=(*part.warnings, *header_warnings(part)))
                for part in parts
                if _is_there(part, findings)
            )
            if there:
                sources.append(LowFieldSource(_named_after(parts, there[0]), there))
                for part in there:
                    findings.add_notes(part)
    return sources


def _low(images: list[Image], query: LowFieldQuery, findings: Findings) -> list[Scan]:
    """Read sidecars, and keep what is low field."""
    sidecars, kept = Sidecars(query.bids_dir), []
    for image in images:
        try:
            scan = read_scan(image, sidecars)
        except H2loError as error:
            findings.fail(image.path, error)
            continue
        if is_low(scan):
            kept.append(scan)
        elif scan.field_strength is not None:
            reason = f"high field ({scan.strength}): never an input to enhancement"
            findings.skip(image.path, reason)
            findings.doubt(image.path, *scan.warnings)
        elif query.words(scan.suffix):
            note = "no field strength in the sidecar: low field, since it was chosen with --lf"
            kept.append(replace(scan, notes=(note,), warnings=()))
        else:
            findings.skip(image.path, f"{scan.warnings[0]}; take it with --lf ENTITY-LABEL")
    return kept


def _choices(group: list[Scan], query: LowFieldQuery, findings: Findings) -> list[tuple[Scan, ...]]:
    """Return which scans of a session are enhanced, alone or together."""
    group = sorted(group, key=_order)
    if query.all_scans:
        return [(scan,) for scan in group]
    three = _three(group) if query.fusion != "none" else ()
    if query.fusion == "mrr" and not three:
        there = ", ".join(TITLES.get(orientation(scan) or "", "other") for scan in group)
        for scan in group:
            findings.skip(scan.path, f"not three orthogonal scans to fuse (found {there})")
        return []
    chosen = three or (group[0],)
    taken = "the three orthogonal scans are fused" if three else f"{group[0].path.name} is taken"
    for scan in group:
        if scan not in chosen:
            findings.skip(
                scan.path,
                f"{taken}; choose with --lf ENTITY-LABEL, or take each alone with --all-scans",
            )
    return [chosen]


def _three(group: Sequence[Scan]) -> tuple[Scan, ...]:
    """Return the preferred axial, coronal and sagittal scan, or nothing."""
    ways: dict[str | None, Scan] = {}
    for scan in group:
        ways.setdefault(orientation(scan), scan)
    return tuple(ways[way] for way in ORTHOGONAL) if {*ORTHOGONAL} <= {*ways} else ()


def _order(scan: Scan) -> tuple[object, ...]:
    partial, several, *rest = rank(scan.path, Name(scan.entities, scan.suffix, ".nii.gz"))
    return (partial, several, _RANK.index(orientation(scan)), *rest)


def _is_there(scan: Scan, findings: Findings) -> bool:
    try:
        check_content(scan.path)
    except H2loError as error:
        findings.fail(scan.path, error)
        return False
    return True


def _named_after(parts: Sequence[Scan], first: Scan) -> Scan:
    """Return the scan that outputs are named after: of several, with what all share."""
    if len(parts) == 1:
        return first
    shared = set.intersection(*(set(part.entities) for part in parts))
    entities = tuple(pair for pair in first.entities if pair in shared)
    scan = replace(first, entities=entities)
    if not any(first.path.with_name(scan.stem + end).exists() for end in (".nii.gz", ".nii")):
        return scan
    # Another image has this name, and its outputs would be taken for those of the fused one.
    rest = tuple(pair for pair in entities if pair[0] not in (*_BEFORE_ACQ, "acq"))
    begin = tuple(pair for pair in entities if pair[0] in _BEFORE_ACQ)
    return replace(first, entities=(*begin, ("acq", _FUSED), *rest))
