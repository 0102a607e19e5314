"""A high-field cohort, as the participant level left it, to pretrain an enhancer on."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import nibabel as nib
import numpy as np

from h2lo_bids.bids.derivatives import sidecar_path
from h2lo_bids.bids.names import parse_name
from h2lo_bids.cache import digest, stamp
from h2lo_bids.errors import BadDataError, MissingInputError, UsageError
from h2lo_bids.imaging.affine import choose_affine
from h2lo_bids.imaging.conform import conform
from h2lo_bids.imaging.normalise import max_normalise, scale_brain
from h2lo_bids.imaging.reading import check_present, read_nifti
from h2lo_bids.imaging.resample import resample, resample_mask
from h2lo_bids.io import atomic_path, check_content, read_json
from h2lo_bids.models.bundle import Bundle, load_model
from h2lo_bids.models.frame import Frame
from h2lo_bids.synthesis.noise import scan_seed
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.predict import predict
from h2lo_bids.training.pairs import PairFiles
from h2lo_bids.vocabulary import ENHANCE, SYNTHESIZE, Say

VALIDATION_SHARE = 0.2
_ORDER = 3
"""Second word of the seed of the split, so that no other draw shares it."""


@dataclass(frozen=True)
class LowField:
    """A synthesized image of a cohort's scan, and the model that its sidecar names."""

    path: Path
    method: str
    model: str
    sha256: str


@dataclass(frozen=True)
class CohortScan:
    """A preprocessed scan of a cohort."""

    root: Path
    subject: str
    contrast: str
    name: str
    """Its entities, with the dataset's number if there are several."""
    high: Path
    mask: Path
    sources: tuple[str, ...]
    """BIDS URIs of the raw scan."""
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
    sidecar = _sidecar(image)
    listed = sidecar.get("Sources")
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
    sidecar = _sidecar(path)
    values = [sidecar.get(key) for key in ("ModelMethod", "ModelName", "ModelSha256")]
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
        content = read_json(path)
    except (OSError, ValueError) as err:
        raise BadDataError(
            f"{path}: cannot be read ({err}), so that nobody knows what made {image.name}; "
            "run the participant level again"
        ) from err
    if not isinstance(content, dict):
        raise BadDataError(f"{path}: is not a sidecar; run the participant level again")
    return content


def _check_grid(path: Path, like: Path) -> None:
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
    """Divide a cohort's subjects into those to train and those to validate on."""
    labels = sorted(set(subjects))
    held = max(1, len(labels) - round((1 - share) * len(labels))) if len(labels) > 1 else 0
    order = np.random.default_rng([seed, _ORDER]).permutation(len(labels))
    validation = {labels[i] for i in order[:held]}
    return tuple(s for s in labels if s not in validation), tuple(sorted(validation))


def source_files(uris: Sequence[str], root: Path) -> tuple[Path, ...]:
    """Resolve BIDS URIs by a dataset's ``DatasetLinks``; those that lead nowhere are skipped."""
    try:
        content = read_json(root / "dataset_description.json")
        links = content["DatasetLinks"]
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


def cohort_pairs(
    scans: Sequence[CohortScan],
    frame: Frame,
    cache: Path,
    *,
    bundle: Bundle | None = None,
    seed: int = 42,
    device: str = "cpu",
    progress: Say | None = None,
) -> list[PairFiles]:
    """Bring a cohort's scans and their low-field images to a frame, as pairs to enhance.

    As prepared pairs: centred on the brain, each volume divided by its maximum, 0
    outside the mask.

    Parameters
    ----------
    scans
        From `h2lo_bids.training.experiments.cohort.find_cohort`.
    frame
        Of the real pairs.
    cache
        Receives one file per pair, unless it is there; named after the contents of
        all that decides it, so that what changed is made anew.
    bundle
        Makes the low-field images from the high-field ones on the frame, in place of
        those that the cohort brings: for the arms of a benchmark.
    seed
        With the scan's name that of methods that draw at random.
    device
        As in `h2lo_bids.synthesis.options.EngineOptions`.
    progress
        Called with a line for each pair that is made.

    Returns
    -------
    list of PairFiles
        One per low-field image, or per scan with a `bundle`; for
        `h2lo_bids.training.pairs.open_pairs`, input and target swapped.

    Raises
    ------
    BadDataError
        If an image is damaged or does not fit into the frame.
    UsageError
        If the bundle does not synthesize, or is of another contrast or frame.
    """
    say = progress or (lambda line: None)
    if bundle is not None:
        _check_bundle(bundle, frame, scans)
    model: list[Any] = []
    found = []
    for scan in scans:
        for name, low in _inputs(scan, bundle):
            made_by = low if low is not None else (bundle.sha256, bundle.method, seed)  # type: ignore[union-attr]
            kept = cache / f"{name}_{_digest(scan, made_by, frame)}.npz"
            if not kept.exists():
                say(f"bringing {name} of the cohort to the fit's grid")
                if low is None and not model:
                    model.append(load_model(bundle, device="cpu"))  # type: ignore[arg-type]
                volumes = _volumes(scan, frame, low, bundle, model, scan_seed(seed, name), device)
                with atomic_path(kept) as partial, partial.open("wb") as stream:
                    np.savez_compressed(stream, **volumes)  # type: ignore[arg-type]
            found.append(PairFiles(name, kept, task=ENHANCE))
    return found


