"""From the low-field scans of a participant to enhanced images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nipype.interfaces.utility import IdentityInterface, Merge
from nipype.pipeline import engine as pe

from h2lo_bids.bids.lowfield import LowFieldSource
from h2lo_bids.bids.sidecars import derivative_uri
from h2lo_bids.bids.sidecars_enhanced import enhancement_sidecars
from h2lo_bids.outputs import enhanced_paths
from pipelines.interfaces.enhance import (
    AlignPart,
    ChooseReference,
    MakeEnhancementFigures,
    WriteEnhancementRecord,
)
from pipelines.interfaces.imaging import Conform, FindBrain, Normalise
from pipelines.interfaces.pairs import FuseLowField
from pipelines.interfaces.synthesis import Synthesize
from pipelines.workflows.outputs import connect_check, connect_sinks, known_record, told_of
from pipelines.workflows.synthesis import ModelSpec, query_node

_FOUND = ("checked", "mask_file", "method", "warnings", "error", "message")
_CHOICE = {
    "checked": "scans", "mask_file": "masks", "method": "methods", "error": "errors",
    "message": "messages",
}  # fmt: skip
_ALIGNED = {
    "scan": "scans", "mask_file": "masks", "matrix": "matrices", "stripped": "stripped",
    "name": "names", "warnings": "warnings", "error": "errors", "message": "messages",
}  # fmt: skip


@dataclass(frozen=True)
class EnhanceSpec:
    """One low-field scan, or those to fuse, and what they are to be processed with.

    Parameters
    ----------
    name
        A word that is unique within the participant.
    source
        The scans.
    model
        Of their contrast.
    given_masks
        For each scan a brain mask to use instead of computing one, or None.
    """

    name: str
    source: LowFieldSource
    model: ModelSpec
    given_masks: tuple[Path | None, ...]


@dataclass(frozen=True)
class EnhanceOptions:
    """How images are enhanced.

    Parameters
    ----------
    skull_strip, synthstrip_weights
        How brains are found.
    device, precision
        How the model is evaluated.
    random_seed
        Of the registrations.
    omp_nthreads
        Threads of one step; registrations take one.
    """

    skull_strip: str = "auto"
    synthstrip_weights: Path | None = None
    device: str = "cpu"
    precision: str = "fp32"
    random_seed: int = 42
    omp_nthreads: int = 1


def init_enhance_wf(
    *, name: str, specs: tuple[EnhanceSpec, ...], out_dir: Path, options: EnhanceOptions
) -> pe.Workflow:
    """Build the workflow of one participant: one branch per enhanced image.

    A T2w image may take the brain mask of its session's T1w scan, and goes on
    without it when that scan cannot be used.

    Parameters
    ----------
    name
        Of the workflow, and of its folder in the work folder.
    specs
        The participant's low-field scans.
    out_dir
        Root of the derivative dataset.
    options
        How.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        With one workflow ``<name>_wf`` per spec.

    Inputs
    ------
    None: the scans are a parameter.

    Outputs
    -------
    None: the branches write to ``out_dir``.
    """
    workflow = pe.Workflow(name=name)
    donors = {spec.name: _donor(spec, specs) for spec in specs}
    branches = {
        spec.name: init_enhance_branch_wf(
            spec=spec, out_dir=out_dir, options=options, donor=donors[spec.name]
        )
        for spec in specs
    }
    workflow.add_nodes(list(branches.values()))
    for spec in specs:
        donor = donors[spec.name]
        if donor is not None:
            # From the step that fails for no scan: this image must not wait for its donor's luck.
            ends = ("find_1.mask_file", "choose.donor_mask")
            workflow.connect([(branches[donor.name], branches[spec.name], [ends])])
    return workflow


def _donor(spec: EnhanceSpec, specs: tuple[EnhanceSpec, ...]) -> EnhanceSpec | None:
    """Return the T1w of the same session whose mask a T2w may take."""
    scan = spec.source.scan
    if scan.suffix != "T2w" or any(spec.given_masks):
        return None
    same = [
        other
        for other in specs
        if other.source.scan.suffix == "T1w" and other.source.scan.session == scan.session
    ]
    return same[0] if len(same) == 1 else None


def init_enhance_branch_wf(
    *,
    spec: EnhanceSpec,
    out_dir: Path,
    options: EnhanceOptions,
    donor: EnhanceSpec | None = None,
) -> pe.Workflow:
    """Build all that is done with one low-field scan, or with those to fuse.

    Parameters
    ----------
    spec
        The scans and their model.
    out_dir
        Root of the derivative dataset.
    options
        How.
    donor
        What may lend its brain mask.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        ``find_<n>`` for each scan; ``choose`` -> ``conform``; ``align_<n>`` for each
        scan; ``fuse`` -> ``normalise`` -> ``enhance``; ``ds_<key>`` for each of
        `h2lo_bids.outputs.enhanced_paths`; ``figures`` and ``ds_record``.

    Inputs
    ------
    choose.donor_mask
        Brain mask of the session's T1w scan, optional.

    Outputs
    -------
    find_1.mask_file
        The first scan's own mask; undefined if it cannot be used.
    """
    workflow = pe.Workflow(name=f"{spec.name}_wf")
    label = str(spec.source.parts[0].path)
    choose, aligned = _connect_scans(workflow, spec, options)
    conform = pe.Node(Conform(frame=spec.model.frame, name=label), name="conform", mem_gb=1.0)
    fuse = pe.Node(FuseLowField(), name="fuse", mem_gb=1.5)
    model = spec.model
    normalise = pe.Node(
        Normalise(name=label, scaling=model.scaling, contrast=model.contrast, profiled=True),
        name="normalise",
        mem_gb=1.0,
    )
    enhance = query_node(
        Synthesize(), "enhance", spec.model, options.device, options.precision, options.omp_nthreads
    )
    fused = [(key, key) for key in ("scans", "masks", "matrices", "stripped", "names")]
    workflow.connect(
        [
            (choose, conform, [("reference", "in_file"), ("mask_file", "mask_file")]),
            (aligned, fuse, fused),
            (conform, fuse, [("mask_file", "volume_mask")]),
            (fuse, normalise, [("out_file", "in_file"), ("mask_file", "mask_file")]),
            (normalise, enhance, [("out_file", "volume")]),
            # The mask is on the wanted grid, so it is the reference too.
            (fuse, enhance, [("mask_file", "mask_file"), ("mask_file", "reference")]),
        ]
    )
    results = _gather(workflow, choose, fuse, normalise, enhance)
    _connect_outputs(workflow, results, aligned, spec, out_dir, options, donor)
    return workflow


def _connect_scans(
    workflow: pe.Workflow, spec: EnhanceSpec, options: EnhanceOptions
) -> tuple[pe.Node, pe.Node]:
    """Find each scan's brain, choose the reference, and register the others to it."""
    parts = spec.source.parts
    names = [str(part.path) for part in parts]
    choose = pe.Node(ChooseReference(names=names), name="choose", mem_gb=0.5)
    aligned = pe.Node(IdentityInterface(fields=[*_ALIGNED.values()]), name="aligned")
    found = {key: pe.Node(Merge(len(parts)), name=f"found_{key}") for key in _CHOICE}
    merged = {key: pe.Node(Merge(len(parts)), name=f"aligned_{key}") for key in _ALIGNED}
    for number, (label, given) in enumerate(zip(names, spec.given_masks, strict=True), start=1):
        find = pe.Node(
            FindBrain(in_file=label, method=options.skull_strip),
            name=f"find_{number}",
            n_procs=options.omp_nthreads,
            mem_gb=1.5,
        )
        if options.synthstrip_weights is not None:
            find.inputs.weights = str(options.synthstrip_weights)
        if given is not None:
            find.inputs.given_mask = str(given)
        align = pe.Node(
            AlignPart(
                number=number, seed=options.random_seed, name=label, high_name="its reference"
            ),
            name=f"align_{number}",
            mem_gb=1.0,
        )
        reference = [("reference", "high"), ("mask_file", "high_mask"), ("number", "reference")]
        workflow.connect(
            [
                (find, align, [(key, key) for key in _FOUND]),
                (choose, align, reference),
                *((find, node, [(key, f"in{number}")]) for key, node in found.items()),
                *((align, node, [(key, f"in{number}")]) for key, node in merged.items()),
            ]
        )
    workflow.connect([(node, choose, [("out", _CHOICE[key])]) for key, node in found.items()])
    workflow.connect([(node, aligned, [("out", _ALIGNED[key])]) for key, node in merged.items()])
    return choose, aligned


