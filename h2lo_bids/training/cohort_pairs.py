"""Pairs of a cohort's scans on the frame of a fit, kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids.errors import BadDataError, MissingInputError, UsageError
from h2lo_bids.imaging.affine import choose_affine
from h2lo_bids.imaging.conform import conform
from h2lo_bids.imaging.normalise import max_normalise, scale_brain
from h2lo_bids.imaging.reading import check_present, read_nifti
from h2lo_bids.imaging.resample import resample, resample_mask
from h2lo_bids.io import atomic_path
from h2lo_bids.models.bundle import Bundle, load_model
from h2lo_bids.models.frame import Frame
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.predict import predict
from h2lo_bids.synthesis.seeds import scan_seed
from h2lo_bids.training.cohort import CohortScan
from h2lo_bids.training.pairs import PairFiles
from h2lo_bids.vocabulary import ENHANCE, SYNTHESIZE, Say


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
        From `h2lo_bids.training.cohort.find_cohort`.
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


def split_pairs(scans: Sequence[CohortScan], subjects: Collection[str]) -> tuple[CohortScan, ...]:
    """Return the scans of some subjects, for one part of a split."""
    return tuple(scan for scan in scans if scan.subject in set(subjects))


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
    import nibabel as nib

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
    stamps = [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    values = [stamps, str(made_by), frame.to_dict()]
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=8).hexdigest()
