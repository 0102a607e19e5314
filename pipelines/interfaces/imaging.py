"""Interfaces over `h2lo_bids.imaging`: from the scan to the model's input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, isdefined, traits

from h2lo_bids import errors
from h2lo_bids.errors import BadDataError, H2loError
from pipelines.interfaces.base import H2loInterface, ThreadedInputSpec, load_image


class _FindInput(ThreadedInputSpec):
    in_file = File(mandatory=True, desc="the scan, as it came")
    method = traits.Str("auto", usedefault=True, desc="as --skull-strip")
    weights = File(exists=True, desc="SynthStrip's weights")
    given_mask = File(exists=True, desc="a mask to use instead")


class _FindOutput(TraitedSpec):
    checked = File(desc="3-D, float32, finite; same grid")
    mask_file = File(desc="uint8, 1 in the brain, on the scan's grid")
    method = traits.Str(desc="what found it")
    warnings = traits.List(traits.Str, desc="what was noticed, one line each")
    error = traits.Str("", desc="class of the error, if the scan cannot be used")
    message = traits.Str("", desc="its line")


class FindBrain(H2loInterface):
    """Load a scan and find its brain (`imaging.check`, `imaging.brain`).

    A scan that cannot be used is an output here and not an exception, which
    `SettleBrain` raises: the session's other scan may wait for this mask, and
    must go on without it.
    """

    input_spec = _FindInput
    output_spec = _FindOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Check and extract; keep the scan uncompressed for the steps that follow."""
        from h2lo_bids.imaging.check import load_checked
        from h2lo_bids.imaging.orientation import orientation_note
        from h2lo_bids.io import save_nifti

        try:
            checked = load_checked(self.inputs.in_file)
            brain = self._brain(checked.image)
            note = orientation_note(checked.image, brain.image, str(self.inputs.in_file))
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

    def _brain(self, image: Any) -> Any:
        from h2lo_bids.imaging.brain import compare_masks, extract_brain
        from h2lo_bids.imaging.brain.stripped import looks_stripped

        threads = self.inputs.num_threads
        if not isdefined(self.inputs.given_mask):
            weights = self.inputs.weights if isdefined(self.inputs.weights) else None
            return extract_brain(image, method=self.inputs.method, weights=weights, threads=threads)
        given = self._given(image)
        method = "auto" if looks_stripped(image) else "deepbet"  # SynthStrip takes a minute
        try:
            found = extract_brain(image, method=method, threads=threads)
        except BadDataError:  # what masks are given for
            return given
        return compare_masks(given, found, str(self.inputs.given_mask), image)

    def _given(self, image: Any) -> Any:
        """Use the mask that was given, and what was noticed about its file."""
        from h2lo_bids.imaging.brain import use_given_mask
        from h2lo_bids.imaging.check import load_checked

        try:
            mask = load_checked(self.inputs.given_mask)
        except BadDataError as err:
            raise BadDataError(f"{err}; without this brain mask, one is computed") from err
        brain = use_given_mask(mask.image, image)
        return replace(brain, notes=(*mask.warnings, *brain.notes))


class _SettleInput(ThreadedInputSpec):
    checked = File(desc="the checked scan")
    mask_file = File(desc="its own mask")
    method = traits.Str(desc="what found it")
    warnings = traits.List(traits.Str, desc="what was noticed so far")
    error = traits.Str(desc="class of the error, if the scan cannot be used")
    message = traits.Str(desc="its line")
    donor_mask = File(desc="mask of the session's T1w scan, for a T2w scan")
    name = traits.Str("the scan", usedefault=True, nohash=True, desc="its path, for messages")


class _SettleOutput(TraitedSpec):
    mask_file = File(exists=True, desc="the mask to use")
    method = traits.Str(desc="how it was made, with version")
    warnings = traits.List(traits.Str, desc="what was noticed, one line each")


class SettleBrain(H2loInterface):
    """Stop a scan that cannot be used; share a session's mask where that helps."""

    input_spec = _SettleInput
    output_spec = _SettleOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Raise what `FindBrain` met, or choose the mask (`imaging.brain.share_mask`)."""
        from h2lo_bids.imaging.brain import BrainMask
        from h2lo_bids.io import save_nifti

        inputs = self.inputs
        if isdefined(inputs.error) and inputs.error:
            raise getattr(errors, inputs.error)(inputs.message)
        own = BrainMask(load_image(inputs.mask_file), inputs.method)
        image = load_image(inputs.checked)
        image.set_filename(inputs.name)
        mask = shared_mask(own, inputs.donor_mask, image)
        # A copy even of its own mask: a result must not point into another node's folder.
        return {
            "mask_file": str(save_nifti(mask.image, folder / "mask.nii.gz")),
            "method": method_text(mask.method),
            "warnings": [*inputs.warnings, *mask.notes],
        }


def shared_mask(own: Any, donor: Any, image: Any) -> Any:
    """Return the mask of a session's T1w scan where there is one that fits, or else `own`."""
    from h2lo_bids.imaging.brain import BrainMask, share_mask

    if not isdefined(donor) or own.method not in ("deepbet", "synthstrip"):
        return own
    return share_mask(own, BrainMask(load_image(donor), "donor"), image)


def method_text(method: str) -> str:
    """Say in a few words how a mask was made; the first word is what reports look at."""
    from importlib.metadata import version

    return {
        "deepbet": f"deepbet {version('deepbet')}",
        "synthstrip": "SynthStrip",
        "given": "given as a derivative",
        "shared": "shared with the session's T1w image",
        "stripped": "none, the scan has no skull",
        "skip": "none, as asked",
    }.get(method, method)


