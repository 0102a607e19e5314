"""Steps over `h2lo_bids.imaging`: from a scan to a model's input, and what its output is like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from h2lo_bids.errors import BadDataError, H2loError, error_named
from pipelines.interface import AnyFile, InFile, Label, interface, load_image


def find_brain(
    folder: Path,
    in_file: AnyFile,
    method: str = "auto",
    weights: InFile | None = None,
    given_mask: InFile | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Load a scan and find its brain; keep the scan uncompressed for the steps that follow.

    A scan that cannot be used is an output here and not an exception, which `prepare`
    raises: the session's other scan may wait for this mask, and must go on without it.
    """
    from h2lo_bids.imaging.orientation import orientation_note
    from h2lo_bids.imaging.reading import load_checked
    from h2lo_bids.io import save_nifti

    try:
        checked = load_checked(in_file)
        brain = _brain(checked.image, method, weights, given_mask, threads)
        note = orientation_note(checked.image, brain.image, in_file)
    except H2loError as err:
        return {"error": type(err).__name__, "message": str(err)}
    return {
        "checked": str(save_nifti(checked.image, folder / "checked.nii")),
        "mask_file": str(save_nifti(brain.image, folder / "mask.nii.gz")),
        "method": brain.method,
        "warnings": [*checked.warnings, *brain.notes, *([note] if note else [])],
        "error": "",
        "message": "",
    }


def _brain(
    image: Any, method: str, weights: str | None, given_mask: str | None, threads: int
) -> Any:
    """Compute the brain mask, or take the given one and compare it with a computed one."""
    from h2lo_bids.imaging.brain import compare_masks, extract_brain, use_given_mask
    from h2lo_bids.imaging.brain.extract import looks_stripped
    from h2lo_bids.imaging.reading import load_checked

    if given_mask is None:
        return extract_brain(image, method=method, weights=weights, threads=threads)
    try:
        mask = load_checked(given_mask)
    except BadDataError as err:
        raise BadDataError(f"{err}; without this brain mask, one is computed") from err
    given = use_given_mask(mask.image, image)
    given = replace(given, notes=(*mask.warnings, *given.notes))
    quick = "auto" if looks_stripped(image) else "deepbet"  # SynthStrip takes a minute
    try:
        found = extract_brain(image, method=quick, threads=threads)
    except BadDataError:  # what masks are given for
        return given
    return compare_masks(given, found, given_mask, image)


FOUND = ("checked", "mask_file", "method", "warnings", "error", "message")
FindBrain = interface(
    find_brain,
    checked=InFile, mask_file=InFile, method=str, warnings=list[str], error=str, message=str,
)  # fmt: skip


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
    message: str = "",
    donor_mask: AnyFile | None = None,  # of the session's T1w scan
    native: bool = False,  # scale the scan on its own grid, too
    name: Label = "the scan",
) -> dict[str, Any]:
    """Bring a scan to a model's frame and range, or raise what `find_brain` met."""
    from h2lo_bids.imaging.brain import BrainMask
    from h2lo_bids.imaging.conform import conform
    from h2lo_bids.imaging.resample import resample_mask
    from h2lo_bids.io import save_nifti
    from h2lo_bids.models.frame import Frame

    if error:
        raise error_named(error, message)
    assert checked is not None
    assert mask_file is not None
    image = load_image(checked)
    image.set_filename(name)
    mask = shared_mask(BrainMask(load_image(mask_file), method), donor_mask, image)
    conformed = conform(image, Frame.from_dict(frame), mask=mask.image)
    inside = resample_mask(mask.image, conformed.shape, conformed.affine)
    words = (scaling, contrast, name)
    made = scale(conformed, inside, folder / "volume.nii.gz", *words, profiled=True)
    if native:
        found = scale(image, mask.image, folder / "native.nii.gz", *words)
        made |= {"native": found["volume"], "scaling": found["scaling"]}
    return {
        **made,
        # A copy even of its own mask: a result must not point into another node's folder.
        "mask_file": str(save_nifti(mask.image, folder / "mask.nii.gz")),
        "volume_mask": str(save_nifti(inside, folder / "volume_mask.nii.gz")),
        "method": method_text(mask.method),
        "warnings": [*(warnings or ()), *mask.notes],
    }


