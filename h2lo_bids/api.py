"""Synthesis for notebooks and scripts: images in, images out, nothing written.

The names are those of the package: ``from h2lo_bids import load_model, read_image, synthesize``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from h2lo_bids.errors import UsageError
from h2lo_bids.models.bundle import Bundle
from h2lo_bids.vocabulary import CONTRASTS


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Parameters
    ----------
    bundle
        Where it comes from: ``bundle.contrast``, ``bundle.frame``, ``bundle.metadata``.
    network
        The PyTorch module.
    device
        Where it computes, as PyTorch names it.
    """

    bundle: Bundle
    network: Any
    device: str = "cpu"


def read_image(path: str | PathLike[str]) -> Any:
    """Read a head scan and check what synthesis relies on.

    Parameters
    ----------
    path
        ``.nii`` or ``.nii.gz``, three-dimensional.

    Returns
    -------
    nibabel.Nifti1Image
        float32, with a rigid affine. Each oddity of the file is a `UserWarning`.

    Raises
    ------
    MissingInputError
        If the file is absent or cannot be read.
    BadDataError
        If its content cannot be used.
    """
    from h2lo_bids.imaging.reading import load_checked

    checked = load_checked(path)
    for line in checked.warnings:
        warnings.warn(line, stacklevel=2)
    return checked.image


def load_model(source: str | PathLike[str] = "T1w", *, device: str = "cpu") -> LoadedModel:
    """Load a model.

    Parameters
    ----------
    source
        ``"T1w"`` or ``"T2w"`` for the model of that contrast that comes with the package;
        else a model folder that `h2lo group` wrote, or a checkpoint of the authors' release.
    device
        Where `synthesize` computes: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"auto"``.

    Returns
    -------
    LoadedModel
        To pass to `synthesize`.

    Raises
    ------
    MissingInputError
        If there is no such folder or file.
    BadDataError
        If it is damaged.
    UsageError
        If this machine has no such device.
    """
    from h2lo_bids.models.bundle import default_bundle, load_bundle
    from h2lo_bids.models.bundle import load_model as load_network
    from h2lo_bids.synthesis.options import resolve_device

    place = str(resolve_device(device))
    # A path of this name is a folder.
    bundle = default_bundle(source) if source in CONTRASTS else load_bundle(str(source))
    return LoadedModel(bundle, load_network(bundle, device=place), place)


