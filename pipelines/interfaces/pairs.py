"""Interfaces that bring a low-field scan to its high-field partner, and keep the pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, isdefined, traits

from h2lo_bids import errors
from pipelines.interfaces.base import H2loInterface, ThreadedInputSpec, load_image


class AlignInput(ThreadedInputSpec):
    """Inputs of what registers a low-field scan."""

    checked = File(desc="the low-field scan, checked")
    mask_file = File(desc="its brain mask")
    method = traits.Str(desc="what found it")
    warnings = traits.List(traits.Str, desc="what was noticed so far")
    error = traits.Str(desc="class of the error, if the scan cannot be used")
    message = traits.Str(desc="its line")
    high = File(exists=True, mandatory=True, desc="the high-field scan, checked")
    high_mask = File(exists=True, mandatory=True, desc="its brain mask")
    registered = traits.Bool(False, usedefault=True, desc="it lies in the other's world already")
    seed = traits.Int(42, usedefault=True, desc="makes the result the same each time")
    name = traits.Str("the scan", usedefault=True, nohash=True, desc="its path, for messages")
    high_name = traits.Str("the high-field scan", usedefault=True, nohash=True, desc="the other's")


class AlignOutput(TraitedSpec):
    """Outputs of what registers a low-field scan."""

    matrix = File(exists=True, desc="4 x 4, RAS mm of the high-field world to the low-field one")
    stripped = traits.Bool(desc="whether the scan shows a brain alone")
    warnings = traits.List(traits.Str, desc="what was noticed, one line each")


class AlignLowField(H2loInterface):
    """Register a low-field scan to its high-field partner (`imaging.alignment`)."""

    input_spec = AlignInput
    output_spec = AlignOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Raise what `FindBrain` met, or register on one thread."""
        import numpy as np

        from h2lo_bids.imaging.alignment import Alignment, align, check_overlap

        inputs = self.inputs
        if isdefined(inputs.error) and inputs.error:
            raise getattr(errors, inputs.error)(inputs.message)
        masks = load_image(inputs.mask_file), load_image(inputs.high_mask)
        if inputs.registered:
            check_overlap(*masks, inputs.name, inputs.high_name)
            found = Alignment(np.eye(4))
        else:
            low, high = load_image(inputs.checked), load_image(inputs.high)
            low.set_filename(inputs.name)
            high.set_filename(inputs.high_name)
            found = align(low, masks[0], high, masks[1], folder, seed=inputs.seed)
        np.savetxt(folder / "matrix.txt", found.matrix, fmt="%.12g")
        return {
            "matrix": str(folder / "matrix.txt"),
            "stripped": inputs.method in ("stripped", "skip"),
            "warnings": [*inputs.warnings, *found.notes],
        }


class _ScansInput(ThreadedInputSpec):
    volume_mask = File(exists=True, mandatory=True, desc="the high-field brain on the frame")
    scans = traits.List(File(exists=True), mandatory=True, desc="low-field scans, checked")
    masks = traits.List(File(exists=True), mandatory=True, desc="their brain masks")
    matrices = traits.List(File(exists=True), mandatory=True, desc="from AlignLowField")
    names = traits.List(traits.Str, nohash=True, desc="their paths, for messages")


class _FuseInput(_ScansInput):
    stripped = traits.List(traits.Bool, mandatory=True, desc="which show a brain alone")
    own_masks = traits.Bool(False, usedefault=True, desc="mask them by their own brain masks")


class _FuseOutput(TraitedSpec):
    out_file = File(exists=True, desc="the low-field image on the frame")
    mask_file = File(exists=True, desc="the pair's mask: what all scans show of the brain")
    coverage = traits.List(traits.Float, desc="share of the brain that each scan shows")


