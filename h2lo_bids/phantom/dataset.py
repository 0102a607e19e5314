"""A BIDS dataset of simulated pairs in the style of ds006557."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids import __version__
from h2lo_bids.errors import CannotCreateError, InputOutputError, MissingInputError
from h2lo_bids.io import write_json
from h2lo_bids.phantom import anatomy, physics, scans
from h2lo_bids.phantom.anatomy import Subject
from h2lo_bids.phantom.lesions import Lesion, LesionPlan, place_lesions, with_lesions
from h2lo_bids.phantom.physics import HIGH_FIELD, LOW_FIELD, NAMES, Protocol, Tissue
from h2lo_bids.phantom.scans import WHITE
from h2lo_bids.vocabulary import CONTRASTS, Say

WHITE_LEVEL = 700.0
"""Stored intensity of white matter; scanners store integers."""
DERIVATIVES = Path("derivatives", "h2lo-phantom")
LARMOR = 42.577
"""Proton Larmor frequency in MHz per tesla."""
_KIND = {
    "mprage": ("GR_IR", "SP_MP", "MPRAGE"),
    "inversion": ("SE_IR", "SK_MP", "3D fast spin echo"),
    "spin": ("SE", "SK", "3D fast spin echo"),
}
"""ScanningSequence, SequenceVariant and PulseSequenceType."""
_PARTICIPANTS = {
    "participant_id": {"Description": "Number of the simulated person"},
    "anatomy": {"Description": "Map from which the person was deformed"},
    "seed": {"Description": "Seed of the dataset; with the number it decides the person"},
}
_CHANGES = "1.0.0 2026-11-22\n  - Simulated.\n"
_README = """# Simulated {kind} brain MRI

No person was scanned. Each `sub-` is a head deformed at random from a tissue map,
"scanned" at 3 T (`ses-HF`). Sequences follow OpenNeuro ds006557; relaxation times,
coil sensitivity and noise are simulated. Fields and noise were fitted to the figures
that the paper of H2LO reports for the high-field images of ds006557.
{low}
- Contrasts: {contrasts}
- Low-field acquisitions: {acquisitions}
- Made by: `{command}` (the same call makes the same bytes)

