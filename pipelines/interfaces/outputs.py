"""Interfaces that write to the derivative dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, isdefined, traits

from pipelines.interfaces.base import H2loInterface, ThreadedInputSpec, load_image


class _WriteInput(ThreadedInputSpec):
    in_file = File(exists=True, mandatory=True, desc="a finished file in the work folder")
    out_dir = traits.Str(mandatory=True, desc="root of the derivative dataset")
    out_name = traits.Str(mandatory=True, desc="path of the output below it")
    sidecar = traits.Dict(mandatory=True, desc="content of the JSON beside it")
    mask_method = traits.Str(desc="how the brain was found, for a mask's sidecar")
    mask_source = traits.Str(desc="URI of another mask, a source if it was given or shared")
    device = traits.Str(desc="kind of device that computed it, for a low-field image's sidecar")
    mask_file = File(exists=True, desc="the brain in a low-field image, to measure its noise in")
    contrast = traits.Str(desc="of that image: says which tissue is bright")
    facts = traits.Dict(desc="further fields of the sidecar")


class _WriteOutput(TraitedSpec):
    # Not the whole path: Nipype hashes a path by the content that it finds there.
    out_name = traits.Str(desc="path of the output below out_dir")


class WriteDerivative(H2loInterface):
    """Copy a finished file and its sidecar to the derivative dataset, atomically.

    Runs every time, since the work folder cannot tell whether the output is
    still there; a file with the same content is left alone.
    """

    input_spec = _WriteInput
    output_spec = _WriteOutput
    _always_run = True

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Write the image last, so that it never stands there without its sidecar."""
        from h2lo_bids.bids.sidecars import write_sidecar
        from h2lo_bids.io import atomic_write_bytes

        out = Path(self.inputs.out_dir) / self.inputs.out_name
        content = dict(self.inputs.sidecar)
        if isdefined(self.inputs.facts):
            content |= self.inputs.facts
        if isdefined(self.inputs.device):
            content["Device"] = self.inputs.device
        if isdefined(self.inputs.mask_method):
            content["BrainExtractionMethod"] = self.inputs.mask_method
            taken = self.inputs.mask_method.startswith(("given", "shared"))
            if taken and isdefined(self.inputs.mask_source):
                content["Sources"] = [*content["Sources"], self.inputs.mask_source]
        if isdefined(self.inputs.mask_file):
            from h2lo_bids.evaluation.snr import snr_of

            image, mask = load_image(self.inputs.in_file), load_image(self.inputs.mask_file)
            content |= snr_of(image, mask, self.inputs.contrast)
        write_sidecar(out, content)
        atomic_write_bytes(out, Path(self.inputs.in_file).read_bytes())
        return {"out_name": self.inputs.out_name}


class _FiguresInput(ThreadedInputSpec):
    stem = traits.Str(mandatory=True, desc="the scan's file name without extension")
    image = File(exists=True, mandatory=True, desc="the scan as it came")
    mask = File(exists=True, mandatory=True, desc="its brain")
    high = File(exists=True, mandatory=True, desc="normalised high-field image")
    low = File(exists=True, mandatory=True, desc="low-field image")


class FiguresOutput(TraitedSpec):
    """Outputs of what draws."""

    figures = traits.List(traits.Dict, desc="records of reports.records.Figure")
    out_files = traits.List(File(exists=True), desc="the pictures, in the order of the records")


class MakeFigures(H2loInterface):
    """Draw a scan's figures for the report (`reports.figures.make_figures`)."""

    input_spec = _FiguresInput
    output_spec = FiguresOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Draw inside the node's folder, so that a rerun need not draw again."""
        from h2lo_bids.reports.figures import make_figures

        figures = make_figures(
            folder,
            self.inputs.stem,
            image=load_image(self.inputs.image),
            mask=load_image(self.inputs.mask),
            hf=load_image(self.inputs.high),
            lf=load_image(self.inputs.low),
        )
        return drawn(folder, figures)


class _RegistrationFiguresInput(ThreadedInputSpec):
    stem = traits.Str(mandatory=True, desc="the scan's file name without extension")
    space = traits.Str(mandatory=True, desc="name of the standard space")
    template = File(exists=True, mandatory=True, desc="image of the standard space")
    moved = File(exists=True, mandatory=True, desc="the scan there")
    mask = File(exists=True, mandatory=True, desc="its brain there")


