"""What is written for an image: its outputs with sidecars, its figures, and its record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nipype.pipeline import engine as pe

from h2lo_bids.bids.derivatives import (
    derivative_uri,
    sidecar_path,
    template_reference,
    write_sidecar,
)
from h2lo_bids.evaluation.realism import snr_of
from h2lo_bids.imaging.alignment import MIN_COVERAGE
from h2lo_bids.imaging.masks import volume_ml
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.io import atomic_write_bytes, common_lock, exclusive
from h2lo_bids.outputs import enhanced_sidecars, extras_of, output_sidecars
from h2lo_bids.reports import figures as drawing
from h2lo_bids.reports.records import ModelInfo
from pipelines.engine import InFile, Source, add, interface, load_image
from pipelines.scan_steps import CheckRange

if TYPE_CHECKING:
    from pipelines.participant import Branch


def write_derivative(
    folder: Path,
    in_file: InFile,
    out_dir: str,
    out_name: str,
    sidecar: dict[str, Any],
    mask_method: str | None = None,
    # URIs, of each scan, of another mask, a source if it was given or shared; empty without one.
    mask_sources: list[str] | None = None,
    device: str | None = None,
    mask_file: InFile | None = None,  # the brain in a low-field image, to measure its noise in
    contrast: str = "",
    facts: dict[str, Any] | None = None,
    errors: list[str] | None = None,  # of each scan to be fused; empty for one that was used
) -> dict[str, Any]:
    """Copy a finished file to the derivative dataset, after its sidecar."""
    out = Path(out_dir) / out_name
    content = {**sidecar, **(facts or {})}
    if errors:
        _leave_out(content, errors)
    if device is not None:
        content["Device"] = device
    if mask_method is not None:
        content["BrainExtractionMethod"] = mask_method
        if mask_method.startswith(("given", "shared")) and mask_sources:
            own = mask_sources[errors.index("") if errors else 0]
            content["Sources"] = [*content["Sources"], own]
    if mask_file is not None:
        content |= snr_of(load_image(in_file), load_image(mask_file), contrast)
    # A run with other options and another work folder may write the same names.
    with exclusive(common_lock(Path(out_dir), out_name.partition("/")[0])):
        write_sidecar(out, content)
        atomic_write_bytes(out, Path(in_file).read_bytes())
    return {"out_name": out_name}


def _leave_out(content: dict[str, Any], errors: list[str]) -> None:
    """Take the scans that were not used, of the first sources, out of a fused image's sidecar."""
    scans = content["Sources"][: len(errors)]
    used = [scan for scan, error in zip(scans, errors, strict=True) if not error]
    content["Sources"] = [*used, *content["Sources"][len(errors) :]]
    if "SpatialReference" in content:
        content["SpatialReference"] = used[0]
    if len(used) == 1:
        content["Fusion"] = "none"
        content.pop("RegistrationMethod", None)


# It runs every time, since the work folder cannot tell whether the output is still there.
# Its output is no whole path: Nipype would hash that by the content that it finds there.
WriteDerivative = interface(write_derivative, always_run=True, out_name=str)


def make_figures(
    folder: Path,
    stem: str,
    task: str,
    image: InFile,  # the scan as it came, or the reference of several
    image_mask: InFile,
    before: InFile,
    after: InFile,
    mask: InFile,
) -> dict[str, Any]:
    """Draw what was made (`reports.figures`) in the node's folder."""
    files = {"image": image, "image_mask": image_mask, "before": before, "after": after}
    images = {name: load_image(file) for name, file in (files | {"mask": mask}).items()}
    return _drawn(folder, drawing.make_figures(folder, stem, task, **images))


def make_registration_figures(
    folder: Path, stem: str, space: str, template: InFile, moved: InFile, mask: InFile
) -> dict[str, Any]:
    """Draw the registration to a standard space (`reports.figures`) in the node's folder."""
    images = {"template": load_checked(template).image, "moved": load_image(moved)}
    images["mask"] = load_image(mask)
    return _drawn(folder, drawing.make_registration_figures(folder, stem, space=space, **images))


def _drawn(folder: Path, figures: Sequence[Any]) -> dict[str, Any]:
    return {
        "figures": [asdict(figure) for figure in figures],
        "out_files": [folder / figure.path for figure in figures],
    }


