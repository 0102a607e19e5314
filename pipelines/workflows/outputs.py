"""Sinks: what of a scan is written to the derivative dataset, and its report's record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import IdentityInterface, Merge
from nipype.pipeline import engine as pe

from h2lo_bids.bids.scan import Scan
from h2lo_bids.bids.sidecars import (
    beside_sidecar,
    derivative_uri,
    lowfield_sidecar,
    mask_sidecar,
    preproc_sidecar,
    template_reference,
    transform_sidecar,
)
from h2lo_bids.models.catalogue import CATALOGUE
from h2lo_bids.outputs import Beside, Grid, output_paths
from h2lo_bids.reports.records import ModelInfo
from pipelines.interfaces.imaging import CheckRange
from pipelines.interfaces.outputs import (
    MakeFigures,
    MakeRegistrationFigures,
    WriteDerivative,
    WriteRecord,
)
from pipelines.workflows.synthesis import ModelSpec

_PASSED = ["checked", "mask_method", "warnings"]


def init_outputs_wf(
    *,
    scan: Scan,
    model: ModelSpec,
    out_dir: Path,
    grids: tuple[Grid, ...],
    device: str,
    precision: str,
    random_seed: int,
    draws: int | None = None,
    mask_source: str | None = None,
    beside: Beside | None = None,
) -> pe.Workflow:
    """Write every output of a scan with its sidecar, the figures, and the report's record.

    Parameters
    ----------
    scan
        The input.
    model
        That was used.
    out_dir
        Root of the derivative dataset.
    grids
        Where low-field images are written.
    device, precision, random_seed
        For sidecars and report.
    draws
        Seed of a method that draws at random, for sidecars.
    mask_source
        URI of the mask that was given, or that the session may share.
    beside
        What is written beside each low-field image; None for nothing.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        One ``ds_<key>`` per output of `h2lo_bids.outputs.output_paths`, then
        ``figures`` and, after all of them, ``ds_record``.

    Inputs
    ------
    checked, mask_method, warnings, profile, scaling
        From `init_scan_wf`.
    <key>
        A file for every key of `h2lo_bids.outputs.output_paths`.
    device_<key>
        Kind of device that computed it, for what operators and noise make.

    Outputs
    -------
    None: this is where results leave the workflow.
    """
    beside = beside or Beside()
    paths = output_paths(out_dir, scan, grids, beside)
    settings: dict[str, Any] = {"Precision": precision, "Device": device.partition(":")[0]}
    if draws is not None:
        settings["SynthesisSeed"] = draws
    sidecars = _sidecars(scan, model, out_dir, grids, paths, settings, random_seed)
    for grid in grids:
        own = sidecars[f"lowfield_{grid.name}"]
        for kind in beside.kinds:
            sidecars[f"{kind}_{grid.name}"] = beside_sidecar(
                own, kind, model.metadata, derivative_uri(paths[f"lowfield_{grid.name}"], out_dir),
                scale=beside.noise_scale,
            )  # fmt: skip
    workflow = pe.Workflow(name="outputs_wf")
    kinds = ("lowfield", *beside.kinds)
    computed = [f"{kind}_{grid.name}" for grid in grids for kind in kinds]
    fields = [*_PASSED, "profile", "scaling", *paths, *(f"device_{key}" for key in computed)]
    inputnode = pe.Node(IdentityInterface(fields=fields), name="inputnode")
    written = connect_sinks(
        workflow, inputnode, out_dir=out_dir, paths=paths, sidecars=sidecars, computed=computed,
        mask_source=mask_source,
    )  # fmt: skip
    for grid in grids:
        mask = "mask" if grid.kind == "native" else f"mask_{grid.name}"
        for kind in ("lowfield", *beside.noisy):
            sink = workflow.get_node(f"ds_{kind}_{grid.name}")
            sink.inputs.contrast = scan.suffix
            workflow.connect([(inputnode, sink, [(mask, "mask_file")])])
    check = connect_check(workflow, inputnode, "lowfield_native", model, scan, computed)
    record = known_record(scan, model, device, precision, random_seed, grids)
    ds_record = pe.Node(
        WriteRecord(record=record, out_dir=str(out_dir)), name="ds_record", mem_gb=0.3
    )
    workflow.connect(
        [
            (inputnode, ds_record, [(name, name) for name in [*_PASSED, "mask"]]),
            (inputnode, ds_record, [("device_lowfield_native", "device")]),
            (written, ds_record, [("out", "outputs")]),
            (check, ds_record, [("warnings", "noticed"), ("verdict", "likeness")]),
        ]
    )
    _connect_figures(workflow, inputnode, ds_record, scan, grids)
    return workflow


def connect_sinks(
    workflow: pe.Workflow,
    inputnode: pe.Node,
    *,
    out_dir: Path,
    paths: Mapping[str, Path],
    sidecars: Mapping[str, dict[str, Any]],
    computed: Sequence[str],
    mask_source: str | None = None,
) -> pe.Node:
    """Write every output with its sidecar; return the node that gathers their names.

    Parameters
    ----------
    workflow, inputnode
        Where the sinks ``ds_<key>`` are put, and what holds a file for each key.
    out_dir, paths, sidecars
        Root of the derivative dataset; path and sidecar of each output.
    computed
        Keys of outputs that say on which kind of device they were made.
    mask_source
        URI of the mask that was given, or that the session may share.
    """
    written = pe.Node(Merge(len(paths)), name="written")
    for number, (key, path) in enumerate(paths.items(), start=1):
        sink = pe.Node(
            WriteDerivative(
                out_dir=str(out_dir),
                out_name=path.relative_to(out_dir).as_posix(),
                sidecar=sidecars[key],
            ),
            name=f"ds_{key}",
            mem_gb=0.5 if key in computed else 0.2,
        )
        workflow.connect(
            [
                (inputnode, sink, [(key, "in_file")]),
                (sink, written, [("out_name", f"in{number}")]),
            ]
        )
        if key.startswith("mask"):
            workflow.connect([(inputnode, sink, [("mask_method", "mask_method")])])
        if key in computed:
            workflow.connect([(inputnode, sink, [(f"device_{key}", "device")])])
        if key == "mask" and mask_source is not None:
            sink.inputs.mask_source = mask_source
    return written


def connect_check(
    workflow: pe.Workflow,
    inputnode: pe.Node,
    output: str,
    model: ModelSpec,
    scan: Scan,
    computed: Sequence[str],
) -> pe.Node:
    """Compare a model's input and output with its training pairs, and tell the sidecars.

    Parameters
    ----------
    workflow, inputnode, computed
        As for `connect_sinks`; also holds ``profile``, ``scaling`` and ``preproc``.
    output
        Key of the output on the grid of ``preproc`` and ``mask``.
    model, scan
        What was used, and on what.

    Returns
    -------
    nipype.pipeline.engine.Node
        With ``warnings``, for the record.
    """
    check = pe.Node(
        CheckRange(
            contrast=model.contrast,
            scaling=model.scaling,
            ranges=model.metadata.get("input_range") or {},
            name=scan.relative_path,
        ),
        name="check_range",
        mem_gb=0.5,
    )
    used = [("profile", "profile"), ("preproc", "high"), (output, "output"), ("mask", "mask_file")]
    workflow.connect([(inputnode, check, used)])
    for name in workflow.list_node_names():
        key = name.removeprefix("ds_")
        if key in computed:
            workflow.connect([(check, workflow.get_node(name), [("facts", "facts")])])
        elif key.startswith("preproc"):
            workflow.connect([(inputnode, workflow.get_node(name), [("scaling", "facts")])])
    return check


def _connect_figures(
    workflow: pe.Workflow,
    inputnode: pe.Node,
    ds_record: pe.Node,
    scan: Scan,
    grids: tuple[Grid, ...],
) -> None:
    """Draw the low-field image on the scan's own grid, and every registration."""
    figures = pe.Node(MakeFigures(stem=scan.stem), name="figures", mem_gb=1.0)
    workflow.connect(
        [
            (
                inputnode,
                figures,
                [
                    ("checked", "image"),
                    ("mask", "mask"),
                    ("preproc", "high"),
                    ("lowfield_native", "low"),
                ],
            ),
            (figures, ds_record, [("figures", "figures"), ("out_files", "figure_files")]),
        ]
    )
    templates = [grid for grid in grids if grid.kind == "template"]
    if not templates:
        return
    drawn = {
        "figures": pe.Node(Merge(len(templates)), name="registrations"),
        "out_files": pe.Node(Merge(len(templates)), name="registration_files"),
    }
    for number, grid in enumerate(templates, start=1):
        node = pe.Node(
            MakeRegistrationFigures(stem=scan.stem, space=grid.space, template=str(grid.template)),
            name=f"registration_figures_{grid.space}",
            mem_gb=1.0,
        )
        given = [(f"preproc_{grid.name}", "moved"), (f"mask_{grid.name}", "mask")]
        workflow.connect([(inputnode, node, given)])
        for output, merge in drawn.items():
            workflow.connect([(node, merge, [(output, f"in{number}")])])
    workflow.connect(
        [
            (drawn["figures"], ds_record, [("out", "registration_figures")]),
            (drawn["out_files"], ds_record, [("out", "registration_files")]),
        ]
    )


