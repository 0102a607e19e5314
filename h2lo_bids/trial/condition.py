"""Conditions of a trial: which scanner, how noisy, how often; and the images that they give."""

from __future__ import annotations

import argparse
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import bids_app_spec
from h2lo_bids.bids.derivatives import derivative_path
from h2lo_bids.bids.scan import Scan
from h2lo_bids.errors import UsageError
from h2lo_bids.imaging.normalise import scale_brain
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import conform, lf_mask, resample_mask, spacing_of
from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.models.bundle import Bundle, load_model
from h2lo_bids.outputs import Grid, grids_of
from h2lo_bids.settings import Settings, convert
from h2lo_bids.settings.options import PROFILES
from h2lo_bids.synthesis.noise import NoiseModel, scan_seed, unit_noise
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.predict import predict_on_grid

HIGH = "highfield"
"""The high-field image itself, a condition of every trial."""
DEFAULT = "scanner"
NATIVE = Grid("native")
_REALISATIONS = 20


@dataclass(frozen=True)
class Condition:
    """One imaginary scanner; its name is the ``desc`` label of its images.

    Parameters
    ----------
    lf_grid, slice_profile, slice_thickness
        As the options; without a grid, that of the scan.
    noise_scale
        Factor of the model's noise.
    realisations
        Noisy images of each scan; 0 for none.
    model
        A bundle in place of the run's.
    """

    name: str
    lf_grid: tuple[float, float, float] | None = None
    slice_profile: str = PROFILES[0]
    slice_thickness: float | None = None
    noise_scale: float = 1.0
    realisations: int = _REALISATIONS
    model: Path | None = None

    @property
    def grid(self) -> Grid:
        """Where its images are."""
        if self.lf_grid is None:
            return NATIVE
        response = VoxelResponse(self.slice_profile, self.slice_thickness)
        return grids_of((), (self.lf_grid,), response=response)[1]

    @property
    def described(self) -> dict[str, Any]:
        """What the study's tables need to know of it."""
        return {
            "text": self.text,
            "noise_scale": self.noise_scale,
            "slice_thickness": self.grid.thickness,
            "voxel_volume": float(np.prod(self.lf_grid)) if self.lf_grid else None,
        }

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
    """Read ``--condition NAME key=value ...``: a word without ``=`` begins the next condition.

    What a condition does not say is as the run's options have it.

    Raises
    ------
    UsageError
        If a name is taken, or a key or value makes no sense.
    """
    base = Condition(
        DEFAULT,
        settings.lf_grid[0] if settings.lf_grid else None,
        settings.slice_profile or PROFILES[0],
        settings.slice_thickness,
        1.0 if settings.noise_scale is None else settings.noise_scale,
        settings.realisations if settings.realisations > 1 else _REALISATIONS,
    )
    found: list[Condition] = []
    taken = {row["desc_id"].removeprefix("desc-") for row in bids_app_spec.load("descriptions.tsv")}
    taken |= {HIGH, *(name for name, _ in settings.labels)}
    for word in settings.condition:
        key, equals, value = word.partition("=")
        if not equals:
            if not re.fullmatch(r"[A-Za-z0-9]+", word) or word in taken:
                raise UsageError(
                    f"--condition {word}: a name is of letters and digits, and not one that other "
                    "outputs have"
                )
            taken.add(word)
            found.append(replace(base, name=word))
        elif not found:
            raise UsageError(f"--condition {word}: give the condition's name first")
        elif key not in _READERS:
            raise UsageError(f"--condition {word}: the keys are {', '.join(_READERS)}")
        else:
            try:
                read = {key.replace("-", "_"): _READERS[key](value)}
            except argparse.ArgumentTypeError as err:
                raise UsageError(f"--condition {found[-1].name} {word}: {err}") from err
            found[-1] = replace(found[-1], **read)
    return tuple(found) or ((base,) if settings.level == "trial" else ())


def check_conditions(settings: Settings) -> None:
    """Refuse conditions from which an observer could learn nothing."""
    for condition in conditions_of(settings):
        if settings.level == "trial" and condition.realisations < 2:
            raise UsageError(
                f"--condition {condition.name} realisations={condition.realisations}: the observer "
                "needs noise; give 2 realisations or more"
            )
    if settings.level == "trial" and not settings.labels:
        raise UsageError("trial needs lesion masks; give --labels NAME=PATH")


