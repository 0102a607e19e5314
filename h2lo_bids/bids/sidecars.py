"""The JSON beside every output.

Acquisition parameters of the input (field strength, echo time and so on) are
never copied: they do not hold for a synthesized image. What was simulated is
said under names of its own.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import bids_app_spec
import h2lo_bids
from h2lo_bids.bids.derivatives import sidecar_path
from h2lo_bids.bids.scan import Scan
from h2lo_bids.io import json_digest, write_json

SOFTWARE = ("torch", "numpy", "scipy", "nibabel", "antspyx", "nipype", "pybids", "deepbet")
TEMPLATE_URI = "https://templateflow.s3.amazonaws.com"

_SIMULATED = (
    "The model was fitted to simulated pairs, not to scans of the same heads in both fields: "
    "for a real scanner give weights that were fitted to its scans with --model"
)

_ON_FRAME = "the model's frame, centred on the brain"
_PREDICTION = (
    "A prediction, not an acquired image: it may show structure that is not there and hide what "
    "is. Not for diagnosis"
)
_TRAINED_ON_SIMULATED = (
    "The model was trained on simulated data, not on scans of the same heads in both fields"
)


def derivative_uri(path: str | Path, out_dir: str | Path) -> str:
    """Give the BIDS URI of a file of the derivative dataset itself."""
    return f"bids::{Path(path).absolute().relative_to(Path(out_dir).absolute()).as_posix()}"


def preproc_sidecar(
    scan: Scan,
    *,
    skull_stripped: bool,
    mask: str | None = None,
    sources: Iterable[str] = (),
    **where: str | None,
) -> dict[str, Any]:
    """Compose the sidecar of a ``desc-preproc`` image."""
    return {
        "Description": meaning_of("preproc"),
        "Sources": sources_of(scan.uri, mask, *sources),
        "SkullStripped": skull_stripped,
        **place_of(**where),
        **input_field(scan),
        "Software": software_versions(),
    }


def mask_sidecar(
    scan: Scan,
    *,
    method: str,
    sources: Iterable[str] = (),
    details: Mapping[str, Any] | None = None,
    **where: str | None,
) -> dict[str, Any]:
    """Compose the sidecar of a ``desc-brain_mask`` image."""
    return {
        "Description": meaning_of("brain"),
        "Type": "Brain",
        "Sources": sources_of(scan.uri, *sources),
        **place_of(where.get("spatial_reference") or scan.uri, where.get("resolution")),
        "BrainExtractionMethod": method,
        **(details or {}),
        "Software": software_versions(),
    }


def lowfield_sidecar(
    scan: Scan,
    *,
    model: Mapping[str, Any],
    sources: Iterable[str],
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    spatial_reference: str | None = None,
    resolution: str | None = None,
) -> dict[str, Any]:
    """Compose the sidecar of a ``desc-lowfield`` image."""
    content: dict[str, Any] = {
        "Description": meaning_of("lowfield"),
        "Sources": sources_of(scan.uri, *sources),
        "SkullStripped": True,
        **place_of(spatial_reference, resolution),
        "SimulatedMagneticFieldStrength": model.get("target_field_strength"),
        "ModelInputMagneticFieldStrength": model.get("source_field_strength"),
        **input_field(scan),
        **model_facts(model),
        "RandomSeed": seed,
        **(settings or {}),
        "Software": software_versions(),
    }
    return {key: value for key, value in content.items() if value is not None}


def model_facts(model: Mapping[str, Any]) -> dict[str, Any]:
    """Say which model made an image, and what it was trained on."""
    training = model.get("training_data") or {}
    kind = training.get("kind") or "unknown"
    return {
        "ValueRange": model.get("value_range"),
        "ModelName": model.get("name"),
        "ModelVersion": model.get("version"),
        "ModelMethod": model.get("method"),
        "ModelMethodTitle": model.get("title"),
        "ModelReference": model.get("reference"),
        "ModelSha256": model.get("sha256"),
        "ModelTrainingDataKind": kind,
        "ModelTrainingData": training.get("description"),
        "ModelTrainingDataLicense": training.get("licence"),
        "ModelWarning": _SIMULATED if kind == "simulated" else None,
    }


def extra_sidecar(
    lowfield: Mapping[str, Any],
    kind: str,
    model: Mapping[str, Any],
    uri: str,
    *,
    scale: float = 1.0,
) -> dict[str, Any]:
    """Compose the sidecar of what stands beside a ``desc-lowfield`` image."""
    if kind == "std":
        members = [name for name in model["files"] if name.startswith("members/")]
        content = {key: v for key, v in lowfield.items() if key not in ("ValueRange", "RandomSeed")}
        own = {"Units": "arbitrary", "NumberOfModels": len(members)}
        return {**content, "Description": meaning_of("lowfieldstd"), **own}
    return {
        **lowfield,
        "Description": meaning_of("lowfieldnoise01"),
        "Sources": sources_of(*lowfield["Sources"], uri),
        "Realisation": int(kind.removeprefix("noise")),
        "NoiseModelSha256": json_digest(model["noise"]),
        "NoiseModelSubjects": model["noise"]["subjects"],
        "NoiseScale": scale,
    }


def enhancement_sidecars(
    scan: Scan,
    parts: Sequence[Scan],
    uris: Mapping[str, str],
    model: Mapping[str, Any],
    *,
    seed: int,
    settings: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Compose the sidecars of an enhanced image, of its input on the frame, and of the mask."""
    scans = [part.uri for part in parts]
    fused = len(parts) > 1
    made = {
        **place_of(resolution=_ON_FRAME),
        "Fusion": "mrr" if fused else "none",
        "RegistrationMethod": "ANTs, rigid, to one of the scans" if fused else None,
        "RandomSeed": seed,
        **input_field(scan),
        "Software": software_versions(),
    }
    facts = model_facts(model)
    lines = [facts.pop("ModelWarning") and _TRAINED_ON_SIMULATED, _PREDICTION]
    contents: dict[str, dict[str, Any]] = {
        "preproc": {
            "Description": meaning_of("preproc"),
            "Sources": sources_of(*scans, uris["mask"]),
            "SkullStripped": True,
            **made,
        },
        "mask": {
            "Description": meaning_of("brain"),
            "Type": "Brain",
            "Sources": sources_of(*scans),
            **made,
            **place_of(scans[0]),
        },
        "enhanced": {
            "Description": meaning_of("enhanced"),
            "Sources": sources_of(*scans, uris["preproc"], uris["mask"]),
            "SkullStripped": True,
            **made,
            "ModelTask": "enhance",
            "ModelInputMagneticFieldStrength": model.get("source_field_strength"),
            "ModelTargetMagneticFieldStrength": model.get("target_field_strength"),
            **facts,
            "ModelWarning": ". ".join(line for line in lines if line),
            **settings,
        },
    }
    return {
        key: {name: value for name, value in content.items() if value is not None}
        for key, content in contents.items()
    }


