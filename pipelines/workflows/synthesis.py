"""A model on one grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

from h2lo_bids.models.registry import FAMILIES, METHODS
from h2lo_bids.outputs import Beside, Grid
from pipelines.interfaces.noise import AddNoise, MapUncertainty
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

    @property
    def scaling(self) -> str:
        """How its input is scaled; see `h2lo_bids.models.bundle.Bundle.scaling`."""
        return str(self.metadata.get("scaling", "max"))

    @property
    def random(self) -> bool:
        """Whether its method draws at random when it synthesizes."""
        family = METHODS.get(str(self.metadata.get("method")))
        return family is not None and FAMILIES[family].random


def init_synthesis_wf(
    *,
    grid: Grid,
    model: ModelSpec,
    device: str = "auto",
    precision: str = "fp32",
    omp_nthreads: int = 1,
    beside: Beside | None = None,
    seed: tuple[int, ...] = (42,),
    draws: int | None = None,
) -> pe.Workflow:
    """Evaluate a model on one grid.

    Parameters
    ----------
    grid
        Where the low-field image is wanted.
    model
        Of any method.
    device, precision
        As the options ``--device`` and ``--precision``.
    omp_nthreads
        Threads of one step.
    beside
        What is wanted beside the image; None for nothing.
    seed
        Of the noise.
    draws
        Seed of a method that draws at random; None for one that does not.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        ``synthesize``, preceded by ``regrid`` for a grid of other voxels; one
        ``noise01`` and so on for each noisy image, and ``std`` for the uncertainty.

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
    noise01, ..., std
        What is wanted beside, by its word in `h2lo_bids.outputs.Beside.kinds`.
    device_lowfield, device_noise01, ..., device_std
        Kind of device that computed each.
    """
    beside = beside or Beside()
    inputnode = pe.Node(
        IdentityInterface(fields=["volume", "mask", "to_template"]), name="inputnode"
    )
    made = ("lowfield", *beside.kinds)
    fields = ["mask", *made, *(f"device_{kind}" for kind in made)]
    outputnode = pe.Node(IdentityInterface(fields=fields), name="outputnode")
    queries = [query_node(Synthesize(), "synthesize", model, device, precision, omp_nthreads)]
    if beside.uncertainty:
        node = query_node(MapUncertainty(), "std", model, device, precision, omp_nthreads)
        node.inputs.members = dict(model.metadata["files"])
        queries.append(node)
    for node in queries if draws is not None else ():
        node.inputs.seed = draws
    synthesize = queries[0]
    workflow = pe.Workflow(name=f"synthesis_{grid.name}_wf")
    if grid.kind == "lf":
        regrid = pe.Node(RegridMask(spacing=grid.spacing), name="regrid", mem_gb=0.3)
        workflow.connect([(inputnode, regrid, [("mask", "mask_file")])])
        source, field = regrid, "mask_file"
        for node in queries:
            node.inputs.slice_profile = grid.response.profile
            node.inputs.slice_thickness = grid.thickness
    else:
        source, field = inputnode, "mask"
    noises = [_noise(name, n, model, seed) for n, name in enumerate(beside.noisy, start=1)]
    for node in noises:
        node.inputs.trait_set(scale=beside.noise_scale, acquired=grid.kind == "lf")
    given = ["volume", "to_template"] if grid.kind == "template" else ["volume"]
    for node in (*queries, *noises):
        workflow.connect([(inputnode, node, [(name, name) for name in given])])
        workflow.connect([(source, node, [(field, "mask_file")])])
        output = "lowfield" if node is synthesize else node.name
        workflow.connect([(node, outputnode, [("out_file", output)])])
        computed = synthesize if node in noises else node
        workflow.connect([(computed, outputnode, [("device", f"device_{output}")])])
    for node in queries:
        # The mask has the grid's shape and affine, so it is the reference too.
        workflow.connect([(source, node, [(field, "reference")])])
    for node in noises:
        workflow.connect([(synthesize, node, [("out_file", "in_file")])])
    workflow.connect([(source, outputnode, [(field, "mask")])])
    return workflow


def query_node(
    interface: Synthesize,
    name: str,
    model: ModelSpec,
    device: str,
    precision: str,
    omp_nthreads: int,
) -> pe.Node:
    """Return a node that evaluates models; see `init_synthesis_wf`."""
    interface.inputs.trait_set(
        model=str(model.path),
        sha256=model.sha256,
        frame=model.frame,
        contrast=model.contrast,
        device=device,
        precision=precision,
        use_gpu=device.startswith("cuda"),
    )
    threads = 1 if device.startswith("cuda") else omp_nthreads
    return pe.Node(interface, name=name, n_procs=threads, mem_gb=1.5)


def _noise(name: str, number: int, model: ModelSpec, seed: tuple[int, ...]) -> pe.Node:
    """Return a node that draws one noisy image."""
    noise = AddNoise(noise=model.metadata["noise"], seed=list(seed), realisation=number)
    return pe.Node(noise, name=name, mem_gb=1.0)
