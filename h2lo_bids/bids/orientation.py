"""What the header of a scan tells: its field of view, and which way thick slices lie."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from h2lo_bids.bids.names import words_of_label
from h2lo_bids.bids.scan import Scan
from h2lo_bids.errors import MissingInputError
from h2lo_bids.io import check_content

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

    @property
    def extent(self) -> tuple[float, ...]:
        """Field of view along each axis, mm."""
        return tuple(n * side for n, side in zip(self.shape, self.sides, strict=True))

    @property
    def partial(self) -> bool:
        """Whether the field of view is too small for a head."""
        return min(self.extent) < PARTIAL


def header_warnings(scan: Scan) -> tuple[str, ...]:
    """Say what a chosen scan's sidecar or name has otherwise than its header, which is used.

    The sidecar's lengths are ``SpacingBetweenSlices``, else ``SliceThickness``, and
    ``PixelSpacing``. A field of view that is too small for a head is told, too.
    """
    grid = read_grid(scan.path)
    if grid is None:
        return ()
    found = tuple(_odd(grid, scan.metadata))
    label = dict(scan.entities).get("acq")
    way = from_label(label)
    if {way, grid.way} <= {*ORTHOGONAL} and way != grid.way:
        text = f"acq-{label} means {TITLES[way or '']} slices, but those of the header are"
        found += (f"{text} {TITLES[grid.way]}, as which they are used",)
    return found


def _odd(grid: Grid, metadata: Mapping[str, Any]) -> Iterator[str]:
    sides = " x ".join(f"{side:.3g}" for side in grid.sides)
    for key, slack in _LENGTHS.items():
        stated = metadata.get(key)
        lengths = stated if isinstance(stated, list) else [stated]
        numbers = [n for n in lengths if isinstance(n, int | float) and n > 0]
        if all(any(n / slack <= side <= n * slack for side in grid.sides) for n in numbers):
            continue
        if key != "SliceThickness" or "SpacingBetweenSlices" not in metadata:
            yield (
                f"{key} in the sidecar reads {stated}, but the header has voxels of {sides} mm, "
                "which are used"
            )
    if grid.partial:
        extent = " x ".join(f"{side:.0f}" for side in grid.extent)
        yield f"the field of view of {extent} mm shows a part of the head only"


def orientation(scan: Scan) -> str | None:
    """Tell a scan's slice direction: from its voxels, else from its ``acq`` label.

    Parameters
    ----------
    scan : Scan
        Its image is opened if its content is there; only the header is read.

    Returns
    -------
    str or None
        ``"axi"``, ``"cor"``, ``"sag"``, ``"iso"``, or None when nothing tells.
        Nearly cubic voxels do not contradict a label: scans are at times
        interpolated when they are exported.
    """
    seen = _from_voxels(scan.path)
    if seen in ORTHOGONAL:
        return seen
    return from_label(dict(scan.entities).get("acq")) or seen


def from_label(label: str | None) -> str | None:
    """Tell a slice direction from words in an ``acq`` label.

    Examples
    --------
    >>> [from_label(label) for label in ("axi", "T2Coronal", "SAG5mm", "LFaxial", "core", None)]
    ['axi', 'cor', 'sag', 'axi', None, None]
    """
    words = words_of_label(label or "")
    found = [name for name, known in _WORDS.items() if words & known]
    return found[0] if len(found) == 1 else None


def _from_voxels(path: Path) -> str | None:
    grid = read_grid(path)
    return None if grid is None else grid.way


def read_grid(path: Path) -> Grid | None:
    """Read the header of an image; None if it cannot, which is told when the scan is used."""
    try:
        state = path.stat()
    except OSError:
        return None
    return _grid(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _grid(path: Path, *_state: int) -> Grid | None:
    import nibabel as nib

    try:
        check_content(path)
        # Not nib.load: it reads extensions of whatever length the header claims.
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
            start = stream.read(nib.Nifti2Header.template_dtype.itemsize)
        first = nib.Nifti1Header.may_contain_header(start)
        kind: Any = nib.Nifti1Header if first else nib.Nifti2Header
        header = kind(start[: kind.template_dtype.itemsize], check=False)
        affine = header.get_best_affine()[:3, :3]
        sides = (affine**2).sum(axis=0) ** 0.5
        sides = sides * {"meter": 1e3, "micron": 1e-3}.get(header.get_xyzt_units()[0], 1.0)
        if not (sides > 0).all():
            return None
        _, middle, longest = sides.argsort()
        thick = sides[longest] >= THICK * sides[middle]
        way = _ACROSS[abs(affine[:, longest]).argmax()] if thick else "iso"
        shape = (*map(int, header.get_data_shape()), 1, 1, 1)
        return Grid(shape[:3], tuple(map(float, sides)), math.prod(shape[3:]), way)
    except (MissingInputError, OSError, ValueError, EOFError, zlib.error, KeyError):
        return None
    except (nib.wrapstruct.WrapStructError, nib.spatialimages.HeaderDataError):
        return None