_PICTURES: dict[str, Any] = {"figures": list[dict[str, Any]], "out_files": list[InFile]}
MakeFigures = interface(make_figures, **_PICTURES)
MakeRegistrationFigures = interface(make_registration_figures, **_PICTURES)


def write_record(
    folder: Path,
    record: dict[str, Any],  # what is known beforehand, of reports.records.ScanReport
    out_dir: str,
    mask: InFile,  # on the grid of the scan, or of what several were fused to
    mask_method: str,
    outputs: list[str],
    figures: list[dict[str, Any]],
    figure_files: list[InFile],
    device: str,
    likeness: str = "",
    noticed: list[str] | None = None,
    warnings: list[str] | None = None,
    parts: list[str] | None = None,  # of enhancement: all scans, relative to their dataset
    trained: list[str] | None = None,  # fusion of the model's training pairs
    errors: list[str] | None = None,  # of every scan; empty for one that was used
    coverage: list[float] | None = None,
) -> dict[str, Any]:
    """Copy a scan's figures and compose its record for the report; a branch's last step."""
    brain, rows, levels = load_image(mask), [], []
    tissues = ("WhiteMatter", "GreyMatter", "CerebrospinalFluid")
    for name in outputs:
        told = json.loads(sidecar_path(Path(out_dir) / name).read_text())
        if ratios := told.get("TissueSignalToNoiseRatio"):
            deviation = told["NoiseStandardDeviation"]
            rows.append([Path(name).name, deviation, *map(ratios.get, tissues)])
            levels.append([told["TissueSignal"][tissue] for tissue in tissues])
    for figure, file in zip(figures, figure_files, strict=True):
        atomic_write_bytes(Path(out_dir) / figure["path"], Path(file).read_bytes())
    whole = {
        **record,
        "shape": brain.shape,
        "spacing": [round(float(side), 4) for side in brain.header.get_zooms()],
        "mask_method": mask_method,
        "mask_volume": round(volume_ml(np.asarray(brain.dataobj) > 0, brain.affine), 1),
        "warnings": list(warnings or ()),
        "noticed": noticed or [],
        "likeness": likeness,
        "outputs": outputs,
        "signal_to_noise": rows,
        "levels": levels[0] if levels else [],
        "device": device,
        "figures": figures,
    }
    if parts is not None and errors is not None:
        whole |= _parts(whole["warnings"], parts, errors, coverage or [], trained or [])
    return {"record": json.loads(json.dumps(whole))}


# It runs every time, for the figures that it copies.
WriteRecord = interface(write_record, always_run=True, record=dict[str, Any])


def _parts(
    warnings: list[str],
    parts: list[str],
    errors: list[str],
    coverage: list[float],
    trained: list[str],
) -> dict[str, Any]:
    """Return which scans an enhanced image was made from, and what the others met."""
    every = list(zip(parts, errors, strict=True))
    lost = [[part, *error.split(": ", 1)] for part, error in every if error]
    used = [part for part, error in every if not error]
    for part, share in zip(used, coverage, strict=True):
        if share < MIN_COVERAGE:
            warnings.append(f"{part}: shows {share:.0%} of the brain; the rest is missing.")
    # Not the reverse: "none" is on record also of pairs whose scans were fused by other software.
    if trained == ["mrr"] and len(used) == 1:
        warnings.append(
            f"{Path(used[0]).name}: the input is a single scan, but the model was trained on fused "
            "scans: give several scans, or a model that was trained on single ones."
        )
    if lost:
        names = " and ".join(Path(part).name for part, *_ in lost)
        rest = " and ".join(Path(part).name for part in used)
        warnings.append(f"{names} cannot be used (see Errors): made from {rest} alone.")
    return {"source": used[0], "parts": used, "lost": lost, "warnings": warnings}


