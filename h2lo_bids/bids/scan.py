"""One input image: its entities, what its header shows, and its rank among others."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import bids_app_spec
from h2lo_bids.bids.metadata import LOW_FIELD_BELOW
from h2lo_bids.bids.names import Name, words_of_label
from h2lo_bids.errors import H2loError
from h2lo_bids.io import check_content


@dataclass(frozen=True)
class Scan:
    """One T1w or T2w image of one subject."""

    path: Path
    subject: str
    session: str | None
    suffix: str
    entities: tuple[tuple[str, str], ...]  # short names and labels as the file name has them
    field_strength: float | None = None  # tesla, corrected; see `metadata.field_strength`
    field_source: str = "assumed"
    # The sidecars' content after BIDS inheritance.
    metadata: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)
    notes: tuple[str, ...] = field(default=(), hash=False, compare=False)
    dataset: str = "raw"  # its name in BIDS URIs: "raw", "lf" (--lf-dir) or a derivative's
    warnings: tuple[str, ...] = field(default=(), hash=False, compare=False)

    @property
    def low(self) -> bool:
        """Whether the scan is known to be low-field, i.e. below 1 T."""
        return self.field_strength is not None and self.field_strength < LOW_FIELD_BELOW

    def taken_as_low(self, why: str) -> Scan:
        """Return a scan of unknown field strength as a low-field one."""
        if self.field_strength is not None:
            return self
        note = f"no field strength in the sidecar: low field, since {why}"
        return replace(self, notes=(note,), warnings=())

    @property
    def name(self) -> Name:
        """The file name taken apart."""
        extension = ".nii" if self.path.suffix == ".nii" else ".nii.gz"
        return Name(self.entities, self.suffix, extension)

    @property
    def strength(self) -> str:
        """Field strength and what it is known by, e.g. ``3 T by ImagingFrequency``."""
        if self.field_strength is None:
            return "unknown field strength"
        source = "a label" if self.field_source == "label" else self.field_source
        return f"{self.field_strength:g} T by {source}"

    @property
    def stem(self) -> str:
        """File name without extension, e.g. ``sub-01_ses-HF_acq-x_T1w``."""
        return "_".join([*(f"{key}-{value}" for key, value in self.entities), self.suffix])

    @property
    def root(self) -> Path:
        """Root of the dataset: what holds the subject's folder."""
        tops = (folder for folder in self.path.parents if folder.name == f"sub-{self.subject}")
        return next(tops, self.path).parent

    @property
    def relative_path(self) -> str:
        """POSIX path relative to the dataset's root."""
        return self.path.relative_to(self.root).as_posix()

    @property
    def uri(self) -> str:
        """BIDS URI in the derivative, whose ``DatasetLinks`` name the dataset."""
        return f"bids:{self.dataset}:{self.relative_path}"


def scan_at(path: Path, name: Name, dataset: str = "raw") -> Scan:
    """Return what an image is by its name; its sidecars are not read yet."""
    subject, session = name.get("sub") or "", name.get("ses")
    return Scan(path, subject, session, name.suffix, name.entities, dataset=dataset)


ORTHOGONAL = ("axi", "cor", "sag")
TITLES = {"axi": "axial", "cor": "coronal", "sag": "sagittal", "iso": "isotropic"}
THICK = 1.5
"""A slice counts as thick when it is this many times its in-plane voxels (Swoop: 3)."""

PARTIAL = 100.0
"""A field of view below this many mm along an axis shows no whole head, be it a newborn's."""
_LENGTHS = {"SpacingBetweenSlices": 1.05, "SliceThickness": 2.1, "PixelSpacing": 1.05}
"""Lengths of a sidecar, and the ratio to the voxels' sides that is no contradiction yet: images
are interpolated to half the slices' thickness, or have gaps of as much."""

_WORDS = {
    "axi": {"axi", "ax", "axial", "tra", "transverse", "transversal"},
    "cor": {"cor", "coronal"},
    "sag": {"sag", "sagittal"},
    "iso": {"iso", "isotropic"},
}
_ACROSS = ("sag", "cor", "axi")  # the world axis (right, anterior, superior) across the slices


