"""The high-field and low-field scans that each subject has, before they are paired."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from h2lo_bids.bids.choose import not_an_input
from h2lo_bids.bids.explain import misnamed_subjects
from h2lo_bids.bids.filters import did_you_mean, matches
from h2lo_bids.bids.findings import Findings
from h2lo_bids.bids.gather import (
    Image,
    check_fit,
    find_images,
    is_low,
    note_others,
    read_scan,
    readable,
)
from h2lo_bids.bids.metadata import Sidecars
from h2lo_bids.bids.pairquery import LF_DATASET, PairQuery
from h2lo_bids.bids.participants import list_subjects
from h2lo_bids.bids.query import Query
from h2lo_bids.bids.scan import Scan
from h2lo_bids.bids.selection import words_of
from h2lo_bids.bids.validate import read_description, require_valid
from h2lo_bids.errors import H2loError
from h2lo_bids.wording import counted, listed

Key = tuple[str, str]
"""Subject and contrast."""


@dataclass
class Sides:
    """What one subject has of one contrast; ``broken`` when a sidecar cannot be read."""

    high: list[Scan] = field(default_factory=list)
    low: list[Scan] = field(default_factory=list)
    broken: bool = False


def gather_sides(
    query: PairQuery, subjects: tuple[str, ...], existing: tuple[str, ...], findings: Findings
) -> dict[Key, Sides]:
    """Sort the scans of the raw dataset, and of the second root, by field strength.

    An image of unknown field strength counts as high field, unless it lies in
    the second root or the user's words choose it as low field and not as high.

    Parameters
    ----------
    query : PairQuery
        What is wanted.
    subjects, existing : tuple of str
        Those to look at, and all that there are.
    findings : Findings
        Added to.

    Returns
    -------
    dict
        By subject and contrast.

    Raises
    ------
    InvalidBidsError
        The validator finds errors in a dataset.
    MissingInputError
        The second root cannot be read.
    """
    sides: dict[Key, Sides] = defaultdict(Sides)
    note_others(query.filters, findings)
    _, images = find_images(query.raw(), subjects, existing, findings)
    _check_fit("hf", images, query, findings)
    if query.lf_dir is None and not query.derivatives:
        _check_fit("lf", images, query, findings)
    for image, scan in _read(images, query.bids_dir, "raw", query, sides, findings):
        own = sides[scan.subject, scan.suffix]
        if query.lf_dir is None:
            _by_strength(image, scan, own, query, findings)
        elif is_low(scan):
            findings.skip(image.path, f"low field, but --lf-dir says {query.lf_dir}")
        else:
            _keep(image, scan, own.high, "hf", query, findings)
    _validate(query.bids_dir, sides, "raw", query, findings)
    second = query.second()
    if second is not None:
        skip = query.skip_bids_validation
        read_description(second.bids_dir, skip=skip, doubt=findings.doubt)
        there = list_subjects(second.bids_dir)
        _compare(second, subjects, existing, there, findings)
        shared = readable(second.bids_dir, (s for s in subjects if s in set(there)), findings)
        _, images = find_images(second, shared, there, findings)
        _check_fit("lf", images, query, findings)
        for image, scan in _read(images, second.bids_dir, LF_DATASET, query, sides, findings):
            own = sides[scan.subject, scan.suffix]
            if scan.field_strength is not None and not is_low(scan):
                findings.skip(image.path, f"{scan.strength}: not low field, in spite of --lf-dir")
            else:
                scan = _taken_as_low(scan, "it lies in --lf-dir")
                _keep(image, scan, own.low, "lf", query, findings)
        _validate(second.bids_dir, sides, LF_DATASET, query, findings)
    return dict(sides)


def _compare(
    second: Query,
    subjects: tuple[str, ...],
    existing: tuple[str, ...],
    there: tuple[str, ...],
    findings: Findings,
) -> None:
    """Warn of participants that only the second root has, or has under an odd name."""
    others = [f"sub-{label}" for label in there if label not in set(existing)]
    if others and subjects == existing:
        text = f"{counted(len(others), 'participant')} not in the first dataset: {listed(others)}"
        findings.doubt(second.bids_dir, text)
    misnamed = misnamed_subjects(second.bids_dir)
    if misnamed:
        findings.doubt(second.bids_dir, misnamed.removeprefix(f"{second.bids_dir}: "))


def _check_fit(side: str, images: list[Image], query: PairQuery, findings: Findings) -> None:
    for contrast in query.contrasts:
        names = [image.name for image in images if image.name.suffix == contrast]
        asked, key = query.conditions(side, contrast), contrast.lower()
        own = any(query.filters.get(name) for name in (key, f"{side}_{key}"))
        words = f"--{side} {words_of(asked)}" if asked else ""
        check_fit(query.bids_dir, asked, names, words, findings, own=own)


def _read(
    images: Iterable[Image],
    root: Path,
    dataset: str,
    query: PairQuery,
    sides: dict[Key, Sides],
    findings: Findings,
) -> Iterable[tuple[Image, Scan]]:
    """Read the sidecars of whole-head magnitude images that either side could want."""
    sidecars = Sidecars(root)
    for image in images:
        asked = [query.conditions(side, image.name.suffix) for side in ("hf", "lf")]
        reason = not_an_input(image.name, {*asked[0], *asked[1]})
        if reason is not None:
            findings.skip(image.path, reason)
            continue
        try:
            scan = read_scan(image, sidecars, dataset)
            if scan.field_strength is not None:  # else it is told where it counts
                findings.doubt(image.path, *scan.warnings)
            yield image, scan
        except H2loError as error:
            if any(matches(image.name, conditions) for conditions in asked):
                findings.fail(image.path, error)
                sides[image.name.get("sub") or "", image.name.suffix].broken = True


def _by_strength(
    image: Image, scan: Scan, own: Sides, query: PairQuery, findings: Findings
) -> None:
    high = query.conditions("hf", scan.suffix)
    low = query.conditions("lf", scan.suffix)
    named_high = bool(high) and matches(image.name, high)
    if is_low(scan):
        _keep(image, scan, own.low, "lf", query, findings)
    elif scan.field_strength is None and low and matches(image.name, low) and not named_high:
        own.low.append(_taken_as_low(scan, "it was chosen with --lf"))
    else:
        _keep(image, scan, own.high, "hf", query, findings)


def _keep(
    image: Image, scan: Scan, kept: list[Scan], side: str, query: PairQuery, findings: Findings
) -> None:
    conditions = query.conditions(side, scan.suffix)
    if matches(image.name, conditions):
        kept.append(scan)
    else:
        kind = "high field" if side == "hf" else "low field"
        words = f"{words_of(conditions)}{did_you_mean(conditions, [image.name])}"
        findings.skip(image.path, f"{kind}, but does not match --{side} {words}")


def _taken_as_low(scan: Scan, why: str) -> Scan:
    if scan.field_strength is not None:
        return scan
    note = f"no field strength in the sidecar: low field, since {why}"
    return replace(scan, notes=(note,), warnings=())


def _validate(
    root: Path, sides: dict[Key, Sides], dataset: str, query: PairQuery, findings: Findings
) -> None:
    scans = (scan for own in sides.values() for scan in (*own.high, *own.low))
    paths = [scan.path for scan in scans if scan.dataset == dataset]
    if paths and not query.skip_bids_validation:
        note = require_valid(root, paths)
        findings.notes += [note] if note else []
