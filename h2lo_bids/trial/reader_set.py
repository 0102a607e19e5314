"""Blinded images for human readers, balanced over the conditions of a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.bids.names import parse_name
from h2lo_bids.evaluation.catalogue import write_table
from h2lo_bids.imaging.resample import spacing_of
from h2lo_bids.io import atomic_path, save_nifti
from h2lo_bids.trial.condition import HIGH

FOLDER, KEY = "reader_set", "reader_set_key.tsv"
_SLICES = 3
_COLUMNS = {
    "image": {"Description": "Name in reader_set"},
    "participant_id": {"Description": "Participant"},
    "condition": {"Description": "Condition of the trial"},
    "source": {"Description": "File in this dataset"},
}


def write_reader_set(out_dir: Path, count: int, seed: int) -> list[str]:
    """Write blinded images as NIfTI and PNG to ``trial/reader_set``, and the key beside it.

    The order is random; each condition has as many images as the others, or one less.
    Names, headers and origins say nothing of participant and condition; voxel sizes do.
    Returns one line if there are fewer than `count`.
    """
    rng, found = np.random.default_rng(seed), _candidates(out_dir)
    for paths in found.values():
        rng.shuffle(paths)
    chosen: list[tuple[str, Path]] = []
    while len(chosen) < count and any(found.values()):
        names = [name for name in found if found[name]]
        rng.shuffle(names)
        chosen += [(name, found[name].pop()) for name in names[: count - len(chosen)]]
    rng.shuffle(chosen)  # type: ignore[arg-type]
    folder, rows = out_dir / "trial" / FOLDER, []
    for old in folder.glob("image-*"):
        old.unlink()
    for number, (name, path) in enumerate(chosen, start=1):
        word = f"image-{number:03d}"
        image: Any = nib.load(path)
        data, sides = np.asarray(image.dataobj, dtype=np.float32), spacing_of(image.affine)
        save_nifti(nib.Nifti1Image(data, np.diag([*sides, 1.0])), folder / f"{word}.nii.gz")
        _write_png(data, sides, folder / f"{word}.png")
        subject = path.relative_to(out_dir).parts[0]
        rows.append([word, subject, name, path.relative_to(out_dir).as_posix()])
    write_table(out_dir / "trial" / KEY, rows, _COLUMNS)
    short = len(chosen) < count
    return [f"--reader-set {count}: there are {len(chosen)} images only"] if short else []


def _candidates(out_dir: Path) -> dict[str, list[Path]]:
    """Return the images by condition: noisy ones, and the high-field image."""
    found: dict[str, list[Path]] = {}
    for path in sorted(out_dir.glob("sub-*/**/anat/*_desc-*noise01_T[12]w.nii.gz")):
        name = parse_name(path.name)
        desc = dict(name.entities).get("desc", "") if name else ""
        if desc and not desc.startswith("lowfield"):
            found.setdefault(desc.removesuffix("noise01"), []).append(path)
    if found:
        plain = sorted(out_dir.glob("sub-*/**/anat/*_desc-preproc_T[12]w.nii.gz"))
        found[HIGH] = [path for path in plain if "_space-" not in path.name]
    return found


def _write_png(data: np.ndarray, sides: np.ndarray, path: Path) -> None:
    """Write slices across the longest side, one above the other at their true proportions."""
    from PIL import Image

    axis = int(np.argmax(np.round(sides, 3) * (1, 1, 1.0001)))
    inside = np.flatnonzero(data.any(axis=tuple({0, 1, 2} - {axis})))
    rows, bright = [], float(np.percentile(data[data > 0], 99.5)) if data.any() else 1.0
    across = [side for a, side in enumerate(sides) if a != axis]
    for part in np.linspace(0.35, 0.65, _SLICES):
        plane = np.rot90(np.take(data, inside[int(part * (len(inside) - 1))], axis=axis))
        picture = Image.fromarray(np.rint(255 * np.clip(plane / bright, 0, 1)).astype(np.uint8))
        size = (round(plane.shape[1] * across[0]) * 2, round(plane.shape[0] * across[1]) * 2)
        rows.append(np.asarray(picture.resize(size, Image.Resampling.NEAREST)))
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, "PNG")
