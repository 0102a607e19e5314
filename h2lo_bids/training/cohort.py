"""A high-field cohort, as the participant level left it, to pretrain an enhancer on."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np

from h2lo_bids.bids.derivatives import sidecar_path
from h2lo_bids.bids.names import parse_name
from h2lo_bids.errors import BadDataError, MissingInputError, UsageError
from h2lo_bids.io import check_content, read_json
from h2lo_bids.vocabulary import Say

VALIDATION_SHARE = 0.2
_ORDER = 3
"""Second word of the seed of the split, so that no other draw shares it."""


@dataclass(frozen=True)
class LowField:
    """A synthesized image of a cohort's scan, and what made it.

    Parameters
    ----------
    path
        ``desc-lowfield`` or a ``desc-lowfieldnoiseNN`` realisation.
    method, model, sha256
        Of the model, as the image's sidecar says.
    """

    path: Path
    method: str
    model: str
    sha256: str


@dataclass(frozen=True)
class CohortScan:
    """A preprocessed scan of a cohort.

    Parameters
    ----------
    root
        The derivative dataset.
    subject, contrast
        Label without ``sub-``, and ``"T1w"`` or ``"T2w"``.
    name
        Of the scan: its entities, with the dataset's number if there are several.
    high, mask
        ``desc-preproc`` image and brain mask, on the scan's own grid.
    sources
        BIDS URIs of the raw scan, as the sidecar has them.
    low
        Images that were made of it, on the same grid.
    """

    root: Path
    subject: str
    contrast: str
    name: str
    high: Path
    mask: Path
    sources: tuple[str, ...]
    low: tuple[LowField, ...]


def find_cohort(
    roots: Sequence[Path],
    contrast: str,
    *,
    low: bool = True,
    damaged: Say | None = None,
) -> tuple[CohortScan, ...]:
    """Find the scans of a contrast that the participant level has preprocessed.

    Parameters
    ----------
    roots
        Its output folders; of each the images on the scans' own grids are taken.
    contrast
        ``"T1w"`` or ``"T2w"``.
    low
        Whether each must have a ``desc-lowfield`` image.
    damaged
        Called with one line for each scan that cannot be used.

    Returns
    -------
    tuple of CohortScan
        By folder and name.

    Raises
    ------
    MissingInputError
        If a folder is not there.
    UsageError
        If a folder holds nothing of the contrast.
    BadDataError
        If a scan cannot be used and `damaged` is not given.
    """
    found: list[CohortScan] = []
    for number, root in enumerate(roots):
        if not root.is_dir():
            raise MissingInputError(f"{root}: no such folder; give --pretrain-derivatives others")
        images = [
            path
            for path in sorted(root.glob(f"sub-*/**/anat/[!.]*_desc-preproc_{contrast}.nii.gz"))
            if (name := parse_name(path.name)) and not (name.get("space") or name.get("res"))
        ]
        usable = []
        for image in images:
            try:
                usable.append(_read_scan(root, image, contrast, number if len(roots) > 1 else None))
            except (BadDataError, MissingInputError) as err:
                if damaged is None:
                    raise
                damaged(str(err))
        wanted = [scan for scan in usable if scan.low or not low]
        if not wanted:
            what = "desc-lowfield" if low and usable else "desc-preproc"
            raise UsageError(
                f"{root}: no {what} image of {contrast}; run the participant level on the cohort, "
                "or give another --pretrain-derivatives"
            )
        found += wanted
    return tuple(found)


def _read_scan(root: Path, image: Path, contrast: str, number: int | None) -> CohortScan:
    """Gather what belongs to a preprocessed scan."""
    told = _sidecar(image)
    listed = told.get("Sources")
    uris = [str(uri) for uri in listed] if isinstance(listed, list) else []
    masks = [uri for uri in uris if re.fullmatch(r"bids::sub-.+_mask\.nii\.gz", uri)]
    if not masks or ".." in Path(masks[0]).parts:
        raise BadDataError(
            f"{sidecar_path(image)}: names no brain mask of its dataset; run participant again"
        )
    mask = root / masks[0].removeprefix("bids::")
    stem = image.name.removesuffix(f"_desc-preproc_{contrast}.nii.gz")
    low = [
        path
        for path in sorted(image.parent.glob(f"{stem}_desc-lowfield*_{contrast}.nii.gz"))
        if re.fullmatch(r"lowfield(noise\d+)?", path.name[len(stem) :].split("_")[1][5:])
    ]
    for path in (image, mask, *low):
        check_content(path)
        _check_grid(path, image)
    label = dict(parse_name(image.name).entities)["sub"]  # type: ignore[union-attr]
    name = f"{stem.removeprefix('sub-')}_{contrast}" + ("" if number is None else f"_{number}")
    raw = tuple(uri for uri in uris if not uri.startswith("bids::"))
    made = tuple(_low_field(path) for path in low)
    return CohortScan(root, label, contrast, name, image, mask, raw, made)


def _low_field(path: Path) -> LowField:
    told = _sidecar(path)
    values = [told.get(key) for key in ("ModelMethod", "ModelName", "ModelSha256")]
    if not all(isinstance(value, str) and value for value in values):
        raise BadDataError(
            f"{sidecar_path(path)}: does not say which model made the image; "
            "run the participant level again"
        )
    method, model, sha256 = (str(value) for value in values)
    return LowField(path, method, model, sha256)


def _sidecar(image: Path) -> dict[str, Any]:
    path = sidecar_path(image)
    try:
        told = read_json(path)
    except (OSError, ValueError) as err:
        raise BadDataError(
            f"{path}: cannot be read ({err}), so that nobody knows what made {image.name}; "
            "run the participant level again"
        ) from err
    if not isinstance(told, dict):
        raise BadDataError(f"{path}: is not a sidecar; run the participant level again")
    return told


def _check_grid(path: Path, like: Path) -> None:
    import nibabel as nib

    try:
        own, other = nib.load(path), nib.load(like)
    except Exception as err:  # nibabel, gzip and the system each raise their own
        raise BadDataError(f"{path}: cannot be read ({err}); run participant again") from err
    same = own.shape == other.shape and np.allclose(own.affine, other.affine, atol=1e-3)  # type: ignore[attr-defined]
    if not same:
        raise BadDataError(
            f"{path}: is on another grid than {like.name}; run the participant level again"
        )


def split_cohort(
    subjects: Sequence[str], seed: int, share: float = VALIDATION_SHARE
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide a cohort's subjects into those to train and those to validate on.

    Parameters
    ----------
    subjects
        Labels, in any order.
    seed
        The division is a function of it and of the labels.
    share
        Of the subjects that validate; at least one does, if there are two.

    Returns
    -------
    tuple of tuple of str
        Both sorted.

    Examples
    --------
    >>> [len(part) for part in split_cohort([str(n) for n in range(184)], seed=42)]
    [147, 37]
    """
    labels = sorted(set(subjects))
    held = max(1, len(labels) - round((1 - share) * len(labels))) if len(labels) > 1 else 0
    order = np.random.default_rng([seed, _ORDER]).permutation(len(labels))
    validation = {labels[i] for i in order[:held]}
    return tuple(s for s in labels if s not in validation), tuple(sorted(validation))


