"""What the phantom's scans and dataset say about themselves, in BIDS terms and units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from h2lo_bids.phantom.lesions import Lesion, LesionPlan
from h2lo_bids.phantom.protocols import (
    HIGH_FIELD,
    HighField,
    LowField,
    high_field_values,
    low_field,
    low_field_values,
)
from h2lo_bids.phantom.tissues import NAMES, Tissue
from h2lo_bids.vocabulary import CONTRASTS

LARMOR = 42.577
"""Proton Larmor frequency in MHz per tesla."""
_KIND = {
    "mprage": ("GR_IR", "SP_MP", "MPRAGE"),
    "spoiled": ("GR", "SP", "FLASH"),
    "spin": ("SE", "SK", "3D fast spin echo"),
}


def high_field_sidecar(sequence: HighField, thickness: float) -> dict[str, Any]:
    """Return the JSON of a 3 T scan with slices of so many mm."""
    maker, model = "GE (simulated)", "3 T phantom"
    more = {"FlipAngle": sequence.flip, "EchoTrainLength": sequence.echoes}
    return _sidecar(sequence, maker, model, 3, _KIND[sequence.kind], thickness, more)


def low_field_sidecar(sequence: LowField) -> dict[str, Any]:
    """Return the JSON of a 64 mT scan."""
    maker, model = "Hyperfine (simulated)", "64 mT phantom"
    kind = ("SE_IR" if sequence.ti else "SE", "SK_MP" if sequence.ti else "SK", _KIND["spin"][2])
    thickness = sequence.grid.zooms[sequence.grid.slice_axis]
    more = {"FlipAngle": 90, "NumberOfAverages": sequence.averages}
    return _sidecar(sequence, maker, model, 0.064, kind, thickness, more)


def _sidecar(
    sequence: HighField | LowField,
    maker: str,
    model: str,
    tesla: float,
    kind: tuple[str, str, str],
    thickness: float,
    more: dict[str, Any],
) -> dict[str, Any]:
    """Return a scan's JSON in BIDS terms; times in seconds, angles in degrees, mm."""
    fields = {
        "Modality": "MR",
        "Manufacturer": maker,
        "ManufacturersModelName": model,
        "MagneticFieldStrength": tesla,
        "ImagingFrequency": round(tesla * LARMOR, 4),
        "MRAcquisitionType": "3D",
        "ScanningSequence": kind[0],
        "SequenceVariant": kind[1],
        "PulseSequenceType": kind[2],
        "SliceThickness": thickness,
        "RepetitionTime": sequence.tr / 1000,
        "EchoTime": sequence.te / 1000,
        **more,
    }
    return fields | ({"InversionTime": sequence.ti / 1000} if sequence.ti else {})


def lesion_sidecar(
    lesions: Sequence[Lesion], severity: float, tissues: dict[str, Tissue]
) -> dict[str, Any]:
    """Return the JSON of a person's lesion mask, with each contrast to white matter."""
    contrasts = {}
    for contrast in CONTRASTS:
        high = high_field_values(HIGH_FIELD[contrast], tissues)
        low = low_field_values(low_field(contrast, "axi"), tissues)
        for name, values in ((f"3T {contrast}", high), (f"64mT axial {contrast}", low)):
            ratio = values[NAMES.index("plaque")] / values[NAMES.index("white")]
            contrasts[name] = round(float(ratio) - 1, 4)
    return {
        "Type": "Lesion",
        "Description": "Lesions planted in white matter; those of the label maps are not marked",
        "SpatialReference": "orig",
        "Severity": severity,
        "ContrastToWhiteMatter": contrasts,
        "Lesions": [{"CentreMM": list(v.centre), "DiameterMM": v.diameter} for v in lesions],
    }


def lesion_options(plan: LesionPlan) -> str:
    """Return the options that plant these lesions again."""
    if not plan:
        return ""
    at = "".join(" --lesion-at " + " ".join(f"{v:g}" for v in place) for place in plan.places)
    diameters = " ".join(f"{d:g}" for d in plan.diameters)
    return (
        f" --lesions {plan.count} --lesion-diameter {diameters}"
        f" --lesion-severity {plan.severity:g}{at}"
    )


def dataset_description(version: str, licence: str, call: str) -> dict[str, Any]:
    """Return the dataset's description; `call` would make the same dataset again."""
    return {
        "Name": "Simulated paired high-field and low-field brain MRI",
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "License": licence,
        "Authors": ["H2LO-BIDS phantom"],
        "Acknowledgements": "Simulated data; the layout follows OpenNeuro ds006557.",
        "GeneratedBy": [
            {
                "Name": "h2lo-phantom",
                "Version": version,
                "Description": f"Simulation from tissue maps and MR physics: {call}",
            }
        ],
    }


PARTICIPANTS = {
    "participant_id": {"Description": "Number of the simulated person"},
    "anatomy": {"Description": "Map from which the person was deformed"},
    "seed": {"Description": "Seed of the dataset; with the number it decides the person"},
}
CHANGES = "1.0.0 2026-11-22\n  - Simulated.\n"


def readme(call: str, contrasts: str, acquisitions: str) -> str:
    """Return the dataset's README."""
    return f"""# Simulated paired high-field and low-field brain MRI

No person was scanned. Each `sub-` is a head deformed at random from a tissue map,
"scanned" at 3 T (`ses-HF`) and at 64 mT (`ses-LF`). Sequences follow OpenNeuro
ds006557; relaxation times, coil sensitivity, pose, slice profile, k-space
truncation, distortion and noise are simulated. The two sessions differ by a rigid
movement and by the distortion of the low-field one. Fields, noise and distortion were
fitted to the figures that the paper of H2LO reports for the high-field images of ds006557.

- Contrasts: {contrasts}
- Low-field acquisitions: {acquisitions}
- Made by: `{call}` (the same call makes the same bytes)

Do not draw conclusions about real scanners or people from these images.
"""