def _gather(workflow: pe.Workflow, *steps: pe.Node) -> pe.Node:
    """Bring what the steps made under the names of the outputs."""
    choose, fuse, normalise, enhance = steps
    fields = [
        "reference", "reference_mask", "mask_method", "notes", "mask", "coverage", "preproc",
        "profile", "scaling", "enhanced", "device_enhanced",
    ]  # fmt: skip
    results = pe.Node(IdentityInterface(fields=fields), name="results")
    chosen = [
        ("reference", "reference"), ("mask_file", "reference_mask"), ("method", "mask_method"),
        ("notes", "notes"),
    ]  # fmt: skip
    workflow.connect(
        [
            (choose, results, chosen),
            (fuse, results, [("mask_file", "mask"), ("coverage", "coverage")]),
            (
                normalise,
                results,
                [("out_file", "preproc"), *((k, k) for k in ("profile", "scaling"))],
            ),
            (enhance, results, [("out_file", "enhanced"), ("device", "device_enhanced")]),
        ]
    )
    return results


def _connect_outputs(
    workflow: pe.Workflow,
    results: pe.Node,
    aligned: pe.Node,
    spec: EnhanceSpec,
    out_dir: Path,
    options: EnhanceOptions,
    donor: EnhanceSpec | None,
) -> None:
    """Write the images with their sidecars, the figures, and the report's record."""
    source, model = spec.source, spec.model
    paths = enhanced_paths(out_dir, source.scan)
    uris = {key: derivative_uri(path, out_dir) for key, path in paths.items()}
    settings = {"Precision": options.precision, "Device": options.device.partition(":")[0]}
    sidecars = enhancement_sidecars(
        source, uris, told_of(model), seed=options.random_seed, settings=settings
    )
    lender = enhanced_paths(out_dir, donor.source.scan)["mask"] if donor else None
    written = connect_sinks(
        workflow, results, out_dir=out_dir, paths=paths, sidecars=sidecars, computed=("enhanced",),
        mask_source=derivative_uri(lender, out_dir) if lender else None,
    )  # fmt: skip
    check = connect_check(workflow, results, "enhanced", model, source.scan, ("enhanced",))
    figures = pe.Node(MakeEnhancementFigures(stem=source.scan.stem), name="figures", mem_gb=1.5)
    parts = [part.relative_path for part in source.parts]
    known = known_record(source.scan, model, options.device, options.precision, options.random_seed)
    remarks = [f"{part.path.name}: {text}" for part in source.parts for text in part.remarks]
    known |= {"task": "enhance", "metadata_warnings": remarks}
    ds_record = pe.Node(
        WriteEnhancementRecord(record=known, parts=parts, out_dir=str(out_dir)),
        name="ds_record",
        mem_gb=0.5,
    )
    shown = {"reference": "image", "reference_mask": "image_mask", "preproc": "low"}
    shown |= {"enhanced": "enhanced", "mask": "mask"}
    told = {"preproc": "checked", "mask": "mask", "mask_method": "mask_method", "notes": "notes"}
    told |= {"coverage": "coverage", "device_enhanced": "device"}
    workflow.connect(
        [
            (results, figures, [*shown.items()]),
            (results, ds_record, [*told.items()]),
            (aligned, ds_record, [(key, key) for key in ("warnings", "errors", "messages")]),
            (figures, ds_record, [("figures", "figures"), ("out_files", "figure_files")]),
            (written, ds_record, [("out", "outputs")]),
            (check, ds_record, [("warnings", "noticed"), ("verdict", "likeness")]),
        ]
    )
