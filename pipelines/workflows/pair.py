"""From the scans of a subject to pairs on a model's frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from nipype.interfaces.utility import IdentityInterface, Merge
from nipype.pipeline import engine as pe

from h2lo_bids.bids.pairnames import pair_paths
from h2lo_bids.bids.pairs import PairSource
from h2lo_bids.bids.scan import Scan
from h2lo_bids.bids.sidecars import derivative_uri, pair_sidecar
from h2lo_bids.io import read_json
from h2lo_bids.models.frame import Frame
from pipelines.interfaces.imaging import FindBrain
from pipelines.interfaces.pairs import AlignLowField, CheckPair, FuseLowField, WritePair
from pipelines.workflows.scan import init_scan_wf

_FOUND = ["checked", "mask_file", "method", "warnings", "error", "message"]


@dataclass(frozen=True)
class PairOptions:
    """How pairs are made.

    Parameters
    ----------
    frame
        Grid of the pairs.
    skull_strip, synthstrip_weights
        How brains are found.
    seed
        Of the registrations.
    omp_nthreads
        Threads of one step; registrations take one.
    own_masks
        Whether each image is masked by its own brain mask, as in the paper: the low-field
        one by those of its scans, a T2w one without help of the session's T1w scan.
        Otherwise the high-field mask serves both.
    """

    frame: Frame
    skull_strip: str = "auto"
    synthstrip_weights: Path | None = None
    seed: int = 42
    omp_nthreads: int = 1
    own_masks: bool = False


def init_pairs_wf(
    *,
    name: str,
    pairs: tuple[PairSource, ...],
    fingerprints: dict[str, str],
    out_dir: Path,
    options: PairOptions,
) -> pe.Workflow:
    """Build the workflow of one subject's pairs: one branch per pair.

    Parameters
    ----------
    name
        Of the workflow, and of its folder in the work folder.
    pairs
        The pairs to make.
    fingerprints
        By a pair's name; for the records.
    out_dir
        Root of the derivative dataset.
    options
        How.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        With one workflow ``<pair>_wf`` per pair, named by `pair_word`, and a
        ``find_<scan>`` for a donor whose own pair is not made.

    Inputs
    ------
    None: the pairs are a parameter.

    Outputs
    -------
    None: the branches write to ``out_dir``.
    """
    workflow = pe.Workflow(name=name)
    branches = {
        pair.name: init_pair_wf(
            pair=pair, fingerprint=fingerprints[pair.name], out_dir=out_dir, options=options
        )
        for pair in pairs
    }
    workflow.add_nodes(list(branches.values()))
    alone: dict[str, pe.Node] = {}
    for pair in pairs:
        donor = pair.donor
        if donor is None or options.own_masks:
            continue
        end = "prepare_wf.inputnode.donor_mask"
        if donor.stem in branches:
            source, field = branches[donor.stem], "prepare_wf.outputnode.found_mask"
        else:
            if donor.stem not in alone:
                alone[donor.stem] = _find_brain(f"find_{_word(donor)}", donor.path, options)
            source, field = alone[donor.stem], "mask_file"
        workflow.connect([(source, branches[pair.name], [(field, end)])])
    return workflow


def pair_word(pair: PairSource) -> str:
    """Return a pair's name as a word that a workflow may be called."""
    return f"pair_{_word(pair.hf)}"


def _word(scan: Scan) -> str:
    return scan.stem.replace("-", "_").replace("+", "plus")


def init_pair_wf(
    *, pair: PairSource, fingerprint: str, out_dir: Path, options: PairOptions
) -> pe.Workflow:
    """Build all that is done with one pair.

    Parameters
    ----------
    pair
        The scans.
    fingerprint
        Digest of inputs and settings, for the record.
    out_dir
        Root of the derivative dataset.
    options
        How.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        ``prepare_wf`` for the high-field scan; ``find_<n>`` -> ``align_<n>``
        for each low-field scan; ``fuse`` -> ``check`` -> ``write``.

    Inputs
    ------
    prepare_wf.inputnode.donor_mask
        Brain mask of the session's T1w scan, optional.

    Outputs
    -------
    None: ``write`` is where the pair leaves the workflow.
    """
    workflow = pe.Workflow(name=f"{pair_word(pair)}_wf")
    prepare = init_scan_wf(
        name="prepare_wf",
        scan_file=pair.hf.path,
        frame=options.frame.to_dict(),
        contrast=pair.contrast,
        skull_strip=options.skull_strip,
        synthstrip_weights=options.synthstrip_weights,
        omp_nthreads=options.omp_nthreads,
    )
    # The brain on its own grid has no reader here.
    prepare.remove_nodes([prepare.get_node("normalise_native")])
    names = [str(scan.path) for scan in pair.lf]
    fuse = pe.Node(FuseLowField(names=names, own_masks=options.own_masks), name="fuse", mem_gb=1.5)
    check = pe.Node(CheckPair(names=names), name="check", mem_gb=1.0)
    write = pe.Node(_writer(pair, fingerprint, out_dir, options), name="write", mem_gb=1.0)
    low = _connect_low_field(workflow, prepare, pair, options)
    shared = [(key, key) for key in ("scans", "masks", "matrices")]
    workflow.connect(
        [
            (low, fuse, [*shared, ("stripped", "stripped")]),
            (low, check, shared),
            (low, write, [("warnings", "low_warnings")]),
            (prepare, fuse, [("outputnode.volume_mask", "volume_mask")]),
            (
                prepare,
                check,
                [("outputnode.volume", "volume"), ("outputnode.volume_mask", "volume_mask")],
            ),
            (
                prepare,
                write,
                [
                    ("outputnode.volume", "volume"),
                    ("outputnode.mask_method", "mask_method"),
                    ("outputnode.warnings", "warnings"),
                ],
            ),
            (fuse, check, [("coverage", "coverage")]),
            (fuse, write, [("out_file", "lowfield"), ("mask_file", "mask_file")]),
            (check, write, [("check", "check")]),
        ]
    )
    return workflow


