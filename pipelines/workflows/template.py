"""Registration of a scan to a standard space."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

from h2lo_bids.outputs import Grid
from pipelines.interfaces.template import RegisterToTemplate, WarpToTemplate


def init_template_wf(
    *, grid: Grid, label: str, sloppy: bool = False, random_seed: int = 42
) -> pe.Workflow:
    """Register a brain to a template, and bring it and its mask there.

    Parameters
    ----------
    grid
        A grid of kind ``"template"``, with its image.
    label
        The scan's path, for messages.
    sloppy
        Register affinely instead of with SyN.
    random_seed
        Of the registration, which runs on one thread so that it counts.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        ``register`` -> ``warp``.

    Inputs
    ------
    preproc, mask
        The normalised brain and its mask on the scan's grid.

    Outputs
    -------
    preproc, mask
        The same on the template's grid.
    forward, inverse
        Transforms from the scan to the template and back.
    """
    register = pe.Node(
        RegisterToTemplate(
            template=str(grid.template),
            transform="affine" if sloppy else "syn",
            seed=random_seed,
            name=label,
        ),
        name="register",
        mem_gb=3.0,
    )
    if grid.template_mask is not None:
        register.inputs.template_mask = str(grid.template_mask)
    warp = pe.Node(WarpToTemplate(template=str(grid.template)), name="warp", mem_gb=1.0)
    inputnode = pe.Node(IdentityInterface(fields=["preproc", "mask"]), name="inputnode")
    outputnode = pe.Node(
        IdentityInterface(fields=["preproc", "mask", "forward", "inverse"]), name="outputnode"
    )
    workflow = pe.Workflow(name=f"template_{grid.space}_wf")
    workflow.connect(
        [
            (inputnode, register, [("preproc", "in_file")]),
            (inputnode, warp, [("preproc", "in_file"), ("mask", "mask_file")]),
            (register, warp, [("forward", "forward")]),
            (register, outputnode, [("forward", "forward"), ("inverse", "inverse")]),
            (warp, outputnode, [("out_file", "preproc"), ("mask_file", "mask")]),
        ]
    )
    return workflow
