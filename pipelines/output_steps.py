"""Steps that write to the derivative dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.interface import InFile, interface, load_image


def write_derivative(
    folder: Path,
    in_file: InFile,
    out_dir: str,
    out_name: str,
    sidecar: dict[str, Any],
    mask_method: str | None = None,
    mask_source: str | None = None,  # URI of another mask, a source if it was given or shared
    device: str | None = None,
    mask_file: InFile | None = None,  # the brain in a low-field image, to measure its noise in
    contrast: str = "",
    facts: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Copy a finished file to the derivative dataset, after its sidecar.

    A file with the same content is left alone.
    """
    from h2lo_bids.bids.sidecars import write_sidecar
    from h2lo_bids.evaluation.realism import snr_of
    from h2lo_bids.io import atomic_write_bytes

    out = Path(out_dir) / out_name
    content = {**sidecar, **(facts or {})}
    if device is not None:
        content["Device"] = device
    if mask_method is not None:
        content["BrainExtractionMethod"] = mask_method
        if mask_method.startswith(("given", "shared")) and mask_source is not None:
            content["Sources"] = [*content["Sources"], mask_source]
    if mask_file is not None:
        content |= snr_of(load_image(in_file), load_image(mask_file), contrast)
    write_sidecar(out, content)
    atomic_write_bytes(out, Path(in_file).read_bytes())
    return {"out_name": out_name}


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
    from h2lo_bids.reports import figures

    files = {"image": image, "image_mask": image_mask, "before": before, "after": after}
    images = {name: load_image(file) for name, file in (files | {"mask": mask}).items()}
    return _drawn(folder, figures.make_figures(folder, stem, task, **images))


def make_registration_figures(
    folder: Path, stem: str, space: str, template: InFile, moved: InFile, mask: InFile
) -> dict[str, Any]:
    """Draw the registration to a standard space (`reports.figures`) in the node's folder."""
    from h2lo_bids.reports import figures

    files = {"template": template, "moved": moved, "mask": mask}
    images = {name: load_image(file) for name, file in files.items()}
    return _drawn(folder, figures.make_registration_figures(folder, stem, space=space, **images))


def _drawn(folder: Path, figures: Sequence[Any]) -> dict[str, Any]:
    return {
        "figures": [asdict(figure) for figure in figures],
        "out_files": [str(folder / figure.path) for figure in figures],
    }


_PICTURES: dict[str, Any] = {"figures": list[dict[str, Any]], "out_files": list[InFile]}
MakeFigures = interface(make_figures, **_PICTURES)
MakeRegistrationFigures = interface(make_registration_figures, **_PICTURES)


def write_record(
    folder: Path,
    record: dict[str, Any],  # what is known beforehand, of reports.records.ScanReport
    out_dir: str,
    checked: InFile,
    mask: InFile,
    mask_method: str,
    outputs: list[str],
    figures: list[dict[str, Any]],
    figure_files: list[InFile],
    likeness: str = "",
    noticed: list[str] | None = None,
    device: str | None = None,
    warnings: list[str] | None = None,
    parts: list[str] | None = None,  # of enhancement: all scans, relative to their dataset
    errors: list[str] | None = None,  # of every scan; empty for one that was used
    messages: list[str] | None = None,
    coverage: list[float] | None = None,
) -> dict[str, Any]:
    """Copy a scan's figures and compose its record for the report; a branch's last step."""
    import numpy as np

    from h2lo_bids.io import atomic_write_bytes

    image, inside = load_image(checked), load_image(mask)
    spacing = [float(side) for side in image.header.get_zooms()[:3]]
    voxels = int(np.count_nonzero(np.asarray(inside.dataobj)))
    for figure, file in zip(figures, figure_files, strict=True):
        atomic_write_bytes(Path(out_dir) / figure["path"], Path(file).read_bytes())
    whole = {
        **record,
        "shape": [int(n) for n in image.shape],
        "spacing": [round(side, 4) for side in spacing],
        "mask_method": mask_method,
        "mask_volume": round(voxels * float(np.prod(spacing)) / 1000, 1),
        "warnings": list(warnings or ()),
        "noticed": list(noticed or ()),
        "likeness": likeness,
        "outputs": list(outputs),
        "signal_to_noise": list(_signal_to_noise(Path(out_dir), outputs)),
        **({} if device is None else {"device": device}),
        "figures": list(figures),
    }
    if parts is not None and errors is not None:
        whole |= _parts(whole, parts, errors, messages or [], coverage or [])
    return {"record": json.loads(json.dumps(whole))}


# It runs every time, for the figures that it copies.
WriteRecord = interface(write_record, always_run=True, record=dict[str, Any])


def _parts(
    record: dict[str, Any],
    parts: list[str],
    errors: list[str],
    messages: list[str],
    coverage: list[float],
) -> dict[str, Any]:
    """Return which scans an enhanced image was made from, and what the others met."""
    from h2lo_bids.imaging.alignment import MIN_COVERAGE

    every = list(zip(parts, errors, messages, strict=True))
    lost = [[part, error, message] for part, error, message in every if error]
    used = [part for part, error, _ in every if not error]
    warnings = list(record["warnings"])
    for part, share in zip(used, coverage, strict=True):
        if share < MIN_COVERAGE:
            warnings.append(f"{part}: shows {share:.0%} of the brain; the rest is missing.")
    if lost:
        names = " and ".join(Path(part).name for part, *_ in lost)
        rest = " and ".join(Path(part).name for part in used)
        warnings.append(f"{names} cannot be used (see Errors): made from {rest} alone.")
    return {"parts": used, "lost": lost, "warnings": warnings}


def _signal_to_noise(out_dir: Path, outputs: Sequence[str]) -> Iterator[list[Any]]:
    """Yield name, noise and ratios of each image whose sidecar has them."""
    from h2lo_bids.bids.derivatives import sidecar_path

    for name in outputs:
        content = json.loads(sidecar_path(out_dir / name).read_text())
        if ratios := content.get("TissueSignalToNoiseRatio"):
            tissues = [ratios[key] for key in ("WhiteMatter", "GreyMatter", "CerebrospinalFluid")]
            yield [Path(name).name, content["NoiseStandardDeviation"], *tissues]
