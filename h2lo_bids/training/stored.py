"""Pairs as files: to be named in a fit's specification, and read from disk as needed."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids.errors import BadDataError
from h2lo_bids.io import atomic_path
from h2lo_bids.training.pairs import Pair
from h2lo_bids.vocabulary import SYNTHESIZE


@dataclass(frozen=True)
class PairFiles:
    """Where a pair is.

    Parameters
    ----------
    name
        The pair's.
    hf, lf, mask
        Three images on one grid; or `hf` is an ``.npz`` with all three (keys
        ``hf``, ``lf``, ``mask``) and the others are None.
    task
        With ``"enhance"`` the pair is read with input and target swapped.
    scaling, contrast, spacing
        How `hf` is scaled, as for `h2lo_bids.training.pairs.Pair.scaled`.
    """

    name: str
    hf: Path
    lf: Path | None = None
    mask: Path | None = None
    task: str = SYNTHESIZE
    scaling: str = "max"
    contrast: str = "T1w"
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the paths as JSON-ready values."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PairFiles:
        """Read it back from `to_dict`'s output."""
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

    Half precision keeps three decimals of [0, 1], finer than the noise. The
    pages belong to the system, which drops them when memory is short, and are
    shared by processes that fit at the same time.

    Parameters
    ----------
    files
        The pairs.
    cache
        Receives one file per pair, unless it is there; named after the sources'
        paths, sizes and times, so that a pair that was made again is read again.

    Raises
    ------
    BadDataError
        If a pair cannot be read.
    InputOutputError
        If the cache cannot be written.
    """
    return [_open(pair, cache / f"{pair.name}_{_stamp(pair)}.npy") for pair in files]


def _stamp(files: PairFiles) -> str:
    digest = hashlib.blake2b(digest_size=8)
    if files.scaling != "max":
        digest.update(files.scaling.encode())
    for path in (files.hf, files.lf, files.mask):
        if path is not None:
            try:
                found = path.stat()
            except OSError as err:
                raise BadDataError(f"{path}: cannot be read ({err.strerror})") from err
            digest.update(f"{path.resolve()} {found.st_size} {found.st_mtime_ns}".encode())
    return digest.hexdigest()


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
