"""The high-field and low-field scans that each subject has."""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from h2lo_bids.bids.gather import Search, check_fit, find_images, read_scan
from h2lo_bids.bids.index import folder_names, list_subjects, misnamed_subjects, visits_of
from h2lo_bids.bids.metadata import Sidecars
from h2lo_bids.bids.names import NIFTI, in_place, parse_name
from h2lo_bids.bids.query import HIGH, LOW, Conditions, matches, mismatch
from h2lo_bids.bids.scan import Scan, not_an_input, rank, scan_at
from h2lo_bids.errors import H2loError, MissingInputError
from h2lo_bids.io import check_content
from h2lo_bids.wording import counted, listed

Key = tuple[str, str]
"""Subject and contrast."""


@dataclass
class Sides:
    """The scans of a subject and contrast; ``broken`` when a sidecar cannot be read."""

    high: list[Scan] = field(default_factory=list)
    low: list[Scan] = field(default_factory=list)
    broken: bool = False


def gather_sides(search: Search) -> dict[Key, Sides]:
    """Sort the scans of the raw dataset, and of the second root, by field strength."""
    # An unknown one is high, unless it is in the second root or chosen as low and not as high.
    sides: dict[Key, Sides] = defaultdict(Sides)
    lf_dir = search.settings.lf_dir
    images = find_images(search)
    check_fit(search, images, HIGH)
    if lf_dir is None and not search.settings.derivatives:
        check_fit(search, images, LOW)
    for scan in _read(search, images, sides):
        low = scan.low or (lf_dir is None and _chosen_as_low(scan, search.conditions))
        if low and lf_dir is not None:
            search.skip(scan.path, f"low field, but --lf-dir says {lf_dir}")
        else:
            scan = scan.taken_as_low("it was chosen with --lf") if low else scan
            _keep(search, scan, sides, low=low)
    _validate(search, sides)
    if lf_dir is not None:
        _gather_second(search, lf_dir, sides)
    return dict(sides)


def _gather_second(search: Search, root: Path, sides: dict[Key, Sides]) -> None:
    """Add the low-field scans of ``lf_dir``, and warn of what only that dataset has."""
    settings = replace(search.settings, bids_dir=root, lf_dir=None, bids_database_dir=None)
    second = replace(search, settings=settings, dataset="lf")  # it adds to the same lists
    second.check_description()
    there = {*second.existing}
    others = [f"sub-{label}" for label in sorted(there - {*search.existing})]
    if others and search.subjects == search.existing:
        text = f"{counted(len(others), 'participant')} not in the first dataset: {listed(others)}"
        search.doubt(root, text)
    if misnamed := misnamed_subjects(root, second.existing):
        search.doubt(root, misnamed)
    second.choose(label for label in search.subjects if label in there)
    images = find_images(second)
    check_fit(search, images, LOW)
    for scan in _read(second, images, sides):
        if scan.field_strength is not None and not scan.low:
            search.skip(scan.path, f"{scan.strength}: not low field, in spite of --lf-dir")
        else:
            _keep(search, scan.taken_as_low("it lies in --lf-dir"), sides, low=True)
    _validate(second, sides)


def _read(search: Search, images: list[Scan], sides: dict[Key, Sides]) -> Iterator[Scan]:
    """Read the sidecars of whole-head magnitude images that either side could want."""
    for image in images:
        # Made before anything is skipped: a subject with images is no empty one.
        both = sides[image.subject, image.suffix]
        asked = [search.conditions.asked(image.suffix, *side) for side in (HIGH, LOW)]
        reason = not_an_input(image.name, {*asked[0], *asked[1]}, "--hf or --lf")
        if reason is not None:
            search.skip(image.path, reason)
            continue
        try:
            scan = read_scan(image, search.sidecars)
        except H2loError as error:
            if any(matches(image.name, conditions) for conditions in asked):
                search.fail(image.path, error)
                both.broken = True
            continue
        if scan.field_strength is not None:  # else it is reported where it counts
            search.doubt(image.path, *scan.warnings)
        yield scan


def _chosen_as_low(scan: Scan, conditions: Conditions) -> bool:
    """Check whether words choose a scan of unknown field strength as low field alone."""
    high, low = (conditions.asked(scan.suffix, *side) for side in (HIGH, LOW))
    chosen = bool(low) and matches(scan.name, low)
    return scan.field_strength is None and chosen and not (high and matches(scan.name, high))


def _keep(search: Search, scan: Scan, sides: dict[Key, Sides], *, low: bool) -> None:
    both, side = sides[scan.subject, scan.suffix], LOW if low else HIGH
    conditions = search.conditions.asked(scan.suffix, *side)
    given = (scan.name, conditions, f"--{side[-1]}")  # whatever the other's are
    if reason := mismatch(*given) or not_an_input(*given):
        search.skip(scan.path, f"{'low' if low else 'high'} field, but {reason}")
    else:
        (both.low if low else both.high).append(scan)


