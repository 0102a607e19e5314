"""A BIDS dataset of simulated pairs in the style of ds006557."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids import __version__
from h2lo_bids.errors import CannotCreateError, InputOutputError, MissingInputError, UsageError
from h2lo_bids.phantom import sidecars
from h2lo_bids.phantom.anatomy import Subject, load_labels, make_subject, vary
from h2lo_bids.phantom.lesions import NO_LESIONS, LesionPlan, place_lesions, with_lesions
from h2lo_bids.phantom.protocols import HIGH_FIELD, LOW_FIELD, NEGATIVE_KEPT
from h2lo_bids.phantom.scans import (
    DISTORTION,
    WHITE,
    coil,
    distortion,
    high_field_scan,
    low_field_scan,
)
from h2lo_bids.phantom.template import grid_shape, template_head
from h2lo_bids.vocabulary import CONTRASTS, Say

WHITE_LEVEL = 700.0
"""Stored intensity of white matter; scanners store integers."""
DERIVATIVES = Path("derivatives", "h2lo-phantom")


@dataclass(frozen=True)
class Plan:
    """What to simulate; see `make_dataset`."""

    out: Path
    seed: int
    resolution: float
    contrasts: tuple[str, ...]
    acquisitions: tuple[str, ...]
    maps: tuple[Path, ...]
    negative_kept: float
    lesions: LesionPlan


def make_dataset(
    out: Path | str,
    *,
    subjects: int = 1,
    seed: int = 0,
    resolution: float = 1.0,
    contrasts: Sequence[str] = CONTRASTS,
    acquisitions: Sequence[str] = LOW_FIELD,
    labels: Path | str | None = None,
    negative_kept: float = NEGATIVE_KEPT,
    lesions: LesionPlan = NO_LESIONS,
    progress: Say | None = None,
) -> Path:
    """Write a dataset of paired sessions; the same arguments give the same bytes.

    Parameters
    ----------
    out
        Folder to create; may exist if empty.
    subjects
        Number of people, at least 1.
    seed
        Non-negative. Person 3 is the same however many follow.
    resolution
        Voxel size in mm of the anatomy and of the high-field scans, 0.5 to 4.
        Low-field scans keep their own voxels.
    contrasts
        Of ``"T1w"`` and ``"T2w"``.
    acquisitions
        Of ``"axi"``, ``"cor"``, ``"sag"`` and ``"iso"``; none leaves out ``ses-LF``.
    labels
        Folder of FreeSurfer label maps of whole heads, used in the order of
        their names, again from the first when there are more people than maps.
        Without it, nilearn's tissue maps.
    negative_kept
        Share of inverted (negative) signal that low-field T1w images show: 1 for
        a magnitude image, 0 for a phase-sensitive one.
    lesions
        White-matter lesions to plant in each person; their mask is written as a BIDS
        derivative in ``derivatives/h2lo-phantom``.
    progress
        Called with one line per scan.

    Returns
    -------
    pathlib.Path
        The dataset.

    Raises
    ------
    H2loError
        If an argument makes no sense, a map cannot be used, or `out` cannot be
        written or is not empty.
    """
    out = Path(out)
    plan = Plan(
        out=out,
        seed=seed,
        resolution=float(resolution),
        contrasts=tuple(contrasts),
        acquisitions=tuple(acquisitions),
        maps=_label_maps(labels),
        negative_kept=negative_kept,
        lesions=lesions,
    )
    _check(plan, subjects)
    tell = progress or (lambda line: None)
    width = max(2, len(str(subjects)))
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.glob("[!.]*")):
            raise CannotCreateError(f"{out}: is not empty; name a new folder")
    except OSError as err:
        raise CannotCreateError(f"{out}: cannot create this folder: {err.strerror}") from err
    try:
        rows = []
        for number in range(1, subjects + 1):
            name = f"sub-{number:0{width}d}"
            rows.append(f"{name}\t{_write_subject(plan, name, number, tell)}\t{seed}")
        _write_top(plan, subjects, rows, labels)
    except OSError as err:
        raise InputOutputError(f"{out}: writing failed: {err.strerror or err}") from err
    return out


def _label_maps(folder: Path | str | None) -> tuple[Path, ...]:
    if folder is None:
        return ()
    try:
        names = (p for p in Path(folder).iterdir() if not p.name.startswith("."))
        found = sorted(p for p in names if p.name.endswith((".nii", ".nii.gz")))
    except OSError as err:
        raise MissingInputError(f"{folder}: cannot list label maps: {err.strerror}") from err
    if not found:
        raise MissingInputError(f"{folder}: holds no .nii or .nii.gz; give a folder of label maps")
    return tuple(found)


def _check(plan: Plan, subjects: int) -> None:
    plan.lesions.check()
    if subjects < 1:
        raise UsageError(f"--subjects {subjects}: give at least 1")
    if plan.seed < 0:
        raise UsageError(f"--seed {plan.seed}: give 0 or a positive number")
    if not 0.5 <= plan.resolution <= 4.0:
        raise UsageError(f"--resolution {plan.resolution:g}: give 0.5 to 4 mm")
    if not 0 <= plan.negative_kept <= 1:
        raise UsageError(f"--negative-signal {plan.negative_kept:g}: give a share from 0 to 1")
    if not plan.contrasts or not set(plan.contrasts) <= set(CONTRASTS):
        raise UsageError(f"--contrast {' '.join(plan.contrasts)}: choose of {' '.join(CONTRASTS)}")
    if not set(plan.acquisitions) <= set(LOW_FIELD):
        raise UsageError(f"--lf {' '.join(plan.acquisitions)}: choose of {' '.join(LOW_FIELD)}")


def _write_subject(plan: Plan, name: str, number: int, tell: Say) -> str:
    """Simulate one person's scans; return where the anatomy comes from."""
    rng = np.random.default_rng([plan.seed, number, 0])
    if plan.maps:
        source, strength = load_labels(plan.maps[(number - 1) % len(plan.maps)]), 1.0
    else:
        source, strength = template_head(plan.resolution, rng), 1.2
    shape = grid_shape(plan.resolution)
    head, mask = vary(source, rng, shape=shape, spacing=plan.resolution, strength=strength)
    subject = make_subject(head, mask, rng)
    if plan.lesions:
        subject = _plant(plan, subject, name, number)
    for contrast in plan.contrasts:
        sequence = HIGH_FIELD[contrast]
        data = high_field_scan(subject, contrast, sequence, _scan_rng(plan, number, contrast, "HF"))
        label = "_acq-MPRAGE" if contrast == "T1w" else ""
        stem = plan.out / name / "ses-HF" / "anat" / f"{name}_ses-HF{label}_{contrast}"
        sidecar = sidecars.high_field_sidecar(sequence, plan.resolution)
        write_scan(stem, data, head.affine, sidecar)
        tell(f"{stem.name}: {'x'.join(map(str, data.shape))}")
    for contrast in plan.contrasts if plan.acquisitions else ():
        _write_low(plan, subject, name, number, contrast, tell)
    return head.source


