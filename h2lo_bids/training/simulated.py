"""Training pairs that are simulated from label maps, kept on disk once made."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from h2lo_bids.errors import BadDataError, InputOutputError, MissingInputError
from h2lo_bids.training.pairs import Pair

FRAME_SHAPE = (208, 256, 256)


@dataclass(frozen=True)
class Split:
    """Label maps by their part in a fit; no person is in two parts."""

    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    test: tuple[Path, ...]


def split_labels(folder: Path) -> Split:
    """Divide a folder's label maps: the last eighth tests, the one before validates.

    Parameters
    ----------
    folder
        Holds ``*.nii.gz`` label maps with FreeSurfer ids, one per person.

    Raises
    ------
    MissingInputError
        If there are fewer than three.
    """
    found = sorted(folder.glob("*.nii.gz"))
    if len(found) < 3:
        raise MissingInputError(
            f"{folder}: {len(found)} label maps (*.nii.gz) found, at least 3 are needed to "
            "train, validate and test on different people"
        )
    part = max(1, len(found) // 8)
    return Split(tuple(found[: -2 * part]), tuple(found[-2 * part : -part]), tuple(found[-part:]))


def simulated_pairs(
    labels: Sequence[Path],
    *,
    contrast: str,
    seed: int,
    variants: int,
    cache: Path,
    progress: Callable[[str], None],
) -> list[Pair]:
    """Simulate the pairs of some label maps, or read them where they are kept.

    Parameters
    ----------
    labels
        Label maps of whole heads.
    contrast
        ``"T1w"`` or ``"T2w"``.
    seed
        With a map's file name it decides the pair; both contrasts show one person.
    variants
        Pairs per map, each with another warp, tissue draw and scanner.
    cache
        Folder of the pairs; remove it when the simulation has changed.
    progress
        Called with a line of text per new pair.

    Returns
    -------
    list of Pair
    """
    cache.mkdir(parents=True, exist_ok=True)
    pairs = []
    for path in labels:
        for variant in range(variants):
            name = f"{path.name.split('.')[0]}_seed-{seed}_variant-{variant}"
            kept = cache / f"{name}.npz"
            if not kept.exists():
                _simulate(path, contrast, pair_seed(path, seed, variant), kept)
                progress(f"simulated {kept.name}")
            pairs.append(_read(name, kept))
    return pairs


def pair_seed(path: Path, seed: int, variant: int) -> int:
    """Return a seed that follows from the map's file name, whatever else is in its folder."""
    import zlib

    text = f"{path.name} {seed} {variant}".encode()
    return zlib.crc32(text)


def _simulate(labels: Path, contrast: str, seed: int, kept: Path) -> None:
    from h2lo_bids.phantom.pairs import simulate_training_pair

    pair = simulate_training_pair(labels, contrast=contrast, seed=seed, frame_shape=FRAME_SHAPE)
    partial = kept.with_name(f".{os.getpid()}.{kept.name}")
    try:
        with partial.open("wb") as stream:
            np.savez_compressed(stream, hf=pair.hf, lf=pair.lf, mask=pair.mask)
        partial.replace(kept)
    except OSError as err:
        partial.unlink(missing_ok=True)
        raise InputOutputError(f"{kept}: cannot write the pair: {err.strerror}") from err


def _read(name: str, path: Path) -> Pair:
    try:
        with np.load(path) as content:
            return Pair(name, content["hf"], content["lf"], content["mask"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as err:
        raise BadDataError(f"{path}: cannot read this pair ({err}); remove it") from err