Do not draw conclusions about real scanners or people from these images.
"""
_LOW = """
The same head was "scanned" at 64 mT (`ses-LF`), with slice profile and k-space truncation.
The two sessions differ by a rigid movement and by the distortion of the low-field one, which
was fitted to the same figures; its tissue levels and noise were fitted to a real Swoop scan.
"""


@dataclass(frozen=True)
class Plan:
    """A dataset to simulate."""

    out: Path  # folder to create; may exist if empty
    subjects: int = 1  # people
    seed: int = 0  # person 3 is the same however many follow
    resolution: float = 1.0  # mm, of the anatomy and of the high-field scans
    contrasts: Sequence[str] = CONTRASTS
    acquisitions: Sequence[str] = LOW_FIELD  # none leaves out ``ses-LF``
    # Folder of FreeSurfer label maps of whole heads, used in the order of their names, again
    # from the first when there are more people than maps; without it, nilearn's tissue maps.
    labels: Path | None = None
    lesions: LesionPlan = field(default_factory=LesionPlan)  # masks go to `DERIVATIVES`

    @property
    def command(self) -> str:
        """The command that makes this dataset again."""
        words = f"h2lo-phantom OUT --subjects {self.subjects} --seed {self.seed}"
        words += f" --resolution {self.resolution:.15g} --contrast {' '.join(self.contrasts)}"
        words += " ".join((" --lf", *self.acquisitions))
        words += " --labels DIR" if self.labels else ""
        if self.lesions:
            diameters = " ".join(f"{d:.15g}" for d in self.lesions.diameters)
            words += f" --lesions {self.lesions.count} --lesion-diameter {diameters}"
            words += f" --lesion-severity {self.lesions.severity:.15g}"
        for place in self.lesions.places:
            words += " --lesion-at " + " ".join(f"{v:.15g}" for v in place)
        return words


def make_dataset(plan: Plan, progress: Say = lambda line: None) -> None:
    """Write a dataset of paired sessions; the same plan gives the same bytes."""
    maps = _label_maps(plan.labels) if plan.labels else ()
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
        if any(plan.out.glob("[!.]*")):
            raise CannotCreateError(f"{plan.out}: is not empty; name a new folder")
    except OSError as err:
        raise CannotCreateError(f"{plan.out}: cannot create this folder: {err.strerror}") from err
    table = "participant_id\tanatomy\tseed\n"
    try:
        for number in range(1, plan.subjects + 1):
            person = _Person(plan, number, progress)
            table += f"{person.name}\t{person.write(maps)}\t{plan.seed}\n"
        (plan.out / "participants.tsv").write_text(table, encoding="utf-8")
        _write_top(plan)
    except OSError as err:
        raise InputOutputError(f"{plan.out}: writing failed: {err.strerror or err}") from err


def _label_maps(folder: Path) -> tuple[Path, ...]:
    try:
        names = (p for p in folder.iterdir() if not p.name.startswith("."))
        maps = sorted(p for p in names if p.name.endswith((".nii", ".nii.gz")))
    except OSError as err:
        raise MissingInputError(f"{folder}: cannot list label maps: {err.strerror}") from err
    if not maps:
        raise MissingInputError(f"{folder}: holds no .nii or .nii.gz; give a folder of label maps")
    return tuple(maps)


class _Person:
    """One person of a dataset, whose scans do not depend on what else is written."""

    def __init__(self, plan: Plan, number: int, progress: Say) -> None:
        self._plan, self._number, self._progress = plan, number, progress
        self.name = f"sub-{number:0{max(2, len(str(plan.subjects)))}d}"

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self._plan.seed, self._number, *stream])

    def _scan_rng(self, contrast: str, scan: str) -> np.random.Generator:
        kinds = ("HF", "coil", *LOW_FIELD)
        return self._rng(1 + CONTRASTS.index(contrast) + 2 * kinds.index(scan))

    def write(self, maps: Sequence[Path]) -> str:
        """Simulate the person's scans; return where the anatomy comes from."""
        plan, rng, side = self._plan, self._rng(0), self._plan.resolution
        if maps:
            source, strength = anatomy.load_labels(maps[(self._number - 1) % len(maps)]), 1.0
        else:
            source, strength = anatomy.template_head(side, rng), 1.2
        shape = anatomy.grid_shape(side)
        head, mask = anatomy.vary(source, rng, shape=shape, spacing=side, strength=strength)
        subject = anatomy.make_subject(head, mask, rng)
        if plan.lesions:
            subject = self._plant(subject)
        for contrast in plan.contrasts:
            protocol, rng = HIGH_FIELD[contrast], self._scan_rng(contrast, "HF")
            values = physics.signal_of(protocol, subject.tissues)
            data = scans.high_field_scan(subject, values, rng, scans.nominal_look(contrast, rng))
            label = "acq-MPRAGE_T1w" if contrast == "T1w" else contrast
            self._write_scan("HF", label, data, head.affine, _sidecar(protocol, side))
        if plan.acquisitions:
            self._write_low(subject)
        return head.source

    def _plant(self, subject: Subject) -> Subject:
        """Plant the person's lesions and write their mask as a derivative."""
        plan, affine = self._plan.lesions, subject.anatomy.affine
        lesions = place_lesions(subject.classes == WHITE, affine, plan, self._rng(0, 2))
        subject, mask = with_lesions(subject, lesions, plan.severity)
        sidecar = _lesion_sidecar(lesions, plan.severity, subject.tissues)
        mask = mask.astype(np.uint8)
        self._write_image("HF", "label-lesion_mask", mask, affine, sidecar, DERIVATIVES)
        return subject

    def _write_low(self, subject: Subject) -> None:
        """Scan the person at low field."""
        head, rng = subject.anatomy, self._rng(0, 1)
        displacement = scans.distortion(rng, subject.mask, head.spacing, scans.DISTORTION)
        for contrast in self._plan.contrasts:
            sensitivity = scans.coil(self._scan_rng(contrast, "coil"), head, contrast)
            for acquisition in self._plan.acquisitions:
                data, _ = scans.low_field_scan(
                    subject, contrast, acquisition, sensitivity=sensitivity,
                    rng=self._scan_rng(contrast, acquisition), displacement=displacement,
                )  # fmt: skip
                grid = physics.low_field_grid(contrast, acquisition)
                sidecar = _sidecar(physics.low_field(contrast, acquisition), max(grid.zooms))
                self._write_scan("LF", f"acq-{acquisition}_{contrast}", data, grid.affine, sidecar)

    def _write_scan(self, session: str, label: str, data: np.ndarray, *space: Any) -> None:
        """Write a scan, whose white matter is 1, as scanners do: in integers."""
        stored = np.rint(data * WHITE_LEVEL).clip(0, 32767).astype(np.int16)
        stem = self._write_image(session, label, stored, *space)
        self._progress(f"{stem}: {'x'.join(map(str, data.shape))}")

    def _write_image(
        self, session: str, label: str, stored: np.ndarray, affine: np.ndarray,
        sidecar: Mapping[str, Any], root: Path = Path(),
    ) -> str:  # fmt: skip
        """Write an image and its sidecar; return the name without extension."""
        import nibabel as nib

        image = nib.Nifti1Image(stored, affine)
        image.header.set_xyzt_units("mm", "sec")
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        stem = f"{self.name}_ses-{session}_{label}"
        folder = self._plan.out / root / self.name / f"ses-{session}" / "anat"
        write_json(folder / f"{stem}.json", sidecar)
        # No name and no time in the gzip header.
        packed = gzip.compress(image.to_bytes(), compresslevel=5, mtime=0)
        (folder / f"{stem}.nii.gz").write_bytes(packed)
        return stem


