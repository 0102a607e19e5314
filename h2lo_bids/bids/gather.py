"""The steps that every search of a dataset begins with, and what it notes on the way."""

from __future__ import annotations

import os.path
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from h2lo_bids.bids import index
from h2lo_bids.bids.dataset import read_description, require_valid
from h2lo_bids.bids.derivatives import given_mask
from h2lo_bids.bids.metadata import Sidecars, field_strength
from h2lo_bids.bids.names import in_place, looks_wanted, parse_name, rename, right_name
from h2lo_bids.bids.query import Conditions, describe, did_you_mean, matches, nearest, other_queries
from h2lo_bids.bids.scan import Scan, header_warnings, read_grid, scan_at, slice_warnings
from h2lo_bids.errors import (
    BadDataError,
    Failed,
    H2loError,
    InvalidBidsError,
    MissingInputError,
    NoMatchError,
)
from h2lo_bids.io import check_content
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import CONTRASTS
from h2lo_bids.wording import listed, summarise


class Skipped(NamedTuple):
    """An image skipped on purpose, with the reason and the option that changes it."""

    path: Path
    reason: str


@dataclass
class Search:
    """What is asked for, the subjects that a dataset has and that are chosen, what is reported."""

    settings: Settings
    conditions: Conditions
    dataset: str = "raw"  # as in `Scan`
    base: Path = Path()  # the raw dataset, also where another is searched
    existing: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    problems: list[Failed] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    lonely: list[Skipped] = field(default_factory=list)  # subjects without a partner
    notes: list[str] = field(default_factory=list)
    scan_notes: list[tuple[Path, str]] = field(default_factory=list)
    doubts: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The dataset."""
        return self.settings.bids_dir

    @cached_property
    def sidecars(self) -> Sidecars:
        """Its JSON files, each read once."""
        return Sidecars(self.root)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The contrasts that are wanted."""
        return self.settings.contrast or CONTRASTS

    def begin(self) -> None:
        """Check the dataset's description, and choose subjects; absent ones become problems."""
        self.base = root = self.root
        asked = self.settings.participant_label
        self.check_description()
        rows, there = index.read_participants(root), {*self.existing}
        misnamed = index.misnamed_subjects(root, self.existing)
        chosen = tuple(label for label in asked if label in there) if asked else self.existing
        absent = {
            root / f"sub-{label}": index.absent_subject(label, self.existing, label in rows)
            for label in asked
            if label not in there
        }
        if not chosen:
            lines = summarise((path, f"{path}: {text}") for path, text in absent.items())
            lines += [f"{root}: {misnamed}"] if misnamed else []
            raise NoMatchError(
                "; ".join(lines) or f"{root}: holds no folder sub-<label>; check the path"
            )
        if misnamed and (absent or not asked):
            self.invalid(root, misnamed)
        if not asked:
            table = root / "participants.tsv"
            self.doubt(table, *index.unlisted(rows, self.existing))
            if not rows and table.exists():
                self.doubt(table, "no column participant_id, or it cannot be read; not used")
        for path, text in absent.items():
            self.refuse(path, text)
        if others := other_queries(self.conditions.filters):
            self.notes.append(f"queries of the filter file that are not used: {listed(others)}")
        self.choose(chosen)

    def check_description(self) -> None:
        """Check the dataset's description, and list its subjects."""
        skip = self.settings.skip_bids_validation
        read_description(self.root, skip=skip, doubt=self.doubt)
        self.existing = index.list_subjects(self.root)

    def choose(self, subjects: Iterable[str]) -> None:
        """Keep the subjects whose folders may be read, as PyBIDS would stop at the others."""
        kept = []
        for label in subjects:
            visits = index.visits_of(self.root / f"sub-{label}")
            # The folders of a closed folder cannot be seen: it is named itself, and comes first.
            folders = (*visits, *(visit / "anat" for visit in visits))
            if first := next(filter(index.is_closed, folders), None):
                self.refuse(first, "cannot be read; check its permissions", MissingInputError)
            else:
                kept.append(label)
        self.subjects = tuple(kept)

    def result(self) -> dict[str, tuple[Any, ...]]:
        """Return all of it as a `Discovery` has it, one line for each kind of note or warning."""
        notes, doubts = (
            summarise((path, f"{path}: {text}") for path, text in lines)
            for lines in (self.scan_notes, self.doubts)
        )
        return {
            "problems": tuple(self.problems),
            "skipped": (*self.lonely, *self.skipped),
            "notes": (*self.notes, *notes),
            "warnings": tuple(doubts),
        }

    def use(self, scan: Scan) -> Scan:
        """Keep what was noted at a scan that is used, with what its header contradicts."""
        grid = read_grid(scan.path)
        slices = slice_warnings(grid.axes, self.settings.lf_grids) if grid else ()
        scan = replace(scan, warnings=(*scan.warnings, *header_warnings(scan), *slices))
        self.scan_notes += [(scan.path, text) for text in scan.notes]
        self.doubt(scan.path, *scan.warnings)
        return scan

    def doubt(self, path: Path, *texts: str) -> None:
        """Warn of what concerns a file or folder."""
        self.doubts += [(path, text) for text in texts]

    def fail(self, path: Path, error: H2loError) -> None:
        """Keep an error that concerns one image or subject only."""
        name = path.relative_to(self.base) if path.is_relative_to(self.base) else path
        scan = "" if path == self.base else name.as_posix()
        self.problems.append(Failed(scan, "discovery", error, path=path))

    def refuse(self, path: Path, reason: str, kind: type[H2loError] = NoMatchError) -> None:
        """Keep that a file or folder cannot be used."""
        self.fail(path, kind(f"{path}: {reason}"))

    def skip(self, path: Path, reason: str) -> None:
        """Skip an image or a subject."""
        self.skipped.append(Skipped(path, reason))

    def alone(self, subject: str, reason: str) -> None:
        """Skip a subject that lacks a pair."""
        self.lonely.append(Skipped(self.root / f"sub-{subject}", f"sub-{subject}: {reason}"))

    def invalid(self, path: Path, reason: str) -> None:
        """Count what is not named by BIDS as a problem, unless it may be."""
        if self.settings.skip_bids_validation or index.ignored(self.root, path):
            self.skip(path, reason)
        else:
            self.refuse(path, reason, InvalidBidsError)

    def visits(self) -> list[str]:
        """List the sessions that chosen subjects have."""
        folders = (self.root / f"sub-{label}" for label in self.subjects)
        return sorted({name[4:] for folder in folders for name in index.sessions_of(folder)})

    def empty(self, label: str) -> str:
        """Explain why a subject gives no image."""
        return index.empty_subject(
            self.root / f"sub-{label}", self.settings.session_label, self.suffixes
        )

    def present(self, *scans: Scan) -> bool:
        """Check that images, and masks given for them, have the content that DataLad may lack."""
        before = len(self.problems)
        for scan in scans:
            try:
                check_content(scan.path)
                if mask := given_mask(self.settings.derivatives, scan):
                    check_content(mask[0])
            except H2loError as error:
                self.fail(scan.path, error)
        return len(self.problems) == before

    def validate(self, images: Iterable[Path]) -> None:
        """Stop if the validator finds errors in the chosen images' part of a dataset."""
        images = list(images)
        if images and not self.settings.skip_bids_validation:
            note = require_valid(self.root, images)
            self.notes += [note] if note else []