def _plant(plan: Plan, subject: Subject, name: str, number: int) -> Subject:
    """Plant a person's lesions and write their mask as a derivative."""
    affine = subject.anatomy.affine
    rng = np.random.default_rng([plan.seed, number, 0, 2])
    lesions = place_lesions(subject.classes == WHITE, affine, plan.lesions, rng)
    subject, mask = with_lesions(subject, lesions, plan.lesions.severity)
    stem = plan.out / DERIVATIVES / name / "ses-HF" / "anat" / f"{name}_ses-HF_label-lesion_mask"
    _write_image(stem, mask.astype(np.uint8), affine)
    sidecar = sidecars.lesion_sidecar(lesions, plan.lesions.severity, subject.tissues)
    _write_json(stem.with_name(stem.name + ".json"), sidecar)
    return subject


def _scan_rng(plan: Plan, number: int, contrast: str, scan: str) -> np.random.Generator:
    """Seed a scan by what it is, so that others do not change it."""
    code = 1 + CONTRASTS.index(contrast) + 2 * ("HF", "coil", *LOW_FIELD).index(scan)
    return np.random.default_rng([plan.seed, number, code])


def _write_low(
    plan: Plan, subject: Subject, name: str, number: int, contrast: str, tell: Say
) -> None:
    anatomy = subject.anatomy
    rng = _scan_rng(plan, number, contrast, "coil")
    sensitivity = coil(rng, anatomy.labels.shape, anatomy.affine, contrast)
    session = np.random.default_rng([plan.seed, number, 0, 1])
    displacement = distortion(session, subject.mask, anatomy.spacing, DISTORTION)
    for acquisition in plan.acquisitions:
        scan = low_field_scan(
            subject,
            contrast,
            acquisition,
            sensitivity=sensitivity,
            rng=_scan_rng(plan, number, contrast, acquisition),
            negative_kept=plan.negative_kept,
            displacement=displacement,
        )
        stem = f"{name}_ses-LF_acq-{acquisition}_{contrast}"
        path = plan.out / name / "ses-LF" / "anat" / stem
        write_scan(path, scan.data, scan.affine, sidecars.low_field_sidecar(scan.sequence))
        tell(f"{stem}: {'x'.join(map(str, scan.data.shape))}")