class FuseLowField(H2loInterface):
    """Bring low-field scans to the frame and average them (`imaging.fusion`)."""

    input_spec = _FuseInput
    output_spec = _FuseOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Resample each scan once, from its own voxels."""
        import numpy as np

        from h2lo_bids.imaging.fusion import LowField, fuse
        from h2lo_bids.imaging.resample import placed
        from h2lo_bids.io import save_nifti

        inputs, brain = self.inputs, load_image(self.inputs.volume_mask)
        parts = zip(inputs.scans, inputs.masks, inputs.matrices, inputs.stripped, strict=True)
        scans = [
            LowField(load_image(scan), np.loadtxt(matrix), load_image(mask) if alone else None)
            for scan, mask, matrix, alone in parts
        ]
        for scan, name in zip(scans, inputs.names, strict=True):
            scan.image.set_filename(name)
        own = [load_image(mask) for mask in inputs.masks] if inputs.own_masks else ()
        fused = fuse(scans, brain, own)
        low = placed(fused.data, brain.affine, brain)
        mask = placed(fused.mask.astype(np.uint8), brain.affine, brain)
        return {
            "out_file": str(save_nifti(low, folder / "lowfield.nii.gz")),
            "mask_file": str(save_nifti(mask, folder / "mask.nii.gz")),
            "coverage": list(fused.coverage),
        }


class _CheckInput(_ScansInput):
    volume = File(exists=True, mandatory=True, desc="the high-field brain on the frame")
    coverage = traits.List(traits.Float, mandatory=True, desc="from FuseLowField")


class _CheckOutput(TraitedSpec):
    check = traits.Dict(desc="a record's RegistrationCheck")


class CheckPair(H2loInterface):
    """Judge a pair's registration (`imaging.alignment_check`)."""

    input_spec = _CheckInput
    output_spec = _CheckOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Judge each low-field scan on its own voxels, and all of them together."""
        import numpy as np

        from h2lo_bids.imaging.alignment_check import ScanAt, check_alignments

        inputs = self.inputs
        parts = zip(
            inputs.names, inputs.scans, inputs.masks, inputs.matrices, inputs.coverage, strict=True
        )
        scans = [
            ScanAt(Path(name).name, load_image(scan), load_image(mask), np.loadtxt(matrix), share)
            for name, scan, mask, matrix, share in parts
        ]
        verdict = check_alignments(scans, load_image(inputs.volume), load_image(inputs.volume_mask))
        return {
            "check": {
                "Flagged": bool(verdict.reasons),
                "Reasons": list(verdict.reasons),
                "Figures": verdict.figures,
            }
        }


class _WritePairInput(ThreadedInputSpec):
    volume = File(exists=True, mandatory=True, desc="the high-field brain on the frame")
    lowfield = File(exists=True, mandatory=True, desc="from FuseLowField")
    mask_file = File(exists=True, mandatory=True, desc="from FuseLowField")
    check = traits.Dict(mandatory=True, desc="from CheckPair")
    mask_method = traits.Str(desc="how the high-field brain was found")
    warnings = traits.List(traits.Str, desc="lines about the high-field scan")
    low_warnings = traits.List(traits.Str, desc="lines about the low-field scans")
    out_dir = traits.Str(mandatory=True, desc="root of the derivative dataset")
    out_names = traits.Dict(mandatory=True, desc="paths below it: hf, lf, mask, record")
    sidecars = traits.Dict(mandatory=True, desc="hf, lf, mask; the record is that of lf")


class _WritePairOutput(TraitedSpec):
    # Not the whole path: Nipype hashes a path by the content that it finds there.
    out_name = traits.Str(desc="the record's path below out_dir")


class WritePair(H2loInterface):
    """Normalise a pair inside its mask and write it, its record last.

    Runs every time, since the work folder cannot tell whether the outputs are
    still there.
    """

    input_spec = _WritePairInput
    output_spec = _WritePairOutput
    _always_run = True

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Take away an older record first: a pair that is half new has none."""
        from h2lo_bids.bids.sidecars import write_sidecar
        from h2lo_bids.io import atomic_write_bytes

        inputs = self.inputs
        out = {key: Path(inputs.out_dir) / name for key, name in inputs.out_names.items()}
        files, brain = self._images(folder)
        out["record"].unlink(missing_ok=True)
        method = inputs.mask_method if isdefined(inputs.mask_method) else ""
        notes = [
            line
            for lines in (inputs.warnings, inputs.low_warnings)
            for line in (lines if isdefined(lines) else ())
        ]
        write_sidecar(out["hf"], inputs.sidecars["hf"])
        write_sidecar(out["mask"], {**inputs.sidecars["mask"], "BrainExtractionMethod": method})
        for key, file in files.items():
            atomic_write_bytes(out[key], file.read_bytes())
        record = {
            **inputs.sidecars["lf"],
            "RegistrationCheck": inputs.check,
            "Warnings": notes,
            "BrainFingerprint": brain,
        }
        write_sidecar(out["lf"], record)
        return {"out_name": inputs.out_names["record"]}

    def _images(self, folder: Path) -> tuple[dict[str, Path], str]:
        """Divide each image by its largest value, and describe the brain.

        A low-field image is exactly 0 outside its mask.
        """
        import numpy as np

        from h2lo_bids.imaging.normalise import max_normalise
        from h2lo_bids.imaging.resample import placed
        from h2lo_bids.io import save_nifti
        from h2lo_bids.training.leaks import encode, fingerprint

        mask = load_image(self.inputs.mask_file)
        inside = np.asarray(mask.dataobj) > 0
        files = {}
        for key, path in (("hf", self.inputs.volume), ("lf", self.inputs.lowfield)):
            image = load_image(path)
            data = np.asarray(image.dataobj)
            scaled = max_normalise(data, inside if key == "hf" else data != 0, name=path)
            if key == "hf":
                brain = encode(fingerprint(scaled, inside, image.header.get_zooms()[:3]))
            files[key] = save_nifti(
                placed(scaled, mask.affine, mask), folder / f"{key}.nii.gz", compresslevel=4
            )
        own = placed(inside.astype(np.uint8), mask.affine, mask)
        files["mask"] = save_nifti(own, folder / "mask.nii.gz")
        return files, brain
