"""The steps that every search of a dataset begins with, and what it notes on the way."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from h2lo_bids.bids.explain import (
    absent_subject,
    misnamed_subjects,
    odd_names,
    rename,
    unlisted,
)
from h2lo_bids.bids.index import folder_names, index_images, read_participants
from h2lo_bids.bids.metadata import LOW_FIELD_BELOW, Sidecars, field_strength
from h2lo_bids.bids.names import Name, in_place, looks_wanted, parse_name
from h2lo_bids.bids.query import (
    Filter,
    Query,
    describe,
    did_you_mean,
    matches,
    nearest,
    other_queries,
)
from h2lo_bids.bids.scan import Scan, not_an_input
from h2lo_bids.errors import (
    BadDataError,
    H2loError,
    InvalidBidsError,
    MissingInputError,
    NoMatchError,
)
from h2lo_bids.wording import listed, summarise


class Problem(NamedTuple):
    """Something asked for that cannot be used: what, why with the remedy, exit code."""

    path: Path
    message: str
    exit_code: int


class Skipped(NamedTuple):
    """An image left out on purpose, with the reason and the option that changes it."""

    path: Path
    reason: str


@dataclass
class Findings:
    """What the steps of one search add to."""

    problems: list[Problem] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scan_notes: list[tuple[Path, str]] = field(default_factory=list)
    doubts: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def all_notes(self) -> tuple[str, ...]:
        """The notes, those on scans with one line for each kind."""
        return (
            *self.notes,
            *summarise((path, f"{path}: {text}") for path, text in self.scan_notes),
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each kind of warning."""
        return tuple(summarise((path, f"{path}: {text}") for path, text in self.doubts))

    def add_notes(self, scan: Scan) -> None:
        """Keep what was noted at a scan."""
        self.scan_notes += [(scan.path, text) for text in scan.notes]
        self.doubt(scan.path, *scan.warnings)

    def doubt(self, path: Path, *texts: str) -> None:
        """Warn of what concerns a file or folder."""
        self.doubts += [(path, text) for text in texts]

    def fail(self, path: Path, error: H2loError) -> None:
        """Keep an error that concerns one image or subject only."""
        self.problems.append(Problem(path, str(error), error.exit_code))

    def skip(self, path: Path, reason: str) -> None:
        """Leave something out."""
        self.skipped.append(Skipped(path, reason))


_UNIFORM = ("UNIT1", "MP2RAGE")
"""Suffixes that BIDS knows, of images that look like a T1w one or are made into one."""

_OF_SCANNING = ("ses", "task", "acq", "ce", "rec", "run", "mod", "proc")
"""Entities whose labels may tell the scanner; ``desc-lowfield`` is no scan's."""


class Image(NamedTuple):
    """A file and its name, taken apart."""

    path: Path
    name: Name


def choose_subjects(query: Query, existing: tuple[str, ...], findings: Findings) -> tuple[str, ...]:
    """Take the subjects that are asked for; those that are not there become problems."""
    if not query.participant_labels:
        chosen = existing
    else:
        chosen = tuple(label for label in query.participant_labels if label in set(existing))
    absent = [label for label in query.participant_labels if label not in set(existing)]
    rows, misnamed = read_participants(query.bids_dir), misnamed_subjects(query.bids_dir)
    messages = [absent_subject(query.bids_dir, label, existing, label in rows) for label in absent]
    if not chosen:
        lines = summarise(zip((query.bids_dir / f"sub-{s}" for s in absent), messages, strict=True))
        raise NoMatchError(
            "; ".join([*lines, *filter(None, [misnamed])])
            or f"{query.bids_dir}: holds no folder sub-<label>; check the path"
        )
    if misnamed and (absent or not query.participant_labels):
        _invalid(query.bids_dir, misnamed, query, findings)
    if not query.participant_labels:
        table = query.bids_dir / "participants.tsv"
        findings.doubt(table, *unlisted(rows, existing))
        if not rows and table.exists():
            findings.doubt(table, "no column participant_id, or it cannot be read; not used")
    for label, message in zip(absent, messages, strict=True):
        findings.fail(query.bids_dir / f"sub-{label}", NoMatchError(message))
    return readable(query.bids_dir, chosen, findings)


def _invalid(path: Path, message: str, query: Query, findings: Findings) -> None:
    """Count what is not named by BIDS as a problem, unless it may be."""
    if query.skip_bids_validation:
        findings.skip(path, message.removeprefix(f"{path}: "))
    else:
        findings.fail(path, InvalidBidsError(message))


def readable(root: Path, subjects: Iterable[str], findings: Findings) -> tuple[str, ...]:
    """Keep the subjects whose folders may be read; the others become problems."""
    return tuple(label for label in subjects if _is_open(root / f"sub-{label}", findings))


def _is_open(subject: Path, findings: Findings) -> bool:
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


