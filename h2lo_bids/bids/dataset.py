"""What makes an output folder a BIDS derivative dataset.

Every run writes these files; a second one finds them equal and leaves them alone, so that
any number of runs may share a folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

import bids_app_spec
import h2lo_bids
from h2lo_bids.bids.derivatives import result_path
from h2lo_bids.errors import CannotCreateError
from h2lo_bids.io import atomic_write_text, read_json, read_text, write_json

BIDS_VERSION = "1.10.0"
PIPELINE = "H2LO-BIDS"
_README = """# H2LO-BIDS derivatives

Low-field MRI synthesized from high-field MRI: `desc-lowfield` images were
computed, not acquired. `descriptions.tsv` says what every `desc-` label means,
the JSON beside each image how it was made and with which model, and
`logs/CITATION.md` what to cite. Start with `index.html`, which lists all scans.
"""
_CODE_LABELS = {"code", "repository", "source", "source code", "homepage"}


def write_dataset_files(
    out_dir: str | Path,
    *,
    bids_dir: str | Path,
    links: Mapping[str, Path] | None = None,
    labels: Mapping[str, str] | None = None,
) -> None:
    """Write the files at the root of the derivative dataset.

    `labels` are further ``desc`` labels and what they mean; those of earlier runs are kept.
    """
    out, raw = Path(out_dir).absolute(), Path(bids_dir).absolute()
    require_own(out)
    spec = bids_app_spec.load("io_spec.json")
    columns = {
        "Description": "Meaning of the desc entity in this dataset's file names",
        "desc_id": {"Description": "Label of the desc entity"},
        "description": {"Description": "What files with this label hold"},
    }
    content = description(raw, links=links)
    # Sidecars of earlier runs still name what this one does not read.
    content["DatasetLinks"] = {**_links_of(out), **content["DatasetLinks"]}
    write_json(out / "dataset_description.json", content)
    atomic_write_text(out / ".bidsignore", "\n".join(spec["bidsignore"]) + "\n")
    table = (files(bids_app_spec) / "descriptions.tsv").read_text(encoding="utf-8")
    known = {line.partition("\t")[0]: line for line in table.splitlines()}
    with contextlib.suppress(OSError, ValueError):
        for line in read_text(out / "descriptions.tsv").splitlines():
            known.setdefault(line.partition("\t")[0], line)
    known |= {f"desc-{name}": f"desc-{name}\t{text}" for name, text in (labels or {}).items()}
    atomic_write_text(out / "descriptions.tsv", "\n".join(known.values()) + "\n")
    write_json(out / "descriptions.json", columns)
    if not any(out.glob("README*")):
        atomic_write_text(out / "README.md", _README)
    atomic_write_text(out / "logs" / "CITATION.bib", bibtex())


def bibtex(keys: Iterable[str] | None = None) -> str:
    """Write BibTeX entries, by default all; unknown keys are skipped."""
    references = bids_app_spec.load("references.yml")
    entries = []
    for key in references if keys is None else keys:
        if key in references:
            kind, *names = fields = references[key]
            width = max(map(len, names))
            lines = [f"  {name:<{width}} = {{{fields[name]}}}" for name in names]
            entries.append(f"@{fields[kind]}{{{key},\n" + ",\n".join(lines) + "\n}")
    return "\n\n".join(entries) + "\n"


def _links_of(out_dir: Path) -> dict[str, str]:
    """Return the datasets that the description that is there links to."""
    try:
        links = read_json(out_dir / "dataset_description.json")["DatasetLinks"]
        return {str(name): str(uri) for name, uri in links.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_citation(out_dir: str | Path, text: str) -> None:
    """Write the methods text to ``logs/CITATION.md``."""
    atomic_write_text(result_path(out_dir, "citation"), text.rstrip("\n") + "\n")


def require_own(out_dir: Path) -> None:
    """Refuse a folder that holds somebody else's dataset."""
    path = out_dir / "dataset_description.json"
    try:
        content = read_json(path)
        makers = content.get("GeneratedBy") if isinstance(content, dict) else None
    except (OSError, ValueError):
        return  # absent or broken: there is nothing to protect
    listed = makers if isinstance(makers, list) else ()
    names = [maker.get("Name") for maker in listed if isinstance(maker, dict)]
    if PIPELINE not in names:
        owner = ", ".join(str(name) for name in names if name) or "something else"
        raise CannotCreateError(
            f"{out_dir}: holds a dataset made by {owner}; choose another output folder"
        )


def description(bids_dir: Path, *, links: Mapping[str, Path] | None = None) -> dict[str, Any]:
    """Compose ``dataset_description.json`` of the derivative."""
    generated: dict[str, Any] = {"Name": PIPELINE, "Version": h2lo_bids.__version__}
    facts = {"CodeURL": _code_url(), "Container": container(os.environ)}
    generated |= {key: value for key, value in facts.items() if value}
    return {
        "Name": "H2LO-BIDS: low-field MRI synthesized from high-field MRI",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [generated],
        "HowToAcknowledge": "Please cite the works listed in logs/CITATION.md.",
        "SourceDatasets": [_source(bids_dir)],
        "DatasetLinks": {
            "raw": bids_dir.as_uri(),
            **{name: root.as_uri() for name, root in (links or {}).items()},
        },
    }


def container(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Describe the container this runs in, from environment variables.

    ``H2LO_CONTAINER`` is set when the image is built, e.g. to
    ``h2lo-bids:0.1.0``; Apptainer and Singularity name the image themselves.
    """
    tag = environment.get("H2LO_CONTAINER")
    for kind in ("apptainer", "singularity"):
        image = environment.get(f"{kind.upper()}_CONTAINER")
        if image:
            return {"Type": kind, **({"Tag": tag} if tag else {}), "URI": Path(image).name}
    return {"Type": "docker", "Tag": tag} if tag else None


def _source(bids_dir: Path) -> dict[str, str]:
    """Point to the raw dataset: by DOI where it has one, so that others find it too."""
    try:
        raw = read_json(bids_dir / "dataset_description.json")
    except (OSError, ValueError):
        raw = {}
    doi = raw.get("DatasetDOI") if isinstance(raw, dict) else None
    if not isinstance(doi, str) or "10." not in doi:
        return {"URL": bids_dir.as_uri()}
    bare = doi[doi.index("10.") :]
    return {"DOI": bare, "URL": f"https://doi.org/{bare}"}


def _code_url() -> str | None:
    """Look up where the code lives in the installed package's own metadata."""
    try:
        urls = metadata.metadata("h2lo-bids").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return None
    pairs = (url.partition(",") for url in urls)
    found = (url.strip() for label, _, url in pairs if label.strip().lower() in _CODE_LABELS)
    return next(found, None)
