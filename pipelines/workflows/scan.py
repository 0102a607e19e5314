"""From a scan as it came to what the operator takes."""

from __future__ import annotations

from pathlib import Path

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

from pipelines.interfaces.imaging import CheckScan, Conform, ExtractBrain, Normalise


def init_scan_wf(
    *,
    name: str,
    scan_file: Path,
    frame: dict[str, object],
    skull_strip: str = "auto",
    synthstrip_weights: Path | None = None,
    given_mask: Path | None = None,
    omp_nthreads: int = 1,
) -> pe.Workflow:
    """Check a scan, find its brain, and bring it to the model's frame and range.

    Parameters
    ----------
    name
        Of the workflow.
    scan_file
        The scan.
    frame
        The model's frame, as `h2lo_bids.models.frame.Frame.to_dict` gives it.
    skull_strip
        As the option ``--skull-strip``.
    synthstrip_weights
        SynthStrip's weights, where it may be used.
    given_mask
        A mask to use instead of computing one.
    omp_nthreads
        Threads of one step.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        ``check`` -> ``brain`` -> ``conform`` -> ``normalise_frame``, and from
        the brain mask also ``normalise_native``.

    Inputs
    ------
    None: the scan is a parameter.

    Outputs
    -------
    checked
        The scan, 3-D float32, on its own grid.
    mask
        Brain mask on the same grid.
    preproc
        The brain in [0, 1] on the same grid, exactly 0 around it.
    volume, volume_mask
        The same on the model's frame.
    mask_method
        How the mask was made.
    check_warnings, brain_warnings
        What these steps noticed, one line each.
    """
    check = pe.Node(CheckScan(in_file=str(scan_file)), name="check", mem_gb=0.6)
    brain = pe.Node(
        ExtractBrain(method=skull_strip, name=str(scan_file)),
        name="brain",
        n_procs=omp_nthreads,
        mem_gb=1.5,
    )
    if synthstrip_weights is not None:
        brain.inputs.weights = str(synthstrip_weights)
    if given_mask is not None:
        brain.inputs.given_mask = str(given_mask)
    conform = pe.Node(Conform(frame=frame, name=str(scan_file)), name="conform", mem_gb=1.0)
    normalise_frame = pe.Node(Normalise(name=str(scan_file)), name="normalise_frame", mem_gb=0.6)
    normalise_native = pe.Node(Normalise(name=str(scan_file)), name="normalise_native", mem_gb=0.6)
    fields = ["checked", "mask", "preproc", "volume", "volume_mask", "mask_method"]
    fields += ["check_warnings", "brain_warnings"]
    outputnode = pe.Node(IdentityInterface(fields=fields), name="outputnode")

    workflow = pe.Workflow(name=name)
    workflow.connect(
        [
            (check, brain, [("out_file", "in_file")]),
            (check, conform, [("out_file", "in_file")]),
            (brain, conform, [("mask_file", "mask_file")]),
            (conform, normalise_frame, [("out_file", "in_file"), ("mask_file", "mask_file")]),
            (check, normalise_native, [("out_file", "in_file")]),
            (brain, normalise_native, [("mask_file", "mask_file")]),
            (check, outputnode, [("out_file", "checked"), ("warnings", "check_warnings")]),
            (
                brain,
                outputnode,
                [
                    ("mask_file", "mask"),
                    ("method", "mask_method"),
                    ("warnings", "brain_warnings"),
                ],
            ),
            (conform, outputnode, [("mask_file", "volume_mask")]),
            (normalise_frame, outputnode, [("out_file", "volume")]),
            (normalise_native, outputnode, [("out_file", "preproc")]),
        ]
    )
    return workflow
