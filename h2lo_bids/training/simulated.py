"""Training pairs that are simulated from label maps, kept on disk once made."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from h2lo_bids.errors import BadDataError, InputOutputError, MissingInputError
from h2lo_bids.phantom.pairs import FUSED, PairKind
from h2lo_bids.training.pairs import Pair

FRAME_SHAPE = (208, 256, 256)

Numbered = tuple[int, Path]
"""A label map and its place in the sorted folder, from 1."""


@dataclass(frozen=True)
class Split:
    """Label maps by their part in a fit; no person is in two parts."""

    train: tuple[Numbered, ...]
    validation: tuple[Numbered, ...]
    test: tuple[Numbered, ...]


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
    found = list(enumerate(sorted(folder.glob("[!.]*.nii.gz")), 1))
    if len(found) < 3:
        raise MissingInputError(
            f"{folder}: {len(found)} label maps (*.nii.gz) found, at least 3 are needed to "
            "train, validate and test on different people"
        )
    part = max(1, len(found) // 8)
    return Split(tuple(found[: -2 * part]), tuple(found[-2 * part : -part]), tuple(found[-part:]))


def simulated_pairs(
    labels: Sequence[tuple[int, Path]],
    *,
    contrasts: Sequence[str],
    seed: int,
    variants: int,
    cache: Path,
    progress: Callable[[str], None],
    kinds: Sequence[PairKind] = (FUSED,),
) -> dict[str, list[Path]]:
    """Simulate the pairs of some label maps, unless they are kept already.

    Parameters
    ----------
    labels
        Numbered label maps of whole heads; the number enters the pair's seed.
    contrasts
        Of ``"T1w"`` and ``"T2w"``: those wanted. One person is simulated once
        for both.
    seed
        Pair ``variant`` of map ``number`` has the seed ``seed + 100 variant + number``.
    variants
        Pairs per map and kind, each with another warp, tissue draw
        and scanner.
    cache
        Folder of the pairs; remove it when the simulation has changed.
    progress
        Called with a line of text per new person.
    kinds
        What the images of a pair are; variants take turns.

    Returns
    -------
    dict
        Per contrast the files: all labels in their order, variant by variant.
    """
    found: dict[str, list[Path]] = {contrast: [] for contrast in contrasts}
    for variant in range(variants * len(kinds)):
        kind = kinds[variant % len(kinds)]
        ending = f"_{kind.name}" if kind.name else ""
        for number, path in labels:
            own = seed + 100 * variant + number
            name = f"{path.name.split('.')[0]}_seed-{own}{ending}.npz"
            kept = {c: cache / c / name for c in contrasts}
            missing = tuple(c for c in contrasts if not kept[c].exists())
            if missing:
                _simulate(path, own, {c: kept[c] for c in missing}, kind)
                progress(f"simulated {', '.join(missing)} of {path.name}, seed {own}")
            for contrast in contrasts:
                found[contrast].append(kept[contrast])
    return found


def _simulate(labels: Path, seed: int, kept: dict[str, Path], kind: PairKind) -> None:
    from h2lo_bids.phantom.pairs import simulate_training_pairs

    pairs = simulate_training_pairs(
        labels, contrasts=tuple(kept), seed=seed, frame_shape=FRAME_SHAPE, kind=kind
    )
    for contrast, path in kept.items():
        pair, partial = pairs[contrast], path.with_name(f".{os.getpid()}.{path.name}")
        # Half precision keeps three decimals of [0, 1], finer than the noise.
        volumes = {"hf": pair.hf.astype(np.float16), "lf": pair.lf.astype(np.float16)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                np.savez(stream, mask=pair.mask, **volumes)  # type: ignore[arg-type]
            partial.replace(path)
        except OSError as err:
            partial.unlink(missing_ok=True)
            raise InputOutputError(f"{path}: cannot write the pair: {err.strerror}") from err


def read_pair(path: Path) -> Pair:
    """Read a pair that `simulated_pairs` wrote, or raise `BadDataError`."""
    try:
        with np.load(path) as content:
            return Pair(path.stem, content["hf"], content["lf"], content["mask"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as err:
        raise BadDataError(f"{path}: cannot read this pair ({err}); remove it") from err