@dataclass(frozen=True)
class Result:
    """What a search reports besides what it is for."""

    problems: tuple[Failed, ...] = ()  # each of one image or subject; the others are unaffected
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()  # about the database, the validator, what was derived
    warnings: tuple[str, ...] = ()  # what was assumed, or is contradictory


_UNIFORM = {
    "UNIT1": "did you mean T1w? To use it, copy it as {}",
    "MP2RAGE": "the UNIT1 image that is made of its inversions looks like a T1w one",
}
"""Suffixes that BIDS knows, of images that look like a T1w one or are made into one."""

_OF_SCANNING = ("ses", "task", "acq", "ce", "rec", "run", "mod", "proc")
"""Entities whose labels may name the scanner; ``desc-lowfield`` is no scan's."""


def find_images(search: Search) -> list[Scan]:
    """List the images of the subjects that are named as one of the wanted contrasts."""
    settings, root, subjects = search.settings, search.root, search.subjects
    sessions, every = settings.session_label, subjects == search.existing
    # A dry run may not write an index, and one that is not kept is of no use.
    database = None if settings.dry_run else settings.bids_database_dir
    paths, notes = index.index_images(root, subjects, sessions, database, every_subject=every)
    search.notes += notes
    if sessions:
        _absent_sessions(search)
    for label in subjects:
        for odd in index.odd_names(root / f"sub-{label}", sessions, search.suffixes):
            (search.invalid if odd.invalid else search.skip)(odd.path, odd.reason)
    return _one_form(_named(paths, search), search)


