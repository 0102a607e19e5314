"""Real datasets' layouts, some of their images filled with simulated heads.

Names, sidecars and gaps are those of ds006557, ds005752 and the two roots of
LUMC (:mod:`skeletons`); the heads are low-resolution phantoms, so that every
level can be run on them in minutes. What has no image is what ``datalad
install`` leaves: a dangling link.

    python tests/data/layouts.py ds006557 OUT --subjects HYPE00 HYPE01
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "bids"))

import skeletons

from h2lo_bids.phantom import sidecars
from h2lo_bids.phantom.anatomy import Subject, make_subject, vary
from h2lo_bids.phantom.dataset import write_scan
from h2lo_bids.phantom.fields import fuse
from h2lo_bids.phantom.protocols import HIGH_FIELD, LOW_FIELD, ORTHOGONAL
from h2lo_bids.phantom.scans import (
    LowFieldScan,
    coil,
    high_field_scan,
    low_field_scan,
    misregistration,
)
from h2lo_bids.phantom.template import grid_shape, template_head
from h2lo_bids.vocabulary import CONTRASTS

HIGH = {**skeletons.HIGH, "Manufacturer": "GE (simulated)"}
LOW = {**skeletons.LOW, "Manufacturer": "Hyperfine (simulated)"}
STRENGTH = ("MagneticFieldStrength", "ImagingFrequency")
DESCRIPTION = {
    "DatasetType": "raw",
    "GeneratedBy": [{"Name": "h2lo-phantom", "Description": "Simulated heads"}],
}


@dataclass(frozen=True)
class Person:
    """A simulated person and the generator of their scans."""

    subject: Subject
    rng: np.random.Generator

    def high(self, stem: Path, contrast: str, drop: Iterable[str] = ()) -> None:
        """Write a 3 T scan, without some fields of its sidecar."""
        sequence = HIGH_FIELD[contrast]
        data = high_field_scan(self.subject, contrast, sequence, self.rng)
        affine = self.subject.anatomy.affine
        fields = sidecars.high_field_sidecar(sequence, float(affine[0, 0]))
        fields = {key: value for key, value in {**fields, **HIGH}.items() if key not in drop}
        _write(stem, data, affine, fields)

    def low(
        self, stems: Mapping[str, Path], contrast: str, fields: Mapping[str, Any] | None
    ) -> dict[str, LowFieldScan]:
        """Write a session's 64 mT scans, by acquisition; None for no sidecars."""
        anatomy = self.subject.anatomy
        field = coil(self.rng, anatomy.labels.shape, anatomy.affine)
        scans = {}
        for acquisition, stem in stems.items():
            scan = low_field_scan(
                self.subject, contrast, acquisition, sensitivity=field, rng=self.rng
            )
            known = sidecars.low_field_sidecar(scan.sequence)
            del known["ManufacturersModelName"]  # as in ds006557
            _write(stem, scan.data, scan.affine, None if fields is None else {**known, **fields})
            scans[acquisition] = scan
        return scans

    def fused(self, stem: Path, scans: Iterable[LowFieldScan]) -> None:
        """Write the average of scans on the 3 T grid, registered to within half a millimetre."""
        kept = list(scans)
        anatomy = self.subject.anatomy
        poses = [scan.pose @ misregistration(self.rng, 0.5) for scan in kept]
        images = [(scan.data, scan.affine) for scan in kept]
        data = fuse(images, poses, anatomy.labels.shape, anatomy.affine)
        _write(stem, data, anatomy.affine, None)


def make_person(number: int, resolution: float, seed: int = 0) -> Person:
    """Draw a person; the same numbers give the same one."""
    rng = np.random.default_rng([seed, number])
    shape = grid_shape(resolution)
    source = template_head(resolution, rng)
    head, mask = vary(source, rng, shape=shape, spacing=resolution, strength=1.2)
    return Person(make_subject(head, mask, rng), rng)


