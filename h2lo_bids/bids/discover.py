"""From a query to the scans to work on, and why the others are left out."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from h2lo_bids.bids.choose import PREFERENCE, not_an_input, preference
from h2lo_bids.bids.content import check_content
from h2lo_bids.bids.explain import absent_subject, nothing_found, rename
from h2lo_bids.bids.fieldstrength import field_strength
from h2lo_bids.bids.filters import describe, matches
from h2lo_bids.bids.index import folder_names, index_images
from h2lo_bids.bids.metadata import Sidecars
from h2lo_bids.bids.names import Name, in_place, looks_wanted, parse_name
from h2lo_bids.bids.participants import list_subjects, read_participants
from h2lo_bids.bids.query import Query
from h2lo_bids.bids.scan import Scan
from h2lo_bids.bids.validate import read_description, require_valid
from h2lo_bids.errors import H2loError, MissingInputError, NoMatchError


class Problem(NamedTuple):
    """Something asked for that cannot be used: what, why with the remedy, exit code."""

    path: Path
    message: str
    exit_code: int


class Skipped(NamedTuple):
    """An image left out on purpose, with the reason and the option that changes it."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Discovery:
    """What a query found.

    Attributes
    ----------
    scans : tuple of Scan
        High-field scans to work on, by subject, session and contrast.
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


@dataclass
class _Findings:
    """What the steps of one discovery gather."""

    problems: list[Problem] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fail(self, path: Path, error: H2loError) -> None:
        self.problems.append(Problem(path, str(error), error.exit_code))

    def skip(self, path: Path, reason: str) -> None:
        self.skipped.append(Skipped(path, reason))


class _Image(NamedTuple):
    path: Path
    name: Name


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
    root = query.bids_dir
    read_description(root, skip=query.skip_bids_validation)
    findings = _Findings()
    existing = list_subjects(root)
    subjects = _subjects(query, existing, findings)
    paths, notes = index_images(
        root,
        subjects,
        query.session_labels,
        query.database_dir,
        every_subject=subjects == existing,
    )
    findings.notes += notes
    found = {part for path in paths for part in path.relative_to(root).parts[1:2]}
    findings.notes += [
        f"{root}: no chosen subject has a session {label}"
        for label in query.session_labels
        if f"ses-{label}" not in found
    ]
    images = _one_form(_named(paths, query, findings), findings)
    images = _wanted(images, query, findings)
    if not query.skip_bids_validation and images:
        note = require_valid(root, [image.path for image in images])
        findings.notes += [note] if note else []
    scans = _scans(images, query, findings)
    if not scans and not findings.problems:
        reasons = sorted({item.reason for item in findings.skipped})
        raise NoMatchError(nothing_found(query, subjects, existing, paths, reasons))
    _missing_subjects(query, subjects, scans, findings)
    return Discovery(
        tuple(scans), tuple(findings.problems), tuple(findings.skipped), tuple(findings.notes)
    )


def _subjects(query: Query, existing: tuple[str, ...], findings: _Findings) -> tuple[str, ...]:
    if not query.participant_labels:
        chosen = existing
    else:
        chosen = tuple(label for label in query.participant_labels if label in set(existing))
    absent = [label for label in query.participant_labels if label not in set(existing)]
    listed = read_participants(query.bids_dir) if absent else {}
    messages = [
        absent_subject(query.bids_dir, label, existing, label in listed) for label in absent
    ]
    if not chosen:
        raise NoMatchError(
            "; ".join(messages) or f"{query.bids_dir}: holds no folder sub-<label>; check the path"
        )
    for label, message in zip(absent, messages, strict=True):
        findings.fail(query.bids_dir / f"sub-{label}", NoMatchError(message))
    return tuple(label for label in chosen if _is_open(query.bids_dir / f"sub-{label}", findings))


def _is_open(subject: Path, findings: _Findings) -> bool:
    """Report a subject with a folder that may not be read: PyBIDS would stop at it."""
    visits = ["", *(name for name in folder_names(subject) if name.startswith("ses-"))]
    for folder in (subject, *(subject / visit / "anat" for visit in visits)):
        if not os.access(folder.parent, os.R_OK | os.X_OK):
            folder = folder.parent
        elif not folder.exists() or os.access(folder, os.R_OK | os.X_OK):
            continue
        message = f"{folder}: cannot be read; check its permissions"
        findings.fail(folder, MissingInputError(message))
        return False
    return True


def _named(paths: list[Path], query: Query, findings: _Findings) -> list[_Image]:
    """Keep the images whose names say that they are of a wanted contrast."""
    images = []
    for path in paths:
        name = parse_name(path.name)
        if name is not None and name.suffix in query.suffixes and in_place(path, name):
            images.append(_Image(path, name))
        elif looks_wanted(path, name, query.suffixes):
            reason = f"{path}: the name is not BIDS; {rename(name, path)}"
            if query.skip_bids_validation:
                findings.skip(path, reason)
            else:
                findings.problems.append(Problem(path, reason, 16))
    return images


def _one_form(images: list[_Image], findings: _Findings) -> list[_Image]:
    """Of the same scan as ``.nii`` and ``.nii.gz`` keep the second, if it is there."""
    forms: dict[Path, list[_Image]] = defaultdict(list)
    for image in images:
        forms[image.path.with_name(image.name.stem)].append(image)
    kept = []
    for pair in forms.values():
        # The key puts what exists first, then .nii.gz.
        pair.sort(key=lambda image: (not image.path.exists(), image.name.extension == ".nii"))
        kept.append(pair[0])
        for other in pair[1:]:
            findings.skip(other.path, f"{pair[0].path.name} is the same scan and was taken")
    return kept


def _wanted(images: list[_Image], query: Query, findings: _Findings) -> list[_Image]:
    """Apply the filters, and leave out phase images, single echoes and the like."""
    conditions = query.conditions()
    wanted = []
    for image in images:
        asked = conditions[image.name.suffix]
        reason = not_an_input(image.name, asked)
        if not matches(image.name, asked):
            reason = f"does not match the filter {describe(asked)}"
        if reason is None:
            wanted.append(image)
        else:
            findings.skip(image.path, reason)
    return wanted


def _scans(images: list[_Image], query: Query, findings: _Findings) -> list[Scan]:
    """Read sidecars, drop low field, choose, and check that the content is there."""
    sidecars = Sidecars(query.bids_dir)
    groups: dict[tuple[str, str, str], list[tuple[_Image, Scan | H2loError]]] = defaultdict(list)
    for image in images:
        scan: Scan | H2loError
        try:
            scan = _scan(image, sidecars)
        except H2loError as error:
            scan = error
        if isinstance(scan, Scan) and _is_low(scan):
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


def _checked(group: list[tuple[_Image, Scan | H2loError]], findings: _Findings) -> list[Scan]:
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


def _scan(image: _Image, sidecars: Sidecars) -> Scan:
    metadata = sidecars.read(image.path, image.name)
    labels = [label for key in ("ses", "acq") if (label := image.name.get(key))]
    strength = field_strength(metadata, labels)
    return Scan(
        path=image.path,
        subject=image.name.get("sub") or "",
        session=image.name.get("ses"),
        suffix=image.name.suffix,
        entities=image.name.entities,
        field_strength=strength.tesla,
        field_source=strength.source,
        metadata=metadata,
        notes=(strength.note,) if strength.note else (),
    )


def _is_low(scan: Scan) -> bool:
    return scan.field_strength is not None and scan.field_strength < 1.0


def _missing_subjects(
    query: Query, subjects: tuple[str, ...], scans: list[Scan], findings: _Findings
) -> None:
    """Say of each subject without any scan that it has none, when asked for by name."""
    spoken = {scan.subject for scan in scans}
    for problem in findings.problems:
        spoken.add(problem.path.relative_to(query.bids_dir).parts[0].removeprefix("sub-"))
    for label in subjects:
        if label in spoken:
            continue
        folder = query.bids_dir / f"sub-{label}"
        own = [item.reason for item in findings.skipped if item.path.is_relative_to(folder)]
        reason = f"no scan to work on ({own[0]})" if own else "no T1w or T2w image matched"
        if query.participant_labels:
            message = f"{folder}: {reason}; check the labels and filters"
            findings.problems.append(Problem(folder, message, NoMatchError.exit_code))
        else:
            findings.skip(folder, reason)
