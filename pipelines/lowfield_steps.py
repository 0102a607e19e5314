"""Steps that register low-field scans to another scan, fuse them, and keep training pairs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from nipype.pipeline import engine as pe

from h2lo_bids.bids.derivatives import write_sidecar
from h2lo_bids.errors import BadDataError, H2loError, InputOutputError
from h2lo_bids.evaluation.realism import scan_noise
from h2lo_bids.imaging import alignment
from h2lo_bids.imaging.brain import BrainMask
from h2lo_bids.imaging.normalise import max_normalise, scale_image
from h2lo_bids.imaging.profile import negative_lines
from h2lo_bids.imaging.resample import frame_grid, placed, resample_mask
from h2lo_bids.io import common_lock, exclusive, save_nifti
from h2lo_bids.models.frame import Frame
from h2lo_bids.training.experiments.leaks import encode, fingerprint
from pipelines.engine import AnyFile, InFile, Label, Source, add, interface, load_image
from pipelines.scan_steps import FOUND, SCALED, error_of, method_text, scaled_outputs, shared_mask


def choose_reference(
    folder: Path,
    frame: dict[str, Any],
    errors: list[str],  # of every scan; empty for a usable one
    names: list[Label],  # paths of all scans
    scans: list[InFile] | None = None,  # those that can be used, checked
    masks: list[InFile] | None = None,
    methods: list[str] | None = None,
    donor_mask: AnyFile | None = None,  # of the session's T1w scan, for T2w scans
) -> dict[str, Any]:
    """Take the first scan that can be used, and the session's brain mask where that fits."""
    if not (scans and masks and methods):
        raise error_of(*errors)
    number = errors.index("")
    image = load_image(scans[0], names[number])
    mask = shared_mask(BrainMask(load_image(masks[0]), methods[0]), donor_mask, image)
    grid = frame_grid(image, Frame.from_dict(frame), mask=mask.image)
    inside = resample_mask(mask.image, *grid)
    return {
        "number": number + 1,
        "reference": shutil.copy(scans[0], folder / "reference.nii"),
        "mask_file": save_nifti(mask.image, folder / "mask.nii.gz"),
        "volume_mask": save_nifti(inside, folder / "volume_mask.nii.gz"),
        "method": method_text(mask.method),
        "notes": list(mask.notes),
    }


ChooseReference = interface(
    choose_reference, number=int, reference=InFile, mask_file=InFile, volume_mask=InFile,
    method=str, notes=list[str],
)  # fmt: skip


def align_scan(
    folder: Path,
    high: InFile,
    high_mask: InFile,
    checked: AnyFile | None = None,
    mask_file: AnyFile | None = None,
    method: str = "",
    warnings: list[str] | None = None,
    error: str = "",
    registered: bool = False,  # it lies in the other's world already
    number: int = 0,
    reference: int | None = None,  # number of the scan of its session that it is brought to
    seed: int = 42,
    name: Label = "the scan",
    high_name: Label = "the high-field scan",
) -> dict[str, Any]:
    """Register a scan to its partner on one thread, or to another scan of its session."""
    # What keeps a scan of a session from being used is an output: the others go on without it.
    try:
        if error:
            raise error_of(error)
        assert checked is not None
        assert mask_file is not None
        masks = load_image(mask_file), load_image(high_mask)
        matrix, notes = np.eye(4), list(warnings or ())
        if registered or number == reference:
            alignment.check_overlap(*masks, name, high_name)
        else:
            low, partner = load_image(checked, name), load_image(high, high_name)
            matrix, found = alignment.align(low, masks[0], partner, masks[1], folder, seed=seed)
            notes += found
        if reference is not None:  # to which no head moves far within a session
            inside = np.argwhere(np.asarray(masks[1].dataobj) > 0)
            centre = apply_affine(masks[1].affine, inside.mean(0))
            shift, turn = alignment.motion_of(matrix, centre)
            if shift > alignment.MAX_MOTION_MM or turn > alignment.MAX_TURN_DEG:
                raise BadDataError(
                    f"{name}: was registered {shift:.0f} mm and {turn:.0f} degrees away "
                    "from the session's other scan; look at both, or choose one with --lf"
                )
        else:  # of a pair, which is divided by its largest value
            values = np.asarray(load_image(checked).dataobj)[np.asarray(masks[0].dataobj) > 0]
            notes += negative_lines(name, float(np.mean(values < 0)), "max")
    except H2loError as err:
        # A full disk is no fault of the scan: the step must run again.
        if reference is None or isinstance(err, InputOutputError):
            raise
        return {"error": f"{type(err).__name__}: {err}"}
    np.savetxt(folder / "matrix.txt", matrix, fmt="%.12g")
    return {
        "matrix": str(folder / "matrix.txt"),  # from the partner's world to the scan's, RAS mm
        "stripped": method in ("stripped", "skip"),  # it shows a brain alone
        "warnings": notes,
        "scan": shutil.copy(checked, folder / "scan.nii"),
        "mask_file": shutil.copy(mask_file, folder / "mask.nii.gz"),
        "name": name,
        "error": "",
    }


AlignScan = interface(
    align_scan,
    matrix=InFile, stripped=bool, warnings=list[str],
    scan=InFile, mask_file=InFile, name=str, error=str,
)  # fmt: skip