def known_record(
    scan: Scan,
    model: ModelSpec,
    device: str,
    precision: str,
    random_seed: int,
    grids: tuple[Grid, ...] = (),
) -> dict[str, Any]:
    """Return what the report's record says that is known before the run."""
    return {
        "stem": scan.stem,
        "source": scan.relative_path,
        "entities": [list(pair) for pair in scan.entities],
        "suffix": scan.suffix,
        "field_strength": scan.field_strength,
        "field_source": scan.field_source,
        "metadata_warnings": list(scan.remarks),
        "model": asdict(ModelInfo.from_metadata(model.metadata, model.card)),
        "device": device,
        "precision": precision,
        "seed": random_seed,
        "templates": [
            [grid.space, template_reference(grid.template)] for grid in grids if grid.template
        ],
    }


def _sidecars(
    scan: Scan,
    model: ModelSpec,
    out_dir: Path,
    grids: tuple[Grid, ...],
    paths: dict[str, Path],
    settings: dict[str, Any],
    random_seed: int,
) -> dict[str, dict[str, Any]]:
    """Compose the sidecar of every output."""
    uris = {key: derivative_uri(path, out_dir) for key, path in paths.items()}
    metadata = told_of(model)
    contents = {
        "preproc": preproc_sidecar(scan, skull_stripped=True, mask=uris["mask"]),
        "mask": mask_sidecar(scan, method=""),
    }
    for grid in grids:
        where = _where(grid)
        own = grid.kind in ("native", "lf")
        used = [uris["preproc"], uris["mask"]]
        if grid.kind == "template":
            used.append(uris[f"forward_{grid.space}"])
        contents[f"lowfield_{grid.name}"] = lowfield_sidecar(
            scan,
            model=metadata,
            sources=used,
            seed=random_seed,
            settings={**settings, **_response(grid)},
            **where,
        )
        if grid.kind != "native":
            contents[f"mask_{grid.name}"] = mask_sidecar(scan, method="", sources=used[1:], **where)
        if not own:
            contents[f"preproc_{grid.name}"] = preproc_sidecar(
                scan, skull_stripped=True, mask=uris["mask"], sources=used[2:], **where
            )
        if grid.kind == "template":
            contents |= _transform_sidecars(grid, uris)
    return contents


def told_of(model: ModelSpec) -> dict[str, Any]:
    """Return what sidecars are told of a model."""
    entry = CATALOGUE.get(str(model.metadata.get("method")))
    return {
        **model.metadata,
        "sha256": model.sha256,
        "title": entry.title if entry else None,
        "reference": entry.link if entry else None,
    }


def _where(grid: Grid) -> dict[str, Any]:
    reference = template_reference(grid.template) if grid.template else None
    return {"spatial_reference": reference, "resolution": grid.resolution}


def _response(grid: Grid) -> dict[str, Any]:
    if grid.spacing is None:
        return {}
    profile, thickness = grid.response.profile, grid.thickness
    return {"SimulatedSliceProfile": profile, "SimulatedSliceThickness": thickness}


def _transform_sidecars(grid: Grid, uris: dict[str, str]) -> dict[str, dict[str, Any]]:
    assert grid.template is not None
    template, scan = template_reference(grid.template), uris["preproc"]
    return {
        f"forward_{grid.space}": transform_sidecar(source=scan, target=template, method="ANTs"),
        f"inverse_{grid.space}": transform_sidecar(source=template, target=scan, method="ANTs"),
    }