def _absent_sessions(search: Search) -> None:
    """Report sessions that no chosen subject has; one in other case is a problem."""
    there = search.visits()
    for label in (label for label in search.settings.session_label if label not in there):
        near = nearest(label, there, similar=True)
        hint = f"did you mean {near}?" if near else f"found sessions {listed(there) or 'none'}"
        text = f"no chosen subject has a session {label}; {hint}"
        (search.refuse if nearest(label, there) else search.doubt)(search.root, text)


def _named(paths: list[Path], search: Search) -> list[Scan]:
    """Keep the images that are named as one of the wanted contrasts."""
    images, suffixes = [], search.suffixes
    for path in paths:
        name = parse_name(path.name)
        if name is not None and name.suffix in suffixes and in_place(path, name):
            images.append(scan_at(path, name, search.dataset))
        elif name is not None and name.suffix in _UNIFORM and "T1w" in suffixes:
            remedy = _UNIFORM[name.suffix].format(right_name(name))
            search.skip(path, f"{name.suffix} is not read; {remedy}")
        elif looks_wanted(path, name, suffixes):
            search.invalid(path, f"the name is not BIDS; {rename(name, path)}")
    return images


def _one_form(images: list[Scan], search: Search) -> list[Scan]:
    """Of the same scan as ``.nii`` and ``.nii.gz`` keep the second, if it is there."""
    kept: dict[Path, Scan] = {}
    # The key puts what exists, and may be looked at, first, then .nii.gz.
    there = {image: os.path.exists(image.path) for image in images}  # noqa: PTH110
    for image in sorted(images, key=lambda i: (not there[i], i.name.extension == ".nii")):
        taken = kept.setdefault(image.path.with_name(image.stem), image)
        if taken is not image:
            search.skip(image.path, f"{taken.path.name} is the same scan and was taken")
    return sorted(kept.values(), key=lambda image: image.path)


def read_scan(image: Scan, sidecars: Sidecars) -> Scan:
    """Read an image's sidecars and find its field strength."""
    metadata = sidecars.read(image.path, image.name)
    labels = [label for key, label in image.entities if key in _OF_SCANNING]
    try:
        strength = field_strength(metadata, labels)
    except BadDataError as error:
        raise BadDataError(f"{image.path}: {error}") from error
    return replace(
        image,
        field_strength=strength.tesla,
        field_source=strength.source,
        metadata=metadata,
        notes=(strength.note,) if strength.note else (),
        warnings=(strength.warning,) if strength.warning else (),
    )


def check_fit(search: Search, images: list[Scan], sides: tuple[str, ...]) -> None:
    """Report conditions that fit no image of a contrast: a problem if surely meant for it."""
    conditions, side = search.conditions, sides[-1]
    for suffix in search.suffixes:
        names = [image.name for image in images if image.suffix == suffix]
        asked = conditions.asked(suffix, *sides)
        if not names or any(matches(name, asked) for name in names):
            continue
        option = f"--{side}" if conditions.words.get(side) == asked else "the filter"
        hint = did_you_mean(asked, names, similar=True)
        text = f"no {suffix} image matches {option} {describe(asked)}{hint}"
        keys = (f"{side}_{suffix.lower()}".lstrip("_") for side in sides)
        sure = any(conditions.filters.get(key) for key in keys) or did_you_mean(asked, names)
        (search.refuse if sure else search.doubt)(search.root, text)
