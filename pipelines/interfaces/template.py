"""Interfaces over `h2lo_bids.imaging.registration`: to a standard space and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, isdefined, traits

from pipelines.interfaces.base import H2loInterface, ThreadedInputSpec, load_image


class _RegisterInput(ThreadedInputSpec):
    in_file = File(exists=True, mandatory=True, desc="the normalised brain on the scan's grid")
    template = File(exists=True, mandatory=True, desc="image of the standard space")
    template_mask = File(exists=True, desc="its brain mask; found if not given")
    transform = traits.Str("syn", usedefault=True, desc="as imaging.registration.TRANSFORMS")
    seed = traits.Int(42, usedefault=True, desc="makes the result the same each time")
    name = traits.Str("the scan", usedefault=True, nohash=True, desc="its path, for messages")


class _RegisterOutput(TraitedSpec):
    forward = File(exists=True, desc="scan to template, ITK composite transform (HDF5)")
    inverse = File(exists=True, desc="template to scan, ITK composite transform (HDF5)")


class RegisterToTemplate(H2loInterface):
    """Register a brain to the brain of a template (`imaging.registration.register`)."""

    input_spec = _RegisterInput
    output_spec = _RegisterOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Register on one thread, as the seed counts on no more."""
        from h2lo_bids.imaging.registration import register

        moving = load_image(self.inputs.in_file)
        moving.set_filename(self.inputs.name)
        found = register(
            moving,
            self._template_brain(),
            folder,
            transform=self.inputs.transform,
            seed=self.inputs.seed,
            threads=1,
        )
        return {"forward": str(found.forward), "inverse": str(found.inverse)}

    def _template_brain(self) -> Any:
        import nibabel as nib
        import numpy as np

        from h2lo_bids.imaging.brain import extract_brain, use_given_mask
        from h2lo_bids.imaging.check import load_checked

        image = load_checked(self.inputs.template).image
        if isdefined(self.inputs.template_mask):
            mask = use_given_mask(load_checked(self.inputs.template_mask).image, image).image
        else:
            mask = extract_brain(image, threads=self.inputs.num_threads).image
        brain = np.where(np.asarray(mask.dataobj) > 0, np.asarray(image.dataobj), 0)
        fixed = nib.Nifti1Image(brain.astype(np.float32), image.affine)
        fixed.set_filename(self.inputs.template)
        return fixed


class _WarpInput(ThreadedInputSpec):
    in_file = File(exists=True, mandatory=True, desc="the normalised brain on the scan's grid")
    mask_file = File(exists=True, mandatory=True, desc="its mask")
    template = File(exists=True, mandatory=True, desc="image of the standard space")
    forward = File(exists=True, mandatory=True, desc="from RegisterToTemplate")


class _WarpOutput(TraitedSpec):
    out_file = File(exists=True, desc="the brain on the template's grid, 0 around it")
    mask_file = File(exists=True, desc="the mask on the template's grid")


class WarpToTemplate(H2loInterface):
    """Bring a brain and its mask to a template's grid (`imaging.registration`)."""

    input_spec = _WarpInput
    output_spec = _WarpOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Interpolate both linearly; a voxel belongs to the brain by more than half."""
        import nibabel as nib
        import numpy as np

        from h2lo_bids.imaging.registration import warp
        from h2lo_bids.io import save_nifti

        template, way = load_image(self.inputs.template), self.inputs.forward
        mask = load_image(self.inputs.mask_file)
        share = nib.Nifti1Image((np.asarray(mask.dataobj) > 0).astype(np.float32), mask.affine)
        inside = np.asarray(warp(share, template, way).dataobj) > 0.5
        moved = np.asarray(warp(load_image(self.inputs.in_file), template, way).dataobj)
        brain = nib.Nifti1Image(np.where(inside, np.clip(moved, 0, 1), 0), template.affine)
        own = nib.Nifti1Image(inside.astype(np.uint8), template.affine)
        for image in (brain, own):
            image.set_sform(template.affine, 4)  # a standard space other than Talairach's: MNI
            image.set_qform(template.affine, 4)
        return {
            "out_file": str(save_nifti(brain, folder / "preproc.nii.gz")),
            "mask_file": str(save_nifti(own, folder / "mask.nii.gz")),
        }
