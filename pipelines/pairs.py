"""From the scans of a subject to training pairs on a model's frame."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from nipype.pipeline import engine as pe

from h2lo_bids import __version__
from h2lo_bids.bids.derivatives import MODEL_FRAME, derivative_uri, given_mask, pair_paths, sidecar
from h2lo_bids.bids.names import identifier
from h2lo_bids.bids.pairs import PairSource
from h2lo_bids.bids.scan import Scan
from h2lo_bids.errors import Failed, H2loError, InputOutputError
from h2lo_bids.imaging.brain import synthstrip_weights
from h2lo_bids.io import read_json
from h2lo_bids.models.frame import Frame
from h2lo_bids.settings import Settings
from h2lo_bids.training.pairs import find_prepared
from pipelines.engine import StatusCallback, add, run_workflow
from pipelines.lowfield_steps import FuseLowField, WritePair, add_fusion
from pipelines.scan_steps import add_find_brain, add_preparation

RECIPE = 2
"""Raised whenever the same inputs and settings give another pair."""


@dataclass(frozen=True)
class PairOptions:
    """How pairs are made: the options, and what they stand for here."""

    settings: Settings
    frame: Frame
    omp_nthreads: int = 1

    @property
    def own_masks(self) -> bool:
        """Whether each image is masked by its own brain mask, as in the paper, or both by one."""
        return self.settings.protocol == "paper"

    def mask_of(self, scan: Scan) -> tuple[Path, str] | None:
        """Return path and URI of the brain mask that --derivatives hold for a scan, if one."""
        return given_mask(self.settings.derivatives, scan)

    def find_brain(self, workflow: pe.Workflow, name: str, scan: Scan) -> pe.Node:
        """Add the node that reads a scan and finds its brain."""
        how = (self.mask_of(scan), self.settings, self.omp_nthreads)
        return add_find_brain(workflow, name, scan.path, *how)


def prepare_pairs(
    pairs: tuple[PairSource, ...],
    how: PairOptions,
    crash_dir: Path,
    callback: StatusCallback = lambda node, status: None,
) -> tuple[list[PairSource], list[PairSource], list[Failed]]:
    """Make a subject's pairs; return those made, those that were there, and why others were not."""
    kept, fingerprints, failed = _state(pairs, how)
    missing = tuple(pair for pair in pairs if pair.name in fingerprints)
    if not missing:
        return [], kept, failed
    name = f"{identifier(f'sub-{pairs[0].subject}')}_pairs_wf"
    workflow = init_pairs_wf(name, missing, fingerprints, how)
    workflow.base_dir = str(how.settings.work)
    branches = {branch_name(pair): pair for pair in missing}
    made: list[PairSource] = []

    def follow(node: pe.Node, status: str) -> None:
        callback(node, status)
        if (node.name, status) == ("write", "end"):
            made.append(branches[node.fullname.split(".")[1]])

    scans = {branch: [pair.hf.relative_path] for branch, pair in branches.items()}
    first: dict[str, Failed] = {}
    for item in run_workflow(workflow, scans, how.settings, crash_dir, follow):
        first.setdefault(item.scan, item)
    if how.settings.clean_workdir and not (failed or first):
        shutil.rmtree(how.settings.work / name, ignore_errors=True)
    # After the first crash the others may not have been begun.
    return made, kept, [*failed, *first.values()]


def missing_pairs(pairs: tuple[PairSource, ...], how: PairOptions) -> tuple[str, ...]:
    """Name the pairs that are absent, damaged, of other inputs, or cannot be read."""
    kept = {*_state(pairs, how)[0]}
    return tuple(pair.name for pair in pairs if pair not in kept)


