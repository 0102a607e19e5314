"""Prepared pairs of the tiny problem, written as the pair workflow writes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from problems import ball_pair, small_options

from h2lo_bids.bids.derivatives import pair_paths
from h2lo_bids.evaluation.scores import read_scores
from h2lo_bids.evaluation.splits import Fold
from h2lo_bids.models.bundle import default_bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.settings import Settings
from h2lo_bids.training.experiments import FitTask, Plan
from h2lo_bids.training.experiments.crossvalidation import FoldJob, FoldWork
from h2lo_bids.training.experiments.final import FinalJob
from h2lo_bids.training.experiments.fits import plan_folds, run_fit
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import PreparedPair, find_prepared

SHAPE = (24, 24, 24)
FRAME = Frame(SHAPE, (8.0, 8.0, 8.0))


def write_pair(
    out: Path, subject: str, seed: int, frame: Frame = FRAME, contrast="T1w", **changes: object
) -> None:
    """Write one pair of a subject."""
    pair = ball_pair(subject, seed, frame.shape)
    paths = pair_paths(out, (("sub", subject),), contrast)
    paths["hf"].parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*frame.spacing, 1.0])
    for name in ("hf", "lf", "mask"):
        volume = getattr(pair, name).astype(np.uint8 if name == "mask" else np.float32)
        nib.Nifti1Image(volume, affine).to_filename(paths[name])
    record = {
        "Frame": frame.to_dict(),
        "Simulated": True,
        "Fusion": "mrr",
        "SourceScans": [f"bids:raw:sub-{subject}/anat/sub-{subject}_T1w.nii.gz"],
        "Fingerprint": hashlib.sha256(f"{subject} {seed}".encode()).hexdigest(),
        "RegistrationCheck": {"Flagged": False, "Reasons": [], "Figures": {"dice": 0.9}},
        "InputMagneticFieldStrength": 3.0,
        "MagneticFieldStrength": 0.064,
        **changes,
    }
    paths["record"].write_text(json.dumps(record))


def write_pairs(out: Path, count: int, **changes: object) -> tuple[PreparedPair, ...]:
    """Write the pairs of subjects 01, 02, ... and find them."""
    for n in range(1, count + 1):
        write_pair(out, f"{n:02d}", n, **changes)
    return find_prepared(out, contrast="T1w")


def plan_of(settings: Settings, send: Callable[[dict], None] = print) -> Plan:
    """Plan the fits to all T1w pairs of an output folder."""
    found = find_prepared(settings.out_dir, contrast="T1w")
    return plan_folds(settings, {"T1w": tuple(pair.sources[0] for pair in found)}, send)["T1w"]


def fit_first(settings: Settings, method: str) -> Plan:
    """Fit a method to the first fold, or without folds its model, and return the plan."""
    plan = plan_of(settings)
    run_fit(FitTask(settings, "T1w", method, plan, next(iter(plan.folds), None), 1), print)
    return plan


def fold_of(
    pairs: tuple[PreparedPair, ...], root: Path, kind: type[FoldWork] = FoldJob, **changes: Any
) -> Any:
    """The job of a fold: 01 and 02 train, 03 validates and 04 is tested, but for some changes."""
    fold = Fold(0, ("01", "02"), ("03",), ("04",))
    values: dict = {
        "contrast": "T1w", "method": "h2lo", "fold": fold, "pairs": pairs,
        "out_dir": root / "out", "work_dir": root / "work",
    }  # fmt: skip
    values |= {"options": small_options()} if kind is FoldJob else {}
    return kind(**{**values, **changes})


def final_of(
    pairs: tuple[PreparedPair, ...], root: Path, options: FitOptions, *held: str, **changes: object
) -> FinalJob:
    """The job of a final model of some pairs, validated on those who are held out."""
    fold = Fold.of(0, {pair.subject for pair in pairs} - {*held}, held, ())
    return fold_of(pairs, root, FinalJob, **{"fold": fold, "options": options, **changes})


def whole_psnr(folder: Path) -> dict[tuple[str, str], float]:
    """The figure of each subject and method over whole volumes, of a folder's scores."""
    scores = read_scores(folder / "scores.tsv")
    return {(s.subject, s.method): s.values["psnr"] for s in scores if s.region == "whole"}


def write_scan(
    root: Path, subject: str, seed: int, kinds: Sequence[str] = ("lowfield",),
    sha256: str | None = None, scaling: str = "max",
) -> None:  # fmt: skip
    """What `participant` writes for a T1w scan, its array turned and its values not at most 1."""
    pair = ball_pair(subject, seed, (26, 20, 22))
    sha256 = default_bundle("T1w").sha256 if sha256 is None else sha256
    stem = root / f"sub-{subject}" / "ses-A" / "anat" / f"sub-{subject}_ses-A"
    stem.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-8.0, 8.0, 8.0, 1.0])
    mask = f"bids::sub-{subject}/ses-A/anat/sub-{subject}_ses-A_desc-brain_mask.nii.gz"
    raw = f"bids:raw:sub-{subject}/anat/sub-{subject}_T1w.nii.gz"
    names = {"preproc": pair.hf, **{k: 0.5 * pair.lf + 0.01 * n * pair.mask for n, k in
             enumerate(kinds)}}  # fmt: skip
    for kind, values in names.items():
        image = Path(f"{stem}_desc-{kind}_T1w.nii.gz")
        nib.Nifti1Image(values.astype(np.float32), affine).to_filename(image)
        told = {"Sources": [raw, mask], "IntensityScaling": {"Method": scaling}}
        if kind != "preproc":
            told |= {"ModelMethod": "h2lo", "ModelName": "mine", "ModelSha256": sha256}
        Path(str(image).replace(".nii.gz", ".json")).write_text(json.dumps(told))
    nib.Nifti1Image(pair.mask.astype(np.uint8), affine).to_filename(
        f"{stem}_desc-brain_mask.nii.gz"
    )