class Head(NamedTuple):
    """A scan as a model takes it, and its brain on its own grid."""

    scan: Scan
    volume: np.ndarray
    volume_affine: np.ndarray
    mask: np.ndarray
    affine: np.ndarray


def prepare_head(scan: Scan, mask: Any, bundle: Bundle) -> Head:
    """Bring a scan to a model's frame and scale, as participant does; `mask` is nibabel's."""
    conformed = conform(load_checked(scan.path).image, bundle.frame, mask=mask)
    inside = np.asarray(resample_mask(mask, conformed.shape, conformed.affine).dataobj) > 0
    scaled = scale_brain(
        np.asarray(conformed.dataobj), inside, spacing_of(conformed.affine).tolist(),
        contrast=scan.suffix, scaling=bundle.scaling, name=str(scan.path),
    )  # fmt: skip
    own = np.asarray(mask.dataobj) > 0
    return Head(scan, scaled.volume, conformed.affine, own, np.asarray(mask.affine))


def grid_brain(
    mask: np.ndarray, affine: np.ndarray, condition: Condition
) -> tuple[np.ndarray, np.ndarray]:
    """Return the brain on a condition's grid, and the grid's affine."""
    lf = condition.lf_grid
    return (mask, affine) if lf is None else lf_mask(mask, affine, lf)


def noise_free(
    head: Head, bundle: Bundle, condition: Condition, options: EngineOptions, seed: int
) -> np.ndarray:
    """Synthesize the image of a condition, in [0, 1]; realisations add their noise to it."""
    brain, affine = grid_brain(head.mask, head.affine, condition)
    image = predict_on_grid(
        load_model(bundle), head.volume, head.volume_affine, affine, brain,
        options=options, seed=scan_seed(seed, head.scan.stem),
        response=condition.grid.response if condition.lf_grid else None,
    )  # fmt: skip
    return np.clip(image, 0.0, 1.0)


def realise(
    images: Sequence[tuple[Condition, np.ndarray]],
    brain: np.ndarray,
    affine: np.ndarray,
    head: Head,
    bundle: Bundle,
    seed: int,
) -> Iterator[tuple[int, Condition, np.ndarray]]:
    """Draw the realisations of conditions that share a grid and a model.

    Yields the number, from 1, condition and image. Conditions share their draws, number by
    number, so that they can be compared in pairs; noise is as of ``--noise calibrated``.
    """
    if "noise" not in bundle.metadata:
        raise UsageError(
            f"{bundle.path}: has no noise model, and the observer needs noise; give --model one "
            "that `h2lo bids_dir out_dir group` fitted"
        )
    model = NoiseModel.from_dict(bundle.metadata["noise"])
    frame = head.volume_affine
    to_mm = np.diag([*spacing_of(frame), 1.0]) @ np.linalg.inv(frame)
    words = [seed, zlib.crc32(head.scan.stem.encode())]
    acquired = images[0][0].lf_grid is not None
    voxel = (to_mm @ affine)[:3, :3]
    models = [model.of_one_scan(image[brain], voxel) if acquired else model for _, image in images]
    deviations = [
        own.deviation(image[brain]) for own, (_, image) in zip(models, images, strict=True)
    ]
    for number in range(1, max(condition.realisations for condition, _ in images) + 1):
        level, noise = unit_noise(
            brain, to_mm @ affine, models[0], seed=words, realisation=number, acquired=acquired
        )
        for (condition, image), deviation in zip(images, deviations, strict=True):
            if number <= condition.realisations:
                noisy = np.zeros(image.shape, dtype=np.float32)
                wanted = image[brain] + condition.noise_scale * level * deviation * noise
                noisy[brain] = np.clip(wanted, 0, 1)
                yield number, condition, noisy


def output_name(
    out_dir: Path,
    scan: Scan,
    desc: str,
    suffix: str,
    grid: Grid = NATIVE,
    extension: str = ".nii.gz",
) -> Path:
    """Name an output; that of a T2w scan whose name has no entity for it ends desc with T2w."""
    own = suffix == scan.suffix or scan.suffix == "T1w"
    return derivative_path(
        out_dir, dict(scan.entities), suffix=suffix, space=grid.space, res=grid.res,
        extension=extension,
        desc=desc if own else f"{desc}{scan.suffix}",
    )  # fmt: skip


def ratings_path(out_dir: Path, stem: str, label: str) -> Path:
    """Name the table of ratings of a scan."""
    return out_dir / "trial" / "ratings" / f"{stem}_{label}.tsv"