def _validate(search: Search, sides: dict[Key, Sides]) -> None:
    scans = (scan for both in sides.values() for scan in (*both.high, *both.low))
    search.validate(scan.path for scan in scans if scan.dataset == search.dataset)


_FUSED = re.compile(r"(.+)_mrr(\.nii(?:\.gz)?)")
"""Names as in ds006557's ants-mrr, where the contrast is followed by a further word."""


def use_precomputed(search: Search, sides: dict[Key, Sides]) -> set[str]:
    """Let the low-field images of derivative datasets stand for the low-field scans."""
    # Of a contrast for all subjects, so that fused and single scans are not mixed.
    found: dict[Key, list[Scan]] = defaultdict(list)
    for dataset, root in search.settings.derivatives:
        for scan in _precomputed(search, dataset, root, sides):
            found[scan.subject, scan.suffix].append(scan)
    contrasts = {contrast for _, contrast in found}
    for (subject, contrast), both in sides.items():
        if contrast in contrasts:
            both.low = found.get((subject, contrast), [])
    return contrasts


def _precomputed(
    search: Search, dataset: str, root: Path, sides: dict[Key, Sides]
) -> Iterator[Scan]:
    """Read the low-field images of one dataset, of whomever."""
    sidecars = Sidecars(root)
    visits: dict[str, set[str | None]] = defaultdict(set)
    for (_, contrast), each in sides.items():
        visits[contrast] |= {scan.session for scan in each.high}
    for image, fused in _derived(dataset, root, search.suffixes):
        both = sides.get((image.subject, image.suffix))
        try:
            scan = read_scan(image, sidecars)
        except H2loError as error:
            if both is not None:
                search.fail(image.path, error)
                both.broken = True
            continue
        # One without a session may be the average of the high-field ones, as fMRIPrep's is.
        sure = fused or scan.session not in {None, *visits[scan.suffix]}
        reason = _unfit(scan, sure, search.conditions)
        if reason is None:
            note = f"on the high-field grid, since --derivatives {dataset} holds it"
            yield replace(scan, notes=(note,), warnings=())
        elif both is not None:
            search.skip(image.path, reason)


def _derived(dataset: str, root: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[Scan, bool]]:
    """Walk ``sub-X[/ses-Y][/anat]``; report whether an image's name says that it was fused."""
    if not os.access(root, os.R_OK | os.X_OK):
        raise MissingInputError(f"--derivatives {root}: cannot be read; check the path")
    for subject in list_subjects(root):
        visits = visits_of(root / f"sub-{subject}")
        for folder in (place for visit in visits for place in (visit, visit / "anat")):
            for filename in folder_names(folder):
                fused = _FUSED.fullmatch(filename)
                name = parse_name(f"{fused[1]}{fused[2]}" if fused else filename)
                if name is None or name.extension not in NIFTI:
                    continue
                if name.suffix in suffixes and name.get("sub") == subject:
                    yield scan_at(folder / filename, name, dataset), fused is not None


def _unfit(scan: Scan, sure: bool, conditions: Conditions) -> str | None:
    """Return why an image is not wanted, or rather of high field, as a preprocessed T1w is."""
    asked = conditions.asked(scan.suffix, *LOW)
    if reason := mismatch(scan.name, asked, "--lf"):
        return reason
    if scan.field_strength is not None and not scan.low:
        return f"{scan.strength}: not low field"
    if scan.name.get("desc") == "enhanced":
        return "an enhanced image: not low field"
    if scan.name.get("desc") == "preproc" and not scan.name.get("space") and "desc" not in asked:
        return "preprocessed on its own grid: if it is registered, choose it with --lf desc-preproc"
    if sure or scan.low or any(scan.name.get(entity) for entity in asked):
        return None
    return (
        "no field strength, and it may be made of high-field scans: "
        "if it is low field, choose it with --lf"
    )


def mask_donor(hf: Scan, search: Search) -> Scan | None:
    """Find the high-field T1w scan in a T2w scan's folder, if there is one."""
    # Not among the pairs: a pair comes out the same whether T1w pairs are asked for or not.
    if hf.suffix != "T2w":
        return None
    asked = search.conditions.asked("T1w", *HIGH)
    names = {hf.path.with_name(name): parse_name(name) for name in folder_names(hf.path.parent)}
    images = [
        scan_at(path, name, hf.dataset)
        for path, name in names.items()
        if name and name.suffix == "T1w" and in_place(path, name)
        if matches(name, asked) and not not_an_input(name, asked)
    ]
    for image in sorted(images, key=lambda i: (*rank(i), i.name.extension == ".nii")):
        with contextlib.suppress(H2loError):
            check_content(image.path)
            scan = read_scan(image, search.sidecars)
            # Of unknown strength, it may be the low-field scan.
            if not scan.low and (asked or scan.field_strength is not None):
                return scan
    return None
