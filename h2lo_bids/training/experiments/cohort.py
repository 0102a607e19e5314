"""A high-field cohort, as the participant level left it, to pretrain an enhancer on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids import __version__
from h2lo_bids.bids.derivatives import sidecar_path
from h2lo_bids.bids.names import parse_name
from h2lo_bids.errors import BadDataError, MissingInputError, UsageError
from h2lo_bids.imaging.normalise import max_normalise, scale_brain
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import conform, resample, resample_mask
from h2lo_bids.io import check_content, digest, file_digest, read_json, stamp
from h2lo_bids.models.bundle import Bundle, load_model
from h2lo_bids.models.frame import Frame
from h2lo_bids.synthesis.noise import scan_seed
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.predict import predict
from h2lo_bids.training.pairs import Pair, keep_pair, map_pair
from h2lo_bids.vocabulary import ENHANCE, IDENTITY, Say

VALIDATION_SHARE = 0.2
_ORDER = 3
"""Second word of the seed of the split, so that no other draw shares it."""
_AGAIN = "run the participant level again"


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

    subject: str
    contrast: str
    name: str  # its entities, with the dataset's number if there are several
    high: Path
    mask: Path
    low: tuple[LowField, ...]
    scaling: str = ""  # of the high-field image, as its sidecar has it


def find_cohort(
    roots: Sequence[Path], contrast: str, *, low: bool = True
) -> tuple[CohortScan, ...]:
    """Find the preprocessed scans, in order: with `low`-field images, or scaled as pairs are."""
    found: list[CohortScan] = []
    for number, root in enumerate(roots):
        images = [
            path
            for path in sorted(root.glob(f"sub-*/**/anat/[!.]*_desc-preproc_{contrast}.nii.gz"))
            if (name := parse_name(path.name)) and not (name.get("space") or name.get("res"))
        ]
        end = f"_{number}" if len(roots) > 1 else ""
        scans = [_read_scan(root, image, contrast, end) for image in images]
        wanted = [scan for scan in scans if scan.low or not low]
        if not wanted:
            what, how = "desc-preproc", ""
            if low and scans:
                what, how = "synthesized desc-lowfield", ", with a model other than identity"
            raise UsageError(
                f"{root}: no {what} image of {contrast}; run the participant level on the "
                f"cohort{how}, or give another --pretrain-derivatives"
            )
        if not low and (other := next((s for s in wanted if s.scaling == "robust"), None)):
            raise UsageError(
                f"{other.high}: is scaled by two tissues, and pairs are divided by their maxima; "
                "run the participant level on the cohort with --method identity"
            )
        found += wanted
    return tuple(found)


def _read_scan(root: Path, image: Path, contrast: str, end: str) -> CohortScan:
    """Gather what belongs to a preprocessed scan."""
    sidecar = _sidecar(image)
    listed, facts = sidecar.get("Sources"), sidecar.get("IntensityScaling")
    uris = [str(uri) for uri in listed] if isinstance(listed, list) else []
    masks = [uri for uri in uris if re.fullmatch(r"bids::sub-.+_mask\.nii\.gz", uri)]
    if not masks or ".." in Path(masks[0]).parts:
        raise BadDataError(f"{sidecar_path(image)}: names no brain mask of its dataset; {_AGAIN}")
    mask = root / masks[0].removeprefix("bids::")
    stem = image.name.removesuffix(f"_desc-preproc_{contrast}.nii.gz")
    low = [
        path
        for path in sorted(image.parent.glob(f"{stem}_desc-lowfield*_{contrast}.nii.gz"))
        if re.fullmatch(r"lowfield(noise\d+)?", path.name[len(stem) :].split("_")[1][5:])
    ]
    for path in (image, mask, *low):
        check_content(path)
    label = dict(parse_name(image.name).entities)["sub"]  # type: ignore[union-attr]
    name = f"{stem.removeprefix('sub-')}_{contrast}{end}"
    scaling = str(facts.get("Method", "")) if isinstance(facts, dict) else ""
    # The identity's images are those of high field.
    made = tuple(found for path in low if (found := _low_field(path)).method != IDENTITY)
    return CohortScan(label, contrast, name, image, mask, made, scaling)


def _low_field(path: Path) -> LowField:
    sidecar = _sidecar(path)
    values = [sidecar.get(key) for key in ("ModelMethod", "ModelName", "ModelSha256")]
    if not all(isinstance(value, str) and value for value in values):
        raise BadDataError(
            f"{sidecar_path(path)}: does not say which model made the image; {_AGAIN}"
        )
    return LowField(path, *map(str, values))


def _sidecar(image: Path) -> dict[str, Any]:
    path = sidecar_path(image)
    try:
        return dict(read_json(path))
    except (OSError, ValueError, TypeError) as err:
        raise BadDataError(f"{path}: cannot be read ({err}); {_AGAIN}") from err


def split_cohort(subjects: Sequence[str], seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide a cohort's subjects into those to train and those to validate on."""
    labels = sorted(set(subjects))
    count = len(labels)
    held = min(count - 1, max(1, count - round((1 - VALIDATION_SHARE) * count)))
    order = np.random.default_rng([seed, _ORDER]).permutation(count)
    validation = {labels[i] for i in order[:held]}
    return tuple(s for s in labels if s not in validation), tuple(sorted(validation))