def synthesize(
    image: Any,
    model: LoadedModel,
    *,
    affine: np.ndarray | None = None,
    mask: Any = None,
    voxel_size: Sequence[float] | None = None,
    slice_profile: str = "box",
    precision: str | None = None,
    threads: int | None = None,
    seed: int = 42,
) -> Any:
    """Synthesize the low-field image of a high-field head scan.

    What `h2lo participant` computes without noise: the brain is found, brought to the
    model's frame and scaled as the model was trained, and the model is evaluated at the
    voxels of the wanted grid (arXiv 2603.24968). A doubtful mask or orientation, and an input or,
    on its own grid, an output unlike the model's training pairs is a `UserWarning`.

    Parameters
    ----------
    image
        High-field head or brain of the model's contrast: a nibabel image, or an array
        (X, Y, Z) with `affine`.
    model
        From `load_model`.
    affine
        (4, 4), voxel indices to mm in RAS+; for arrays only.
    mask
        Brain mask on the image's grid, an image or an array; it is compared with the brain that is
        found, and refused if it lies elsewhere. None takes the brain found, for a T2w image, too,
        where the command takes that of the session's T1w image.
    voxel_size
        Three sides in mm along the image's axes, as a scanner's 1.6 x 1.6 x 5; None keeps
        the image's grid.
    slice_profile
        ``"box"``, ``"gauss"`` or ``"sinc"``: response along the slices of `voxel_size`.
    precision
        ``"fp32"`` or ``"bf16"``; None takes the faster one that is near fp32, as the command does.
    threads
        CPU threads; None leaves PyTorch's own number.
    seed
        Of models that draw at random (Arnold, DiffI2I); images of one seed share their draw.
        `h2lo participant` gives each scan a seed of its own to Arnold's noise.

    Returns
    -------
    nibabel.Nifti1Image or tuple of numpy.ndarray
        float32 in [0, 1], exactly 0 outside the brain. For an array: the volume and the
        affine of its grid.

    Raises
    ------
    UsageError
        If an array comes without affine or an image with one, a slice profile without slices, a
        path in place of an image, or the model does not synthesize low field.
    BadDataError
        If the image or the mask cannot be used, or no brain is found.
    """
    from h2lo_bids.bids.scan import slice_warnings
    from h2lo_bids.imaging.brain import brain_of
    from h2lo_bids.imaging.normalise import scale_image, to_frame
    from h2lo_bids.imaging.profile import check_range, measure, measure_output
    from h2lo_bids.imaging.reading import name_of
    from h2lo_bids.imaging.resample import array_lines, lf_mask, placed, spacing_of
    from h2lo_bids.imaging.voxels import VoxelResponse
    from h2lo_bids.synthesis.options import EngineOptions
    from h2lo_bids.synthesis.predict import fastest_precision, predict_on_grid

    bundle, arrays = model.bundle, isinstance(image, np.ndarray)
    if bundle.task != "synthesize":
        raise UsageError(f"the model {bundle.path} was trained to {bundle.task}, not to synthesize")
    if affine is not None and not arrays:
        raise UsageError("an image has its own affine; leave affine out, or give an array")
    if voxel_size is None and slice_profile != "box":
        raise UsageError("slice_profile needs the slices of voxel_size; give both, or neither")
    image = _checked(image, affine, "the image")
    mask = None if mask is None else _checked(mask, image.affine, "the mask")
    found = brain_of(image, mask, threads=threads)
    how = {"contrast": bundle.contrast, "scaling": bundle.scaling}
    frame, inside, scaled = to_frame(image, found.image, bundle.frame, **how)
    wanted, grid, response = np.asarray(found.image.dataobj) > 0, image.affine, None
    noticed = []
    if voxel_size is not None:
        sides, axes = [float(s) for s in voxel_size], abs(image.affine[:3, :3]).argmax(axis=0)
        wanted, grid = lf_mask(wanted, image.affine, sides)
        noticed = [f"{name_of(image)}: {text}" for text in slice_warnings(axes.tolist(), [sides])]
        response = VoxelResponse(slice_profile, None)
    precision = precision or fastest_precision(bundle, model.device)
    options = EngineOptions(model.device, precision, threads=threads)
    low = predict_on_grid(
        model.network, scaled.volume, frame.affine, grid, wanted,
        options=options, response=response, seed=seed,
    )  # fmt: skip
    low = np.clip(low, 0.0, 1.0).astype(np.float32)
    brain, output = np.asarray(inside.dataobj) > 0, None
    profile = measure(scaled, brain, list(spacing_of(frame.affine)), contrast=bundle.contrast)
    if voxel_size is None:  # thick slices mix the tissues whose levels are known
        high = scale_image(image, found.image, **how).volume
        output = measure_output(low, high, wanted, list(spacing_of(grid)))
    name, known = name_of(image), bundle.metadata.get("input_range")
    checked = check_range(profile, output, known, **how, name=name)
    cut = array_lines(bundle.frame, frame.shape, name)
    for line in (*found.notes, *noticed, *cut, *checked.warnings):
        warnings.warn(line, stacklevel=2)
    return (low, grid) if arrays else placed(low, grid, image)


def _checked(given: Any, affine: Any, title: str) -> Any:
    """Check an image, or an array with its affine; `title` is the name of what has no file."""
    from h2lo_bids.imaging.reading import check_voxels

    if isinstance(given, np.ndarray):
        if np.shape(affine) != (4, 4):
            raise UsageError("an array needs its affine: voxel indices to mm, 4 x 4")
        return check_voxels(given, np.asarray(affine, dtype=float), title)
    if not hasattr(given, "dataobj"):
        raise UsageError("synthesize takes images and arrays; read a file with read_image")
    name = given.get_filename() or title
    return check_voxels(np.asarray(given.dataobj), given.affine, name, given)