def find_images(
    query: Query, subjects: tuple[str, ...], existing: tuple[str, ...], findings: Findings
) -> tuple[list[Path], list[Image]]:
    """List the images of some subjects that are named as one of the wanted contrasts."""
    root = query.bids_dir
    paths, notes = index_images(
        root,
        subjects,
        query.session_labels,
        query.database_dir,
        every_subject=subjects == existing,
    )
    findings.notes += notes
    _absent_sessions(query, subjects, findings)
    for label in subjects:
        for odd in odd_names(root / f"sub-{label}", query.session_labels, query.suffixes):
            if odd.invalid:
                _invalid(odd.path, f"{odd.path}: {odd.reason}", query, findings)
            else:
                findings.skip(odd.path, odd.reason)
    return paths, _one_form(_named(paths, query, findings), findings)


def _absent_sessions(query: Query, subjects: tuple[str, ...], findings: Findings) -> None:
    """Tell of sessions that no chosen subject has; one in other case is a problem."""
    if not query.session_labels:
        return
    names = {name for label in subjects for name in folder_names(query.bids_dir / f"sub-{label}")}
    there = {name.removeprefix("ses-") for name in names if name.startswith("ses-")}
    for label in query.session_labels:
        if label not in there:
            near = nearest(label, there, similar=True)
            known = listed(sorted(there)) or "none"
            hint = f"did you mean {near}?" if near else f"found sessions {known}"
            text = f"no chosen subject has a session {label}; {hint}"
            if nearest(label, there):
                findings.fail(query.bids_dir, NoMatchError(f"{query.bids_dir}: {text}"))
            else:
                findings.doubt(query.bids_dir, text)


def _named(paths: list[Path], query: Query, findings: Findings) -> list[Image]:
    """Keep the images whose names say that they are of a wanted contrast."""
    images = []
    for path in paths:
        name = parse_name(path.name)
        if name is not None and name.suffix in query.suffixes and in_place(path, name):
            images.append(Image(path, name))
        elif name is not None and name.suffix in _UNIFORM and "T1w" in query.suffixes:
            findings.skip(
                path,
                f"{name.suffix} is not read; did you mean T1w? To use it, copy it as "
                f"{rename(name, path).removeprefix('rename it to ')}",
            )
        elif looks_wanted(path, name, query.suffixes):
            message = f"{path}: the name is not BIDS; {rename(name, path)}"
            _invalid(path, message, query, findings)
    return images


def _one_form(images: list[Image], findings: Findings) -> list[Image]:
    """Of the same scan as ``.nii`` and ``.nii.gz`` keep the second, if it is there."""
    forms: dict[Path, list[Image]] = defaultdict(list)
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


def unwanted(name: Name, asked: Filter) -> str | None:
    """Say why an image is not wanted: a filter, a phase image, a single echo and the like."""
    if not matches(name, asked):
        hint = did_you_mean(asked, [name])
        return f"does not match the filter {describe(asked)}{hint}"
    return not_an_input(name, asked)


def read_scan(image: Image, sidecars: Sidecars, dataset: str = "raw") -> Scan:
    """Read an image's sidecars and tell its field strength."""
    metadata = sidecars.read(image.path, image.name)
    labels = [label for key, label in image.name.entities if key in _OF_SCANNING]
    try:
        strength = field_strength(metadata, labels)
    except BadDataError as error:
        raise BadDataError(f"{image.path}: {error}") from error
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
        warnings=(strength.warning,) if strength.warning else (),
        dataset=dataset,
    )


def is_low(scan: Scan) -> bool:
    """Whether a scan is known to be low-field, i.e. below 1 T."""
    return scan.field_strength is not None and scan.field_strength < LOW_FIELD_BELOW


def check_filters(query: Query, images: list[Image], findings: Findings) -> None:
    """Tell of filters that fit no image of a contrast, while the other contrast has some.

    Other programs' queries in the filter file are named once.
    """
    note_others(query.filters, findings)
    for suffix, asked in query.conditions().items():
        names = [image.name for image in images if image.name.suffix == suffix]
        words = f"the filter {describe(asked)}"
        own = any(query.filters.get(f"{side}{suffix.lower()}") for side in ("", "lf_"))
        check_fit(query.bids_dir, asked, names, words, findings, own=own)


def note_others(filters: Mapping[str, object], findings: Findings) -> None:
    """Name the queries of a filter file that are for other programs."""
    others = other_queries(filters)
    if others:
        findings.notes.append(f"queries of the filter file that are not used: {listed(others)}")


def check_fit(
    root: Path, asked: Filter, names: list[Name], words: str, findings: Findings, *, own: bool
) -> None:
    """Tell that conditions fit none of the images of a contrast.

    That is a problem if they were written for this contrast (``own``), or if a label is
    there in other case; else they may be meant for the other contrast: a warning.
    """
    if not asked or not names or any(matches(name, asked) for name in names):
        return
    hint = did_you_mean(asked, names, similar=True)
    text = f"no {names[0].suffix} image matches {words}{hint}"
    if own or did_you_mean(asked, names):
        findings.fail(root, NoMatchError(f"{root}: {text}"))
    else:
        findings.doubt(root, text)