def pair_fingerprint(pair: PairSource, how: PairOptions) -> str:
    """Return a digest of the bytes of a pair's scans and of all settings that change the pair."""
    digest = hashlib.blake2b(digest_size=16)
    settings = {
        "version": __version__,
        "recipe": RECIPE,
        "fusion": pair.fusion,
        "registered": pair.registered,
        "frame": how.frame.to_dict(),
        "skull_strip": how.settings.skull_strip,
        "own_masks": how.own_masks,
        "seed": how.settings.random_seed,
        "sources": [scan.uri for scan in (pair.hf, *pair.lf)],
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    scans = [scan for scan in (pair.hf, *pair.lf, pair.donor) if scan]
    paths = [scan.path for scan in scans]
    paths += [mask[0] for scan in scans if (mask := how.mask_of(scan))]
    paths += [weights] if (weights := synthstrip_weights(how.settings)) else []
    for path in paths:
        try:
            digest.update(hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest())
        except OSError as err:
            raise InputOutputError(
                f"{path}: cannot be read ({err.strerror}); for DataLad run: datalad get {path}"
            ) from err
    return digest.hexdigest()


def _state(
    pairs: tuple[PairSource, ...], how: PairOptions
) -> tuple[list[PairSource], dict[str, str], list[Failed]]:
    """Return the pairs that are whole, the fingerprints of the others, and what cannot be read."""
    subjects = tuple({pair.subject for pair in pairs})
    there: dict[str, str] = {}
    for contrast in sorted({pair.contrast for pair in pairs}):
        found = find_prepared(how.settings.out_dir, contrast=contrast, subjects=subjects)
        there |= {pair.record.name: pair.fingerprint for pair in found}
    kept, missing, failed = list[PairSource](), {}, list[Failed]()
    for pair in pairs:
        try:
            fingerprint = pair_fingerprint(pair, how)
        except H2loError as err:
            failed.append(Failed(pair.hf.relative_path, "read", err))
            continue
        record = pair_paths(how.settings.out_dir, pair.hf, pair.contrast)["record"]
        if there.get(record.name) == fingerprint:
            kept.append(pair)
        else:
            missing[pair.name] = fingerprint
    return kept, missing, failed


def init_pairs_wf(
    name: str, pairs: tuple[PairSource, ...], fingerprints: dict[str, str], how: PairOptions
) -> pe.Workflow:
    """Build the workflow of one subject's pairs: one branch ``<pair>_wf`` per pair."""
    workflow = pe.Workflow(name=name)
    branches = {pair.name: init_pair_wf(pair, fingerprints[pair.name], how) for pair in pairs}
    workflow.add_nodes(list(branches.values()))
    masks = {name: (branch, "find_brain.mask_file") for name, branch in branches.items()}
    for pair in pairs:
        if (donor := pair.donor) is None:
            continue
        if donor.stem not in masks:  # it is of no pair
            find = how.find_brain(workflow, f"find_{donor.stem}", donor)
            masks[donor.stem] = (find, "mask_file")
        source, field = masks[donor.stem]
        workflow.connect([(source, branches[pair.name], [(field, "prepare.donor_mask")])])
    return workflow


def branch_name(pair: PairSource) -> str:
    """Name the branch of a pair."""
    return f"pair_{identifier(pair.name)}_wf"


def init_pair_wf(pair: PairSource, fingerprint: str, how: PairOptions) -> pe.Workflow:
    """Build all that is done with one pair, up to ``write``, where it leaves the workflow."""
    workflow = pe.Workflow(name=branch_name(pair))
    find = how.find_brain(workflow, "find_brain", pair.hf)
    high = add_preparation(workflow, find, pair.hf.path, how.frame, pair.contrast, "max")
    finds = [
        how.find_brain(workflow, f"find_{number}", scan)
        for number, scan in enumerate(pair.lf, start=1)
    ]
    fuse, low = add_fusion(
        workflow, finds, [str(scan.path) for scan in pair.lf],
        FuseLowField(own_masks=how.own_masks),
        {
            "registered": pair.registered, "high_name": pair.hf.path,
            "seed": how.settings.random_seed,
        },
        {"high": high["checked"], "high_mask": high["mask"]},
        volume=high["volume"], volume_mask=high["volume_mask"],
    )  # fmt: skip
    add(
        workflow, _writer(pair, fingerprint, how), "write",
        volume=high["volume"], mask_method=high["method"], warnings=high["warnings"],
        lowfield=(fuse, "volume"), mask_file=(fuse, "mask_file"), check=(fuse, "check"),
        noise=(fuse, "noise"), low_warnings=low["warnings"],
    )  # fmt: skip
    return workflow


def _writer(pair: PairSource, fingerprint: str, how: PairOptions) -> Any:
    """Compose the writer with the sidecars as far as they are known beforehand."""
    out_dir, scans = how.settings.out_dir, (pair.hf, *pair.lf)
    paths = pair_paths(out_dir, pair.hf, pair.contrast)
    mask = derivative_uri(paths["mask"], out_dir)
    uris, given = [scan.uri for scan in scans], how.mask_of(pair.hf)
    own = [found[1] for scan in pair.lf if (found := how.mask_of(scan))]
    low = [scan.field_strength for scan in pair.lf if scan.field_strength is not None]
    place = {"SpatialReference": pair.hf.uri, "Resolution": MODEL_FRAME}
    brain = {"SkullStripped": True, **place}
    record: dict[str, Any] = {
        "SourceScans": uris,
        "Simulated": any(map(is_simulated, scans)),
        "Fusion": pair.fusion,
        "BrainMasks": "one for each image" if how.own_masks else "that of the high-field image",
        "RegistrationMethod": "none, registered already" if pair.registered else "ANTs, rigid",
        "RandomSeed": how.settings.random_seed,
        "Frame": how.frame.to_dict(),
        "Fingerprint": fingerprint,
        "InputMagneticFieldStrength": pair.hf.field_strength,
        "MagneticFieldStrength": median(low) if low else None,
    }
    return WritePair(
        out_dir=out_dir,
        out_names={key: path.relative_to(out_dir).as_posix() for key, path in paths.items()},
        sidecars={
            "hf": sidecar("pairHF", Sources=[pair.hf.uri, mask], **brain),
            "lf": sidecar("pairLF", Sources=[*uris, mask, *own], **brain, **record),
            "mask": sidecar(
                "pairT2w" if pair.contrast == "T2w" else "pair",
                Sources=[*uris, *([given[1]] if given else [])],
                Type="Brain",
                **place,
            ),
        },
    )


def is_simulated(scan: Scan) -> bool:
    """Check whether a scan's sidecar, or its dataset's description, says that it was simulated."""
    if "simulated" in str(scan.metadata.get("Manufacturer", "")).lower():
        return True
    try:
        makers = read_json(scan.root / "dataset_description.json")["GeneratedBy"]
        return any(maker["Name"] == "h2lo-phantom" for maker in makers)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # others' datasets need not say who made them
