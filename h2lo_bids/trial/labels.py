"""Labels of a derivative dataset: found for a scan, checked, and carried to other grids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids.bids.names import parse_name
from h2lo_bids.bids.scan import Scan
from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import spacing_of
from h2lo_bids.imaging.voxels import VoxelResponse, slice_axis, slice_profile
from h2lo_bids.io import read_text, table_rows

SUFFIXES = ("mask", "dseg", "probseg")
_OWN_SPACES = (None, "orig", "native", "individual")
_SAME = 1e-2
"""Of affines, in mm, within which two grids are one."""
_DENSE = 16


@dataclass(frozen=True)
class Label:
    """One label image in the space of a scan."""

    name: str  # as given with ``--labels``
    path: Path
    kind: str  # "mask", "dseg" or "probseg"
    data: np.ndarray  # (X, Y, Z): bool, whole numbers, or shares in [0, 1]
    names: dict[int, str]  # of the regions of a "dseg", by number, where its table has them

    def regions(self) -> Iterator[tuple[int, str, np.ndarray]]:
        """Give number, name and shares, float32, of each region."""
        if self.kind != "dseg":
            yield 1, self.name, self.data.astype(np.float32)
            return
        for code in np.unique(self.data[self.data > 0]).tolist():
            yield code, self.names.get(code, str(code)), (self.data == code).astype(np.float32)


def find_label(name: str, root: Path, scan: Scan) -> Path:
    """Find the one label image of a scan in a derivative dataset.

    Candidates are the ``mask``, ``dseg`` and ``probseg`` of its participant and session, but
    brain masks; one with other entities than the scan (``acq``, ``run``) is another scan's,
    as is one whose ``space`` is the other contrast or a template.

    Raises
    ------
    MissingInputError
        If there is none.
    BadDataError
        If several fit, or the file's name says another participant than its folder.
    """
    if not root.is_dir():
        raise MissingInputError(f"--labels {name}={root}: no such folder; check the path")
    folder = root / f"sub-{scan.subject}"
    if scan.session and (folder / f"ses-{scan.session}").is_dir():
        folder /= f"ses-{scan.session}"
    entities, fitting = dict(scan.entities), []
    for path in sorted(folder.glob("anat/*.nii*")):
        parsed = parse_name(path.name)
        if parsed is None or parsed.suffix not in SUFFIXES or parsed.get("desc") == "brain":
            continue
        if parsed.get("sub") != scan.subject:
            raise BadDataError(
                f"{path}: is in the folder of sub-{scan.subject}, and its name is of another "
                "participant; rename or move it"
            )
        keys = ("ses", "acq", "ce", "rec", "run")
        other = any(parsed.get(key) not in (None, entities.get(key)) for key in keys)
        if not other and parsed.get("space") in (*_OWN_SPACES, scan.suffix):
            fitting.append((parsed.get("space") == scan.suffix, path))
    # A label in the space of this very scan is meant before one that names none.
    best = [path for named, path in fitting if named == max(fitting)[0]]
    if len(best) > 1:
        names = ", ".join(path.name for path in best[:3])
        raise BadDataError(
            f"{folder}: {len(best)} label images fit {scan.stem} ({names}); keep one, or tell "
            "them apart by space-T1w and space-T2w"
        )
    if not best:
        raise MissingInputError(
            f"{folder}: --labels {name} holds no mask, dseg or probseg for {scan.stem}; add "
            "one in the scan's space"
        )
    return best[0]


def load_label(name: str, path: Path, scan_image: Any, brain: np.ndarray) -> Label:
    """Load a label image and check that it belongs to a scan, nibabel's image, and its brain.

    Raises
    ------
    BadDataError
        If it is empty, not whole numbers where they must be, on another grid, or mostly
        outside the brain.
    """
    try:
        image = load_checked(path).image
    except BadDataError as err:
        if "all zero" in str(err):
            raise BadDataError(f"{path}: is empty: no voxel has a label") from err
        raise
    scan = scan_image.get_filename()
    if image.shape != scan_image.shape:
        shapes = " and ".join(" x ".join(map(str, i.shape)) for i in (image, scan_image))
        raise BadDataError(
            f"{path}: is on another grid than {scan} ({shapes} voxels); resample it to the scan"
        )
    if not np.allclose(image.affine, scan_image.affine, atol=_SAME):
        raise BadDataError(
            f"{path}: lies elsewhere than {scan} (their affines differ); resample it to the scan"
        )
    kind, data = path.name.split(".")[0].rpartition("_")[2], np.asarray(image.dataobj)
    if kind != "probseg" and not np.array_equal(data, np.rint(data)):
        raise BadDataError(f"{path}: a {kind} holds whole numbers, this one does not")
    if data.min() < 0 or (kind == "probseg" and data.max() > 1 + 1e-3):
        raise BadDataError(f"{path}: has values beyond those of a {kind}; check how it was made")
    held = data >= 0.5
    if not held.any():
        raise BadDataError(f"{path}: is empty: no voxel has a label")
    if 2 * np.count_nonzero(held & brain) < np.count_nonzero(held):
        raise BadDataError(
            f"{path}: most of it lies outside the brain of {scan}; it may be of another person"
        )
    if kind == "dseg":
        return Label(name, path, kind, data.astype(np.int32), _names(path))
    return Label(name, path, kind, held if kind == "mask" else data.astype(np.float32), {})


def _names(path: Path) -> dict[int, str]:
    """Read the regions' names from the table beside a segmentation, or of its dataset."""
    sibling = path.with_name(path.name.split(".")[0] + ".tsv")
    for table in (sibling, *(parent / "dseg.tsv" for parent in path.parents[:4])):
        if table.is_file():
            try:
                rows = table_rows(read_text(table))
                return {int(row["index"]): row["name"] for row in rows}
            except (KeyError, ValueError) as err:
                raise BadDataError(f"{table}: needs the columns index and name") from err
    return {}


