"""The steps that every search of a dataset begins with: subjects, images, their sidecars."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from h2lo_bids.bids.choose import not_an_input
from h2lo_bids.bids.explain import absent_subject, rename
from h2lo_bids.bids.fieldstrength import LOW_FIELD_BELOW, field_strength
from h2lo_bids.bids.filters import Filter, describe, matches
from h2lo_bids.bids.findings import Findings, Problem
from h2lo_bids.bids.index import folder_names, index_images
from h2lo_bids.bids.metadata import Sidecars
from h2lo_bids.bids.names import Name, in_place, looks_wanted, parse_name
from h2lo_bids.bids.participants import read_participants
from h2lo_bids.bids.query import Query
from h2lo_bids.bids.scan import Scan
from h2lo_bids.errors import MissingInputError, NoMatchError


class Image(NamedTuple):
    """A file and its name, taken apart."""

    path: Path
    name: Name


def choose_subjects(query: Query, existing: tuple[str, ...], findings: Findings) -> tuple[str, ...]:
    """Take the subjects that are asked for; those that are not there become problems.

    Parameters
    ----------
    query : Query
        What is wanted.
    existing : tuple of str
        The subjects that have a folder.
    findings : Findings
        Added to.

    Returns
    -------
    tuple of str
        Labels of subjects whose folders may be read.

    Raises
    ------
    NoMatchError
        None is there.
    """
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
    return readable(query.bids_dir, chosen, findings)


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
    """List the images of some subjects that are named as one of the wanted contrasts.

    Parameters
    ----------
    query : Query
        What is wanted.
    subjects, existing : tuple of str
        Those to look at, and all that there are.
    findings : Findings
        Added to.

    Returns
    -------
    paths : list of Path
        All images in ``anat`` folders.
    images : list of Image
        Those of a wanted contrast, once each.
    """
    root = query.bids_dir
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
    return paths, _one_form(_named(paths, query, findings), findings)


def _named(paths: list[Path], query: Query, findings: Findings) -> list[Image]:
    """Keep the images whose names say that they are of a wanted contrast."""
    images = []
    for path in paths:
        name = parse_name(path.name)
        if name is not None and name.suffix in query.suffixes and in_place(path, name):
            images.append(Image(path, name))
        elif looks_wanted(path, name, query.suffixes):
            reason = f"{path}: the name is not BIDS; {rename(name, path)}"
            if query.skip_bids_validation:
                findings.skip(path, reason)
            else:
                findings.problems.append(Problem(path, reason, 16))
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
        return f"does not match the filter {describe(asked)}"
    return not_an_input(name, asked)


def read_scan(image: Image, sidecars: Sidecars, dataset: str = "raw") -> Scan:
    """Read an image's sidecars and tell its field strength.

    Parameters
    ----------
    image : Image
        The image.
    sidecars : Sidecars
        Of its dataset.
    dataset : str, optional
        Name of that dataset in BIDS URIs.

    Returns
    -------
    Scan

    Raises
    ------
    BadDataError, MissingInputError
        A sidecar is broken or cannot be read.
    """
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
        dataset=dataset,
    )


def is_low(scan: Scan) -> bool:
    """Whether a scan is known to be low-field, i.e. below 1 T."""
    return scan.field_strength is not None and scan.field_strength < LOW_FIELD_BELOW
