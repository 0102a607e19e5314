"""Interfaces that put the low-field scans of a session together, and report on it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, isdefined, traits

from h2lo_bids import errors
from h2lo_bids.errors import BadDataError, H2loError
from pipelines.interfaces.base import H2loInterface, ThreadedInputSpec, load_image
from pipelines.interfaces.imaging import method_text, shared_mask
from pipelines.interfaces.outputs import FiguresOutput, RecordInput, WriteRecord, drawn
from pipelines.interfaces.pairs import AlignInput, AlignLowField, AlignOutput


class _ChooseInput(ThreadedInputSpec):
    scans = traits.List(File(exists=True), desc="those that can be used, checked")
    masks = traits.List(File(exists=True), desc="their brain masks")
    methods = traits.List(traits.Str, desc="what found them")
    errors = traits.List(traits.Str, mandatory=True, desc="of every scan; empty for a usable one")
    messages = traits.List(traits.Str, mandatory=True, desc="of every scan")
    names = traits.List(traits.Str, nohash=True, desc="paths of all scans, for messages")
    donor_mask = File(desc="brain mask of the session's T1w scan, for T2w scans")


class _ChooseOutput(TraitedSpec):
    number = traits.Int(desc="which scan it is, from 1")
    reference = File(exists=True, desc="the scan that the others are brought to")
    mask_file = File(exists=True, desc="its brain mask")
    method = traits.Str(desc="how that was made")
    notes = traits.List(traits.Str, desc="what was noticed, one line each")


class ChooseReference(H2loInterface):
    """Take the first scan that can be used, and the session's brain mask where that fits."""

    input_spec = _ChooseInput
    output_spec = _ChooseOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Raise what the first scan met, if no scan can be used."""
        from h2lo_bids.imaging.brain import BrainMask
        from h2lo_bids.io import save_nifti

        inputs = self.inputs
        if not isdefined(inputs.scans) or not inputs.scans:
            raise getattr(errors, inputs.errors[0])("; ".join(inputs.messages))
        number = list(inputs.errors).index("")
        image = load_image(inputs.scans[0])
        image.set_filename(inputs.names[number])
        own = BrainMask(load_image(inputs.masks[0]), inputs.methods[0])
        mask = shared_mask(own, inputs.donor_mask, image)
        return {
            "number": number + 1,
            "reference": shutil.copy(inputs.scans[0], folder / "reference.nii"),
            "mask_file": str(save_nifti(mask.image, folder / "mask.nii.gz")),
            "method": method_text(mask.method),
            "notes": list(mask.notes),
        }


class _AlignPartInput(AlignInput):
    number = traits.Int(mandatory=True, desc="which scan it is, from 1")
    reference = traits.Int(mandatory=True, desc="which one the others are brought to")


class _AlignPartOutput(AlignOutput):
    scan = File(exists=True, desc="the scan, unless it must be left out")
    mask_file = File(exists=True, desc="its brain mask")
    name = traits.Str(desc="its path")
    error = traits.Str(desc="class of the error, if it must be left out")
    message = traits.Str(desc="its line")


class AlignPart(AlignLowField):
    """Register a scan to another of its session; one that cannot be is left out.

    What keeps it from being used is an output and not an exception: the others
    go on without it.
    """

    input_spec = _AlignPartInput
    output_spec = _AlignPartOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Give nothing but error and message for a scan that is left out."""
        inputs = self.inputs
        inputs.registered = inputs.number == inputs.reference
        try:
            found = super().run_step(folder)
            self._refuse_strays(found["matrix"])
        except H2loError as err:
            return {"error": type(err).__name__, "message": str(err)}
        return {
            **found,
            "scan": shutil.copy(inputs.checked, folder / "scan.nii"),
            "mask_file": shutil.copy(inputs.mask_file, folder / "mask.nii.gz"),
            "name": inputs.name,
            "error": "",
            "message": "",
        }

    def _refuse_strays(self, matrix: str) -> None:
        """Refuse a motion that no head makes within a session."""
        import numpy as np
        from nibabel.affines import apply_affine

        from h2lo_bids.imaging.alignment import motion_of
        from h2lo_bids.imaging.alignment_check import MAX_MOTION_MM, MAX_TURN_DEG

        mask = load_image(self.inputs.high_mask)
        centre = apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj) > 0).mean(0))
        shift, turn = motion_of(np.loadtxt(matrix), centre)
        if shift > MAX_MOTION_MM or turn > MAX_TURN_DEG:
            raise BadDataError(
                f"{self.inputs.name}: was registered {shift:.0f} mm and {turn:.0f} degrees away "
                "from the session's other scan; look at both, or choose one with --lf"
            )


class _FiguresInput(ThreadedInputSpec):
    stem = traits.Str(mandatory=True, desc="what the outputs are named after")
    image = File(exists=True, mandatory=True, desc="the reference scan as it came")
    image_mask = File(exists=True, mandatory=True, desc="its brain")
    low = File(exists=True, mandatory=True, desc="the low-field image on the frame")
    enhanced = File(exists=True, mandatory=True, desc="the enhanced image")
    mask = File(exists=True, mandatory=True, desc="the brain on the frame")


class MakeEnhancementFigures(H2loInterface):
    """Draw the figures of an enhanced image (`reports.figures_enhanced`)."""

    input_spec = _FiguresInput
    output_spec = FiguresOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Draw inside the node's folder."""
        from h2lo_bids.reports.figures_enhanced import make_enhancement_figures

        names = ("image", "image_mask", "low", "enhanced", "mask")
        images = {name: load_image(getattr(self.inputs, name)) for name in names}
        return drawn(folder, make_enhancement_figures(folder, self.inputs.stem, **images))


class _RecordInput(RecordInput):
    notes = traits.List(traits.Str, desc="lines about the reference's brain mask")
    errors = traits.List(traits.Str, mandatory=True, desc="of every scan; empty for a usable one")
    messages = traits.List(traits.Str, mandatory=True, desc="of every scan")
    parts = traits.List(traits.Str, mandatory=True, desc="all scans, relative to their dataset")
    coverage = traits.List(traits.Float, mandatory=True, desc="from FuseLowField")


class WriteEnhancementRecord(WriteRecord):
    """Store the record of an enhanced image: also which scans it is of, and which not."""

    input_spec = _RecordInput

    def further(self, record: dict[str, Any]) -> dict[str, Any]:
        """Say which scans were used, and what the others met."""
        from h2lo_bids.imaging.alignment_check import MIN_COVERAGE

        inputs = self.inputs
        every = list(zip(inputs.parts, inputs.errors, inputs.messages, strict=True))
        lost = [[part, error, message] for part, error, message in every if error]
        used = [part for part, error, _ in every if not error]
        warnings = [*inputs.notes, *record["warnings"]]
        for part, share in zip(used, inputs.coverage, strict=True):
            if share < MIN_COVERAGE:
                warnings.append(f"{part}: shows {share:.0%} of the brain; the rest was left out.")
        if lost:
            names = " and ".join(Path(part).name for part, *_ in lost)
            rest = " and ".join(Path(part).name for part in used)
            warnings.append(f"{names} cannot be used (see Errors): made from {rest} alone.")
        return {"parts": used, "lost": lost, "warnings": warnings}
