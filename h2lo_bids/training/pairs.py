"""A pair of volumes in memory, as fits read it, and the file that it is mapped from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.normalise import Scaled, scale_brain
from h2lo_bids.imaging.profile import measure, measure_output, ranges_of
from h2lo_bids.io import atomic_path
from h2lo_bids.vocabulary import ENHANCE, SYNTHESIZE


@dataclass(frozen=True)
class Pair:
    """A high-field volume and its low-field partner on the model's frame, both (X, Y, Z).

    Whatever fits, applies and scores a model takes `hf` for its input and `lf` for its target.
    To enhance, the two change places: see `swapped`. Both are in [0, 1], in float16 where many
    pairs are kept in memory, and `hf` is 0 outside the brain, as the product is.
    """

    name: str
    hf: np.ndarray = field(hash=False, compare=False, repr=False)
    lf: np.ndarray = field(hash=False, compare=False, repr=False)
    mask: np.ndarray = field(hash=False, compare=False, repr=False)
    task: str = SYNTHESIZE
    kept: Path | None = None  # the file that the volumes are mapped from

    def __post_init__(self) -> None:
        if self.hf.ndim != 3 or not self.hf.shape == self.lf.shape == self.mask.shape:
            shapes = f"{self.hf.shape}, {self.lf.shape}, {self.mask.shape}"
            raise BadDataError(f"pair {self.name}: volumes and mask need one 3-D shape: {shapes}")
        if not (np.isfinite(self.hf).all() and np.isfinite(self.lf).all()):
            raise BadDataError(f"pair {self.name}: NaN or infinite voxels")
        if not self.mask.any():
            raise BadDataError(f"pair {self.name}: its brain mask is empty")

    def swapped(self) -> Pair:
        """Return the pair for the other task: input and target change places."""
        task = SYNTHESIZE if self.task == ENHANCE else ENHANCE
        return replace(self, hf=self.lf, lf=self.hf, task=task)

    def scaled(self, scaling: str, contrast: str, spacing: Sequence[float]) -> Pair:
        """Return the pair with its input scaled by `h2lo_bids.imaging.normalise.scale_brain`."""
        if scaling == "max":  # as the files are
            return self
        made = scale_brain(
            np.asarray(self.hf, np.float32), self.mask, spacing,
            contrast=contrast, scaling=scaling, name=f"pair {self.name}",
        )  # fmt: skip
        return replace(self, hf=made.volume)

    @property
    def high_field(self) -> np.ndarray:
        """The high-field volume, whichever part it plays; it decides the foreground."""
        return self.lf if self.task == ENHANCE else self.hf

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        return self.hf.shape  # type: ignore[return-value]


def fingerprint(pairs: Sequence[Pair]) -> str:
    """Return a digest of names and voxels, by which a resumed run knows its data."""
    found = hashlib.blake2b(digest_size=16)
    for pair in pairs:
        found.update(f"{pair.name} {pair.shape}".encode())
        for volume, kind in ((pair.hf, np.float32), (pair.lf, np.float32), (pair.mask, bool)):
            found.update(np.ascontiguousarray(volume, kind).view(np.uint8).data)
    return found.hexdigest()


def training_range(
    pairs: Iterable[Pair], contrast: str, spacing: Sequence[float], *, scaling: str = "robust"
) -> dict[str, Any]:
    """Return a bundle's ``input_range``: what the inputs and targets of its training are like.

    Of pairs as the files hold them; of a scaled pair ``field_ratio`` cannot be measured.
    """
    profiles, outputs = [], []
    for pair in pairs:
        made = Scaled(np.asarray(pair.hf, np.float32))
        if scaling != "max":
            made = scale_brain(made.volume, pair.mask, spacing, contrast=contrast, name=pair.name)
        profiles.append(measure(made, pair.mask, spacing, contrast=contrast))
        outputs.append(measure_output(pair.lf, made.volume, pair.mask, spacing))
    return ranges_of(profiles, outputs)


def common_shape(pairs: Sequence[Pair]) -> tuple[int, int, int]:
    """Return the one shape of all pairs, or raise `BadDataError`."""
    shapes = {pair.shape for pair in pairs}
    if len(shapes) != 1:
        listed = ", ".join(f"{p.name} {p.shape}" for p in pairs)
        raise BadDataError(f"training pairs need one common grid, not: {listed}")
    return shapes.pop()


def keep_pair(path: Path, hf: np.ndarray, lf: np.ndarray, mask: np.ndarray) -> None:
    """Write a pair for `map_pair`, in half precision: finer than the noise in [0, 1]."""
    with atomic_path(path) as partial, partial.open("wb") as stream:
        np.save(stream, np.stack([hf, lf, mask]).astype(np.float16))


def map_pair(path: Path, name: str, task: str = SYNTHESIZE) -> Pair:
    """Map a pair into memory, so that many need no more of it than few.

    Processes share the pages, which the system drops when memory is short.
    """
    try:
        hf, lf, mask = np.load(path, mmap_mode="r")
        pair = Pair(name, hf, lf, mask > 0, kept=path)
    except (OSError, ValueError, BadDataError) as err:
        raise BadDataError(f"{path}: cannot be read ({err}); remove it and run again") from err
    return pair.swapped() if task == ENHANCE else pair