def source_files(uris: Sequence[str], root: Path) -> tuple[Path, ...]:
    """Resolve BIDS URIs by a dataset's ``DatasetLinks``; those that lead nowhere are left out."""
    try:
        told = read_json(root / "dataset_description.json")
        links = told["DatasetLinks"]
    except (OSError, ValueError, KeyError, TypeError):
        links = {}
    found = []
    for uri in uris:
        match = re.fullmatch(r"bids:([^:]*):(.+)", uri)
        link = links.get(match[1]) if match and isinstance(links, dict) else None
        if match and isinstance(link, str) and link.startswith("file://"):
            with contextlib.suppress(ValueError, OSError):  # no address, or no name of a file
                path = Path(unquote(urlparse(link).path)) / match[2]
                if path.is_file():
                    found.append(path.resolve())
    return tuple(found)


def provenance(cohort: Sequence[CohortScan]) -> dict[str, Any]:
    """Say what a cohort is, for a record: subjects, and the models that made its images."""
    models = {(image.method, image.model, image.sha256) for scan in cohort for image in scan.low}
    return {
        "subjects": len({(scan.root, scan.subject) for scan in cohort}),
        "scans": len(cohort),
        "images": sum(len(scan.low) for scan in cohort),
        "models": [dict(zip(("method", "name", "sha256"), m, strict=True)) for m in sorted(models)],
    }
