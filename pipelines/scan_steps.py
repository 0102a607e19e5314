"""Steps over `h2lo_bids.imaging`: from a scan to a model's input, and what its output is like."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.pipeline import engine as pe

from h2lo_bids.errors import BadDataError, H2loError, error_named
from h2lo_bids.imaging import profile as profiles
from h2lo_bids.imaging.brain import (
    BrainMask,
    extract_brain,
    judge_mask,
    share_mask,
    synthstrip_weights,
)
from h2lo_bids.imaging.normalise import Scaled, scale_image, scaling_facts, to_frame
from h2lo_bids.imaging.orientation import orientation_note
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import array_lines, spacing_of
from h2lo_bids.io import save_nifti
from h2lo_bids.models.frame import Frame
from h2lo_bids.settings import Settings
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
        brain = _brain(checked.image, method, weights, given_mask, threads)
        note = orientation_note(checked.image, brain.image, in_file)
    except H2loError as err:
        return {"error": error_text(err)}
    return {
        "checked": save_nifti(checked.image, folder / "checked.nii"),
        "mask_file": save_nifti(brain.image, folder / "mask.nii.gz"),
        "method": brain.method,
        "warnings": [*checked.warnings, *brain.notes, *([note] if note else [])],
        "error": "",
    }


def _brain(
    image: Any, method: str, weights: str | None, given_mask: str | None, threads: int
) -> BrainMask:
    """Compute the brain mask, or take the given one and compare it with a computed one."""
    if given_mask is None:
        return extract_brain(image, method=method, weights=weights, threads=threads)
    try:
        mask = load_checked(given_mask)
    except BadDataError as err:
        raise BadDataError(f"{err}; without this brain mask, one is computed") from err
    given = judge_mask(mask.image, image, threads=threads)
    return replace(given, notes=(*mask.warnings, *given.notes))


FOUND = ("checked", "mask_file", "method", "warnings", "error")
FindBrain = interface(
    find_brain, checked=InFile, mask_file=InFile, method=str, warnings=list[str], error=str
)


def error_text(error: H2loError) -> str:
    """Write an error as an output of a step: its class and its line."""
    return f"{type(error).__name__}: {error}"


def error_of(*errors: str) -> H2loError:
    """Return the error that some outputs stand for, of the class of the first."""
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
    image = load_image(checked)
    image.set_filename(name)
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
    return share_mask(own, BrainMask(load_image(donor), "donor"), image)


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
        in_file=path, method=settings.skull_strip, weights=synthstrip_weights(settings),
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
    outputs = ("method", "warnings", "volume_mask", "native", "native_scaling", *SCALED)
    found: dict[str, Source] = {key: (prepare, key) for key in outputs}
    return found | {"checked": (find, "checked"), "mask": (prepare, "mask_file")}