def response_lines(
    shape: Sequence[int],
    affine: np.ndarray,
    new_shape: Sequence[int],
    new_affine: np.ndarray,
    response: VoxelResponse,
) -> list[np.ndarray]:
    """Return what each voxel of a grid along the same axes averages of the old ones.

    For each axis (new, old), for `weigh_by_axis`; a row sums to 1 where the old grid
    covers the voxel. Empty where both grids are one. In the plane the voxel's
    length counts, across the slices the profile.
    """
    step = np.linalg.inv(affine) @ new_affine
    if tuple(shape) == tuple(new_shape) and np.allclose(step, np.eye(4), atol=1e-4):
        return []
    old, new = spacing_of(affine), spacing_of(new_affine)
    slices = slice_axis(new.tolist())
    lines = []
    for axis in range(3):
        centres = step[axis, axis] * np.arange(new_shape[axis]) + step[axis, 3]
        kind = response.profile if axis == slices else "box"
        thick = (axis == slices and response.thickness) or new[axis]
        # Far enough beyond the old grid that the whole profile is counted.
        pad = int(np.ceil(3 * thick / old[axis])) + 1
        at = np.arange(-pad, shape[axis] + pad)
        offsets = (np.arange(_DENSE) + 0.5) / _DENSE - 0.5
        where = (at[None, :, None] + offsets - centres[:, None, None]) * old[axis]
        weights = slice_profile(kind, where, thick).mean(axis=2)
        lines.append((weights / weights.sum(axis=1, keepdims=True))[:, pad:-pad])
    return lines


def carry_label(label: Label, move: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Carry a label to a grid by partial volume; `move` carries shares, float32.

    Returns shares, float32, of a mask or ``probseg``; of a ``dseg`` the region that has the
    largest share, int32; 0 where no region's is larger than the background's.
    """
    if label.kind != "dseg":
        return move(label.data.astype(np.float32))
    best = np.maximum(move((label.data == 0).astype(np.float32)), 1e-6)
    codes = np.zeros(best.shape, dtype=np.int32)
    for code, _, region in label.regions():
        share = move(region)
        codes[share > best] = code
        np.maximum(best, share, out=best)
    return codes
