"""Nodes that write what was made for an image: its outputs with sidecars, and its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nipype.pipeline import engine as pe

from h2lo_bids.bids.sidecars import derivative_uri, template_reference
from h2lo_bids.outputs import enhanced_sidecars, output_sidecars
from h2lo_bids.reports.records import ModelInfo
from pipelines.nodes import Source, add
from pipelines.output_steps import WriteDerivative, WriteRecord
from pipelines.scan_steps import CheckRange
from pipelines.specs import ImageSpec, RunSpec, draws


@dataclass(frozen=True)
class Products:
    """What was made for an image."""

    # A file for each key of `RunSpec.paths`, with ``device_<key>`` where a model made it;
    # ``mask_method``, ``profile`` and ``scaling``.
    sources: Mapping[str, Source]
    output: str  # key of the image on the grid of ``preproc`` and ``mask``
    figures: list[pe.Node]
    record: Mapping[str, Any]  # further inputs of the record


def add_outputs(
    workflow: pe.Workflow,
    image: ImageSpec,
    run: RunSpec,
    products: Products,
    donor: ImageSpec | None,
) -> None:
    """Compare input and output with the training pairs, write all outputs, then the record."""
    sources, model = products.sources, image.model
    check = add(
        workflow,
        CheckRange(
            contrast=model.contrast,
            scaling=model.scaling,
            ranges=model.metadata.get("input_range") or {},
            name=image.scan.relative_path,
        ),
        "check_range", profile=sources["profile"], high=sources["preproc"],
        mask_file=sources["mask"], output=sources[products.output],
    )  # fmt: skip
    written = _add_sinks(workflow, image, run, sources, check, donor)
    parts = [part.relative_path for part in image.parts] if image.enhanced else None
    record = WriteRecord(record=_record(image, run), out_dir=run.out_dir, parts=parts)
    add(
        workflow, record, "ds_record", outputs=written,
        figures=[(node, "figures") for node in products.figures],
        figure_files=[(node, "out_files") for node in products.figures],
        mask=sources["mask"], mask_method=sources["mask_method"],
        device=sources[f"device_{products.output}"],
        noticed=(check, "warnings"), likeness=(check, "verdict"), **products.record,
    )  # fmt: skip


def _add_sinks(
    workflow: pe.Workflow,
    image: ImageSpec,
    run: RunSpec,
    products: Mapping[str, Source],
    check: pe.Node,
    donor: ImageSpec | None,
) -> list[Source]:
    """Write every output with its sidecar; return their names."""
    written = []
    paths, sidecars = run.paths(image), _sidecars(image, run)
    if donor is not None:
        source: str | None = derivative_uri(run.paths(donor)["mask"], run.out_dir)
    else:
        source = next((mask[1] for mask in image.masks if mask and not image.enhanced), None)
    for key, path in paths.items():
        device, ends = products.get(f"device_{key}"), {}
        if key.startswith("mask"):
            ends["mask_method"] = products["mask_method"]
        elif device is not None:
            ends |= {"device": device, "facts": (check, "facts")}
        elif key.startswith("preproc"):
            ends["facts"] = products["scaling"]
        kind, _, grid = key.partition("_")
        measured = kind == "lowfield" or kind.startswith("noise")
        if measured:
            ends["mask_file"] = products[f"mask_{grid}" if grid != "native" else "mask"]
        step = WriteDerivative(
            out_dir=run.out_dir, sidecar=sidecars[key],
            out_name=path.relative_to(run.out_dir).as_posix(),
            mask_source=source if key == "mask" else None,
            contrast=image.scan.suffix if measured else None,
        )  # fmt: skip
        sink = add(workflow, step, f"ds_{key}", in_file=products[key], **ends)
        written.append((sink, "out_name"))
    return written


def _sidecars(image: ImageSpec, run: RunSpec) -> dict[str, dict[str, Any]]:
    settings: dict[str, Any] = {
        "Precision": image.precision,
        "Device": run.device.partition(":")[0],
    }
    if image.enhanced:
        return enhanced_sidecars(
            image.scan, image.parts, image.model, run.out_dir,
            seed=run.random_seed, settings=settings,
        )  # fmt: skip
    seed = draws(image, run)
    if seed is not None:
        settings["SynthesisSeed"] = seed
    return output_sidecars(
        image.scan, image.model, run.out_dir, run.grids(image), run.extras,
        seed=run.random_seed, settings=settings,
    )  # fmt: skip


def _record(image: ImageSpec, run: RunSpec) -> dict[str, Any]:
    """Return what the report's record says that is known before the run."""
    scan, grids, remarks = image.scan, run.grids(image), list(image.scan.remarks)
    if image.enhanced:
        grids = ()
        remarks = [f"{part.path.name}: {text}" for part in image.parts for text in part.remarks]
    record = {
        "stem": scan.stem,
        "source": scan.relative_path,
        "entities": [list(pair) for pair in scan.entities],
        "suffix": scan.suffix,
        "field_strength": scan.field_strength,
        "field_source": scan.field_source,
        "metadata_warnings": remarks,
        "model": asdict(ModelInfo.from_metadata(image.model.metadata, image.model.card)),
        "device": run.device,
        "precision": image.precision,
        "seed": run.random_seed,
        "templates": [
            [grid.space, template_reference(grid.template)] for grid in grids if grid.template
        ],
    }
    return {**record, "task": "enhance"} if image.enhanced else record
