"""Registering scans to each other or to a template with ANTs.

Fixed is where an image shall go (the template), moving what goes there (the
scan). World coordinates are RAS mm throughout; ITK's LPS stays inside.

ITK takes its number of threads at its first use in a process, and a seed counts
only with one thread, which `start_ants` then sets. Run each registration in a process of its
own: ANTs holds Python's lock.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.errors import BadDataError, UsageError
from h2lo_bids.imaging.naming import name_of

TRANSFORMS = {
    "rigid": "Rigid",
    "affine": "Affine",
    "syn": "SyN",
    "synquick": "antsRegistrationSyNQuick[s]",
}
"""Names of ours and of ANTs, from six degrees of freedom to a dense warp."""
INTERPOLATIONS = ("linear", "nearestNeighbor", "bSpline")
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Registration:
    """The way between two images, as ANTs' files.

    Parameters
    ----------
    forward
        Transforms that bring the moving image to the fixed one, in ANTs' order.
    inverse
        Those that bring the fixed image to the moving one.
    """

    forward: tuple[str, ...]
    inverse: tuple[str, ...]


def start_ants(*, threads: int | None = None, seed: int | None = None) -> Any:
    """Import ANTs with its threads and seed set; only a process's first call counts.

    Parameters
    ----------
    threads
        ITK's threads; ITK's own choice when not given.
    seed
        Makes registration give the same bytes each time, on one thread.

    Returns
    -------
    module
        ``ants``.
    """
    if threads is not None:
        os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    import ants

    if seed is not None:
        ants.config.set_ants_deterministic(True, seed)
        os.environ["ANTS_RANDOM_SEED"] = str(seed)
    return ants


def register(
    moving: Any,
    fixed: Any,
    folder: str | os.PathLike[str],
    *,
    transform: str = "syn",
    seed: int | None = None,
    threads: int | None = None,
) -> Registration:
    """Register one image to another by mutual information.

    Parameters
    ----------
    moving, fixed
        nibabel images, 3-D, of any contrast; brains without skull register best.
    folder
        Existing folder for the transform files.
    transform
        One of `TRANSFORMS`.
    seed, threads
        As for `start_ants`.

    Returns
    -------
    Registration
        Its files lie in `folder`.

    Raises
    ------
    UsageError
        If the transform is unknown.
    BadDataError
        If ANTs cannot align the images.
    """
    if transform not in TRANSFORMS:
        known = ", ".join(TRANSFORMS)
        raise UsageError(f"transform {transform!r} is unknown; use one of {known}")
    ants = start_ants(threads=threads, seed=seed)
    try:
        found = ants.registration(
            fixed=_to_ants(ants, fixed),
            moving=_to_ants(ants, moving),
            type_of_transform=TRANSFORMS[transform],
            outprefix=str(Path(folder) / "xfm_"),
        )
    except (RuntimeError, ValueError) as err:
        raise BadDataError(
            f"{name_of(moving)}: cannot be registered to {name_of(fixed)}; look at both images"
        ) from err
    forward, inverse = tuple(found["fwdtransforms"]), tuple(found["invtransforms"])
    if not forward or not all(Path(file).is_file() for file in (*forward, *inverse)):
        raise BadDataError(
            f"{name_of(moving)}: cannot be registered to {name_of(fixed)}; look at both images"
        )
    return Registration(forward, inverse)


def warp_to_fixed(
    image: Any, fixed: Any, registration: Registration, *, interpolation: str = "linear"
) -> nib.Nifti1Image:
    """Bring an image in the moving image's world onto the fixed image's grid.

    Parameters
    ----------
    image
        nibabel image.
    fixed
        Image whose grid to use.
    registration
        From `register`.
    interpolation
        One of `INTERPOLATIONS`.

    Returns
    -------
    nibabel.Nifti1Image
        float32; 0 outside.
    """
    return _warp(image, fixed, registration.forward, interpolation, back=False)


def warp_to_moving(
    image: Any, moving: Any, registration: Registration, *, interpolation: str = "linear"
) -> nib.Nifti1Image:
    """Bring an image in the fixed image's world onto the moving image's grid.

    Parameters
    ----------
    image
        nibabel image.
    moving
        Image whose grid to use.
    registration
        From `register`.
    interpolation
        One of `INTERPOLATIONS`.

    Returns
    -------
    nibabel.Nifti1Image
        float32; 0 outside.
    """
    return _warp(image, moving, registration.inverse, interpolation, back=True)


def points_template_to_scan(points: np.ndarray, registration: Registration) -> np.ndarray:
    """Say where positions of the fixed image (template) lie in the moving one (scan).

    Parameters
    ----------
    points
        (N, 3), RAS mm.
    registration
        From `register`, with the scan as moving image.

    Returns
    -------
    numpy.ndarray
        float64, (N, 3), RAS mm.
    """
    return _move(points, registration.forward, back=False)  # images are pulled by such points


def points_scan_to_template(points: np.ndarray, registration: Registration) -> np.ndarray:
    """Say where positions of the moving image (scan) lie in the fixed one (template).

    Parameters
    ----------
    points
        (N, 3), RAS mm.
    registration
        From `register`, with the scan as moving image.

    Returns
    -------
    numpy.ndarray
        float64, (N, 3), RAS mm.
    """
    return _move(points, registration.inverse, back=True)


def _move(points: np.ndarray, transforms: tuple[str, ...], *, back: bool) -> np.ndarray:
    """Send points through ANTs' transforms, in LPS."""
    import pandas as pd

    ants = start_ants()
    flip = np.array([-1.0, -1.0, 1.0])
    table = pd.DataFrame(np.asarray(points, dtype=np.float64) * flip, columns=["x", "y", "z"])
    moved = ants.apply_transforms_to_points(
        3, table, list(transforms), whichtoinvert=_inverted(transforms, back)
    )
    return moved[["x", "y", "z"]].to_numpy(dtype=np.float64) * flip


def _warp(
    image: Any, reference: Any, transforms: tuple[str, ...], interpolation: str, *, back: bool
) -> nib.Nifti1Image:
    """Resample through transforms."""
    if interpolation not in INTERPOLATIONS:
        known = ", ".join(INTERPOLATIONS)
        raise UsageError(f"interpolation {interpolation!r} is unknown; use one of {known}")
    ants = start_ants()
    warped = ants.apply_transforms(
        fixed=_to_ants(ants, reference),
        moving=_to_ants(ants, image),
        transformlist=list(transforms),
        interpolator=interpolation,
        whichtoinvert=_inverted(transforms, back),
    )
    return nib.Nifti1Image(warped.numpy().astype(np.float32), reference.affine)


def _inverted(transforms: tuple[str, ...], back: bool) -> list[bool]:
    """Tell which files to invert: warps are stored for both ways, an affine for one.

    Said outright, as ANTs' Python interface guesses it from the number of files
    and so takes a lone affine forward on the way back.
    """
    return [back and file.endswith(".mat") for file in transforms]


def _to_ants(ants: Any, image: Any) -> Any:
    """Hand an image to ANTs, in LPS, with exactly orthonormal directions."""
    affine = _LPS @ np.asarray(image.affine, dtype=float)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    return ants.from_numpy(
        np.ascontiguousarray(image.dataobj, dtype=np.float32),
        origin=affine[:3, 3].tolist(),
        spacing=spacing.tolist(),
        direction=left @ right,
    )