class _ConformInput(ThreadedInputSpec):
    in_file = File(exists=True, mandatory=True, desc="the checked scan")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask, same grid")
    frame = traits.Dict(mandatory=True, desc="the model's frame (models.frame.Frame.to_dict)")
    name = traits.Str("the scan", usedefault=True, nohash=True, desc="its path, for messages")


class _ConformOutput(TraitedSpec):
    out_file = File(exists=True, desc="the scan on the model's frame")
    mask_file = File(exists=True, desc="the mask on the model's frame")


class Conform(H2loInterface):
    """Put a scan and its mask on the model's frame (`imaging.conform`)."""

    input_spec = _ConformInput
    output_spec = _ConformOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Conform both, the frame centred on the brain."""
        from h2lo_bids.imaging.conform import conform
        from h2lo_bids.imaging.resample import resample_mask
        from h2lo_bids.io import save_nifti
        from h2lo_bids.models.frame import Frame

        image, mask = load_image(self.inputs.in_file), load_image(self.inputs.mask_file)
        image.set_filename(self.inputs.name)
        conformed = conform(image, Frame.from_dict(self.inputs.frame), mask=mask)
        own = resample_mask(mask, conformed.shape, conformed.affine)
        return {
            "out_file": str(save_nifti(conformed, folder / "conformed.nii")),
            "mask_file": str(save_nifti(own, folder / "mask.nii.gz")),
        }


class _NormaliseInput(ThreadedInputSpec):
    in_file = File(exists=True, mandatory=True, desc="an image")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask, same grid")
    scaling = traits.Enum("max", "robust", usedefault=True, desc="imaging.normalise.SCALINGS")
    contrast = traits.Enum("T1w", "T2w", usedefault=True, desc="for robust scaling")
    profiled = traits.Bool(False, usedefault=True, desc="whether the result is measured, too")
    name = traits.Str("the scan", usedefault=True, nohash=True, desc="its path, for messages")


class _NormaliseOutput(TraitedSpec):
    out_file = File(exists=True, desc="in [0, 1], exactly 0 outside the mask")
    scaling = traits.Dict(desc="how it was done, for a sidecar")
    profile = traits.Dict(desc="from imaging.profile.measure, if asked for")


class Normalise(H2loInterface):
    """Bring a brain to the scale of a model (`imaging.normalise.scale_brain`)."""

    input_spec = _NormaliseInput
    output_spec = _NormaliseOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Normalise and compress; a brain alone takes little room."""
        import nibabel as nib
        import numpy as np

        from h2lo_bids.imaging.normalise import scale_brain
        from h2lo_bids.imaging.profile import measure
        from h2lo_bids.imaging.range_check import scaling_facts
        from h2lo_bids.imaging.resample import spacing_of
        from h2lo_bids.io import save_nifti

        inputs, profile = self.inputs, {}
        image, mask = load_image(inputs.in_file), load_image(inputs.mask_file)
        inside, sides = np.asarray(mask.dataobj) > 0, list(spacing_of(image.affine))
        scaled = scale_brain(
            np.asarray(image.dataobj), inside, sides,
            contrast=inputs.contrast, scaling=inputs.scaling, name=inputs.name,
        )  # fmt: skip
        if inputs.profiled:
            profile = measure(
                scaled.volume, inside, sides, contrast=inputs.contrast,
                field_ratio=scaled.field_ratio, negative=scaled.negative,
            )  # fmt: skip
        out = nib.Nifti1Image(scaled.volume, image.affine, image.header)
        out.set_data_dtype(np.float32)
        return {
            "out_file": str(save_nifti(out, folder / "normalised.nii.gz")),
            "scaling": scaling_facts(scaled, inputs.contrast, inputs.scaling),
            "profile": profile,
        }


class _CheckInput(ThreadedInputSpec):
    profile = traits.Dict(mandatory=True, desc="of the model's input, from Normalise")
    ranges = traits.Dict(desc="the bundle's input_range, if it has one")
    high = File(exists=True, mandatory=True, desc="the scaled input on the output's grid")
    output = File(exists=True, mandatory=True, desc="what the model made of it")
    mask_file = File(exists=True, mandatory=True, desc="the brain on that grid")
    contrast = traits.Enum("T1w", "T2w", mandatory=True, desc="of the scan")
    scaling = traits.Enum("max", "robust", mandatory=True, desc="imaging.normalise.SCALINGS")
    name = traits.Str("the scan", usedefault=True, desc="its path, for messages")


class _CheckOutput(TraitedSpec):
    facts = traits.Dict(desc="for the output's sidecar")
    warnings = traits.List(traits.Str, desc="one line each")
    verdict = traits.Str(desc="imaging.range_check.RangeCheck.verdict")


class CheckRange(H2loInterface):
    """Compare input and output with the training pairs (`imaging.range_check`)."""

    input_spec = _CheckInput
    output_spec = _CheckOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Measure the output; judge both."""
        import numpy as np

        from h2lo_bids.imaging.profile import InputRange, measure_output
        from h2lo_bids.imaging.range_check import check_range
        from h2lo_bids.imaging.resample import spacing_of

        inputs = self.inputs
        high, output = load_image(inputs.high), load_image(inputs.output)
        mask = np.asarray(load_image(inputs.mask_file).dataobj) > 0
        made = measure_output(
            np.asarray(output.dataobj),
            np.asarray(high.dataobj),
            mask,
            list(spacing_of(high.affine)),
        )
        given = isdefined(inputs.ranges) and inputs.ranges
        found = check_range(
            inputs.profile, made, InputRange.from_dict(inputs.ranges) if given else None,
            contrast=inputs.contrast, scaling=inputs.scaling, name=inputs.name,
        )  # fmt: skip
        return {
            "facts": found.facts, "warnings": list(found.warnings), "verdict": found.verdict
        }  # fmt: skip