@dataclass(frozen=True)
class Cohort:
    """High-field scans of other people, and low-field images of them, to pretrain on."""

    scans: tuple[CohortScan, ...]
    seed: int = 42
    bundle: Bundle | None = None
    """Makes the low-field images; None takes those that the cohort brings."""

    @cached_property
    def parts(self) -> tuple[tuple[CohortScan, ...], tuple[CohortScan, ...]]:
        """Scans to train and to validate on."""
        train, held = split_cohort([scan.subject for scan in self.scans], self.seed)
        both = [tuple(s for s in self.scans if s.subject in part) for part in (train, held)]
        return both[0], both[1]

    @property
    def pairs(self) -> int:
        """Pairs to train on."""
        return sum(len(s.low) if self.bundle is None else 1 for s in self.parts[0])

    def identity(self) -> dict[str, Any]:
        """Return what decides the pairs, JSON-ready."""
        made = {(image.method, image.model, image.sha256) for s in self.scans for image in s.low}
        models = [dict(zip(("method", "name", "sha256"), m, strict=True)) for m in sorted(made)]
        if bundle := self.bundle:
            models = [{"method": bundle.method, "sha256": bundle.sha256}]
        files = {
            s.name: (s.high, s.mask, *(image.path for image in s.low if not bundle))
            for s in self.scans
        }
        cohort = {
            "scans": {name: " ".join(map(file_digest, paths)) for name, paths in files.items()},
            "validation": sorted({scan.subject for scan in self.parts[1]}),
            "models": models,
            "subjects": len({scan.subject for scan in self.parts[0]}),
        }
        if not bundle:
            return {"cohort": cohort}
        # How it uses its weights, which their digest does not say.
        how = {"architecture": bundle.architecture, "frame": bundle.frame.to_dict()}
        return {"cohort": cohort, "cohort_model": {**how, "scaling": bundle.scaling}}

    def open(
        self, frame: Frame, cache: Path, device: str = "cpu", say: Say = lambda line: None
    ) -> tuple[list[Pair], list[Pair]]:
        """Return the pairs to train and to validate on, each made once and kept in `cache`."""
        if self.bundle is not None and self.bundle.frame != frame:
            raise UsageError(
                f"model {self.bundle.path}: is on another grid than the pairs; fit it to these "
                "pairs"
            )

        def opened(kept: Path, name: str, scan: CohortScan, low: Path | None) -> Pair:
            if not kept.exists():
                say(f"bringing {name} of the cohort to the fit's grid")
                keep_pair(kept, *self._volumes(scan, name, low, frame, device))
            return map_pair(kept, name, ENHANCE)

        train, held = (
            [opened(*item) for item in self._items(part, frame, cache)] for part in self.parts
        )
        return train, held

    def forget(self, frame: Frame, cache: Path) -> None:
        """Delete the pairs whose low-field images only this fold's model makes: gigabytes."""
        for scans in self.parts if self.bundle else ():
            for kept, *_ in self._items(scans, frame, cache):
                kept.unlink(missing_ok=True)

    def _items(
        self, scans: Sequence[CohortScan], frame: Frame, cache: Path
    ) -> Iterator[tuple[Path, str, CohortScan, Path | None]]:
        """Yield each pair's file, name and scan, and its low-field image if the cohort has it."""
        made_by = (self.bundle.digest, self.seed) if self.bundle else ()
        for scan in scans:
            for low in [None] if self.bundle else [image.path for image in scan.low]:
                desc = str(low).rpartition("_desc-")[2].partition("_")[0]
                name = f"{scan.name}_{self.bundle.method if self.bundle else desc}"
                stamps = [stamp(path) for path in (scan.high, scan.mask, low) if path is not None]
                key = digest([__version__, stamps, made_by, frame.to_dict()])
                yield cache / f"{name}_{key}.npy", name, scan, low

    @cached_property
    def _model(self) -> Any:
        assert self.bundle is not None
        return load_model(self.bundle, device="cpu")

    def _volumes(
        self, scan: CohortScan, name: str, low: Path | None, frame: Frame, device: str
    ) -> tuple[np.ndarray, ...]:
        """Return the high-field and the low-field volume, and the mask."""
        image, mask = _load(scan.high), _load(scan.mask)
        high = conform(image, frame, mask=mask)
        inside = np.asarray(resample_mask(mask, high.shape, high.affine).dataobj) > 0
        hf = max_normalise(np.asarray(high.dataobj), inside, name=str(scan.high))
        if self.bundle is not None:
            given = scale_brain(
                hf, inside, frame.spacing, contrast=scan.contrast, scaling=self.bundle.scaling,
                name=str(scan.high),
            ).volume  # fmt: skip
            options, seed = EngineOptions(device=device), scan_seed(self.seed, name)
            values = predict(self._model, given, inside, options=options, seed=seed).clip(0, 1)
            if not values.any():
                raise BadDataError(
                    f"{self.bundle.path}: makes an empty image of {scan.high.name}; fit it longer"
                )
        else:
            assert low is not None
            values = np.asarray(resample(_load(low), high.shape, high.affine).dataobj)
        return hf, max_normalise(values, inside, name=str(low or scan.high)), inside


def _load(path: Path) -> Any:
    """Read an image of a cohort, bounded as raw scans are."""
    try:
        return load_checked(path).image
    except (BadDataError, MissingInputError) as err:
        raise type(err)(f"{err}; or {_AGAIN}") from err