def make_ds006557(
    root: Path | str,
    *,
    with_images: Iterable[str] = ("HYPE00",),
    resolution: float = 4.0,
    seed: int = 0,
) -> Path:
    """Lay out ds006557 with all 23 subjects; some have images, also in ``ants-mrr``.

    Parameters
    ----------
    root
        Folder to create.
    with_images
        Labels of the subjects with simulated images; the others' links dangle.
    resolution
        Voxel size of the high-field scans in mm, 0.5 to 4.
    seed
        Of the heads.

    Returns
    -------
    Path
        The dataset.
    """
    root = skeletons.ds006557(Path(root), skeletons.HYPE, mrr=True)
    for top in (root, root / "derivatives" / "ants-mrr"):
        kind = "raw" if top == root else "derivative"
        _describe(top, {"Name": "ds006557 (layout, simulated)", "DatasetType": kind})
    for label in with_images:
        person = make_person(skeletons.HYPE.index(label), resolution, seed)
        for contrast in CONTRASTS:
            rest = "acq-MPRAGE_T1w" if contrast == "T1w" else "T2w"
            person.high(_stem(root, label, "GE", rest), contrast)
            for session in ("HFC", "HFE"):
                stems = {
                    acquisition: stem
                    for acquisition in LOW_FIELD
                    if _known(stem := _stem(root, label, session, f"acq-{acquisition}_{contrast}"))
                }
                scans = person.low(stems, contrast, LOW)
                fused = _bare(root / skeletons.ants_mrr(label, contrast))
                if session == "HFC" and _known(fused):
                    person.fused(fused, (scans[way] for way in ORTHOGONAL))
    return root


def make_lumc(
    hf_root: Path | str,
    lf_root: Path | str,
    *,
    with_images: Iterable[str] = ("01", "02", "03"),
    resolution: float = 4.0,
    seed: int = 1,
) -> tuple[Path, Path]:
    """Lay out two roots: high field without sessions, low field without sidecars.

    Parameters
    ----------
    hf_root, lf_root
        Folders to create.
    with_images
        Labels of the subjects; there are no others.
    resolution, seed
        As in `make_ds006557`.

    Returns
    -------
    tuple of Path
        Both datasets.
    """
    high, low, labels = Path(hf_root), Path(lf_root), tuple(with_images)
    skeletons.lumc(high, low, labels)
    for top in (high, low):
        _describe(top, {"Name": "LUMC (layout, simulated)"})
    for number, label in enumerate(labels):
        person = make_person(number, resolution, seed)
        for contrast in CONTRASTS:
            person.high(_stem(high, label, None, contrast), contrast, drop=STRENGTH)
            person.low({"iso": _stem(low, label, "1", contrast)}, contrast, None)
    return high, low


def make_ds005752(
    root: Path | str,
    *,
    with_images: Iterable[str] = (),
    resolution: float = 4.0,
    seed: int = 2,
) -> Path:
    """Lay out ds005752: high field only, several T1w in each session.

    Parameters
    ----------
    root, with_images, resolution, seed
        As in `make_ds006557`; the one subject is ``ON01802``.

    Returns
    -------
    Path
        The dataset.
    """
    root = skeletons.ds005752(Path(root))
    _describe(root, {"Name": "ds005752 (layout, simulated)"})
    for path in sorted(root.rglob("*.nii.gz")):
        label = path.name.split("_")[0].removeprefix("sub-")
        if label in with_images:
            person = make_person(0, resolution, seed)
            person.high(_bare(path), "T1w" if "_T1w" in path.name else "T2w")
    return root


def _stem(root: Path, subject: str, session: str | None, rest: str) -> Path:
    return root / skeletons.anat(subject, session, rest, "")


def _bare(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz"))


def _known(stem: Path) -> bool:
    """Whether the layout has this image, be it a dangling link."""
    path = stem.with_name(f"{stem.name}.nii.gz")
    return path.is_symlink() or path.exists()


def _write(
    stem: Path, data: np.ndarray, affine: np.ndarray, fields: Mapping[str, Any] | None
) -> None:
    """Put an image in place of its link."""
    stem.with_name(f"{stem.name}.nii.gz").unlink()
    write_scan(stem, data, affine, fields)


def _describe(root: Path, fields: Mapping[str, Any]) -> None:
    content = {"BIDSVersion": "1.10.0", **DESCRIPTION, **fields}
    skeletons.put(root / "dataset_description.json", content)
    skeletons.put(root / "README", "Simulated heads in the layout of a real dataset.\n" * 5)


def main() -> None:
    """Make one layout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layout", choices=("ds006557", "lumc", "ds005752"))
    parser.add_argument("out", type=Path, help="folder to create; lumc: gets hf/ and lf/")
    parser.add_argument("--subjects", nargs="+", help="labels of those with images")
    parser.add_argument("--resolution", type=float, default=4.0, help="of high field, mm")
    options = parser.parse_args()
    some: dict[str, Any] = {"resolution": options.resolution}
    if options.subjects:
        some["with_images"] = tuple(options.subjects)
    if options.layout == "lumc":
        make_lumc(options.out / "hf", options.out / "lf", **some)
    else:
        {"ds006557": make_ds006557, "ds005752": make_ds005752}[options.layout](options.out, **some)


if __name__ == "__main__":
    main()