def _inputs(scan: CohortScan, bundle: Bundle | None) -> list[tuple[str, Path | None]]:
    if bundle is not None:
        return [(f"{scan.name}_{bundle.method}", None)]
    desc = [(low.path.name.split("_desc-")[1].split("_")[0], low.path) for low in scan.low]
    return [(f"{scan.name}_{name}", path) for name, path in desc]


def _volumes(
    scan: CohortScan,
    frame: Frame,
    low: Path | None,
    bundle: Bundle | None,
    model: Sequence[Any],
    seed: int,
    device: str,
) -> dict[str, np.ndarray]:
    """Make a pair's volumes in half precision: ``hf``, ``lf`` and ``mask``."""
    image, mask = _load(scan.high), _load(scan.mask)
    high = conform(image, frame, mask=mask)
    inside = np.asarray(resample_mask(mask, high.shape, high.affine).dataobj) > 0
    hf = max_normalise(np.asarray(high.dataobj), inside, name=str(scan.high))
    if low is None and bundle is not None:
        given = scale_brain(
            hf, inside, frame.spacing, contrast=scan.contrast, scaling=bundle.scaling,
            name=str(scan.high),
        )  # fmt: skip
        how = EngineOptions(device=device)
        made = predict(model[0], given.volume, inside, options=how, seed=seed)
        values, name = made.clip(0, 1), str(scan.high)
    else:
        assert low is not None
        moved = resample(_load(low), high.shape, high.affine)
        values, name = np.asarray(moved.dataobj), str(low)
    lf = max_normalise(values, inside, name=name)
    return {"hf": hf.astype(np.float16), "lf": lf.astype(np.float16), "mask": inside}


def _load(path: Path) -> Any:
    """Read an image that others may have sent, bounded as raw scans are."""
    try:
        check_present(path)
        header, values, _ = read_nifti(path)
        affine, _, _ = choose_affine(str(path), header)
    except (BadDataError, MissingInputError) as err:
        raise BadDataError(f"{err}, or run participant again") from err
    if not np.isfinite(values).all():
        raise BadDataError(f"{path}: has NaN or infinite voxels; run participant again")
    return nib.Nifti1Image(values, affine)


def _check_bundle(bundle: Bundle, frame: Frame, scans: Sequence[CohortScan]) -> None:
    contrasts = {scan.contrast for scan in scans}
    if bundle.task != SYNTHESIZE or contrasts - {bundle.contrast}:
        raise UsageError(
            f"model {bundle.path}: is a {bundle.contrast} model to {bundle.task} and makes no "
            f"low-field images of {' and '.join(sorted(contrasts))} scans"
        )
    if bundle.frame != frame:
        raise UsageError(
            f"model {bundle.path}: is on another grid than the pairs; fit it to these pairs"
        )


def _digest(scan: CohortScan, made_by: Any, frame: Frame) -> str:
    """Name a pair by all that decides it."""
    files = [scan.high, scan.mask, *([made_by] if isinstance(made_by, Path) else [])]
    return digest([[stamp(path) for path in files], str(made_by), frame.to_dict()])