def _sidecar(protocol: Protocol, thickness: float) -> dict[str, Any]:
    """Return a scan's JSON in BIDS terms; times in seconds, angles in degrees, mm."""
    low = protocol.tesla < 1
    sequence, variant, kind = _KIND[protocol.kind]
    count = {"NumberOfAverages": protocol.averages} if low else {"EchoTrainLength": protocol.echoes}
    return {
        "Modality": "MR",
        "Manufacturer": "Hyperfine (simulated)" if low else "GE (simulated)",
        "ManufacturersModelName": "64 mT phantom" if low else "3 T phantom",
        "MagneticFieldStrength": protocol.tesla,
        "ImagingFrequency": round(protocol.tesla * LARMOR, 4),
        "MRAcquisitionType": "3D",
        "ScanningSequence": sequence,
        "SequenceVariant": variant,
        "PulseSequenceType": kind,
        "SliceThickness": thickness,
        "RepetitionTime": protocol.tr / 1000,
        "EchoTime": protocol.te / 1000,
        "FlipAngle": protocol.flip,
        **count,
        **({"InversionTime": protocol.ti / 1000} if protocol.ti else {}),
    }


def _lesion_sidecar(
    lesions: Sequence[Lesion], severity: float, tissues: dict[str, Tissue]
) -> dict[str, Any]:
    """Return the JSON of a person's lesion mask, with each contrast to white matter."""
    contrasts = {}
    for contrast in CONTRASTS:
        high, low = HIGH_FIELD[contrast], physics.low_field(contrast, "axi")
        for name, protocol in ((f"3T {contrast}", high), (f"64mT axial {contrast}", low)):
            values = physics.signal_of(protocol, tissues)
            ratio = values[NAMES.index("plaque")] / values[WHITE]
            contrasts[name] = round(float(ratio) - 1, 4)
    return {
        "Type": "Lesion",
        "Description": "Lesions planted in white matter; any that the map has are not marked",
        "SpatialReference": "orig",
        "Severity": severity,
        "ContrastToWhiteMatter": contrasts,
        "Lesions": [{"CentreMM": list(v.centre), "DiameterMM": v.diameter} for v in lesions],
    }


def _licence(labels: Path | None) -> str:
    if labels is None:
        return "CC0"
    texts = [p.read_text(errors="ignore")[:400] for p in labels.glob("LICENSE*") if p.is_file()]
    apache = any("Apache License" in text for text in texts)
    return "Apache-2.0 (label maps)" if apache else "That of the label maps"


def _write_top(plan: Plan) -> None:
    """Write what describes the dataset."""
    kind = "paired high-field and low-field" if plan.acquisitions else "high-field"
    generated = {
        "Name": "h2lo-phantom",
        "Version": __version__,
        "Description": f"Simulation from tissue maps and MR physics: {plan.command}",
    }
    description = {
        "Name": f"Simulated {kind} brain MRI",
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "License": _licence(plan.labels),
        "Authors": ["H2LO-BIDS phantom"],
        "Acknowledgements": "Simulated data; the layout follows OpenNeuro ds006557.",
        "GeneratedBy": [generated],
    }
    write_json(plan.out / "dataset_description.json", description)
    if plan.lesions:
        description |= {"Name": "Lesions planted in simulated heads", "DatasetType": "derivative"}
        description |= {"SourceDatasets": [{"URL": "../.."}]}
        write_json(plan.out / DERIVATIVES / "dataset_description.json", description)
    write_json(plan.out / "participants.json", _PARTICIPANTS)
    text = _README.format(
        kind=kind, low=_LOW if plan.acquisitions else "", command=plan.command,
        contrasts=" ".join(plan.contrasts), acquisitions=" ".join(plan.acquisitions) or "none",
    )  # fmt: skip
    (plan.out / "README.md").write_text(text, encoding="utf-8")
    (plan.out / "CHANGES").write_text(_CHANGES, encoding="utf-8")