SCALED: dict[str, Any] = {"volume": InFile, "scaling": dict[str, Any], "profile": dict[str, Any]}
Prepare = interface(
    prepare, mask_file=InFile, volume_mask=InFile, native=InFile, method=str, warnings=list[str],
    **SCALED,
)  # fmt: skip


def scale(
    image: Any,
    mask: Any,
    path: Path,
    scaling: str,
    contrast: str,
    name: str,
    *,
    profiled: bool = False,
) -> dict[str, Any]:
    """Bring a brain to the scale of a model, exactly 0 around it; measure it where asked."""
    import numpy as np

    from h2lo_bids.imaging.normalise import scale_brain
    from h2lo_bids.imaging.profile import measure
    from h2lo_bids.imaging.range_check import scaling_facts
    from h2lo_bids.imaging.resample import spacing_of

    inside, sides = np.asarray(mask.dataobj) > 0, list(spacing_of(image.affine))
    scaled = scale_brain(
        np.asarray(image.dataobj), inside, sides, contrast=contrast, scaling=scaling, name=name
    )
    profile = {}
    if profiled:
        profile = measure(
            scaled.volume, inside, sides, contrast=contrast,
            field_ratio=scaled.field_ratio, negative=scaled.negative,
        )  # fmt: skip
    return {
        "volume": save_like(image, scaled.volume, path),
        "scaling": scaling_facts(scaled, contrast, scaling),
        "profile": profile,
    }


def shared_mask(own: Any, donor: str | None, image: Any) -> Any:
    """Return the mask of a session's T1w scan where there is one that fits, or else `own`."""
    from h2lo_bids.imaging.brain import BrainMask, share_mask

    if donor is None or own.method not in ("deepbet", "synthstrip"):
        return own
    return share_mask(own, BrainMask(load_image(donor), "donor"), image)


def method_text(method: str) -> str:
    """Describe how a mask was made; the first word is what reports look at."""
    from importlib.metadata import version

    return {
        "deepbet": f"deepbet {version('deepbet')}",
        "synthstrip": "SynthStrip",
        "given": "given as a derivative",
        "shared": "shared with the session's T1w image",
        "stripped": "none, the scan has no skull",
        "skip": "none, as asked",
    }.get(method, method)


def save_like(like: Any, data: Any, path: Path) -> str:
    """Save float32 voxels on an image's grid; return the path."""
    import nibabel as nib
    import numpy as np

    from h2lo_bids.io import save_nifti

    out = nib.Nifti1Image(data, like.affine, like.header)
    out.set_data_dtype(np.float32)
    return str(save_nifti(out, path))


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
    """Compare a model's input and output with its training pairs (`imaging.range_check`)."""
    import numpy as np

    from h2lo_bids.imaging import range_check
    from h2lo_bids.imaging.profile import InputRange, measure_output
    from h2lo_bids.imaging.resample import spacing_of

    given = load_image(high)
    made = measure_output(
        np.asarray(load_image(output).dataobj),
        np.asarray(given.dataobj),
        np.asarray(load_image(mask_file).dataobj) > 0,
        list(spacing_of(given.affine)),
    )
    found = range_check.check_range(
        profile, made, InputRange.from_dict(ranges) if ranges else None,
        contrast=contrast, scaling=scaling, name=name,
    )  # fmt: skip
    return {"facts": found.facts, "warnings": list(found.warnings), "verdict": found.verdict}


CheckRange = interface(check_range, facts=dict[str, Any], warnings=list[str], verdict=str)