@dataclass(frozen=True)
class Grid:
    """Voxels of an image: numbers, sides in mm, volumes, and the way of thick slices."""

    shape: tuple[int, ...]
    sides: tuple[float, ...]
    volumes: int
    way: str
    axes: tuple[int, ...]  # the world axis along each of the array's, as in `_ACROSS`

    @property
    def extent(self) -> tuple[float, ...]:
        """Field of view along each axis, mm."""
        return tuple(n * side for n, side in zip(self.shape, self.sides, strict=True))

    @property
    def partial(self) -> bool:
        """Whether the field of view is too small for a head."""
        return min(self.extent) < PARTIAL


def header_warnings(scan: Scan) -> tuple[str, ...]:
    """Report a contrast agent, and what a scan's sidecar or name has otherwise than its header."""
    grid = read_grid(scan.path)
    if grid is None:
        return ()
    found = [*_odd_lengths(grid, scan.metadata)]
    if grid.partial:
        extent = " x ".join(f"{side:.0f}" for side in grid.extent)
        found.append(f"the field of view of {extent} mm covers only part of the head")
    if has_agent(scan.name) or "gado" in str(scan.metadata.get("ContrastBolusIngredient")).lower():
        found.append(
            "a contrast agent was given, according to its name or sidecar; no embedded model was "
            "trained on such scans: look at the report before you use the image"
        )
    label = scan.name.get("acq")
    way = from_label(label)
    if {way, grid.way} <= {*ORTHOGONAL} and way != grid.way:
        text = f"acq-{label} means {TITLES[way or '']} slices, but by the header they are"
        found.append(f"{text} {TITLES[grid.way]}; the header is used")
    return tuple(found)


def slice_warnings(axes: Sequence[int], grids: Iterable[Sequence[float]]) -> Iterator[str]:
    """Report voxels whose slices are not axial, but would be in an array in the order of RAS."""
    for sides in grids if len({*axes}) == 3 else ():
        longest = sides.index(max(sides))
        if sides[longest] < THICK * sorted(sides)[1] or axes[longest] in (longest, 2):
            continue
        given, meant = (
            "x".join(f"{side:g}" for side in s) for s in (sides, [sides[a] for a in axes])
        )
        yield (
            f"slices of {given} mm voxels across the {('first', 'second', 'third')[longest]} axis "
            f"of its array are {TITLES[_ACROSS[axes[longest]]]}; "
            f"for {TITLES[_ACROSS[longest]]} ones give {meant}"
        )


def _odd_lengths(grid: Grid, metadata: Mapping[str, Any]) -> Iterator[str]:
    for key, slack in _LENGTHS.items():
        stated = metadata.get(key)
        lengths = stated if isinstance(stated, list) else [stated]
        numbers = [n for n in lengths if isinstance(n, int | float) and n > 0]
        if all(any(n / slack <= side <= n * slack for side in grid.sides) for n in numbers):
            continue
        if key != "SliceThickness" or "SpacingBetweenSlices" not in metadata:
            sides = " x ".join(f"{side:.3g}" for side in grid.sides)
            yield (
                f"{key} in the sidecar reads {stated}, but the header has voxels of {sides} mm, "
                "which are used"
            )


def orientation(scan: Scan) -> str | None:
    """Return a scan's slice direction: from its voxels, else from its ``acq`` or ``rec`` label."""
    grid = read_grid(scan.path)
    if grid and grid.way in ORTHOGONAL:
        return grid.way
    told = from_label(scan.name.get("acq")) or from_label(scan.name.get("rec"))
    return told or (grid.way if grid else None)


def from_label(label: str | None) -> str | None:
    """Read a slice direction from words in an ``acq`` label such as ``T2Coronal`` or ``SAG5mm``."""
    words = words_of_label(label or "")
    found = [name for name, known in _WORDS.items() if words & known]
    return found[0] if len(found) == 1 else None


