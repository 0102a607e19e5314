"""Steps of one scan: from its file to a model's input, the model on a grid, noise, a template."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.orientations import io_orientation, ornt_transform
from nipype.pipeline import engine as pe

from h2lo_bids.errors import BadDataError, H2loError, TemporaryError, error_named
from h2lo_bids.imaging import brain as brains
from h2lo_bids.imaging import profile as profiles
from h2lo_bids.imaging import registration
from h2lo_bids.imaging.brain import BrainMask
from h2lo_bids.imaging.normalise import Scaled, scale_image, scaling_facts, to_frame
from h2lo_bids.imaging.reading import Checked, load_checked
from h2lo_bids.imaging.resample import array_lines, lf_mask, placed, spacing_of
from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.io import save_nifti
from h2lo_bids.models import bundle as bundles
from h2lo_bids.models.frame import Frame
from h2lo_bids.settings import Settings
from h2lo_bids.synthesis import noise as noises
from pipelines.engine import AnyFile, InFile, Label, Source, add, interface, load_image


def find_brain(
    folder: Path,
    in_file: AnyFile,
    method: str = "auto",
    weights: InFile | None = None,
    given_mask: AnyFile | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Load a scan and find its brain; keep the scan uncompressed for the steps that follow."""
    # An error is an output, which `prepare` raises: another scan may wait for this mask.
    try:
        checked = load_checked(in_file)
        mask = None if given_mask is None else _load_mask(given_mask)
        how = {"method": method, "weights": weights, "threads": threads}
        brain = brains.brain_of(checked.image, mask and mask.image, **how)
    except H2loError as err:
        return {"error": f"{type(err).__name__}: {err}"}
    return {
        "checked": save_nifti(checked.image, folder / "checked.nii"),
        "mask_file": save_nifti(brain.image, folder / "mask.nii.gz"),
        "method": brain.method,
        "warnings": [*checked.warnings, *(mask.warnings if mask else ()), *brain.notes],
        "error": "",
    }


def _load_mask(path: str) -> Checked:
    try:
        return load_checked(path)
    except BadDataError as err:
        raise BadDataError(f"{err}; without this brain mask, one is computed") from err


FOUND = ("checked", "mask_file", "method", "warnings", "error")
FindBrain = interface(
    find_brain, checked=InFile, mask_file=InFile, method=str, warnings=list[str], error=str
)


def error_of(*errors: str) -> H2loError:
    """Return the error that some outputs, class and line, stand for: of the class of the first."""
    kind = errors[0].partition(": ")[0]
    return error_named(kind, "; ".join(error.partition(": ")[2] for error in errors))


def prepare(
    folder: Path,
    frame: dict[str, Any],
    scaling: str,
    contrast: str,
    checked: AnyFile | None = None,
    mask_file: AnyFile | None = None,
    method: str = "",
    warnings: list[str] | None = None,
    error: str = "",
    donor_mask: AnyFile | None = None,  # of the session's T1w scan
    native: bool = False,  # scale the scan on its own grid, too
    name: Label = "the scan",
) -> dict[str, Any]:
    """Bring a scan to a model's frame and range, or raise what `find_brain` met."""
    if error:
        raise error_of(error)
    assert checked is not None
    assert mask_file is not None
    image = load_image(checked, name)
    mask = shared_mask(BrainMask(load_image(mask_file), method), donor_mask, image)
    how = {"contrast": contrast, "scaling": scaling}
    placed, inside, scaled = to_frame(image, mask.image, Frame.from_dict(frame), **how, name=name)
    made = scaled_outputs(placed, inside, scaled, folder / "volume.nii.gz", **how)
    noticed = array_lines(Frame.from_dict(frame), placed.shape, name)
    if native:
        own = scale_image(image, mask.image, **how, name=name)
        made["native"] = save_like(image, own.volume, folder / "native.nii.gz")
        made["native_scaling"] = scaling_facts(own, **how)
    else:  # of a pair, which no `check_range` follows
        noticed += profiles.negative_lines(name, scaled.negative, scaling)
    return {
        **made,
        # A copy even of its own mask: a result must not point into another node's folder.
        "mask_file": save_nifti(mask.image, folder / "mask.nii.gz"),
        "volume_mask": save_nifti(inside, folder / "volume_mask.nii.gz"),
        "method": method_text(mask.method),
        "warnings": [*(warnings or ()), *mask.notes, *noticed],
    }


SCALED: dict[str, Any] = {"volume": InFile, "scaling": dict[str, Any], "profile": dict[str, Any]}
Prepare = interface(
    prepare, mask_file=InFile, volume_mask=InFile, native=InFile, native_scaling=dict[str, Any],
    method=str, warnings=list[str], **SCALED,
)  # fmt: skip