def fuse_low_field(
    folder: Path,
    volume_mask: InFile,  # the brain on the frame
    scans: list[InFile],
    masks: list[InFile],
    matrices: list[InFile],
    stripped: list[bool],  # which show a brain alone
    names: list[Label],
    own_masks: bool = False,  # mask them by their own brain masks
    volume: InFile | None = None,  # of a pair: the high-field brain on the frame
    scaling: str | None = None,  # of a model that enhances them
    contrast: str = "T1w",
) -> dict[str, Any]:
    """Resample each low-field scan once to the frame, from its own voxels, and average them."""
    brain = load_image(volume_mask)
    parts = [
        alignment.ScanAt(name, load_image(scan), load_image(mask), np.loadtxt(matrix), alone)
        for name, scan, mask, matrix, alone in zip(
            names, scans, masks, matrices, stripped, strict=True
        )
    ]
    fused = alignment.fuse(parts, brain, own_masks=own_masks)
    low = placed(fused.data, brain.affine, brain)
    mask = placed(fused.mask.astype(np.uint8), brain.affine, brain)
    path = folder / "lowfield.nii.gz"
    if scaling is None:
        made: dict[str, Any] = {"volume": save_nifti(low, path)}
    else:
        scaled = scale_image(low, mask, contrast=contrast, scaling=scaling, name=names[0])
        made = scaled_outputs(low, mask, scaled, path, contrast, scaling)
    if volume is not None:
        short = [replace(part, name=Path(part.name).name) for part in parts]
        made["check"] = alignment.check_alignments(short, load_image(volume), brain, fused.coverage)
        found = (scan_noise(part.image, part.mask) for part in parts)
        made["noise"] = [{"Deviation": d, "Voxel": v} for d, v in found if np.isfinite(d)]
    return {
        **made,
        "mask_file": save_nifti(mask, folder / "mask.nii.gz"),
        "coverage": list(fused.coverage),
    }


FuseLowField = interface(
    fuse_low_field, mask_file=InFile, coverage=list[float], check=dict[str, Any],
    noise=list[dict[str, Any]], **SCALED,
)  # fmt: skip


_ALIGNED = {
    "scans": "scan", "masks": "mask_file", "matrices": "matrix", "stripped": "stripped",
    "names": "name", "warnings": "warnings", "errors": "error",
}  # fmt: skip
"""Names of the outputs of several scans, and of one."""


def add_fusion(
    workflow: pe.Workflow,
    finds: Sequence[pe.Node],
    names: Sequence[str],
    fuse: Any,
    align: Mapping[str, Any],
    ends: Mapping[str, Source],
    **fuse_ends: Source,
) -> tuple[pe.Node, dict[str, list[Source]]]:
    """Add what registers scans and what fuses them; return the latter and the former's outputs."""
    found: dict[str, list[Source]] = {}
    for number, (find, name) in enumerate(zip(finds, names, strict=True), start=1):
        step = AlignScan(number=number, name=name, **align)
        given = {key: (find, key) for key in FOUND}
        node = add(workflow, step, f"align_{number}", **given, **ends)
        for key, output in _ALIGNED.items():
            found.setdefault(key, []).append((node, output))
    parts = {key: found[key] for key in ("scans", "masks", "matrices", "stripped", "names")}
    return add(workflow, fuse, "fuse", **parts, **fuse_ends), found


def write_pair(
    folder: Path,
    volume: InFile,
    lowfield: InFile,
    mask_file: InFile,
    check: dict[str, Any],
    noise: list[dict[str, Any]],  # of each low-field scan
    out_dir: str,
    out_names: dict[str, Any],  # paths below it: hf, lf, mask, record
    sidecars: dict[str, Any],  # hf, lf, mask; the record is that of lf
    mask_method: str = "",
    warnings: list[str] | None = None,
    low_warnings: list[str] | None = None,
) -> dict[str, Any]:
    """Divide a pair by its largest values and write it; while it is half new, it has no record."""
    out = {key: Path(out_dir) / name for key, name in out_names.items()}
    high, low, mask = map(load_image, (volume, lowfield, mask_file))
    shown, inside = np.asarray(low.dataobj) != 0, np.asarray(mask.dataobj) > 0
    made = {
        "hf": max_normalise(np.asarray(high.dataobj), inside, name=volume),
        "lf": max_normalise(np.asarray(low.dataobj), shown, name=lowfield),
    }
    record = {
        **sidecars["lf"],
        "RegistrationCheck": check,
        "ScanNoise": noise,
        "Warnings": [*(warnings or ()), *(low_warnings or ())],
        "BrainFingerprint": encode(fingerprint(made["hf"], inside, high.header.get_zooms()[:3])),
    }
    subject = out_names["record"].partition("/")[0]
    with exclusive(common_lock(Path(out_dir), subject)):
        out["record"].unlink(missing_ok=True)
        write_sidecar(out["hf"], sidecars["hf"])
        write_sidecar(out["mask"], {**sidecars["mask"], "BrainExtractionMethod": mask_method})
        for key, values in made.items():
            save_nifti(placed(values, mask.affine, mask), out[key], compresslevel=4)
        save_nifti(placed(inside.astype(np.uint8), mask.affine, mask), out["mask"])
        write_sidecar(out["lf"], record)
    return {"out_name": out_names["record"]}


# It runs every time, since the work folder cannot tell whether the outputs are still there.
# Its output is no path: Nipype would hash that by the content that it finds there.
WritePair = interface(write_pair, always_run=True, out_name=str)
