"""Interfaces over `h2lo_bids.imaging`: from the scan to the model's input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, traits

from pipelines.interfaces.base import H2loInterface, ThreadedInputSpec, load_image


class _CheckInput(ThreadedInputSpec):
    in_file = File(mandatory=True, desc="the scan, as it came")


class _CheckOutput(TraitedSpec):
    out_file = File(exists=True, desc="3-D, float32, finite; same grid")
    warnings = traits.List(traits.Str, desc="what was noticed, one line each")


class CheckScan(H2loInterface):
    """Load a scan and make sure that it can be used (`imaging.check.load_checked`)."""

    input_spec = _CheckInput
    output_spec = _CheckOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Check, and keep the scan uncompressed for the steps that follow."""
        from h2lo_bids.bids.atomic import save_nifti
        from h2lo_bids.imaging.check import load_checked

        checked = load_checked(self.inputs.in_file)
        out = save_nifti(checked.image, folder / "checked.nii")
        return {"out_file": str(out), "warnings": list(checked.warnings)}


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
        from h2lo_bids.bids.atomic import save_nifti
        from h2lo_bids.imaging.conform import conform, conform_mask
        from h2lo_bids.models.frame import Frame

        image, mask = load_image(self.inputs.in_file), load_image(self.inputs.mask_file)
        image.set_filename(self.inputs.name)
        conformed = conform(image, Frame.from_dict(self.inputs.frame), mask=mask)
        own = conform_mask(mask, conformed)
        return {
            "out_file": str(save_nifti(conformed, folder / "conformed.nii")),
            "mask_file": str(save_nifti(own, folder / "mask.nii.gz")),
        }


class _NormaliseInput(ThreadedInputSpec):
    in_file = File(exists=True, mandatory=True, desc="an image")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask, same grid")
    name = traits.Str("the scan", usedefault=True, nohash=True, desc="its path, for messages")


class _NormaliseOutput(TraitedSpec):
    out_file = File(exists=True, desc="in [0, 1], exactly 0 outside the mask")


class Normalise(H2loInterface):
    """Divide a brain by its largest value (`imaging.normalise.max_normalise`)."""

    input_spec = _NormaliseInput
    output_spec = _NormaliseOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Normalise and compress; a brain alone takes little room."""
        import nibabel as nib
        import numpy as np

        from h2lo_bids.bids.atomic import save_nifti
        from h2lo_bids.imaging.normalise import max_normalise

        image, mask = load_image(self.inputs.in_file), load_image(self.inputs.mask_file)
        inside = np.asarray(mask.dataobj) > 0
        scaled = max_normalise(np.asarray(image.dataobj), inside, name=self.inputs.name)
        out = nib.Nifti1Image(scaled, image.affine, image.header)
        out.set_data_dtype(np.float32)
        return {"out_file": str(save_nifti(out, folder / "normalised.nii.gz"))}


class _BrainInput(ThreadedInputSpec):
    in_file = File(exists=True, mandatory=True, desc="the checked scan")
    method = traits.Str("auto", usedefault=True, desc="as --skull-strip")
    weights = File(exists=True, desc="SynthStrip's weights")
    given_mask = File(exists=True, desc="a mask to use instead")
    name = traits.Str("the scan", usedefault=True, nohash=True, desc="its path, for messages")


class _BrainOutput(TraitedSpec):
    mask_file = File(exists=True, desc="uint8, 1 in the brain, on the scan's grid")
    method = traits.Str(desc="how the mask was made, with version")
    warnings = traits.List(traits.Str, desc="what was noticed, one line each")


class ExtractBrain(H2loInterface):
    """Find the brain (`imaging.brain`), or take a mask that was given."""

    input_spec = _BrainInput
    output_spec = _BrainOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        import nibabel as nib
        import numpy as np

        from h2lo_bids.bids.atomic import save_nifti

        image = load_image(self.inputs.in_file)
        mask = nib.Nifti1Image((np.asarray(image.dataobj) > 0).astype(np.uint8), image.affine)
        return {
            "mask_file": str(save_nifti(mask, folder / "mask.nii.gz")),
            "method": "none",
            "warnings": [],
        }
