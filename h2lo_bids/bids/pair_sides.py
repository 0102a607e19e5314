"""Which pairs are wanted, and the high-field and low-field scans that each subject has."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from h2lo_bids.bids.explain import misnamed_subjects
from h2lo_bids.bids.gather import (
    Findings,
    Image,
    check_fit,
    find_images,
    is_low,
    note_others,
    read_scan,
    readable,
)
from h2lo_bids.bids.index import folder_names, list_subjects
from h2lo_bids.bids.metadata import Sidecars
from h2lo_bids.bids.names import NIFTI, Name, parse_name
from h2lo_bids.bids.query import (
    Filter,
    Query,
    compile_filters,
    compile_words,
    did_you_mean,
    matches,
    words_of,
)
from h2lo_bids.bids.scan import Scan, not_an_input
from h2lo_bids.bids.validate import read_description, require_valid
from h2lo_bids.errors import H2loError, MissingInputError, UsageError
from h2lo_bids.vocabulary import CONTRASTS
from h2lo_bids.wording import counted, listed

FUSIONS = ("auto", "none", "mrr")
LF_DATASET = "lf"


@dataclass(frozen=True)
class PairQuery:
    """Which pairs are wanted; checked when made."""

    bids_dir: Path
    participant_labels: tuple[str, ...] = ()
    session_labels: tuple[str, ...] = ()
    contrasts: tuple[str, ...] = CONTRASTS
    # Of a filter file: t1w, t2w, hf_t1w and hf_t2w choose high-field scans, lf_t1w and lf_t2w
    # low-field ones.
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    inline: tuple[str, ...] = ()  # ENTITY=VALUE, of the high-field scans
    hf: tuple[str, ...] = ()  # selection words, which win over filters
    lf: tuple[str, ...] = ()
    lf_dir: Path | None = None  # second root, called "lf" in BIDS URIs
    derivatives: tuple[tuple[str, Path], ...] = ()  # may hold low-field images on the HF grid
    fusion: str = "auto"
    database_dir: Path | None = None
    skip_bids_validation: bool = False

    def __post_init__(self) -> None:
        raw, set_ = self.raw(), object.__setattr__
        for name in ("bids_dir", "participant_labels", "session_labels", "database_dir"):
            set_(self, name, getattr(raw, name))
        set_(self, "contrasts", tuple(dict.fromkeys(self.contrasts)))
        if self.fusion not in FUSIONS:
            raise UsageError(f"--lf-fusion {self.fusion}: choose of {', '.join(FUSIONS)}")
        if self.lf_dir is not None:
            set_(self, "lf_dir", Path(self.lf_dir).absolute())
            if self.lf_dir.resolve() == self.bids_dir.resolve():
                raise UsageError(
                    f"--lf-dir {self.lf_dir}: is bids_dir itself; leave it out, "
                    "and choose scans with --hf and --lf"
                )
        roots = tuple((name, Path(root).absolute()) for name, root in self.derivatives)
        names = [name for name, _ in roots]
        if len(set(names)) < len(names) or {"raw", LF_DATASET} & set(names):
            raise UsageError(
                f"--derivatives {' '.join(names)}: give each dataset a name of its own, "
                f"other than raw and {LF_DATASET}"
            )
        set_(self, "derivatives", roots)
        for contrast in self.contrasts:
            self.conditions("hf", contrast)
            self.conditions("lf", contrast)

    def raw(self) -> Query:
        """Ask for every scan of the wanted contrasts in ``bids_dir``."""
        return Query(
            bids_dir=self.bids_dir,
            participant_labels=self.participant_labels,
            session_labels=self.session_labels,
            suffixes=self.contrasts,
            database_dir=self.database_dir,
            skip_bids_validation=self.skip_bids_validation,
        )

    def second(self) -> Query | None:
        """Ask for every scan of the wanted contrasts in ``lf_dir``, if there is one."""
        if self.lf_dir is None:
            return None
        return Query(
            bids_dir=self.lf_dir,
            participant_labels=self.participant_labels,
            session_labels=self.session_labels,
            suffixes=self.contrasts,
            skip_bids_validation=self.skip_bids_validation,
        )

    def conditions(self, side: str, contrast: str) -> Filter:
        """Give what the user asks of one side's scans of a contrast; empty for nothing."""
        key = contrast.lower()
        compiled = compile_filters(self.filters)
        own = compiled.get(f"{side}_{key}", {})
        if side == "lf":
            return own | compile_words(self.lf, "--lf")
        inline = compile_filters({}, self.inline)[key]
        return compiled[key] | own | inline | compile_words(self.hf, "--hf")


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


_FUSED = re.compile(r"(.+)_mrr(\.nii(?:\.gz)?)")
"""Names as in ds006557's ants-mrr, where the contrast is followed by a further word."""


def use_precomputed(query: PairQuery, sides: dict[Key, Sides], findings: Findings) -> set[str]:
    """Let the low-field images of derivative datasets stand for the low-field scans.

    A contrast of which these datasets hold an image of anybody is taken from
    them alone, so that fused and single scans are not mixed.
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
