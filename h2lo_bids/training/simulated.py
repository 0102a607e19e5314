"""Training pairs that are simulated from label maps, kept on disk once made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.imaging.normalise import max_normalise, scale_brain
from h2lo_bids.io import atomic_path
from h2lo_bids.training.pairs import Pair
from h2lo_bids.vocabulary import Say

FRAME_SHAPE = (208, 256, 256)
SPACING = (1.0, 1.0, 1.0)

Numbered = tuple[int, Path]
"""A label map and its place in the sorted folder, from 1."""


@dataclass(frozen=True)
class Split:
    """Label maps by their part in a fit; no person is in two parts."""

    train: tuple[Numbered, ...]
    validation: tuple[Numbered, ...]
    test: tuple[Numbered, ...]


@dataclass(frozen=True)
class Simulation:
    """How often each person of a part of the split is simulated."""

    variants: int = 1  # persons per label map, each of another warp, tissue draw and LF scans
    inputs: int = 1  # HF scanners per variant, of one LF target; the first is the calibrated site
    scaling: str = "robust"  # of the HF images
    # Whether the LF images are distorted and misregistered as real ones are. A model that
    # learns from such pairs blurs its output by what it cannot know.
    distorted: bool = False


def split_labels(folder: Path) -> Split:
    """Divide a folder's label maps: the last eighth tests, the one before validates."""
    found = list(enumerate(sorted(folder.glob("[!.]*.nii.gz")), 1))
    if len(found) < 3:
        raise MissingInputError(
            f"{folder}: {len(found)} label maps (*.nii.gz) found, at least 3 are needed to "
            "train, validate and test on different people"
        )
    part = max(1, len(found) // 8)
    return Split(tuple(found[: -2 * part]), tuple(found[-2 * part : -part]), tuple(found[-part:]))


def simulated_pairs(
    labels: Sequence[Numbered],
    how: Simulation,
    *,
    contrasts: Sequence[str],
    seed: int,
    cache: Path,
    progress: Say,
) -> dict[str, list[Path]]:
    """Simulate the pairs of some label maps, unless they are kept already."""
    found: dict[str, list[Path]] = {contrast: [] for contrast in contrasts}
    for variant in range(how.variants):
        for number, path in labels:
            person = seed + 100 * variant + number
            kind = f"{how.scaling}-{how.inputs}{'-distorted' if how.distorted else ''}"
            name = f"{path.name.split('.')[0]}_seed-{person}_{kind}.npy"
            kept = {c: cache / c / name for c in contrasts}
            missing = tuple(c for c in contrasts if not kept[c].exists())
            if missing:
                _simulate(path, person, {c: kept[c] for c in missing}, how)
                progress(f"simulated {', '.join(missing)} of {path.name}, seed {person}")
            for contrast in contrasts:
                found[contrast].append(kept[contrast])
    return found


def _simulate(labels: Path, seed: int, kept: dict[str, Path], how: Simulation) -> None:
    """Write for each contrast the target, the mask and the inputs in half precision."""
    from h2lo_bids.phantom.pairs import simulate_training_pairs

    pairs = simulate_training_pairs(
        labels, contrasts=tuple(kept), seed=seed, frame_shape=FRAME_SHAPE, inputs=how.inputs,
        nominal=True, normalise=False, distorted=how.distorted,
    )  # fmt: skip
    for contrast, path in kept.items():
        pair = pairs[contrast]
        scaled = [
            scale_brain(hf, pair.mask, SPACING, contrast=contrast, scaling=how.scaling).volume
            for hf in pair.inputs
        ]
        volumes = np.stack([max_normalise(pair.lf, pair.mask), pair.mask, *scaled])
        with atomic_path(path) as partial, partial.open("wb") as stream:
            # Half precision keeps three decimals of [0, 1], finer than the noise.
            np.save(stream, volumes.astype(np.float16))


def read_pairs(paths: Sequence[Path]) -> list[Pair]:
    """Map the pairs of files that `simulated_pairs` wrote: one per input, mapped into memory."""
    pairs = []
    for path in paths:
        try:
            lf, mask, *inputs = np.load(path, mmap_mode="r")
            brain = np.asarray(mask) > 0
            pairs += [Pair(f"{path.stem}_{n}", hf, lf, brain) for n, hf in enumerate(inputs, 1)]
        except (OSError, ValueError) as err:
            raise BadDataError(f"{path}: cannot read this pair ({err}); remove it") from err
    return pairs
