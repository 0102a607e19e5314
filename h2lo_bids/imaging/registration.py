"""Registering scans to each other or to a template with ANTs.

Fixed is where an image shall go (the template), moving what goes there (the
scan). World coordinates are RAS mm throughout; ITK's LPS stays inside.

ITK takes its number of threads at its first use in a process, and a seed counts
only with one thread, which `start_ants` then sets. Run each registration in a process of its
own: ANTs holds Python's lock. It reads brackets and commas in a path as its own, so that it gets
names alone, in their folder.
"""

from __future__ import annotations

import contextlib
import gzip
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.errors import BadDataError, InputOutputError
from h2lo_bids.imaging.reading import name_of
from h2lo_bids.imaging.resample import spacing_of

TRANSFORMS = {"rigid": "Rigid", "affine": "Affine", "syn": "SyN"}
"""Names of ours and of ANTs, from six degrees of freedom to a dense warp."""
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def start_ants(seed: int | None = None) -> Any:
    """Import ANTs on one thread, with a seed; only a process's first call counts.

    Also without a seed: a registration that counts on one may follow in the process.
    """
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    import ants

    if seed is not None:
        seed %= 1 << 31  # the longest that ANTs takes
        ants.config.set_ants_deterministic(True, seed)
        os.environ["ANTS_RANDOM_SEED"] = str(seed)
    return ants


def register(
    moving: Any,
    fixed: Any,
    folder: str | os.PathLike[str],
    *,
    transform: str,
    seed: int,
) -> tuple[Path, Path]:
    """Register one image to another by mutual information, on one thread.

    Parameters
    ----------
    moving, fixed
        nibabel images, 3-D, of any contrast; brains without skull register best.
    folder
        Existing folder.
    transform
        One of `TRANSFORMS`.
    seed
        Makes the result the same each time.

    Returns
    -------
    forward, inverse
        ``forward.h5``, which brings the moving image to the fixed one, and ``inverse.h5``: ITK
        composite transforms.

    Raises
    ------
    BadDataError
        If ANTs cannot align the images.
    InputOutputError
        If the transforms are not written whole.
    """
    ants = start_ants(seed)
    failed = BadDataError(
        f"{name_of(moving)}: cannot be registered to {name_of(fixed)}; look at both images"
    )
    images = {"fixed": _to_ants(ants, fixed), "moving": _to_ants(ants, moving)}
    how = {"type_of_transform": TRANSFORMS[transform], "outprefix": "xfm_"}
    with contextlib.chdir(folder):
        try:
            found = ants.registration(**images, **how)
        except (RuntimeError, ValueError) as err:
            raise failed from err
        forward, inverse = found["fwdtransforms"], found["invtransforms"]
        if not forward or not all(Path(file).is_file() for file in (*forward, *inverse)):
            raise failed
        try:
            _pack(ants, forward, "forward.h5", back=False)
            _pack(ants, inverse, "inverse.h5", back=True)
        except (RuntimeError, EOFError) as err:
            raise InputOutputError(
                f"{folder}: ANTs' transforms were not written whole, most often as the disk is "
                "full; free some space there or choose another --work-dir, then run again"
            ) from err
        for file in {*forward, *inverse}:
            Path(file).unlink()  # some 100 MB that nothing reads again
    return Path(folder) / "forward.h5", Path(folder) / "inverse.h5"


def warp(image: Any, reference: Any, transform: str | os.PathLike[str]) -> nib.Nifti1Image:
    """Bring an image through a transform onto another image's grid, linearly; 0 outside."""
    ants, file = start_ants(), Path(transform)
    images = {"fixed": _to_ants(ants, reference), "moving": _to_ants(ants, image)}
    with contextlib.chdir(file.parent):
        warped = ants.apply_transforms(**images, transformlist=[file.name], interpolator="linear")
    return nib.Nifti1Image(warped.numpy().astype(np.float32), reference.affine)


def points_before(points: np.ndarray, transform: str | os.PathLike[str]) -> np.ndarray:
    """Return where positions lay before a transform brought the image there.

    ITK's transforms of images pull: ``forward`` sends points of the fixed image
    (template) to the moving one (scan).
    """
    import pandas as pd

    ants, file = start_ants(), Path(transform)
    flip = np.array([-1.0, -1.0, 1.0])  # ANTs' points are LPS
    table = pd.DataFrame(np.asarray(points, dtype=np.float64) * flip, columns=["x", "y", "z"])
    with contextlib.chdir(file.parent):
        moved = ants.apply_transforms_to_points(3, table, [file.name])
    return moved[["x", "y", "z"]].to_numpy(dtype=np.float64) * flip


def _pack(ants: Any, files: list[str], out: str, *, back: bool) -> None:
    """Write ANTs' files as one composite; an affine, stored for one way, is inverted for `back`."""
    # ANTs' own guess, by the number of files, takes a lone affine forward on the way back.
    parts = []
    for file in files:
        if file.endswith(".mat"):
            affine = ants.read_transform(file)
            parts.append(ants.invert_ants_transform(affine) if back else affine)
        else:
            with gzip.open(file) as stream:  # of a cut file ANTs reads the rest as 0
                while stream.read(1 << 24):
                    pass
            parts.append(ants.transform_from_displacement_field(ants.image_read(file)))
    ants.write_transform(ants.compose_ants_transforms(parts), out)


def _to_ants(ants: Any, image: Any) -> Any:
    """Hand an image to ANTs, in LPS, with exactly orthonormal directions."""
    affine = _LPS @ np.asarray(image.affine, dtype=float)
    spacing = spacing_of(affine)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    return ants.from_numpy(
        np.ascontiguousarray(image.dataobj, dtype=np.float32),
        origin=affine[:3, 3].tolist(),
        spacing=spacing.tolist(),
        direction=left @ right,
    )
