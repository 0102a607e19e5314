"""All scans of one participant."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nipype.pipeline import engine as pe

from h2lo_bids.bids.derivatives import derivative_path
from h2lo_bids.bids.scan import Scan
from h2lo_bids.bids.sidecars import derivative_uri
from h2lo_bids.imaging.voxels import VoxelResponse
from h2lo_bids.outputs import Beside, Grid, TemplateFiles, grids_of
from h2lo_bids.synthesis.seeds import scan_seed
from pipelines.workflows.outputs import init_outputs_wf
from pipelines.workflows.scan import init_scan_wf
from pipelines.workflows.synthesis import ModelSpec, init_synthesis_wf
from pipelines.workflows.template import init_template_wf

_PASSED = ("checked", "mask", "preproc", "mask_method", "warnings", "profile", "scaling")


@dataclass(frozen=True)
class ScanSpec:
    """One scan and what it is to be processed with.

    Parameters
    ----------
    name
        A word that is unique within the participant.
    scan
        The input.
    model
        Of its contrast.
    given_mask, given_mask_uri
        A brain mask to use instead of computing one, and its BIDS URI.
    """

    name: str
    scan: Scan
    model: ModelSpec
    given_mask: Path | None = None
    given_mask_uri: str | None = None


def init_single_subject_wf(
    *,
    name: str,
    scans: tuple[ScanSpec, ...],
    out_dir: Path,
    output_spaces: tuple[str, ...] = ("native",),
    lf_grid: tuple[tuple[float, float, float], ...] = (),
    response: VoxelResponse | None = None,
    beside: Beside | None = None,
    templates: Mapping[str, Mapping[str, TemplateFiles]] | None = None,
    skull_strip: str = "auto",
    synthstrip_weights: Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    sloppy: bool = False,
    random_seed: int = 42,
    omp_nthreads: int = 1,
) -> pe.Workflow:
    """Build the workflow of one participant: one branch per scan.

    A T2w scan may take the brain mask of its session's T1w scan, and goes on
    without it when that scan cannot be used.

    Parameters
    ----------
    name
        Of the workflow, and of its folder in the work folder.
    scans
        The participant's scans.
    out_dir
        Root of the derivative dataset.
    output_spaces, lf_grid, response
        Where low-field images are wanted; see `h2lo_bids.outputs.grids_of`.
    beside
        What is wanted beside each of them; None for nothing.
    templates
        For each contrast, the files of each standard space.
    skull_strip, synthstrip_weights
        How the brain is found.
    device, precision
        How the model is evaluated.
    sloppy
        Register coarsely.
    random_seed
        Of the registration, and with the scan's name of the noise.
    omp_nthreads
        Threads of one step.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        With one workflow ``<scan>_wf`` per scan.

    Inputs
    ------
    None: the scans are a parameter.

    Outputs
    -------
    None: the branches write to ``out_dir``.
    """
    workflow = pe.Workflow(name=name)
    branches = {
        spec.name: init_scan_branch_wf(
            spec=spec,
            out_dir=out_dir,
            grids=grids_of(
                output_spaces, lf_grid, (templates or {}).get(spec.scan.suffix), response
            ),
            skull_strip=skull_strip,
            synthstrip_weights=synthstrip_weights,
            device=device,
            precision=precision,
            sloppy=sloppy,
            random_seed=random_seed,
            omp_nthreads=omp_nthreads,
            donor=_donor(spec, scans),
            beside=beside,
        )
        for spec in scans
    }
    workflow.add_nodes(list(branches.values()))
    for spec in scans:
        donor = _donor(spec, scans)
        if donor is not None:
            ends = ("prepare_wf.outputnode.found_mask", "prepare_wf.inputnode.donor_mask")
            workflow.connect([(branches[donor.name], branches[spec.name], [ends])])
    return workflow


def _donor(spec: ScanSpec, scans: tuple[ScanSpec, ...]) -> ScanSpec | None:
    """Return the T1w scan of the same session whose mask a T2w scan may take."""
    if spec.scan.suffix != "T2w" or spec.given_mask is not None:
        return None
    same = [
        other
        for other in scans
        if other.scan.suffix == "T1w" and other.scan.session == spec.scan.session
    ]
    return same[0] if len(same) == 1 else None


def _mask_uri(spec: ScanSpec, out_dir: Path) -> str:
    return derivative_uri(derivative_path(out_dir, spec.scan, suffix="mask", desc="brain"), out_dir)


def init_scan_branch_wf(
    *,
    spec: ScanSpec,
    out_dir: Path,
    grids: tuple[Grid, ...],
    skull_strip: str,
    synthstrip_weights: Path | None,
    device: str,
    precision: str,
    sloppy: bool,
    random_seed: int,
    omp_nthreads: int,
    donor: ScanSpec | None = None,
    beside: Beside | None = None,
) -> pe.Workflow:
    """Build all that is done with one scan.

    Parameters
    ----------
    spec
        The scan.
    grids
        Where low-field images are wanted.
    out_dir, skull_strip, synthstrip_weights, device, precision, sloppy, random_seed, omp_nthreads
        As for `init_single_subject_wf`.
    donor
        The scan whose mask this one may take.
    beside
        What is wanted beside each low-field image; None for nothing.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        ``prepare_wf``, one ``synthesis_<grid>_wf`` per grid, one
        ``template_<space>_wf`` per standard space, ``outputs_wf``.

    Inputs
    ------
    None.

    Outputs
    -------
    None.
    """
    # Two scans of one run never draw alike; the same command draws the same.
    draws = scan_seed(random_seed, spec.scan.stem) if spec.model.random else None
    prepare = init_scan_wf(
        name="prepare_wf",
        scan_file=spec.scan.path,
        frame=spec.model.frame,
        contrast=spec.model.contrast,
        scaling=spec.model.scaling,
        skull_strip=skull_strip,
        synthstrip_weights=synthstrip_weights,
        given_mask=spec.given_mask,
        omp_nthreads=omp_nthreads,
    )
    outputs = init_outputs_wf(
        scan=spec.scan,
        model=spec.model,
        out_dir=out_dir,
        grids=grids,
        device=device,
        precision=precision,
        random_seed=random_seed,
        draws=draws,
        mask_source=_mask_uri(donor, out_dir) if donor else spec.given_mask_uri,
        beside=beside,
    )
    workflow = pe.Workflow(name=f"{spec.name}_wf")
    passed = [(f"outputnode.{key}", f"inputnode.{key}") for key in _PASSED]
    workflow.connect([(prepare, outputs, passed)])
    for grid in grids:
        synthesis = init_synthesis_wf(
            grid=grid,
            model=spec.model,
            device=device,
            precision=precision,
            omp_nthreads=omp_nthreads,
            beside=beside,
            # Two scans of one run never share their noise.
            seed=(random_seed, zlib.crc32(spec.scan.stem.encode())),
            draws=draws,
        )
        _connect_synthesis(workflow, prepare, synthesis, outputs, grid, beside)
        if grid.kind == "template":
            template = init_template_wf(
                grid=grid, label=str(spec.scan.path), sloppy=sloppy, random_seed=random_seed
            )
            _connect_template(workflow, prepare, template, synthesis, outputs, grid)
        else:
            _connect_own_grid(workflow, prepare, synthesis, outputs, grid)
    return workflow


def _connect_synthesis(
    workflow: pe.Workflow,
    prepare: pe.Workflow,
    synthesis: pe.Workflow,
    outputs: pe.Workflow,
    grid: Grid,
    beside: Beside | None,
) -> None:
    """Give a synthesis its volume, and hand on all that it makes on its grid."""
    kinds = ("lowfield", *(beside.kinds if beside else ()))
    fields = [*kinds, *(f"device_{kind}" for kind in kinds)]
    made = [(f"outputnode.{name}", f"inputnode.{name}_{grid.name}") for name in fields]
    workflow.connect([(prepare, synthesis, [("outputnode.volume", "inputnode.volume")])])
    workflow.connect([(synthesis, outputs, made)])


def _connect_own_grid(
    workflow: pe.Workflow,
    prepare: pe.Workflow,
    synthesis: pe.Workflow,
    outputs: pe.Workflow,
    grid: Grid,
) -> None:
    """Connect a grid in the scan's own world."""
    mask = "volume_mask" if grid.kind == "model" else "mask"
    workflow.connect([(prepare, synthesis, [(f"outputnode.{mask}", "inputnode.mask")])])
    if grid.kind != "native":
        name = f"inputnode.mask_{grid.name}"
        workflow.connect([(synthesis, outputs, [("outputnode.mask", name)])])
    if grid.kind == "model":
        name = f"inputnode.preproc_{grid.name}"
        workflow.connect([(prepare, outputs, [("outputnode.volume", name)])])


def _connect_template(
    workflow: pe.Workflow,
    prepare: pe.Workflow,
    template: pe.Workflow,
    synthesis: pe.Workflow,
    outputs: pe.Workflow,
    grid: Grid,
) -> None:
    """Connect a standard space, after registration to it."""
    workflow.connect(
        [
            (
                prepare,
                template,
                [
                    ("outputnode.preproc", "inputnode.preproc"),
                    ("outputnode.mask", "inputnode.mask"),
                ],
            ),
            (
                template,
                synthesis,
                [
                    ("outputnode.mask", "inputnode.mask"),
                    ("outputnode.forward", "inputnode.to_template"),
                ],
            ),
            (
                template,
                outputs,
                [
                    ("outputnode.mask", f"inputnode.mask_{grid.name}"),
                    ("outputnode.preproc", f"inputnode.preproc_{grid.name}"),
                    ("outputnode.forward", f"inputnode.forward_{grid.space}"),
                    ("outputnode.inverse", f"inputnode.inverse_{grid.space}"),
                ],
            ),
        ]
    )
