"""A pair of volumes in memory, as the estimators read it, and as files."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids.cache import digest, stamp
from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.normalise import Scaled, scale_brain
from h2lo_bids.imaging.profile import measure, measure_output, ranges_of
from h2lo_bids.io import atomic_path
from h2lo_bids.vocabulary import ENHANCE, SYNTHESIZE


@dataclass(frozen=True)
class Pair:
    """A high-field volume and its low-field partner on the model's frame.

    Whatever fits, applies and scores a model takes `hf` for its input and `lf` for its
    target. For the other task the two change places: see `swapped`.

    Parameters
    ----------
    name
        The subject, for logs and splits.
    hf, lf
        (X, Y, Z), normalised to [0, 1]; `hf` is 0 outside the brain. float32, or
        float16 to keep many pairs in memory: crops are computed in float32.
    mask
        bool (X, Y, Z): the brain, outside which the product is exactly 0.
    task
        ``"synthesize"``, or ``"enhance"`` where `hf` holds the low-field image, the
        input, and `lf` the high-field one, the target.

    Raises
    ------
    BadDataError
        If the shapes differ, a value is not finite, or the mask is empty.
    """

    name: str
    hf: np.ndarray = field(hash=False, compare=False, repr=False)
    lf: np.ndarray = field(hash=False, compare=False, repr=False)
    mask: np.ndarray = field(hash=False, compare=False, repr=False)
    task: str = SYNTHESIZE

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
        """Return the pair with its high-field input as a model of this scaling takes it.

        Parameters
        ----------
        scaling, contrast, spacing
            As for `h2lo_bids.imaging.normalise.scale_brain`. The files hold volumes
            divided by their maximum, which is what ``"max"`` leaves.

        Raises
        ------
        BadDataError
            If the input has no contrast.
        """
        if scaling == "max":
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

    Parameters
    ----------
    pairs
        As the files hold them. Those that `Pair.scaled` has scaled give the same but for
        ``field_ratio``, of which nothing is left to measure where it was strong.
    contrast, spacing, scaling
        As for `Pair.scaled`.

    Returns
    -------
    dict
        See `h2lo_bids.imaging.profile.InputRange.to_dict`.
    """
    profiles, outputs = [], []
    for pair in pairs:
        made = Scaled(np.asarray(pair.hf, np.float32))
        if scaling != "max":
            made = scale_brain(made.volume, pair.mask, spacing, contrast=contrast, name=pair.name)
        profiles.append(
            measure(made.volume, pair.mask, spacing, contrast=contrast,
                    field_ratio=made.field_ratio, negative=made.negative)
        )  # fmt: skip
        outputs.append(measure_output(pair.lf, made.volume, pair.mask, spacing))
    return ranges_of(profiles, outputs).to_dict()


def common_shape(pairs: Sequence[Pair]) -> tuple[int, int, int]:
    """Return the one shape of all pairs, or raise `BadDataError`."""
    shapes = {pair.shape for pair in pairs}
    if len(shapes) != 1:
        listed = ", ".join(f"{p.name} {p.shape}" for p in pairs)
        raise BadDataError(f"training pairs need one common grid, not: {listed}")
    return shapes.pop()


@dataclass(frozen=True)
class PairFiles:
    """A pair on disk: three images on one grid, or `hf` alone, an ``.npz`` with all three.

    With task ``"enhance"`` it is read with input and target swapped. `hf` is scaled by `scaling`,
    `contrast` and `spacing` as by `Pair.scaled`.
    """

    name: str
    hf: Path
    lf: Path | None = None
    mask: Path | None = None
    task: str = SYNTHESIZE
    scaling: str = "max"
    contrast: str = "T1w"
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PairFiles:
        """Read it back from JSON."""
        lf, mask = (Path(v) if (v := values.get(k)) else None for k in ("lf", "mask"))
        return cls(
            values["name"], Path(values["hf"]), lf, mask, values["task"], values["scaling"],
            values["contrast"], tuple(values["spacing"]),
        )  # fmt: skip

    def read(self) -> Pair:
        """Load the volumes, scaled and for the task, or raise `BadDataError`."""
        pair = self._read().scaled(self.scaling, self.contrast, self.spacing)
        return self.as_task(pair)

    def as_task(self, pair: Pair) -> Pair:
        """Swap a pair that was read as it is if the task wants it."""
        return pair if pair.task == self.task else pair.swapped()

    def _read(self) -> Pair:
        if self.lf is None or self.mask is None:
            return _read_npz(self.name, self.hf)
        hf, lf, mask = (_read_image(path) for path in (self.hf, self.lf, self.mask))
        return _pair(self.lf, self.name, hf, lf, mask)


def _read_npz(name: str, path: Path) -> Pair:
    try:
        with np.load(path) as content:
            hf, lf, mask = (content[key] for key in ("hf", "lf", "mask"))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as err:
        raise BadDataError(f"{path}: cannot read this pair ({err}); make it again") from err
    return _pair(path, name, hf, lf, mask)


def _pair(path: Path, name: str, hf: np.ndarray, lf: np.ndarray, mask: np.ndarray) -> Pair:
    """Make a pair, or name the file without which it will be made again."""
    try:
        return Pair(name, hf, lf, mask > 0)
    except BadDataError as err:
        raise BadDataError(f"{path}: {err}; remove it and run again") from err


def _read_image(path: Path) -> np.ndarray:
    import nibabel as nib

    try:
        return np.asarray(nib.load(path).dataobj, dtype=np.float32)  # type: ignore[attr-defined]
    except Exception as err:  # gzip, zlib, nibabel and the system each raise their own
        raise BadDataError(f"{path}: cannot be read ({err}); make the pair again") from err


def open_pairs(files: Sequence[PairFiles], cache: Path) -> list[Pair]:
    """Map pairs into memory in half precision, so that many need no more of it than few.

    Half precision keeps three decimals of [0, 1], finer than the noise. The pages belong to the
    system, which drops them when memory is short, and are shared by processes that fit at the
    same time. `cache` receives one file per pair, named after its sources' paths, sizes and
    times, so that a pair that was made again is read again.
    """
    return [_open(pair, cache / f"{pair.name}_{_stamp(pair)}.npy") for pair in files]


def _stamp(files: PairFiles) -> str:
    paths = [path for path in (files.hf, files.lf, files.mask) if path is not None]
    try:
        return digest([files.scaling, [stamp(path) for path in paths]])
    except OSError as err:
        raise BadDataError(f"{err.filename}: cannot be read ({err.strerror})") from err


def _open(files: PairFiles, kept: Path) -> Pair:
    if not kept.exists():
        # As divided by their maxima, both tasks share the file.
        pair = files._read().scaled(files.scaling, files.contrast, files.spacing)
        volumes = np.stack([pair.hf, pair.lf, pair.mask]).astype(np.float16)
        with atomic_path(kept) as partial, partial.open("wb") as stream:
            np.save(stream, volumes)
    try:
        hf, lf, mask = np.load(kept, mmap_mode="r")
    except (OSError, ValueError) as err:
        raise BadDataError(f"{kept}: cannot be read ({err}); remove it and run again") from err
    return files.as_task(Pair(files.name, hf, lf, mask > 0))
