"""Conditions of a trial: which scanner, how noisy, how often; and the images that they give."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

import bids_app_spec
from h2lo_bids import outputs
from h2lo_bids.bids.derivatives import (
    derivative_uri,
    sidecar_path,
    software_versions,
    write_sidecar,
)
from h2lo_bids.bids.scan import Scan
from h2lo_bids.errors import UsageError
from h2lo_bids.imaging.normalise import to_frame
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import lf_mask, placed, spacing_of
from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.io import read_json, save_nifti
from h2lo_bids.models.bundle import Bundle, load_model
from h2lo_bids.outputs import NATIVE, Grid
from h2lo_bids.settings import Settings, convert
from h2lo_bids.settings.options import PROFILES
from h2lo_bids.synthesis.noise import NoiseModel, add_noise, scan_seed, unit_noise
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.predict import predict_on_grid

HIGH = "highfield"
"""The high-field image itself, a condition of every trial."""
DEFAULT = "scanner"
_REALISATIONS = 20


@dataclass(frozen=True)
class Condition:
    """One imaginary scanner; its name is the ``desc`` label of its images."""

    name: str
    lf_grid: tuple[float, float, float] | None = None  # None for the scan's grid
    slice_profile: str = PROFILES[0]
    slice_thickness: float | None = None
    noise_scale: float = 1.0  # factor of the model's noise
    realisations: int = _REALISATIONS  # noisy images of each scan
    model: Path | None = None  # a bundle in place of the run's

    @property
    def grid(self) -> Grid:
        """Where its images are."""
        if self.lf_grid is None:
            return NATIVE
        response = VoxelResponse(self.slice_profile, self.slice_thickness)
        return outputs.voxel_grid(self.lf_grid, response)

    @property
    def described(self) -> dict[str, Any]:
        """What the study's tables need to know of it."""
        return {
            "text": self.text,
            "noise_scale": self.noise_scale,
            "slice_thickness": self.grid.thickness,
            "voxel_volume": float(np.prod(self.lf_grid)) if self.lf_grid else None,
        }

    def bundle(self, settings: Settings, suffix: str) -> Bundle:
        """Load its model of a contrast; `UsageError` if it has none, or no noise to draw."""
        from h2lo_bids.models.choice import bundles_for

        own = replace(settings, model=((suffix, self.model),)) if self.model else settings
        try:
            bundle = bundles_for(own, (suffix,))[suffix]
        except UsageError as err:
            raise UsageError(f"--condition {self.name}: {err}") from err
        if self.realisations and "noise" not in bundle.metadata:
            raise UsageError(
                f"{bundle.path}: has no noise model for the realisations of condition {self.name}; "
                "give one that `h2lo bids_dir out_dir group` fitted"
            )
        return bundle

    @property
    def text(self) -> str:
        """What it is, for tables."""
        where = self.grid.meaning if self.lf_grid else "the scan's own grid"
        model = f", model {self.model.name}" if self.model else ""
        return f"{where}, noise x {self.noise_scale:g}, {self.realisations} realisations{model}"


def _profile(text: str) -> str:
    if text not in PROFILES:
        raise argparse.ArgumentTypeError(f"the profiles are {', '.join(PROFILES)}")
    return text


_READERS: dict[str, Any] = {
    "lf-grid": convert.grid,
    "slice-profile": _profile,
    "slice-thickness": convert.number(0.1, 20),
    "noise-scale": convert.number(0.01, 100),
    "realisations": convert.integer(0, 10_000),
    "model": convert.path,
}


def conditions_of(settings: Settings) -> tuple[Condition, ...]:
    """Read ``--condition NAME key=value ...``: a word without ``=`` begins the next condition."""
    # What a condition does not say is as the run's options have it.
    base = Condition(
        DEFAULT,
        settings.lf_grid[0] if settings.lf_grid else None,
        settings.slice_profile or PROFILES[0],
        settings.slice_thickness,
        settings.noise_factor,
        settings.realisations or _REALISATIONS,
    )
    conditions: list[Condition] = []
    taken = {row["desc_id"].removeprefix("desc-") for row in bids_app_spec.load("descriptions.tsv")}
    taken.add(HIGH)
    for name, _ in settings.labels:
        _take("--labels", name, taken)
    for word in settings.condition:
        key, equals, value = word.partition("=")
        if not equals:
            _take("--condition", word, taken)
            conditions.append(replace(base, name=word))
        elif not conditions:
            raise UsageError(f"--condition {word}: give the condition's name first")
        elif key not in _READERS:
            raise UsageError(f"--condition {word}: the keys are {', '.join(_READERS)}")
        else:
            try:
                read = {key.replace("-", "_"): _READERS[key](value)}
            except argparse.ArgumentTypeError as err:
                raise UsageError(f"--condition {conditions[-1].name} {word}: {err}") from err
            conditions[-1] = replace(conditions[-1], **read)
    if settings.level == "trial":
        conditions = conditions or [base]
    own = sum(word.startswith("lf-grid=") for word in settings.condition)
    if len(settings.lf_grid) > 1 and own < len(conditions):
        raise UsageError(
            "--lf-grid: a condition has one grid; give --condition NAME lf-grid=XxYxZ for each"
        )
    _check(conditions, base, settings)
    return tuple(conditions)


