"""The JSON of every output.

Acquisition parameters of the input (field strength, echo time and so on) are
never copied: they do not hold for a synthesized image. What was simulated has
other names.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import bids_app_spec
import h2lo_bids
from h2lo_bids.bids.derivatives import sidecar_path
from h2lo_bids.bids.scan import Scan
from h2lo_bids.cache import sha256
from h2lo_bids.io import write_json

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


def _sidecar(desc: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Compose a sidecar; facts that are None are left away."""
    content = {"Description": meaning_of(desc), **facts, "Software": software_versions()}
    return {key: value for key, value in content.items() if value is not None}


def preproc_sidecar(
    scan: Scan, *, mask: str, sources: Iterable[str] = (), **where: str | None
) -> dict[str, Any]:
    """Compose the sidecar of a ``desc-preproc`` image."""
    facts = {"Sources": sources_of(scan.uri, mask, *sources), "SkullStripped": True}
    return _sidecar("preproc", {**facts, **_place(**where), **_input_field(scan)})


def mask_sidecar(scan: Scan, *, sources: Iterable[str] = (), **where: str | None) -> dict[str, Any]:
    """Compose the sidecar of a ``desc-brain_mask`` image, whose writer adds the method."""
    facts = {
        "Type": "Brain",
        "Sources": sources_of(scan.uri, *sources),
        **_place(where.get("spatial_reference") or scan.uri, where.get("resolution")),
        "BrainExtractionMethod": "",
    }
    return _sidecar("brain", facts)


def lowfield_sidecar(
    scan: Scan,
    *,
    model: Mapping[str, Any],
    sources: Iterable[str],
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    **where: str | None,
) -> dict[str, Any]:
    """Compose the sidecar of a ``desc-lowfield`` image."""
    facts = {
        "Sources": sources_of(scan.uri, *sources),
        "SkullStripped": True,
        **_place(**where),
        "SimulatedMagneticFieldStrength": model.get("target_field_strength"),
        "ModelInputMagneticFieldStrength": model.get("source_field_strength"),
        **_input_field(scan),
        **_model_facts(model),
        "RandomSeed": seed,
        **(settings or {}),
    }
    return _sidecar("lowfield", facts)


def _model_facts(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return which model made an image, and what it was trained on."""
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
    """Compose the sidecar of a noisy image or a deviation, from that of the low-field image."""
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
        "NoiseModelSha256": sha256(json.dumps(model["noise"], sort_keys=True).encode()),
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
    scans, fused = [part.uri for part in parts], len(parts) > 1
    made = {
        "Resolution": _ON_FRAME,
        "Fusion": "mrr" if fused else "none",
        "RegistrationMethod": "ANTs, rigid, to one of the scans" if fused else None,
        "RandomSeed": seed,
        **_input_field(scan),
        "Software": software_versions(),
    }
    facts = _model_facts(model)
    lines = [facts.pop("ModelWarning") and _TRAINED_ON_SIMULATED, _PREDICTION]
    brain = {"Sources": sources_of(*scans, uris["mask"]), "SkullStripped": True, **made}
    enhanced = {
        "Sources": sources_of(*scans, uris["preproc"], uris["mask"]),
        "SkullStripped": True,
        **made,
        "ModelTask": "enhance",
        "ModelInputMagneticFieldStrength": model.get("source_field_strength"),
        "ModelTargetMagneticFieldStrength": model.get("target_field_strength"),
        **facts,
        "ModelWarning": ". ".join(line for line in lines if line),
        **settings,
    }
    mask = {"Type": "Brain", "Sources": sources_of(*scans), **made, "SpatialReference": scans[0]}
    return {
        "preproc": _sidecar("preproc", brain),
        "mask": _sidecar("brain", mask),
        "enhanced": _sidecar("enhanced", enhanced),
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
    facts = {"Sources": sources_of(*uris, mask), **kind, **_place(uris[0], _ON_FRAME)}
    return _sidecar(desc, {**facts, **(details or {})})


def transform_sidecar(*, source: str, target: str) -> dict[str, Any]:
    """Compose the sidecar of a spatial transform."""
    return {
        "Description": "Spatial transform, in the convention of ANTs/ITK",
        "Sources": sources_of(source, target),
        "FromFile": source,
        "ToFile": target,
        "RegistrationMethod": "ANTs",
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


def _place(
    spatial_reference: str | None = None, resolution: str | None = None
) -> dict[str, str | None]:
    """Return on which grid an image is, as far as it is given."""
    return {"SpatialReference": spatial_reference, "Resolution": resolution}


def _input_field(scan: Scan) -> dict[str, Any]:
    """Return the input's field strength, as far as it is known."""
    return {
        "InputMagneticFieldStrength": scan.field_strength,
        "InputMagneticFieldStrengthSource": scan.field_source,
    }


def meaning_of(desc: str) -> str:
    """Return what ``descriptions.tsv`` says of a ``desc`` label."""
    rows = bids_app_spec.load("descriptions.tsv")
    return next(str(row["description"]) for row in rows if row["desc_id"] == f"desc-{desc}")
