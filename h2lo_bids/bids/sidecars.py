"""What the JSON of every output has in common.

Acquisition parameters of the input (field strength, echo time and so on) are
never copied: they do not hold for a synthesized image. What was simulated has
other names.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import bids_app_spec
import h2lo_bids
from h2lo_bids.bids.derivatives import sidecar_path
from h2lo_bids.io import write_json

SOFTWARE = ("torch", "numpy", "scipy", "nibabel", "antspyx", "nipype", "pybids", "deepbet")
TEMPLATE_URI = "https://templateflow.s3.amazonaws.com"

MODEL_FRAME = "the model's frame, centred on the brain"


def derivative_uri(path: str | Path, out_dir: str | Path) -> str:
    """Give the BIDS URI of a file of the derivative dataset itself."""
    return f"bids::{Path(path).absolute().relative_to(Path(out_dir).absolute()).as_posix()}"


def sidecar(desc: str, **facts: Any) -> dict[str, Any]:
    """Compose the sidecar of an image: each source once, and no facts that are None."""
    facts["Sources"] = list(dict.fromkeys(facts["Sources"]))
    content = {"Description": meaning_of(desc), **facts, "Software": software_versions()}
    return {key: value for key, value in content.items() if value is not None}


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


def meaning_of(desc: str) -> str:
    """Return what ``descriptions.tsv`` says of a ``desc`` label."""
    rows = bids_app_spec.load("descriptions.tsv")
    return next(str(row["description"]) for row in rows if row["desc_id"] == f"desc-{desc}")
