"""Interfaces over what stands beside a low-field image: its noise, and its uncertainty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, traits

from pipelines.interfaces.base import H2loInterface, ThreadedInputSpec, load_image
from pipelines.interfaces.synthesis import Synthesize, SynthesizeInput, save_like, to_scan


class _NoiseInput(ThreadedInputSpec):
    in_file = File(exists=True, mandatory=True, desc="low-field image")
    mask_file = File(exists=True, mandatory=True, desc="brain mask on its grid")
    volume = File(exists=True, mandatory=True, desc="the scan on the model's frame")
    noise = traits.Dict(mandatory=True, desc="what NoiseModel.to_dict gives")
    seed = traits.List(traits.Int, mandatory=True, desc="of the run and of the scan")
    realisation = traits.Int(mandatory=True, desc="number of the draw")
    scale = traits.Float(1.0, usedefault=True, desc="factor of the noise")
    acquired = traits.Bool(
        False, usedefault=True, desc="whether the voxels stand for those of a scan"
    )
    to_template = File(exists=True, desc="transform that brings the scan to the image's world")


class _NoiseOutput(TraitedSpec):
    out_file = File(exists=True, desc="noisy image, in [0, 1], exactly 0 outside the mask")


class AddNoise(H2loInterface):
    """Draw one noisy image (`h2lo_bids.synthesis.noise.add_noise`).

    The noise is fixed to the model's frame, so that all grids show the same draw,
    those of larger voxels without its detail.
    """

    input_spec = _NoiseInput
    output_spec = _NoiseOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Lead the image's voxels to the frame, in mm, and add the noise there."""
        import numpy as np
        from nibabel.affines import apply_affine, voxel_sizes

        from h2lo_bids.synthesis.noise import NoiseModel, add_noise

        image, frame = load_image(self.inputs.in_file), load_image(self.inputs.volume).affine
        to_mm = np.diag([*voxel_sizes(frame), 1.0]) @ np.linalg.inv(frame)
        back = to_scan(self.inputs.to_template)
        noisy = add_noise(
            np.asarray(image.dataobj, dtype=np.float32),
            np.asarray(load_image(self.inputs.mask_file).dataobj) > 0,
            image.affine if back else to_mm @ image.affine,
            NoiseModel.from_dict(self.inputs.noise),
            seed=self.inputs.seed,
            realisation=self.inputs.realisation,
            scale=self.inputs.scale,
            acquired=self.inputs.acquired,
            to_frame=(lambda points: apply_affine(to_mm, back(points))) if back else None,
        )
        return {"out_file": save_like(self.inputs.in_file, noisy, folder / "noisy.nii.gz")}


class _UncertaintyInput(SynthesizeInput):
    members = traits.Dict(mandatory=True, desc="digests of the folds' models")


class _UncertaintyOutput(TraitedSpec):
    out_file = File(exists=True, desc="standard deviation, exactly 0 outside the mask")
    device = traits.Str(desc="kind of device that computed it; the sidecar names it")


class MapUncertainty(Synthesize):
    """Query the folds' models instead of the bundle's own, and keep their deviation."""

    input_spec = _UncertaintyInput
    output_spec = _UncertaintyOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Load the members, query them one after the other, and save the map."""
        from h2lo_bids.models.bundle import load_bundle
        from h2lo_bids.models.members import members
        from h2lo_bids.synthesis.uncertainty import deviation_on_grid

        models = members(load_bundle(self.inputs.model, contrast=self.inputs.contrast))
        spread = self.query(deviation_on_grid, models)
        return {"out_file": save_like(self.inputs.reference, spread, folder / "std.nii.gz")}
