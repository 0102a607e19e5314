"""Nodes that several workflows are made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.interfaces.utility import Merge
from nipype.pipeline import engine as pe

from h2lo_bids.models.frame import Frame
from pipelines.scan_steps import FOUND, FindBrain, Prepare

if TYPE_CHECKING:
    from pipelines.pairs import PairOptions
    from pipelines.specs import RunSpec

Source = tuple[Any, str]
"""A node and one of its outputs."""


def add(
    workflow: pe.Workflow,
    interface: Any,
    name: str,
    threads: int = 1,
    /,
    **inputs: Source | list[Source] | None,
) -> pe.Node:
    """Add a node; outputs of others are its inputs, several of them as a list."""
    node = pe.Node(interface, name=name, n_procs=threads)
    workflow.add_nodes([node])
    for key, source in inputs.items():
        if isinstance(source, list):
            merge = pe.Node(Merge(len(source)), f"{name}_list_{key}", run_without_submitting=True)
            # What it keeps are paths as they were: a work folder may have been moved since.
            merge.interface._always_run = True
            for number, one in enumerate(source, start=1):
                workflow.connect(*one, merge, f"in{number}")
            source = (merge, "out")
        if source is not None:
            workflow.connect(*source, node, key)
    return node


def add_find_brain(
    workflow: pe.Workflow,
    name: str,
    path: Path,
    how: RunSpec | PairOptions,
    given_mask: Path | None = None,
) -> pe.Node:
    """Add the node that reads a scan and finds its brain."""
    weights = how.synthstrip_weights
    find = FindBrain(in_file=path, method=how.skull_strip, weights=weights, given_mask=given_mask)
    return add(workflow, find, name, how.omp_nthreads)


def add_preparation(
    workflow: pe.Workflow,
    find: pe.Node,
    path: Path,
    frame: Frame,
    contrast: str,
    scaling: str,
    *,
    native: bool = False,
) -> dict[str, Source]:
    """Add what brings a scan to a model's frame and range, and on its own grid to that range.

    ``prepare`` takes a ``donor_mask``: the brain mask of the session's T1w scan, if any.
    """
    step = Prepare(
        frame=frame.to_dict(), scaling=scaling, contrast=contrast, native=native, name=str(path)
    )
    prepare = add(workflow, step, "prepare", **{key: (find, key) for key in FOUND})
    outputs = ("method", "warnings", "volume", "volume_mask", "profile", "scaling", "native")
    found: dict[str, Source] = {key: (prepare, key) for key in outputs}
    return found | {"checked": (find, "checked"), "mask": (prepare, "mask_file")}
