"""Datasets of empty images, with the names and quirks of real ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.bids import scan
from h2lo_bids.bids.discover import Discovery, discover
from h2lo_bids.bids.names import Name, parse_name
from h2lo_bids.bids.scan import Scan
from h2lo_bids.settings import Settings

CONTRASTS = ("T1w", "T2w")
HIGH = {"MagneticFieldStrength": 3, "ImagingFrequency": 127.77, "Manufacturer": "GE"}

LOW = {"MagneticFieldStrength": 0.006, "ImagingFrequency": 2.703, "Manufacturer": "Hyperfine"}


def write(
    root: Path,
    images: Mapping[str, Mapping[str, Any] | str | None],
    *,
    description: Mapping[str, Any] | str | None = None,
) -> Path:
    """Write images, each with its sidecar (None for none, text as it is)."""
    root.mkdir(parents=True, exist_ok=True)
    if description is None:
        description = {"Name": "skeleton", "BIDSVersion": "1.10.0"}
    put(root / "dataset_description.json", description)
    for name, metadata in images.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image")
        if metadata is not None:
            put(path.with_name(path.name.split(".")[0] + ".json"), metadata)
    return root


def put(path: Path, content: Mapping[str, Any] | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def anat(subject: str, session: str | None, rest: str, extension: str = ".nii.gz") -> str:
    folder = f"sub-{subject}/" + (f"ses-{session}/" if session else "")
    stem = f"sub-{subject}_" + (f"ses-{session}_" if session else "")
    return f"{folder}anat/{stem}{rest}{extension}"


def name_of(text: str) -> Name:
    """Take the name of an image apart."""
    name = parse_name(text)
    assert name is not None
    return name


def scan_at(path: Path, **facts: Any) -> Scan:
    """Return the scan of a path with what is known of it; nothing is read."""
    return replace(scan.scan_at(path, name_of(path.name)), **facts)


def annex(path: Path) -> None:
    """Put in an image's place what git-annex leaves before ``datalad get``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    key = f"MD5E-s1--{path.name}"
    path.symlink_to(Path("../" * 4) / f".git/annex/objects/xx/yy/{key}/{key}")


def asking(root: Path, filters: Mapping[str, Any] | None = None, **options: Any) -> Settings:
    """Return the options that ask for scans of a dataset, those of a filter file by its content."""
    if filters is not None:
        options["bids_filter_file"] = root.with_name("filter.json")
        put(options["bids_filter_file"], filters)
    return Settings(root, Path("/out"), **options)


def find(root: Path, **options: Any) -> Discovery:
    return discover(asking(root, **options))


def find_low(root: Path, **options: Any) -> Discovery:
    return discover(asking(root, task="enhance", **options))


def reasons(found: Discovery) -> dict[str, str]:
    """Return why each image is skipped, by its name."""
    return {item.path.name: item.reason for item in found.skipped}


HYPE = tuple(f"HYPE{number:02d}" for number in range(23))
"""All subjects of ds006557."""


def ds006557(
    root: Path, subjects: tuple[str, ...] = ("HYPE00", "HYPE06"), *, mrr: bool = False
) -> Path:
    """Paired sessions of a 3 T GE and a Swoop, every image dangling."""
    images: dict[str, Mapping[str, Any]] = {}
    for sub in subjects:
        images[anat(sub, "GE", "acq-MPRAGE_T1w")] = HIGH
        images[anat(sub, "GE", "T2w")] = HIGH
        for ses in ("HFC", "HFE"):
            for acq in ("axi", "cor", "sag", "iso"):
                for suffix in CONTRASTS:
                    images[anat(sub, ses, f"acq-{acq}_{suffix}")] = LOW
        del images[anat(sub, "HFE", "acq-iso_T2w")]
    images.pop(anat("HYPE06", "HFC", "acq-sag_T1w"), None)
    write(root, images)
    rows = ["participant_id\tage", *(f"{sub}\t30" for sub in subjects), "HYPE99\t31"]
    put(root / "participants.tsv", "\n".join(rows) + "\n")
    for name in images:
        annex(root / name)
    # Fused ones are not below ``anat``, and have a word after the contrast.
    for sub, suffix in product(subjects, CONTRASTS) if mrr else ():
        if (sub, suffix) != ("HYPE06", "T1w"):
            name = f"sub-{sub}/ses-HFC/sub-{sub}_ses-HFC_{suffix}_mrr.nii.gz"
            annex(root / "derivatives/ants-mrr" / name)
    return root


def in_one_session(root: Path, sessions: tuple[str | None, ...] = (None,)) -> Path:
    """High and low field side by side, in one or several sessions."""
    images: dict[str, Mapping[str, Any]] = {}
    for ses in sessions:
        images |= {anat("01", ses, f"acq-3T_{suffix}"): HIGH for suffix in CONTRASTS}
        images |= {anat("01", ses, f"acq-64mT_{suffix}"): LOW for suffix in CONTRASTS}
    return write(root, images)


def get(root: Path, *names: str) -> None:
    """Do what ``datalad get`` does for the images whose names contain these words."""
    for path in root.rglob("*.nii.gz"):
        if path.is_symlink() and any(name in path.name for name in names):
            path.unlink()
            path.write_bytes(b"image")


def write_grid(path: Path, zooms: tuple[float, ...], shape=(3, 3, 3), turn: bool = False) -> None:
    """Write an image of these voxels."""
    affine = np.diag([*zooms, 1.0])
    if turn:  # stored as a scanner would: the third voxel axis runs left to right
        affine[:3, :3] = affine[:3, [1, 2, 0]]
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), affine), path)
