"""The JSON beside every output.

Acquisition parameters of the input (field strength, echo time and so on) are
never copied: they do not hold for a synthesized image. What was simulated is
said under names of its own.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
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

_PAIR_RESOLUTION = "the model's frame, centred on the brain"


def derivative_uri(path: str | Path, out_dir: str | Path) -> str:
    """Give the BIDS URI of a file of the derivative dataset itself.

    Parameters
    ----------
    path, out_dir : path-like
        The file, and the root that it lies below.

    Returns
    -------
    str
        ``bids::sub-01/anat/...``
    """
    return f"bids::{Path(path).absolute().relative_to(Path(out_dir).absolute()).as_posix()}"


def preproc_sidecar(
    scan: Scan,
    *,
    skull_stripped: bool,
    mask: str | None = None,
    sources: Iterable[str] = (),
    **where: str | None,
) -> dict[str, Any]:
    """Compose the sidecar of a ``desc-preproc`` image.

    Parameters
    ----------
    scan : Scan
        The input.
    skull_stripped : bool
        Whether voxels outside the brain are zero.
    mask : str, optional
        BIDS URI of the brain mask that was used.
    sources : iterable of str
        Further BIDS URIs, e.g. of a transform.
    **where : str, optional
        ``spatial_reference`` and ``resolution``; see :func:`lowfield_sidecar`.

    Returns
    -------
    dict
    """
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
    """Compose the sidecar of a ``desc-brain_mask`` image.

    Parameters
    ----------
    scan : Scan
        The input; the spatial reference unless another is given.
    method : str
        What found the brain, e.g. ``"deepbet 1.0.2"``.
    sources : iterable of str
        Further BIDS URIs, e.g. of the T1w image whose mask is shared.
    details : mapping, optional
        Anything else worth keeping, e.g. a checksum of weights.
    **where : str, optional
        ``spatial_reference`` and ``resolution``; see :func:`lowfield_sidecar`.

    Returns
    -------
    dict
    """
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
    """Compose the sidecar of a ``desc-lowfield`` image.

    Parameters
    ----------
    scan : Scan
        The high-field input.
    model : mapping
        The bundle's metadata (``name``, ``version``, ``method``, ``sha256``,
        ``training_data``, field strengths, ``frame`` ...), and of its method
        the ``title`` and the ``reference``.
    sources : iterable of str
        BIDS URIs of the preprocessed image, the mask and any transform.
    seed : int, optional
        Of the run.
    settings : mapping, optional
        Of the synthesis: device, precision and the like.
    spatial_reference : str, optional
        URI of the image that defines the grid; needed when the name has a
        ``space`` that is not a standard one.
    resolution : str, optional
        What the ``res`` entity stands for; needed when the name has one.

    Returns
    -------
    dict
    """
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
    """Say which model made an image, and what it was trained on.

    Parameters
    ----------
    model : mapping
        As for :func:`lowfield_sidecar`.

    Returns
    -------
    dict
        Values may be None, where the model does not say.
    """
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


def beside_sidecar(
    lowfield: Mapping[str, Any],
    kind: str,
    model: Mapping[str, Any],
    uri: str,
    *,
    scale: float = 1.0,
) -> dict[str, Any]:
    """Compose the sidecar of what stands beside a ``desc-lowfield`` image.

    Parameters
    ----------
    lowfield : mapping
        That image's own sidecar.
    kind : str
        ``"noise01"`` and so on, or ``"std"``.
    model : mapping
        The bundle's metadata, with ``noise`` and ``files`` as far as they are used.
    uri : str
        BIDS URI of the ``desc-lowfield`` image.
    scale : float
        Factor of the noise.

    Returns
    -------
    dict
    """
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


def pair_sidecar(
    desc: str,
    scans: Iterable[Scan],
    *,
    mask: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compose the sidecar of an image of a training pair.

    Parameters
    ----------
    desc : str
        ``"pairHF"``, ``"pairLF"``, ``"pair"`` or ``"pairT2w"``.
    scans : iterable of Scan
        What it was made from; the high-field scan, first, is the spatial reference.
    mask : str, optional
        BIDS URI of the pair's mask; for the two brains.
    details : mapping, optional
        How it was made; of the low-field image, what a pair's record holds.

    Returns
    -------
    dict
    """
    uris = [scan.uri for scan in scans]
    kind = {"SkullStripped": True} if mask else {"Type": "Brain"}
    return {
        "Description": meaning_of(desc),
        "Sources": sources_of(*uris, mask),
        **kind,
        **place_of(uris[0], _PAIR_RESOLUTION),
        **(details or {}),
        "Software": software_versions(),
    }


def transform_sidecar(
    *, source: str, target: str, method: str, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Compose the sidecar of a spatial transform.

    Parameters
    ----------
    source, target : str
        URIs of the moving and of the fixed image.
    method : str
        What found it, e.g. ``"ANTs SyN"``.
    settings : mapping, optional
        Of the registration.

    Returns
    -------
    dict
    """
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
    """List what computes here, with versions; what is not installed is left out."""
    versions = {"h2lo-bids": h2lo_bids.__version__, "python": platform.python_version()}
    for name in SOFTWARE:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def sources_of(*uris: str | None) -> list[str]:
    """List BIDS URIs once each; what is None is left out."""
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
