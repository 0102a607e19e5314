"""Low-field images that somebody has already put on the high-field grid."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from h2lo_bids.bids.filters import did_you_mean, matches
from h2lo_bids.bids.findings import Findings
from h2lo_bids.bids.gather import Image, is_low, read_scan
from h2lo_bids.bids.index import folder_names
from h2lo_bids.bids.metadata import Sidecars
from h2lo_bids.bids.names import NIFTI, Name, parse_name
from h2lo_bids.bids.pairquery import PairQuery
from h2lo_bids.bids.pairs_sides import Key, Sides
from h2lo_bids.bids.participants import list_subjects
from h2lo_bids.bids.scan import Scan
from h2lo_bids.bids.selection import words_of
from h2lo_bids.errors import H2loError, MissingInputError

_FUSED = re.compile(r"(.+)_mrr(\.nii(?:\.gz)?)")
"""Names as in ds006557's ants-mrr, where the contrast is followed by a further word."""


def use_precomputed(query: PairQuery, sides: dict[Key, Sides], findings: Findings) -> set[str]:
    """Let the low-field images of derivative datasets stand for the low-field scans.

    A contrast of which these datasets hold an image of anybody is taken from
    them alone, so that fused and single scans are not mixed.

    Parameters
    ----------
    query : PairQuery
        What is wanted.
    sides : dict
        What the raw datasets hold; the low side is replaced.
    findings : Findings
        Added to.

    Returns
    -------
    set of str
        The contrasts for which this was done.

    Raises
    ------
    MissingInputError
        A derivative dataset cannot be read.
    """
    found: dict[Key, list[Scan]] = defaultdict(list)
    for dataset, root in query.derivatives:
        for scan in _low(dataset, root, query, sides, findings):
            found[scan.subject, scan.suffix].append(scan)
    contrasts = {contrast for _, contrast in found}
    for (subject, contrast), own in sides.items():
        if contrast in contrasts:
            own.low = found.get((subject, contrast), [])
    return contrasts


def _low(
    dataset: str, root: Path, query: PairQuery, sides: dict[Key, Sides], findings: Findings
) -> Iterator[Scan]:
    """Read the low-field images of one dataset, of whomever."""
    sidecars = Sidecars(root)
    visits: dict[str, set[str | None]] = defaultdict(set)
    for (_, contrast), each in sides.items():
        visits[contrast] |= {scan.session for scan in each.high}
    for image, fused in _images(root, query):
        name = image.name
        own = sides.get((name.get("sub") or "", name.suffix))
        try:
            scan = read_scan(image, sidecars, dataset)
        except H2loError as error:
            if own is not None:
                findings.fail(image.path, error)
                own.broken = True
            continue
        reason = _unfit(image, scan, fused, visits[name.suffix], query)
        if reason is None:
            note = f"on the high-field grid, since --derivatives {dataset} holds it"
            yield replace(scan, notes=(note,), warnings=())
        elif own is not None:
            findings.skip(image.path, reason)


def _images(root: Path, query: PairQuery) -> Iterator[tuple[Image, bool]]:
    """Walk ``sub-X[/ses-Y][/anat]``; say of each image whether its name tells it was fused."""
    if not os.access(root, os.R_OK | os.X_OK):
        raise MissingInputError(f"--derivatives {root}: cannot be read; check the path")
    for subject in list_subjects(root):
        top = root / f"sub-{subject}"
        visits = [top, *(top / name for name in folder_names(top) if name.startswith("ses-"))]
        for folder in (place for visit in visits for place in (visit, visit / "anat")):
            for filename in sorted(folder_names(folder)):
                name, fused = _parse(filename)
                wanted = name is not None and name.suffix in query.contrasts
                if name is not None and wanted and name.get("sub") == subject:
                    yield Image(folder / filename, name), fused


def _parse(filename: str) -> tuple[Name | None, bool]:
    if not filename.endswith(NIFTI):
        return None, False
    fused = _FUSED.fullmatch(filename)
    return parse_name(f"{fused[1]}{fused[2]}" if fused else filename), fused is not None


def _unfit(
    image: Image, scan: Scan, fused: bool, visits: set[str | None], query: PairQuery
) -> str | None:
    """Say why an image is not wanted, or rather of high field, as a preprocessed T1w is."""
    asked = query.conditions("lf", scan.suffix)
    if not matches(image.name, asked):
        return f"does not match --lf {words_of(asked)}{did_you_mean(asked, [image.name])}"
    if scan.field_strength is not None and not is_low(scan):
        return f"{scan.strength}: not low field"
    if fused or is_low(scan) or asked or scan.session not in visits:
        return None
    return (
        "no field strength, and its session has high-field scans: "
        "if it is low field, choose it with --lf"
    )