def write_scan(
    stem: Path, data: np.ndarray, affine: np.ndarray, sidecar: Mapping[str, Any] | None
) -> None:
    """Write a scan as scanners do, in integers: `stem` has no extension, white matter is 1."""
    _write_image(stem, np.rint(data * WHITE_LEVEL).clip(0, 32767).astype(np.int16), affine)
    if sidecar is not None:
        _write_json(stem.with_name(stem.name + ".json"), sidecar)


def _write_image(stem: Path, stored: np.ndarray, affine: np.ndarray) -> None:
    import nibabel as nib

    image = nib.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    stem.parent.mkdir(parents=True, exist_ok=True)
    # No name and no time in the gzip header.
    packed = gzip.compress(image.to_bytes(), compresslevel=5, mtime=0)
    stem.with_name(stem.name + ".nii.gz").write_bytes(packed)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _licence(labels: Path | str | None) -> str:
    if labels is None:
        return "CC0"
    texts = [p.read_text(errors="ignore")[:400] for p in Path(labels).glob("LICENSE*")]
    apache = any("Apache License" in text for text in texts)
    return "Apache-2.0 (label maps)" if apache else "That of the label maps"


def _write_top(plan: Plan, subjects: int, rows: list[str], labels: Path | str | None) -> None:
    contrasts, acquisitions = " ".join(plan.contrasts), " ".join(plan.acquisitions)
    call = f"h2lo-phantom OUT --subjects {subjects} --seed {plan.seed}"
    call += f" --resolution {plan.resolution:g} --contrast {contrasts} --lf {acquisitions}"
    call += f" --negative-signal {plan.negative_kept:g}"
    call += " --labels DIR" if labels else ""
    call += sidecars.lesion_options(plan.lesions)
    description = sidecars.dataset_description(__version__, _licence(labels), call)
    _write_json(plan.out / "dataset_description.json", description)
    if plan.lesions:
        description |= {"Name": "Lesions planted in simulated heads", "DatasetType": "derivative"}
        description |= {"SourceDatasets": [{"URL": "../.."}]}
        _write_json(plan.out / DERIVATIVES / "dataset_description.json", description)
    _write_json(plan.out / "participants.json", sidecars.PARTICIPANTS)
    table = "participant_id\tanatomy\tseed\n" + "".join(row + "\n" for row in rows)
    (plan.out / "participants.tsv").write_text(table, encoding="utf-8")
    text = sidecars.readme(call, contrasts, acquisitions or "none")
    (plan.out / "README.md").write_text(text, encoding="utf-8")
    (plan.out / "CHANGES").write_text(sidecars.CHANGES, encoding="utf-8")
