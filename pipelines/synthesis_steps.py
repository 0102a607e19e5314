"""Steps over `h2lo_bids.synthesis` and registration: a model evaluated on a grid."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.orientations import io_orientation, ornt_transform

from h2lo_bids.errors import TemporaryError
from h2lo_bids.imaging import registration
from h2lo_bids.imaging.brain import extract_brain, use_given_mask
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import lf_mask, placed
from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.io import save_nifti
from h2lo_bids.models import bundle as bundles
from h2lo_bids.synthesis import noise as noises
from pipelines.engine import InFile, Label, interface, load_image
from pipelines.scan_steps import save_like


def synthesize(
    folder: Path,
    model: Label,
    sha256: str,  # of its weights, so that others are not taken for done
    architecture: dict[str, Any],  # as the frame, it may change with the same weights
    frame: dict[str, Any],
    contrast: str,
    volume: InFile,  # the normalised scan on the model's frame
    mask_file: InFile,  # the brain on the wanted grid, which it defines
    to_template: InFile | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    seed: int = 42,
    slice_profile: str | None = None,  # of voxels that are integrated over; else centres count
    slice_thickness: float | None = None,
    members: dict[str, Any] | None = None,
    twin: InFile | None = None,
    twin_mask: InFile | None = None,
    twin_device: str = "",
    threads: int = 1,
) -> dict[str, Any]:
    """Evaluate a model at the brain voxels of a grid (`h2lo_bids.synthesis.predict`)."""
    from h2lo_bids.synthesis.options import EngineOptions, noting_device
    from h2lo_bids.synthesis.predict import deviation_on_grid, predict_on_grid

    grid, scan = load_image(mask_file), load_image(volume)
    inside = np.asarray(grid.dataobj) > 0
    out = folder / ("std.nii.gz" if members else "lowfield.nii.gz")
    made = _turned(twin, twin_mask, grid) if twin and twin_mask else None
    if made is not None:
        return {"out_file": save_like(grid, made, out), "device": twin_device}
    bundle = bundles.load_bundle(model, contrast=contrast)
    if bundle.sha256 != sha256 or members not in (None, bundle.metadata.get("files")):
        raise TemporaryError(f"{model}: was replaced while this run was using it; run again")
    back = partial(registration.points_before, transform=to_template) if to_template else None
    with noting_device(device) as used:
        if members:
            evaluate = partial(deviation_on_grid, bundles.members(bundle))
        else:
            evaluate = partial(predict_on_grid, bundles.load_model(bundle))
        values = evaluate(
            np.asarray(scan.dataobj, dtype=np.float32),
            scan.affine,
            grid.affine,
            inside,
            options=EngineOptions(device=device, precision=precision, threads=threads),
            world_transform=back,
            seed=seed,
            response=VoxelResponse(slice_profile, slice_thickness) if slice_profile else None,
        )
    if not members:
        # The paper's operator has no output activation; models are trained on [0, 1].
        np.clip(values, 0.0, 1.0, out=values)
    return {"out_file": save_like(grid, values, out), "device": used[0]}


Synthesize = interface(synthesize, out_file=InFile, device=str)


def _turned(image: str, mask: str, grid: Any) -> Any:
    """Return an image in a grid's order of axes, if its mask holds the very voxels of the grid."""
    made, inside = load_image(image), load_image(mask)
    turn = ornt_transform(io_orientation(inside.affine), io_orientation(grid.affine))
    made, inside = made.as_reoriented(turn), inside.as_reoriented(turn)
    same = (
        inside.shape == grid.shape
        and np.allclose(inside.affine, grid.affine, rtol=0, atol=1e-6)
        and np.array_equal(np.asarray(inside.dataobj) > 0, np.asarray(grid.dataobj) > 0)
    )
    return np.asarray(made.dataobj) if same else None


def regrid_mask(
    folder: Path, mask_file: InFile, spacing: tuple[float, float, float]
) -> dict[str, Any]:
    """Lay other voxels over a scan's field of view; those more than half in brain belong to it."""
    mask = load_image(mask_file)
    moved, affine = lf_mask(np.asarray(mask.dataobj) > 0, mask.affine, spacing)
    image = placed(moved.astype(np.uint8), affine, mask)
    return {"mask_file": save_nifti(image, folder / "mask.nii.gz")}


RegridMask = interface(regrid_mask, mask_file=InFile)


def add_noise(
    folder: Path,
    in_file: InFile,
    mask_file: InFile,
    volume: InFile,
    noise: dict[str, Any],
    seed: list[int],
    realisation: int,
    scale: float = 1.0,
    acquired: bool = False,  # whether the voxels stand for those of a scan
    to_template: InFile | None = None,
) -> dict[str, Any]:
    """Draw one noisy image (`h2lo_bids.synthesis.noise.add_noise`), the same draw on all grids."""
    image, frame = load_image(in_file), load_image(volume).affine
    to_mm = np.diag([*voxel_sizes(frame), 1.0]) @ np.linalg.inv(frame)
    back = partial(registration.points_before, transform=to_template) if to_template else None
    noisy = noises.add_noise(
        np.asarray(image.dataobj, dtype=np.float32),
        np.asarray(load_image(mask_file).dataobj) > 0,
        image.affine if back else to_mm @ image.affine,
        noises.NoiseModel.from_dict(noise),
        seed=seed,
        realisation=realisation,
        scale=scale,
        acquired=acquired,
        to_frame=(lambda points: apply_affine(to_mm, back(points))) if back else None,
    )
    return {"out_file": save_like(image, noisy, folder / "noisy.nii.gz")}


AddNoise = interface(add_noise, out_file=InFile)


def register_to_template(
    folder: Path,
    in_file: InFile,
    mask_file: InFile,
    template: InFile,
    template_mask: InFile | None = None,
    transform: str = "syn",
    seed: int = 42,
    name: Label = "the scan",
    threads: int = 1,
) -> dict[str, Any]:
    """Register a brain to the brain of a template, and bring it and its mask there, linearly."""
    # On one thread, as the seed counts on no more.
    moving, mask = load_image(in_file), load_image(mask_file)
    moving.set_filename(name)
    fixed = _template_brain(template, template_mask, threads)
    found = registration.register(moving, fixed, folder, transform=transform, seed=seed)
    inside = np.asarray(registration.warp(mask, fixed, found.forward).dataobj) > 0.5
    moved = np.asarray(registration.warp(moving, fixed, found.forward).dataobj)
    brain = placed(np.where(inside, np.clip(moved, 0, 1), 0), fixed.affine, fixed)
    own = placed(inside.astype(np.uint8), fixed.affine, fixed)
    return {
        "forward": found.forward,
        "inverse": found.inverse,
        "out_file": save_nifti(brain, folder / "preproc.nii.gz"),
        "mask_file": save_nifti(own, folder / "mask.nii.gz"),
    }


RegisterToTemplate = interface(
    register_to_template, forward=InFile, inverse=InFile, out_file=InFile, mask_file=InFile
)


def _template_brain(template: str, template_mask: str | None, threads: int) -> Any:
    image = load_checked(template).image
    if template_mask is not None:
        mask = use_given_mask(load_checked(template_mask).image, image).image
    else:
        mask = extract_brain(image, threads=threads).image
    brain = np.where(np.asarray(mask.dataobj) > 0, np.asarray(image.dataobj), 0)
    fixed = nib.Nifti1Image(brain.astype(np.float32), image.affine)
    fixed.set_sform(image.affine, 4)  # a standard space other than Talairach's: MNI
    fixed.set_filename(template)
    return fixed
