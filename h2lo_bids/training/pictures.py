"""The small pictures and histograms of a test subject that the group report shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from h2lo_bids.errors import BadDataError
from h2lo_bids.evaluation.metrics import foreground, histogram
from h2lo_bids.io import atomic_path
from h2lo_bids.training.pairs import Pair

KINDS = ("hf", "lf", "predicted")


def pictures_of(pair: Pair, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Cut the slices through the middle of the brain and count the histograms.

    Parameters
    ----------
    pair
        The subject, on a grid in RAS order.
    predicted
        (X, Y, Z), what a model made of it; clipped to [0, 1].

    Returns
    -------
    dict
        float16 arrays under ``"<name>/hf"``, ``"<name>/lf"`` and
        ``"<name>/predicted"``, each (3, n, n): the axial (x, y), coronal (x, z) and
        sagittal (y, z) slice, n the longest side of the grid, shorter ones padded
        with zeros on both ends; and under ``"<name>/histograms"`` (3, 128): the
        shares of high-field, low-field and predicted voxels in the foreground. Of a
        pair for enhancement the input stands under ``hf`` and the target under ``lf``,
        as in the pair itself.

    Raises
    ------
    BadDataError
        If the shapes differ or the high-field image has no foreground.
    """
    if predicted.shape != pair.shape:
        raise BadDataError(
            f"pair {pair.name}: the prediction has shape {predicted.shape}, not {pair.shape}"
        )
    volumes = (pair.hf, pair.lf, np.clip(predicted, 0, 1))
    middle = _middle(pair.mask)
    where = foreground(pair.high_field)
    pictures = {
        f"{pair.name}/{kind}": _slices(volume, middle).astype(np.float16)
        for kind, volume in zip(KINDS, volumes, strict=True)
    }
    counts = np.stack([histogram(volume, where) for volume in volumes])
    return {**pictures, f"{pair.name}/histograms": counts.astype(np.float16)}


def write_pictures(path: Path, pictures: Mapping[str, np.ndarray]) -> Path:
    """Write pictures to one ``.npz`` file, atomically; the same pictures give the same bytes."""
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **{key: pictures[key] for key in sorted(pictures)})  # type: ignore[arg-type]
    return path


def read_pictures(path: Path) -> dict[str, np.ndarray]:
    """Read what `write_pictures` wrote.

    Raises
    ------
    BadDataError
        If the file is absent or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except Exception as error:
        # zipfile, zlib and numpy raise a dozen types between them.
        raise BadDataError(f"{path}: not a whole file of pictures; score the fold again") from error


def _middle(mask: np.ndarray) -> tuple[int, int, int]:
    """Find the centre of the box around the brain."""
    x, y, z = ((at.min() + at.max()) // 2 for at in np.nonzero(mask))
    return int(x), int(y), int(z)


def _slices(volume: np.ndarray, middle: tuple[int, int, int]) -> np.ndarray:
    x, y, z = middle
    side = max(volume.shape)
    out = np.zeros((3, side, side))
    for square, cut in zip(out, (volume[:, :, z], volume[:, y, :], volume[x]), strict=True):
        first = [(side - n) // 2 for n in cut.shape]
        square[first[0] : first[0] + cut.shape[0], first[1] : first[1] + cut.shape[1]] = cut
    return out