def _check(conditions: Sequence[Condition], base: Condition, settings: Settings) -> None:
    """Refuse what would change nothing, or nothing could be learnt of."""
    need = "slice-profile and slice-thickness need the slices of a grid; add"
    sliced = settings.slice_profile or settings.slice_thickness
    if sliced and not any(c.lf_grid for c in (base, *conditions)):
        raise UsageError(f"--{need} --lf-grid XxYxZ")
    for c in conditions:
        if c.lf_grid is None and (c.slice_profile, c.slice_thickness) != (
            base.slice_profile, base.slice_thickness
        ):  # fmt: skip
            raise UsageError(f"--condition {c.name}: {need} lf-grid=XxYxZ")
        if settings.level == "trial" and c.realisations < 2:
            raise UsageError(
                f"--condition {c.name} realisations={c.realisations}: the observer needs noise; "
                "give 2 realisations or more"
            )


def _take(option: str, name: str, taken: set[str]) -> None:
    """Add a name, which becomes a ``desc`` label, to those of other outputs."""
    # A T2w scan's label is named for its contrast, and draws after their image.
    same = {name, name.removesuffix("T2w"), f"{name}T2w"} if option == "--labels" else {name}
    drawn = re.search(r".noise\d{2,}$", name)
    if not re.fullmatch(r"[A-Za-z0-9]+", name) or drawn or same & taken:
        raise UsageError(
            f"{option} {name}: a name is of letters and digits, and not one that other outputs have"
        )
    taken.add(name)


class Image(NamedTuple):
    """An image of a scan, on any grid of the scan's axes."""

    name: str
    grid: Grid
    data: np.ndarray
    brain: np.ndarray
    affine: np.ndarray
    source: Any = None  # of a condition's image: the condition and its model's `Bundle`