def _connect_low_field(
    workflow: pe.Workflow, prepare: pe.Workflow, pair: PairSource, options: PairOptions
) -> pe.Node:
    """Find the brain of each low-field scan, register it, and gather what came of it."""
    fields = ["scans", "masks", "matrices", "stripped", "warnings"]
    gathered = pe.Node(IdentityInterface(fields=fields), name="lowfield")
    merges = {key: pe.Node(Merge(len(pair.lf)), name=f"merge_{key}") for key in fields}
    for number, scan in enumerate(pair.lf, start=1):
        find = _find_brain(f"find_{number}", scan.path, options)
        align = pe.Node(
            AlignLowField(
                registered=pair.registered,
                seed=options.seed,
                name=str(scan.path),
                high_name=str(pair.hf.path),
            ),
            name=f"align_{number}",
            mem_gb=1.0,
        )
        end = f"in{number}"
        workflow.connect(
            [
                (find, align, [(key, key) for key in _FOUND]),
                (
                    prepare,
                    align,
                    [("outputnode.checked", "high"), ("outputnode.mask", "high_mask")],
                ),
                (find, merges["scans"], [("checked", end)]),
                (find, merges["masks"], [("mask_file", end)]),
                (align, merges["matrices"], [("matrix", end)]),
                (align, merges["stripped"], [("stripped", end)]),
                (align, merges["warnings"], [("warnings", end)]),
            ]
        )
    workflow.connect([(merges[key], gathered, [("out", key)]) for key in fields])
    return gathered


def _find_brain(name: str, path: Path, options: PairOptions) -> pe.Node:
    node = pe.Node(
        FindBrain(in_file=str(path), method=options.skull_strip),
        name=name,
        n_procs=options.omp_nthreads,
        mem_gb=1.5,
    )
    if options.synthstrip_weights is not None:
        node.inputs.weights = str(options.synthstrip_weights)
    return node


def _writer(pair: PairSource, fingerprint: str, out_dir: Path, options: PairOptions) -> WritePair:
    """Compose the writer with the sidecars as far as they are known beforehand."""
    paths = pair_paths(out_dir, pair.hf, pair.contrast)
    mask = derivative_uri(paths["mask"], out_dir)
    record: dict[str, Any] = {
        "SourceScans": [scan.uri for scan in (pair.hf, *pair.lf)],
        "Simulated": any(is_simulated(scan) for scan in (pair.hf, *pair.lf)),
        "Fusion": pair.fusion,
        "BrainMasks": "one for each image" if options.own_masks else "that of the high-field image",
        "RegistrationMethod": "none, registered already" if pair.registered else "ANTs, rigid",
        "RandomSeed": options.seed,
        "Frame": options.frame.to_dict(),
        "Fingerprint": fingerprint,
        **_strengths(pair),
    }
    return WritePair(
        out_dir=str(out_dir),
        out_names={key: path.relative_to(out_dir).as_posix() for key, path in paths.items()},
        sidecars={
            "hf": pair_sidecar("pairHF", (pair.hf,), mask=mask),
            "lf": pair_sidecar("pairLF", (pair.hf, *pair.lf), mask=mask, details=record),
            "mask": pair_sidecar(
                "pairT2w" if pair.contrast == "T2w" else "pair", (pair.hf, *pair.lf)
            ),
        },
    )


def _strengths(pair: PairSource) -> dict[str, float]:
    """Return the field strengths in tesla that are known, for the card of a model."""
    low = [scan.field_strength for scan in pair.lf if scan.field_strength is not None]
    found = {
        "InputMagneticFieldStrength": pair.hf.field_strength,
        "MagneticFieldStrength": median(low) if low else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def is_simulated(scan: Scan) -> bool:
    """Tell whether a scan's sidecar, or its dataset's description, says that it was simulated."""
    if "simulated" in str(scan.metadata.get("Manufacturer", "")).lower():
        return True
    try:
        makers = read_json(scan.root / "dataset_description.json")["GeneratedBy"]
        return any(maker["Name"] == "h2lo-phantom" for maker in makers)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # others' datasets need not say who made them