def pair_sidecar(
    desc: str,
    scans: Iterable[Scan],
    *,
    mask: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compose the sidecar of an image of a training pair."""
    uris = [scan.uri for scan in scans]
    kind = {"SkullStripped": True} if mask else {"Type": "Brain"}
    return {
        "Description": meaning_of(desc),
        "Sources": sources_of(*uris, mask),
        **kind,
        **place_of(uris[0], _ON_FRAME),
        **(details or {}),
        "Software": software_versions(),
    }


def transform_sidecar(
    *, source: str, target: str, method: str, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Compose the sidecar of a spatial transform."""
    return {
        "Description": "Spatial transform, in the convention of ANTs/ITK",
        "Sources": sources_of(source, target),
        "FromFile": source,
        "ToFile": target,
        "RegistrationMethod": method,
        **(settings or {}),
        "Software": software_versions(),
    }


def write_sidecar(image: Path, content: Mapping[str, Any]) -> Path:
    """Write the sidecar of an image or transform atomically; give its path."""
    path = sidecar_path(image)
    write_json(path, content)
    return path


def template_reference(image: Path) -> str:
    """Give the URI of a template's image: in TemplateFlow's archive, or of a user's own file.

    Examples
    --------
    >>> template_reference(Path("/cache/tpl-X/cohort-1/tpl-X_cohort-1_T1w.nii.gz"))
    'https://templateflow.s3.amazonaws.com/tpl-X/cohort-1/tpl-X_cohort-1_T1w.nii.gz'
    >>> template_reference(Path("/mine/head.nii.gz"))
    'file:///mine/head.nii.gz'
    """
    for depth, part in enumerate(image.parts):
        if part.startswith("tpl-") and image.name.startswith(f"{part}_"):
            return "/".join([TEMPLATE_URI, *image.parts[depth:]])
    return image.absolute().as_uri()


def software_versions() -> dict[str, str]:
    """List what computes here, with versions; without what is not installed."""
    versions = {"h2lo-bids": h2lo_bids.__version__, "python": platform.python_version()}
    for name in SOFTWARE:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def sources_of(*uris: str | None) -> list[str]:
    """List BIDS URIs once each, without None."""
    return list(dict.fromkeys(uri for uri in uris if uri))


def place_of(spatial_reference: str | None = None, resolution: str | None = None) -> dict[str, str]:
    """Say on which grid an image is, as far as it is given."""
    place = {"SpatialReference": spatial_reference, "Resolution": resolution}
    return {key: value for key, value in place.items() if value is not None}


def input_field(scan: Scan) -> dict[str, Any]:
    """Say of which field strength the input is, as far as it is known."""
    known = {
        "InputMagneticFieldStrength": scan.field_strength,
        "InputMagneticFieldStrengthSource": scan.field_source,
    }
    return {key: value for key, value in known.items() if value is not None}


def meaning_of(desc: str) -> str:
    """Return what ``descriptions.tsv`` says of a ``desc`` label."""
    rows = bids_app_spec.load("descriptions.tsv")
    return next(str(row["description"]) for row in rows if row["desc_id"] == f"desc-{desc}")