class MakeRegistrationFigures(H2loInterface):
    """Draw the registration (`reports.figures.make_registration_figures`)."""

    input_spec = _RegistrationFiguresInput
    output_spec = FiguresOutput

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Draw inside the node's folder."""
        from h2lo_bids.reports.figures import make_registration_figures

        figures = make_registration_figures(
            folder,
            self.inputs.stem,
            template=load_image(self.inputs.template),
            moved=load_image(self.inputs.moved),
            mask=load_image(self.inputs.mask),
            space=self.inputs.space,
        )
        return drawn(folder, figures)


class RecordInput(ThreadedInputSpec):
    """Inputs of what stores a record."""

    record = traits.Dict(mandatory=True, desc="what is known beforehand, of records.ScanReport")
    out_dir = traits.Str(mandatory=True, desc="root of the derivative dataset")
    checked = File(exists=True, mandatory=True, desc="the scan")
    mask = File(exists=True, mandatory=True, desc="its brain")
    mask_method = traits.Str(mandatory=True, desc="how it was found")
    device = traits.Str(desc="kind of device that computed the low-field image")
    warnings = traits.List(traits.Str, desc="lines for the report")
    noticed = traits.List(traits.Str, desc="lines of the range check")
    likeness = traits.Str(desc="its verdict")
    figures = traits.List(traits.Dict, desc="records of the figures")
    figure_files = traits.List(File(exists=True), desc="the pictures")
    registration_figures = traits.List(traits.Dict, desc="records of the figures")
    registration_files = traits.List(File(exists=True), desc="the pictures")
    outputs = traits.List(traits.Str, mandatory=True, desc="what was written, below out_dir")


class WriteRecord(H2loInterface):
    """Store a scan's figures and its record for the report; its last step."""

    input_spec = RecordInput
    output_spec = TraitedSpec
    _always_run = True

    def run_step(self, folder: Path) -> dict[str, Any]:
        """Measure scan and mask, copy the figures, write the record."""
        import numpy as np

        from h2lo_bids.io import atomic_write_bytes
        from h2lo_bids.reports.records import ScanReport, from_json, write_scan_report

        inputs, out_dir = self.inputs, Path(self.inputs.out_dir)
        image, mask = load_image(inputs.checked), load_image(inputs.mask)
        spacing = [float(side) for side in image.header.get_zooms()[:3]]
        voxels = int(np.count_nonzero(np.asarray(mask.dataobj)))
        figures = [*_listed(inputs.figures), *_listed(inputs.registration_figures)]
        files = [*_listed(inputs.figure_files), *_listed(inputs.registration_files)]
        for figure, file in zip(figures, files, strict=True):
            atomic_write_bytes(out_dir / figure["path"], Path(file).read_bytes())
        record = {
            **inputs.record,
            "shape": [int(n) for n in image.shape],
            "spacing": [round(side, 4) for side in spacing],
            "mask_method": inputs.mask_method,
            "mask_volume": round(voxels * float(np.prod(spacing)) / 1000, 1),
            "warnings": _listed(inputs.warnings),
            "noticed": _listed(inputs.noticed),
            "likeness": inputs.likeness,
            "outputs": list(inputs.outputs),
            "signal_to_noise": list(_signal_to_noise(out_dir, inputs.outputs)),
            **({"device": inputs.device} if isdefined(inputs.device) else {}),
            "figures": figures,
        }
        record |= self.further(record)
        # Through JSON, so that tuples are lists as `from_json` expects them.
        write_scan_report(out_dir, from_json(ScanReport, json.loads(json.dumps(record))))
        return {}

    def further(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return fields that stand in place of others, or beside them."""
        return {}


def drawn(folder: Path, figures: Sequence[Any]) -> dict[str, Any]:
    """Return the outputs of what has drawn figures."""
    from h2lo_bids.reports.records import to_json

    return {
        "figures": [to_json(figure) for figure in figures],
        "out_files": [str(folder / figure.path) for figure in figures],
    }


def _signal_to_noise(out_dir: Path, outputs: Sequence[str]) -> Iterator[list[Any]]:
    """Yield name, noise and ratios of each image whose sidecar tells them."""
    from h2lo_bids.bids.derivatives import sidecar_path

    for name in outputs:
        content = json.loads(sidecar_path(out_dir / name).read_text())
        if ratios := content.get("TissueSignalToNoiseRatio"):
            tissues = [ratios[key] for key in ("WhiteMatter", "GreyMatter", "CerebrospinalFluid")]
            yield [Path(name).name, content["NoiseStandardDeviation"], *tissues]


def _listed(value: Any) -> list[Any]:
    return list(value) if isdefined(value) else []
