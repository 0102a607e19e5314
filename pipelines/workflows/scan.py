"""From a scan as it came to what the operator takes."""

from __future__ import annotations

from pathlib import Path

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

from pipelines.interfaces.imaging import Conform, FindBrain, Normalise, SettleBrain


def init_scan_wf(
    *,
    name: str,
    scan_file: Path,
    frame: dict[str, object],
    contrast: str,
    scaling: str = "max",
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
    contrast, scaling
        As for `h2lo_bids.imaging.normalise.scale_brain`.
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
        ``find_brain`` -> ``check`` -> ``conform`` -> ``normalise_frame``, and
        from ``check`` also ``normalise_native``.

    Inputs
    ------
    donor_mask
        Brain mask of the session's T1w scan, optional.

    Outputs
    -------
    found_mask
        The scan's own mask; undefined if the scan cannot be used.
    checked
        The scan, 3-D float32, on its own grid.
    mask
        The brain mask to use, on the same grid.
    preproc
        The brain in [0, 1] on the same grid, exactly 0 around it.
    volume, volume_mask
        The same on the model's frame.
    profile
        What ``volume`` is like; see `h2lo_bids.imaging.profile.measure`.
    scaling
        How intensities were scaled, for sidecars.
    mask_method
        How the mask was made.
    warnings
        What was noticed, one line each.
    """
    label = str(scan_file)
    find_brain = pe.Node(
        FindBrain(in_file=label, method=skull_strip),
        name="find_brain",
        n_procs=omp_nthreads,
        mem_gb=1.5,
    )
    if synthstrip_weights is not None:
        find_brain.inputs.weights = str(synthstrip_weights)
    if given_mask is not None:
        find_brain.inputs.given_mask = str(given_mask)
    check = pe.Node(SettleBrain(name=label), name="check", mem_gb=0.5)
    conform = pe.Node(Conform(frame=frame, name=label), name="conform", mem_gb=1.0)
    normalise_frame = pe.Node(
        Normalise(name=label, scaling=scaling, contrast=contrast, profiled=True),
        name="normalise_frame",
        mem_gb=1.0,
    )
    normalise_native = pe.Node(
        Normalise(name=label, scaling=scaling, contrast=contrast),
        name="normalise_native",
        mem_gb=1.0,
    )
    fields = ["found_mask", "checked", "mask", "preproc", "volume", "volume_mask"]
    inputnode = pe.Node(IdentityInterface(fields=["donor_mask"]), name="inputnode")
    outputnode = pe.Node(
        IdentityInterface(fields=[*fields, "profile", "scaling", "mask_method", "warnings"]),
        name="outputnode",
    )
    same = ["checked", "mask_file", "method", "warnings", "error", "message"]

    workflow = pe.Workflow(name=name)
    workflow.connect(
        [
            (inputnode, check, [("donor_mask", "donor_mask")]),
            (find_brain, check, [(key, key) for key in same]),
            (find_brain, outputnode, [("mask_file", "found_mask"), ("checked", "checked")]),
            (find_brain, conform, [("checked", "in_file")]),
            (check, conform, [("mask_file", "mask_file")]),
            (find_brain, normalise_native, [("checked", "in_file")]),
            (check, normalise_native, [("mask_file", "mask_file")]),
            (conform, normalise_frame, [("out_file", "in_file"), ("mask_file", "mask_file")]),
            (
                check,
                outputnode,
                [
                    ("mask_file", "mask"),
                    ("method", "mask_method"),
                    ("warnings", "warnings"),
                ],
            ),
            (conform, outputnode, [("mask_file", "volume_mask")]),
            (normalise_frame, outputnode, [("out_file", "volume"), ("profile", "profile")]),
            (normalise_native, outputnode, [("out_file", "preproc"), ("scaling", "scaling")]),
        ]
    )
    return workflow