class Images:
    """The images of a scan, whose participant outputs are in the output folder."""

    def __init__(
        self,
        scan: Scan,
        settings: Settings,
        options: EngineOptions,
        load: Callable[[Condition], Bundle],
    ) -> None:
        self.scan, self.settings, self.options, self._load = scan, settings, options, load
        self.conditions, self.grids = conditions_of(settings), outputs.grids_of(settings)
        self.out_dir, self.seed = settings.out_dir, settings.random_seed
        self.paths = outputs.output_paths(self.out_dir, scan, self.grids)
        self.name = partial(outputs.output_path, self.out_dir, scan)
        self.uri = partial(derivative_uri, out_dir=self.out_dir)
        mask: Any = nib.load(self.paths["mask"])
        self.mask, self.brain = mask, np.asarray(mask.dataobj) > 0
        self._frames: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._synthesized: dict[str, np.ndarray] = {}

    def write(self) -> list[Image]:
        """Write those of the conditions; return the high-field image and all noise-free ones."""
        high = _voxels(self.paths["preproc"])
        images = [Image(HIGH, NATIVE, high, self.brain, self.mask.affine)]
        for grid in self.grids:  # the run's own low-field images along the scan's axes
            if grid.kind in ("native", "lf"):
                mask: Any = nib.load(self.mask_of(grid))
                data, brain = _voxels(self.paths[f"lowfield_{grid.name}"]), mask.dataobj
                images.append(Image("lowfield", grid, data, np.asarray(brain) > 0, mask.affine))
        images += map(self._image, self.conditions)
        # Of rated realisations only those are written that readers may see: one of a condition.
        if self.settings.level != "trial" or self.settings.reader_set:
            self._write_realisations(images, 1 if self.settings.reader_set else None)
        return images

    def mask_of(self, grid: Grid) -> Path:
        """Name the brain mask on a grid of the run."""
        return self.paths["mask" if grid.kind == "native" else f"mask_{grid.name}"]

    def digest(self, *words: Any) -> str:
        """Return a digest of words and of what the scan's outputs were made from."""
        sha = hashlib.sha256(json.dumps([software_versions(), *map(str, words)]).encode())
        for path in (self.paths["preproc"], self.paths["mask"]):
            sha.update(path.read_bytes())
        return sha.hexdigest()

    def _image(self, condition: Condition) -> Image:
        """Return the noise-free image of a condition, in [0, 1]: as it is there, or synthesized."""
        bundle, grid = self._load(condition), condition.grid
        brain, affine = self.brain, self.mask.affine
        if condition.lf_grid is not None:
            brain, affine = lf_mask(brain, affine, condition.lf_grid)
        path = self.name(condition.name, self.scan.suffix, grid)
        digest = self.digest(bundle.digest, repr(grid), repr(self.options), self.seed)
        known = sidecar_of(path)
        whole = known.get("InputDigest") == digest
        if not whole or known["Condition"]["noise_scale"] != condition.noise_scale:
            draws = path.name.split(".")[0].replace(
                f"_desc-{condition.name}_", f"_desc-{condition.name}noise[0-9][0-9]*_"
            )
            for old in path.parent.glob(f"{draws}.*"):
                old.unlink()
        if whole:
            self._synthesized[digest] = _voxels(path)
        else:
            if digest not in self._synthesized:  # no other condition has this grid and model
                image = predict_on_grid(
                    load_model(bundle), *self._frame(bundle), affine, brain,
                    options=self.options, seed=scan_seed(self.seed, self.scan.stem),
                    response=grid.response if grid.kind == "lf" else None,
                )  # fmt: skip
                self._synthesized[digest] = np.clip(image, 0.0, 1.0)
            sidecar_path(path).unlink(missing_ok=True)  # what it says is of the image that goes
            save_nifti(placed(self._synthesized[digest], affine, self.mask), path)
        # Last, as it says that the image is whole; the condition's noise may have changed.
        write_sidecar(path, self._sidecar(condition, bundle) | {"InputDigest": digest})
        data = self._synthesized[digest]
        return Image(condition.name, grid, data, brain, affine, (condition, bundle))

    def _frame(self, bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
        """Return the scan in a model's frame and scale, as participant has it, and its affine."""
        if bundle.digest not in self._frames:
            path = self.scan.path
            image, _, scaled = to_frame(
                load_checked(path).image, self.mask, bundle.frame,
                contrast=self.scan.suffix, scaling=bundle.scaling, name=str(path),
            )  # fmt: skip
            self._frames[bundle.digest] = scaled.volume, image.affine
        return self._frames[bundle.digest]

    def _sidecar(self, condition: Condition, bundle: Bundle) -> dict[str, Any]:
        grid = condition.grid
        contents = outputs.output_sidecars(
            self.scan, bundle, self.settings, [grid], (), Precision=self.options.precision
        )  # fmt: skip
        return contents[f"lowfield_{grid.name}"] | {
            "Description": f"Condition {condition.name} of a virtual trial: {condition.text}",
            "Condition": {**condition.described, "model": bundle.digest},
        }

    def realisations(
        self, images: Sequence[Image], most: int | None = None
    ) -> Iterator[tuple[int, Image, np.ndarray]]:
        """Yield number (from 1), condition's image and noisy image; `most` of each, at most."""
        # Conditions on one grid of one model share their draws, so that they are compared in pairs.
        groups = defaultdict[Any, list[Image]](list)
        for image in images:
            if image.source and image.source[0].realisations:
                condition, bundle = image.source
                groups[condition.lf_grid, bundle.digest].append(image)
        for members in groups.values():  # drawn as ``--noise calibrated`` does
            first, (_, bundle) = members[0], members[0].source
            model, (_, frame) = NoiseModel.from_dict(bundle.metadata["noise"]), self._frame(bundle)
            affine = np.diag([*spacing_of(frame), 1.0]) @ np.linalg.inv(frame) @ first.affine
            how: dict[str, Any] = {"seed": [self.seed, zlib.crc32(self.scan.stem.encode())]}
            how["acquired"] = acquired = first.grid.kind == "lf"
            brain = first.data[first.brain]
            one = model.of_one_scan(brain, affine[:3, :3]) if acquired else model
            counts = {i.name: min(n := i.source[0].realisations, most or n) for i in members}
            for number in range(1, max(counts.values()) + 1):
                drawn = unit_noise(first.brain, affine, one, realisation=number, **how)
                for image in members:
                    if number <= counts[image.name]:
                        yield number, image, add_noise(
                            image.data, image.brain, affine, model, realisation=number,
                            scale=image.source[0].noise_scale, drawn=drawn, **how,
                        )  # fmt: skip

    def _write_realisations(self, images: Sequence[Image], most: int | None) -> None:
        """Write the noisy images of the conditions that have any."""
        for number, image, noisy in self.realisations(images, most):
            condition, bundle = image.source
            word = f"noise{number:02d}"
            plain = self.name(image.name, self.scan.suffix, image.grid)
            path = self.name(f"{image.name}{word}", self.scan.suffix, image.grid)
            whole = self._sidecar(condition, bundle)
            content = outputs.extra_sidecar(
                whole, word, bundle.metadata, self.uri(plain), scale=condition.noise_scale
            ) | {"Description": f"{whole['Description']}; one realisation"}
            write_sidecar(path, content)
            save_nifti(placed(noisy, image.affine, self.mask), path)


def _voxels(path: Path) -> np.ndarray:
    image: Any = nib.load(path)
    return np.asarray(image.dataobj, dtype=np.float32)


def sidecar_of(path: Path) -> dict[str, Any]:
    """Return the sidecar of an output that is there; empty if one of them is not, or damaged."""
    try:
        return dict(read_json(sidecar_path(path))) if path.exists() else {}
    except (OSError, ValueError, TypeError):
        return {}
