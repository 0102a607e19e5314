"""Which way the thick slices of a low-field scan lie."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import Any

from h2lo_bids.bids.content import check_content
from h2lo_bids.bids.scan import Scan
from h2lo_bids.errors import MissingInputError

ORTHOGONAL = ("axi", "cor", "sag")
TITLES = {"axi": "axial", "cor": "coronal", "sag": "sagittal", "iso": "isotropic"}
THICK = 1.5
"""A slice counts as thick when it is this many times its in-plane voxels (Swoop: 3)."""

_WORDS = {
    "axi": {"axi", "ax", "axial", "tra", "transverse", "transversal"},
    "cor": {"cor", "coronal"},
    "sag": {"sag", "sagittal"},
    "iso": {"iso", "isotropic"},
}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ACROSS = ("sag", "cor", "axi")  # the world axis (right, anterior, superior) across the slices


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
    >>> [from_label(label) for label in ("axi", "T2Coronal", "SAG5mm", "core", None)]
    ['axi', 'cor', 'sag', None, None]
    """
    words = {word.lower() for word in _WORD.findall(label or "")}
    found = [name for name, known in _WORDS.items() if words & known]
    return found[0] if len(found) == 1 else None


def _from_voxels(path: Path) -> str | None:
    """Read the header; whatever is wrong with it is told when the scan is used."""
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
        sizes = (affine**2).sum(axis=0) ** 0.5
        order = sizes.argsort()
        if not sizes[order[0]] > 0:
            return None
        if sizes[order[2]] < THICK * sizes[order[1]]:
            return "iso"
        return _ACROSS[abs(affine[:, order[2]]).argmax()]
    except (MissingInputError, OSError, ValueError, EOFError, zlib.error, KeyError):
        return None
    except (nib.wrapstruct.WrapStructError, nib.spatialimages.HeaderDataError):
        return None
