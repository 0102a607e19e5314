"""From a query to the scans to work on, and why the others are left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

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
from h2lo_bids.bids.query import Query
from h2lo_bids.bids.scan import PREFERENCE, Scan, header_warnings, rank
from h2lo_bids.bids.validate import read_description, require_valid
from h2lo_bids.errors import H2loError, NoMatchError
from h2lo_bids.io import check_content

Choose = Callable[[list[Image], Query, Findings], list[Scan]]


@dataclass(frozen=True)
class Discovery:
    """What a query found."""

    scans: tuple[Scan, ...]
    problems: tuple[Problem, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


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
        findings.told,
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
            findings.hear(scan)
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