def read_grid(path: Path) -> Grid | None:
    """Read the header of an image; None if it cannot, which is reported when the scan is used."""
    try:
        state = path.stat()
    except OSError:
        return None
    return _grid(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _grid(path: Path, *_state: int) -> Grid | None:
    from nibabel.spatialimages import HeaderDataError

    from h2lo_bids.imaging.reading import read_header, to_mm

    try:
        check_content(path)
        header = read_header(path)
        to_mm(header)
        affine = header.get_best_affine()[:3, :3]
        sides = (affine**2).sum(axis=0) ** 0.5
        shape = (*map(int, header.get_data_shape()), 1, 1, 1)
    except (H2loError, HeaderDataError, KeyError, ValueError):
        return None
    if not (sides > 0).all():
        return None
    _, middle, longest = sides.argsort()
    thick = sides[longest] >= THICK * sides[middle]
    axes = tuple(map(int, abs(affine).argmax(axis=0)))
    way = _ACROSS[axes[longest]] if thick else "iso"
    return Grid(shape[:3], tuple(map(float, sides)), math.prod(shape[3:]), way, axes)


PREFERENCE = (
    "a whole head in one volume, then no contrast agent, then no thick slices, "
    "then acq-MPRAGE (CUBE for T2w) before other acquisitions, "
    "then intensity-corrected rec- before plain, then the lowest run"
)

_NO_INPUT = re.compile(
    r"inv\d|scout|locali[sz]er|(?-i:Loc(?![a-z]))|survey|setter"
    r"|(flair|tirm|darkfluid|(?-i:DIR(?![A-Za-z]))).*_T2w",
    re.IGNORECASE,
)
"""``acq`` and suffix of an inversion of MP2RAGE, of an image for planning or tracking, or of a
T2w one in which an inversion darkens fluid."""
_AGENT = re.compile(r"(post|gd|gad[a-z]*|contrast|ce)+")
_NO_AGENT = re.compile(r"(pre|no|non|none|without|wo)(gd|gad[a-z]*|contrast|ce)*")


def rank(scan: Scan) -> tuple[Any, ...]:
    """Return the sorting key of a scan: what its header shows, then its name."""
    grid = read_grid(scan.path)
    agent, *rest = preference(scan.name)
    if grid is None:
        return (False, False, agent, False, *rest)
    thick = grid.way != "iso" and max(grid.sides) > 2
    return (grid.partial, grid.volumes > 1, agent, thick, *rest)


def has_agent(name: Name) -> bool:
    """Check whether a name says that a contrast agent was given."""
    sequences = "|".join(bids_app_spec.load("io_spec.json")["preference"]["acq"])
    found = "ce" in dict(name.entities)
    for entity, label in name.entities:
        if entity in ("sub", "ses"):
            continue
        rest = re.sub(rf"(?i:{sequences}|t[12]w?|3d)", " ", label)
        words = words_of_label(rest)
        if any(_NO_AGENT.fullmatch(word) for word in words):
            return False
        found |= any(_AGENT.fullmatch(word) for word in words)
    return found


def preference(name: Name) -> tuple[Any, ...]:
    """Return a sorting key, as `PREFERENCE` says; the scan with the smallest is taken."""
    # Of an image that is not corrected, the brightest voxel is the one nearest to the coil.
    order = bids_app_spec.load("io_spec.json")["preference"]
    corrected = tuple(word.lower() for word in order["rec"])
    acq, rec, run = name.get("acq"), name.get("rec"), name.get("run") or "0"
    known = (n for n, word in enumerate(order["acq"]) if acq and word.lower() in acq.lower())
    return (
        has_agent(name),
        next(known, len(order["acq"]) + (acq is not None)),
        1 if rec is None else 0 if rec.lower().startswith(corrected) else 2,
        name.get("task") is not None,
        name.get("part") is not None,
        int(run) if run.isdigit() else 0,
        name.stem,
    )


def not_an_input(name: Name, filtered: Iterable[str], option: str = "--filter") -> str | None:
    """Return why an image is no plain one of a whole head, unless that was `filtered` for."""
    spec = bids_app_spec.load("io_spec.json")
    asked = set(filtered)
    for entity, label in name.entities:
        if entity not in spec["entities"]:
            # No output could be named after it.
            return f"BIDS knows no {entity}-{label} in the name of a {name.suffix}; rename it"
        labels = spec["exclude"].get(entity, ())
        other = entity == "acq" and _NO_INPUT.search(f"{label}_{name.suffix}")
        if entity not in asked and (other or labels == "*" or label in labels):
            return (
                f"{entity}-{label} is no plain {name.suffix} image of a whole head; "
                f"take it with {option} {entity}={label}"
            )
    return None
