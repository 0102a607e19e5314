"""From a query to the scans to work on, and why the others are left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from h2lo_bids.bids.choose import PREFERENCE, preference
from h2lo_bids.bids.content import check_content
from h2lo_bids.bids.explain import nothing_found
from h2lo_bids.bids.findings import Findings, Problem, Skipped
from h2lo_bids.bids.gather import Image, choose_subjects, find_images, is_low, read_scan, unwanted
from h2lo_bids.bids.metadata import Sidecars
from h2lo_bids.bids.participants import list_subjects
from h2lo_bids.bids.query import Query
from h2lo_bids.bids.scan import Scan
from h2lo_bids.bids.validate import read_description, require_valid
from h2lo_bids.errors import H2loError, NoMatchError

Choose = Callable[[list[Image], Query, Findings], list[Scan]]


@dataclass(frozen=True)
class Discovery:
    """What a query found.

    Attributes
    ----------
    scans : tuple of Scan
        Scans to work on, by subject, session and contrast.
    problems : tuple of Problem
        Each concerns one image or subject; the scans are unaffected.
    skipped : tuple of Skipped
        Images left out on purpose.
    notes : tuple of str
        For the log: about the database, the validator, assumptions.
    """

    scans: tuple[Scan, ...]
    problems: tuple[Problem, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


def discover(query: Query) -> Discovery:
    """Find the high-field T1w and T2w scans that a query asks for.

    Per subject, session and contrast one scan is taken (order of preference in
    :func:`h2lo_bids.bids.choose.preference`), or every one with
    ``query.all_scans``. The preferred scan is never replaced silently: when
    its content is missing, that is a problem, not a reason to take another.

    Parameters
    ----------
    query : Query
        What is wanted.

    Returns
    -------
    Discovery
        With at least one scan or problem.

    Raises
    ------
    MissingInputError
        The dataset cannot be read.
    InvalidBidsError
        It is not BIDS (unless the query skips validation), or a derivative.
    NoMatchError
        Nothing matched; the message says what was searched and what exists.
    """
    return search(query, _scans)


def search(query: Query, choose: Choose) -> Discovery:
    """Find the images that a query asks for, and let a function choose the scans among them.

    Parameters
    ----------
    query : Query
        What is wanted.
    choose : callable
        Takes the images that match, the query and the findings, to which it adds what it
        leaves out; returns the scans.

    Returns
    -------
    Discovery
        With at least one scan or problem.

    Raises
    ------
    MissingInputError, InvalidBidsError, NoMatchError
        As `discover`.
    """
    root = query.bids_dir
    read_description(root, skip=query.skip_bids_validation)
    findings = Findings()
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
        raise NoMatchError(nothing_found(query, subjects, existing, paths, reasons))
    _missing_subjects(query, subjects, scans, findings)
    return Discovery(
        tuple(scans), tuple(findings.problems), tuple(findings.skipped), tuple(findings.notes)
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
            strength = f"{scan.field_strength:g} T by {scan.field_source}"
            findings.skip(image.path, f"low field ({strength}): never an input to synthesis")
            continue
        name = image.name
        groups[name.get("sub") or "", name.get("ses") or "", name.suffix].append((image, scan))
    scans = []
    for _, group in sorted(groups.items(), key=lambda item: item[0]):
        group.sort(key=lambda entry: preference(entry[0].name))
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
            scans.append(scan)
            findings.notes += [f"{image.path}: {note}" for note in scan.notes]
    return scans


def _missing_subjects(
    query: Query, subjects: tuple[str, ...], scans: list[Scan], findings: Findings
) -> None:
    """Say of each subject without any scan that it has none, when asked for by name."""
    spoken = {scan.subject for scan in scans}
    for problem in findings.problems:
        spoken.add(problem.path.relative_to(query.bids_dir).parts[0].removeprefix("sub-"))
    reasons: dict[str, str] = {}  # looked up: there may be thousands of subjects and images
    for item in findings.skipped:
        reasons.setdefault(item.path.relative_to(query.bids_dir).parts[0], item.reason)
    for label in subjects:
        if label in spoken:
            continue
        folder = query.bids_dir / f"sub-{label}"
        own = reasons.get(folder.name)
        reason = f"no scan to work on ({own})" if own else "no T1w or T2w image matched"
        if query.participant_labels:
            message = f"{folder}: {reason}; check the labels and filters"
            findings.problems.append(Problem(folder, message, NoMatchError.exit_code))
        else:
            findings.skip(folder, reason)
