"""The operator on one grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

from pipelines.grids import Grid
from pipelines.interfaces.synthesis import RegridMask, Synthesize


@dataclass(frozen=True)
class ModelSpec:
    """What workflows need to know of a model.

    Parameters
    ----------
    path
        The bundle's folder or file.
    contrast
        ``"T1w"`` or ``"T2w"``.
    sha256
        Of its weights.
    frame
        Its frame as a dictionary.
    metadata
        The bundle's metadata, for sidecars.
    card
        The model card, for the report.
    """

    path: Path
    contrast: str
    sha256: str
    frame: dict[str, Any]
    metadata: dict[str, Any]
    card: str = ""


def init_synthesis_wf(
    *,
    grid: Grid,
    model: ModelSpec,
    device: str = "auto",
    precision: str = "fp32",
    omp_nthreads: int = 1,
) -> pe.Workflow:
    """Query an operator on one grid.

    Parameters
    ----------
    grid
        Where the low-field image is wanted.
    model
        The operator.
    device, precision
        As the options ``--device`` and ``--precision``.
    omp_nthreads
        Threads of one step.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        ``synthesize``, preceded by ``regrid`` for a grid of other voxels.

    Inputs
    ------
    volume
        The normalised brain on the model's frame.
    mask
        Brain mask on the wanted grid; for a grid of other voxels, on the scan's.
    to_template
        For a template: transform that brings the scan there.

    Outputs
    -------
    lowfield
        The low-field image, in [0, 1], exactly 0 outside the brain.
    mask
        The brain mask on the same grid.
    """
    inputnode = pe.Node(
        IdentityInterface(fields=["volume", "mask", "to_template"]), name="inputnode"
    )
    outputnode = pe.Node(IdentityInterface(fields=["lowfield", "mask"]), name="outputnode")
    synthesize = pe.Node(
        Synthesize(
            model=str(model.path),
            sha256=model.sha256,
            frame=model.frame,
            contrast=model.contrast,
            device=device,
            precision=precision,
            use_gpu=device.startswith("cuda"),
        ),
        name="synthesize",
        n_procs=1 if device.startswith("cuda") else omp_nthreads,
        mem_gb=1.5,
    )
    workflow = pe.Workflow(name=f"synthesis_{grid.name}_wf")
    if grid.kind == "lf":
        regrid = pe.Node(RegridMask(spacing=grid.spacing), name="regrid", mem_gb=0.3)
        workflow.connect([(inputnode, regrid, [("mask", "mask_file")])])
        source, field = regrid, "mask_file"
    else:
        source, field = inputnode, "mask"
    if grid.kind == "template":
        workflow.connect([(inputnode, synthesize, [("to_template", "to_template")])])
    workflow.connect(
        [
            (inputnode, synthesize, [("volume", "volume")]),
            # The mask has the grid's shape and affine, so it is the reference too.
            (source, synthesize, [(field, "mask_file"), (field, "reference")]),
            (source, outputnode, [(field, "mask")]),
            (synthesize, outputnode, [("out_file", "lowfield")]),
        ]
    )
    return workflow