def scaled_outputs(
    like: Any, mask: Any, scaled: Scaled, path: Path, contrast: str, scaling: str
) -> dict[str, Any]:
    """Save a model's input on the grid of `like`; describe it and how it was scaled."""
    inside, sides = np.asarray(mask.dataobj) > 0, list(spacing_of(like.affine))
    return {
        "volume": save_like(like, scaled.volume, path),
        "scaling": scaling_facts(scaled, contrast, scaling),
        "profile": profiles.measure(scaled, inside, sides, contrast=contrast),
    }


def shared_mask(own: BrainMask, donor: str | None, image: Any) -> BrainMask:
    """Return the mask of a session's T1w scan where there is one that fits, or else `own`."""
    if donor is None or own.method not in ("deepbet", "synthstrip"):
        return own
    return brains.share_mask(own, BrainMask(load_image(donor), "donor"), image)


def method_text(method: str) -> str:
    """Describe how a mask was made; the methods text looks for these words."""
    return {
        "deepbet": f"deepbet {version('deepbet')}",
        "synthstrip": "SynthStrip",
        "given": "given as a derivative",
        "shared": "shared with the session's T1w image",
        "stripped": "none, the scan has no skull",
        "skip": "none, as asked",
    }.get(method, method)


def save_like(like: Any, data: Any, path: Path) -> Path:
    """Save float32 voxels on an image's grid; return the path."""
    out = nib.Nifti1Image(data, like.affine, like.header)
    out.set_data_dtype(np.float32)
    return save_nifti(out, path)


def check_range(
    folder: Path,
    profile: dict[str, Any],
    high: InFile,
    output: InFile,
    mask_file: InFile,
    contrast: str,
    scaling: str,
    ranges: dict[str, Any] | None = None,
    name: str = "the scan",
) -> dict[str, Any]:
    """Compare a model's input and output with its training pairs (`h2lo_bids.imaging.profile`)."""
    given = load_image(high)
    made = profiles.measure_output(
        np.asarray(load_image(output).dataobj),
        np.asarray(given.dataobj),
        np.asarray(load_image(mask_file).dataobj) > 0,
        list(spacing_of(given.affine)),
    )
    found = profiles.check_range(
        profile, made, ranges, contrast=contrast, scaling=scaling, name=name
    )
    return {"facts": found.facts, "warnings": list(found.warnings), "verdict": found.verdict}


CheckRange = interface(check_range, facts=dict[str, Any], warnings=list[str], verdict=str)


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
    moving, mask = load_image(in_file, name), load_image(mask_file)
    fixed = _template_brain(template, template_mask, threads)
    forward, inverse = registration.register(moving, fixed, folder, transform=transform, seed=seed)
    inside = np.asarray(registration.warp(mask, fixed, forward).dataobj) > 0.5
    moved = np.asarray(registration.warp(moving, fixed, forward).dataobj)
    brain = placed(np.where(inside, np.clip(moved, 0, 1), 0), fixed.affine, fixed)
    own = placed(inside.astype(np.uint8), fixed.affine, fixed)
    return {
        "forward": forward,
        "inverse": inverse,
        "out_file": save_nifti(brain, folder / "preproc.nii.gz"),
        "mask_file": save_nifti(own, folder / "mask.nii.gz"),
    }


RegisterToTemplate = interface(
    register_to_template, forward=InFile, inverse=InFile, out_file=InFile, mask_file=InFile
)


def _template_brain(template: str, template_mask: str | None, threads: int) -> Any:
    image = load_checked(template).image
    if template_mask is not None:
        mask = brains.use_given_mask(load_checked(template_mask).image, image).image
    else:
        mask = brains.extract_brain(image, threads=threads).image
    brain = np.where(np.asarray(mask.dataobj) > 0, np.asarray(image.dataobj), 0)
    fixed = nib.Nifti1Image(brain.astype(np.float32), image.affine)
    fixed.set_sform(image.affine, 4)  # a standard space other than Talairach's: MNI
    fixed.set_filename(template)
    return fixed


def add_find_brain(
    workflow: pe.Workflow,
    name: str,
    path: Path,
    mask: tuple[Path, str] | None,  # one that is given, and its URI
    settings: Settings,
    threads: int,
) -> pe.Node:
    """Add the node that reads a scan and finds its brain."""
    find = FindBrain(
        in_file=path, method=settings.skull_strip, weights=brains.synthstrip_weights(settings),
        given_mask=mask and mask[0],
    )  # fmt: skip
    return add(workflow, find, name, threads)


def add_preparation(
    workflow: pe.Workflow,
    find: pe.Node,
    path: Path,
    frame: Frame,
    contrast: str,
    scaling: str,
    *,
    native: bool = False,
) -> dict[str, Source]:
    """Add what brings a scan to a model's frame and range, and on its own grid to that range."""
    step = Prepare(
        frame=frame.to_dict(), scaling=scaling, contrast=contrast, native=native, name=str(path)
    )
    prepare = add(workflow, step, "prepare", **{key: (find, key) for key in FOUND})
    found: dict[str, Source] = {key: (prepare, key) for key in Prepare.output_spec().get()}
    return found | {"checked": (find, "checked"), "mask": (prepare, "mask_file")}