def add_outputs(
    branch: Branch,
    products: Mapping[str, Source],
    output: str,
    figures: Sequence[pe.Node],
    **record: Source | list[Source],
) -> None:
    """Compare input and output with the training pairs, write all outputs, then the record."""
    # Of the products `output` is the image on the grid of ``preproc`` and ``mask``; `_add_sinks`
    # takes one for each key of `RunSpec.paths`, with ``device_<key>`` where a model made it.
    image, run, model = branch.image, branch.run, branch.image.model
    step = CheckRange(
        contrast=model.contrast,
        scaling=model.scaling,
        ranges=model.metadata.get("input_range") or {},
        name=image.scan.stem if len(image.parts) > 1 else image.scan.relative_path,
    )
    check = add(
        branch.workflow, step, "check_range", profile=products["profile"], high=products["preproc"],
        mask_file=products["mask"], output=products[output],
    )  # fmt: skip
    written = _add_sinks(branch, products, check, record.get("errors"))
    parts = [part.relative_path for part in image.parts] if image.enhanced else None
    training = model.metadata.get("training_data") or {}
    trained = [str(way) for way in training.get("fusion") or ()] if image.enhanced else None
    step = WriteRecord(
        record=_record(branch), out_dir=run.settings.out_dir, parts=parts, trained=trained
    )
    add(
        branch.workflow, step, "ds_record", outputs=written,
        figures=[(node, "figures") for node in figures],
        figure_files=[(node, "out_files") for node in figures],
        mask=products["mask"], mask_method=products["mask_method"],
        device=products[f"device_{output}"],
        noticed=(check, "warnings"), likeness=(check, "verdict"), **record,
    )  # fmt: skip


def _add_sinks(
    branch: Branch,
    products: Mapping[str, Source],
    check: pe.Node,
    errors: Source | list[Source] | None,
) -> list[Source]:
    """Write every output with its sidecar; return their names."""
    image, run, written = branch.image, branch.run, []
    paths, sidecars = run.paths(image), _sidecars(branch)
    sources = [mask[1] if mask else "" for mask in image.masks]
    if branch.donor is not None:
        uri = derivative_uri(run.paths(branch.donor)["mask"], run.settings.out_dir)
        sources = [uri] * len(sources)
    for key, path in paths.items():
        kind, _, grid = key.partition("_")
        device = products.get(f"device_{key}")
        ends: dict[str, Source | list[Source] | None] = {"errors": errors}
        if key.startswith("mask"):
            ends["mask_method"] = products["mask_method"]
        elif device is not None:
            ends |= {"device": device, "facts": (check, "facts")}
        elif key.startswith("preproc"):
            ends["facts"] = products.get(f"scaling_{grid}", products["scaling"])
        measured = kind == "lowfield" or kind.startswith("noise")
        if measured:
            ends["mask_file"] = products[f"mask_{grid}" if grid != "native" else "mask"]
        step = WriteDerivative(
            out_dir=run.settings.out_dir, sidecar=sidecars[key],
            out_name=path.relative_to(run.settings.out_dir).as_posix(),
            mask_sources=sources if key == "mask" else None,
            contrast=image.scan.suffix if measured else None,
        )  # fmt: skip
        sink = add(branch.workflow, step, f"ds_{key}", in_file=products[key], **ends)
        written.append((sink, "out_name"))
    return written


def _sidecars(branch: Branch) -> dict[str, dict[str, Any]]:
    image, settings = branch.image, branch.run.settings
    how = {"Precision": image.precision, "Device": branch.run.device.partition(":")[0]}
    if image.enhanced:
        return enhanced_sidecars(image.scan, image.parts, image.model, settings, **how)
    return output_sidecars(
        image.scan, image.model, settings, branch.grids, extras_of(settings),
        **how, SynthesisSeed=branch.seed,
    )  # fmt: skip


def _record(branch: Branch) -> dict[str, Any]:
    """Return what the report's record says that is known before the run."""
    image, scan = branch.image, branch.image.scan
    remarks, grids = [*scan.notes, *scan.warnings], branch.grids
    if image.enhanced:
        of_parts = ((part.path.name, (*part.notes, *part.warnings)) for part in image.parts)
        remarks, grids = [f"{name}: {text}" for name, texts in of_parts for text in texts], ()
    return {
        "stem": scan.stem,
        "source": scan.relative_path,
        "entities": [list(pair) for pair in scan.entities],
        "suffix": scan.suffix,
        "field_strength": scan.field_strength,
        "field_source": scan.field_source,
        "metadata_warnings": remarks,
        "model": asdict(ModelInfo.from_metadata(image.model.metadata, image.model.card)),
        "precision": image.precision,
        "seed": branch.run.settings.random_seed,
        "templates": [
            [grid.space, template_reference(grid.template)] for grid in grids if grid.template
        ],
        "task": image.model.task,
    }
