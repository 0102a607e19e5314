"""Interface over `h2lo_bids.synthesis`: a model of any method, evaluated on a grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, isdefined, traits

from pipelines.interfaces.base import H2loInterface, ThreadedInputSpec, load_image


class SynthesizeInput(ThreadedInputSpec):
    """Inputs of whatever evaluates models on a grid."""

    model = traits.Str(mandatory=True, nohash=True, desc="the bundle's path")
    sha256 = traits.Str(
        mandatory=True, desc="of its weights, so that others are not taken for done"
    )
    frame = traits.Dict(mandatory=True, desc="its frame, which may change with the same weights")
    contrast = traits.Enum("T1w", "T2w", mandatory=True, desc="of the scan")
    volume = File(exists=True, mandatory=True, desc="normalised scan on the model's frame")
    reference = File(exists=True, mandatory=True, desc="image on the wanted grid")
    mask_file = File(exists=True, mandatory=True, desc="brain mask on the wanted grid")
    to_template = File(
        exists=True, desc="transform that brings the scan to the wanted grid's world"
    )
    device = traits.Str("cpu", usedefault=True, desc="as --device")
    precision = traits.Enum("fp32", "bf16", usedefault=True, desc="as --precision")
    seed = traits.Int(42, usedefault=True, desc="of methods that draw at random")
    slice_profile = traits.Str(desc="of voxels that are integrated over; else centres count")
    slice_thickness = traits.Float(desc="of that profile, mm; as the slices lie apart if absent")
    use_gpu = traits.Bool(
        False, usedefault=True, nohash=True, desc="takes one of Nipype's GPU slots"
    )


class _SynthesizeOutput(TraitedSpec):
    out_file = File(exists=True, desc="low-field image, in [0, 1], exactly 0 outside the mask")
    device = traits.Str(desc="kind of device that computed it; the sidecar names it")


class Synthesize(H2loInterface):
    """Evaluate a model at the brain voxels of a grid (`h2lo_bids.synthesis.predict`).

    The paper's operator has no output activation: values beyond the range
    that models are trained on, [0, 1], are cut to it here.
    """

    input_spec = SynthesizeInput
    output_spec = _SynthesizeOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Load the model, query it, and save the image on the reference's grid."""
        import numpy as np

        from h2lo_bids.models.bundle import load_bundle, load_model
        from h2lo_bids.synthesis.predict import predict_on_grid

        model = load_model(load_bundle(self.inputs.model, contrast=self.inputs.contrast))
        low = self.query(predict_on_grid, model)
        np.clip(low, 0.0, 1.0, out=low)
        return {"out_file": save_like(self.inputs.reference, low, folder / "lowfield.nii.gz")}

    def query(self, evaluate: Callable[..., Any], model: Any) -> Any:
        """Evaluate what is given, as `predict_on_grid` is, on the wanted grid."""
        import numpy as np
        import torch

        from h2lo_bids.imaging.voxels import VoxelResponse
        from h2lo_bids.synthesis.options import EngineOptions, noting_device

        profile, thickness = self.inputs.slice_profile, self.inputs.slice_thickness
        response = VoxelResponse(profile, thickness if isdefined(thickness) else None)
        torch.set_num_threads(self.inputs.num_threads)
        volume, reference = load_image(self.inputs.volume), load_image(self.inputs.reference)
        with noting_device(self.inputs.device) as used:
            values = evaluate(
                model,
                np.asarray(volume.dataobj, dtype=np.float32),
                volume.affine,
                reference.shape,
                reference.affine,
                np.asarray(load_image(self.inputs.mask_file).dataobj) > 0,
                options=EngineOptions(
                    device=self.inputs.device,
                    precision=self.inputs.precision,
                    threads=self.inputs.num_threads,
                ),
                world_transform=to_scan(self.inputs.to_template),
                seed=self.inputs.seed,
                response=response if isdefined(profile) else None,
            )
        self._results["device"] = used[0]
        return values


def to_scan(to_template: Any) -> Callable[[Any], Any] | None:
    """Return a function from a template's world to the scan's; None without a transform."""
    if not isdefined(to_template):
        return None
    from h2lo_bids.imaging.registration import points_before

    return lambda points: points_before(points, to_template)


def save_like(reference: str, data: Any, path: Path) -> str:
    """Save float32 voxels on an image's grid; return the path."""
    import nibabel as nib
    import numpy as np

    from h2lo_bids.io import save_nifti

    like = load_image(reference)
    out = nib.Nifti1Image(data, like.affine, like.header)
    out.set_data_dtype(np.float32)
    return str(save_nifti(out, path))


class _RegridInput(ThreadedInputSpec):
    mask_file = File(exists=True, mandatory=True, desc="brain mask on the scan's grid")
    spacing = traits.Tuple(
        traits.Float, traits.Float, traits.Float, mandatory=True, desc="voxel sides, mm"
    )


class _RegridOutput(TraitedSpec):
    mask_file = File(exists=True, desc="the mask on the new grid; also its reference image")


class RegridMask(H2loInterface):
    """Lay other voxels over a scan's field of view and bring its mask there."""

    input_spec = _RegridInput
    output_spec = _RegridOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Measure each voxel's share of brain: it belongs to the brain by more than half."""
        import numpy as np

        from h2lo_bids.imaging.resample import placed
        from h2lo_bids.io import save_nifti
        from h2lo_bids.synthesis.grids import lf_mask

        mask = load_image(self.inputs.mask_file)
        inside = np.asarray(mask.dataobj) > 0
        moved, affine = lf_mask(inside, mask.affine, self.inputs.spacing)
        image = placed(moved.astype(np.uint8), affine, mask)
        return {"mask_file": str(save_nifti(image, folder / "mask.nii.gz"))}
