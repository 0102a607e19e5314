"""Datasets as a whole: whether the input is BIDS, and what makes the output folder one.

Every run writes the files of the output dataset; a second one finds them equal and leaves them
alone, so that any number of runs may share a folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import bids_app_spec
import h2lo_bids
from h2lo_bids.bids.derivatives import result_path
from h2lo_bids.bids.metadata import Sidecars
from h2lo_bids.bids.names import parse_name
from h2lo_bids.errors import CannotCreateError, InvalidBidsError, MissingInputError
from h2lo_bids.io import atomic_write_text, check_content, read_json, read_text, write_json
from h2lo_bids.wording import listed, summarise

VALIDATOR = "bids-validator-deno"
SECONDS = 60.0
_EXAMPLE = '{"Name": "My data", "BIDSVersion": "1.10.0"}'
_SKIP = "or pass --skip-bids-validation"
_LEFT_TO_THE_SCAN = {"EMPTY_FILE", "FILE_READ", "JSON_INVALID", "NIFTI_HEADER_UNREADABLE"}
_LEFT_TO_THE_SCAN |= {"SYMLINK_BROKEN", "NIFTI_UNIT", "NIFTI_TOO_SMALL"}
_LEFT_TO_THE_SCAN |= {"MagneticFieldStrength", "ImagingFrequency"}

BIDS_VERSION = "1.10.0"
PIPELINE = "H2LO-BIDS"


def read_description(
    bids_dir: Path, *, skip: bool = False, doubt: Callable[[Path, str], None] | None = None
) -> None:
    """Check that a folder is a raw BIDS dataset; `skip` accepts any folder that can be read."""
    if not bids_dir.is_dir():
        raise MissingInputError(f"{bids_dir}: no such folder; give the root of a BIDS dataset")
    if not os.access(bids_dir, os.R_OK | os.X_OK):
        raise MissingInputError(f"{bids_dir}: cannot be read; check its permissions")
    if skip:
        return
    path = bids_dir / "dataset_description.json"
    try:
        content = read_json(path)
    except OSError as error:
        raise InvalidBidsError(_unreadable(path, error)) from error
    except ValueError as error:
        raise InvalidBidsError(f"{path}: not valid JSON ({error}); repair it, {_SKIP}") from error
    content = content if isinstance(content, dict) else {}
    version = content.get("BIDSVersion")
    if not isinstance(version, str | int | float) or isinstance(version, bool):
        near = [key for key in content if re.sub(r"\W|_", "", key).lower() == "bidsversion"]
        remedy = f"rename {near[0]}" if near and version is None else f"add it, as in {_EXAMPLE}"
        raise InvalidBidsError(f"{path}: has no BIDSVersion; {remedy}, {_SKIP}")
    if content.get("DatasetType") == "derivative":
        raise InvalidBidsError(
            f"{bids_dir}: is a derivative dataset (DatasetType in {path.name}); "
            "give the raw dataset that it was made from"
        )
    if doubt is not None and not isinstance(version, str):
        doubt(path, f"BIDSVersion is the number {version}; put it in quotes, as BIDS wants a text")


def _unreadable(path: Path, error: OSError) -> str:
    """Report that there is no description; raise if DataLad has not got it."""
    if path.is_symlink():
        check_content(path)
    if elsewhere := _elsewhere(path.parent):
        return f"{path.parent}: {elsewhere}"
    reason = f"missing or unreadable ({error.strerror})"
    return f"{path}: {reason}; write at least {_EXAMPLE} into it, {_SKIP}"


def _elsewhere(folder: Path) -> str | None:
    """Name the folder that was probably meant: the dataset around this one, or inside it."""
    if any(path.is_dir() for path in folder.glob("sub-*")):
        return None
    for parent in list(folder.parents)[:3]:
        if (parent / "dataset_description.json").is_file():
            name = folder.relative_to(parent).parts[0]
            label = name.removeprefix("sub-")
            option = f" with --participant-label {label}" if label != name else ""
            return f"is inside the dataset {parent}; give that as bids_dir{option}"
    with contextlib.suppress(OSError):
        inside = sorted(p.parent for p in folder.glob("[!.]*/dataset_description.json"))
        if inside:
            named = listed([*map(str, inside)])
            which = "that" if len(inside) == 1 else "one of them"
            return f"is no dataset, but holds {named}; give {which} as bids_dir"
    return None


def find_validator() -> Path | None:
    """Find ``bids-validator-deno`` on the path or next to the Python in use."""
    found = shutil.which(VALIDATOR) or shutil.which(
        VALIDATOR, path=str(Path(sys.executable).parent)
    )
    return Path(found) if found else None


def require_valid(
    bids_dir: Path, images: Iterable[Path], *, seconds: float = SECONDS
) -> str | None:
    """Stop at the validator's errors about the chosen images; return a note if it cannot run."""
    # A skeleton: a large dataset costs no more than its chosen part, whose errors alone count.
    program = find_validator()
    if program is None:
        return f"{VALIDATOR} is not installed: only names and the description were checked"
    try:
        with tempfile.TemporaryDirectory(prefix="h2lo-validate-") as folder:
            _skeleton(bids_dir, images, Path(folder))
            options = ("--format", "json", "--ignoreWarnings", "--ignoreNiftiHeaders")
            command = [str(program), folder, *options]
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
            issues = json.loads(done.stdout)["issues"]["issues"]
    except subprocess.TimeoutExpired:
        return f"{VALIDATOR} took more than {seconds:g} s and was given up"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{VALIDATOR} could not be run ({type(error).__name__}) and was skipped"
    errors: dict[str, set[str]] = {}
    for issue in issues:
        left = {issue.get("code"), issue.get("subCode")} & _LEFT_TO_THE_SCAN
        if issue.get("severity") == "error" and not left:
            name = issue.get("location", "").lstrip("/") or "dataset"
            errors.setdefault(name, set()).add(_explain(issue))
    if errors:
        lines = summarise(
            (Path(name), f"  {name}: {'; '.join(sorted(errors[name]))}") for name in sorted(errors)
        )
        raise InvalidBidsError(
            f"{bids_dir}: BIDS errors in {len(errors)} of the chosen files; "
            f"repair them, {_SKIP}:\n" + "\n".join(lines)
        )
    return None


def _explain(issue: dict[str, Any]) -> str:
    message = (issue.get("issueMessage") or "").partition("Field description:")[0]
    words = (issue.get("code"), issue.get("subCode"), message)
    return " ".join(" ".join(str(word).split()) for word in words if word)


def _skeleton(bids_dir: Path, images: Iterable[Path], folder: Path) -> None:
    """Copy the images' sidecars, and the images as empty files, into an empty dataset."""
    wanted = {bids_dir / name for name in ("dataset_description.json", "README", "README.md")}
    sidecars = Sidecars(bids_dir)
    for image in images:
        place = folder / image.relative_to(bids_dir)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        name = parse_name(image.name)
        wanted.update(sidecars.applicable(image, name) if name else ())
    for path in wanted:
        with contextlib.suppress(OSError):  # absent or unreadable: reported elsewhere
            shutil.copyfile(path, folder / path.relative_to(bids_dir))
    copied = folder / "dataset_description.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = read_json(copied)
        # A number was warned of, and is no reason to stop.
        content["BIDSVersion"] = str(content["BIDSVersion"])
        copied.write_text(json.dumps(content))


def write_dataset_files(
    out_dir: str | Path,
    *,
    bids_dir: str | Path,
    links: Mapping[str, Path] | None = None,
    labels: Mapping[str, str] | None = None,
) -> None:
    """Write the files at the root of the derivative dataset; `labels` are meanings of descs."""
    out, raw = Path(out_dir).absolute(), Path(bids_dir).absolute()
    require_own(out)
    columns = {
        "Description": "Meaning of the desc entity in this dataset's file names",
        "desc_id": {"Description": "Label of the desc entity"},
        "description": {"Description": "Content of the files with this label"},
    }
    content = description(raw, links=links)
    # Sidecars of earlier runs still name what this one does not read.
    before = (_described(out) or {}).get("DatasetLinks")
    known = {name: str(uri) for name, uri in before.items()} if isinstance(before, dict) else {}
    content["DatasetLinks"] = {**known, **content["DatasetLinks"]}
    write_json(out / "dataset_description.json", content)
    ignored = [*bids_app_spec.load("io_spec.json")["bidsignore"]]
    with contextlib.suppress(OSError, ValueError):
        ignored += read_text(out / ".bidsignore").splitlines()  # a user's own lines are kept
    atomic_write_text(out / ".bidsignore", "\n".join(dict.fromkeys(ignored)) + "\n")
    table = (files(bids_app_spec) / "descriptions.tsv").read_text(encoding="utf-8")
    known = {line.partition("\t")[0]: line for line in table.splitlines()}
    with contextlib.suppress(OSError, ValueError):
        for line in read_text(out / "descriptions.tsv").splitlines():
            known.setdefault(line.partition("\t")[0], line)
    known |= {f"desc-{name}": f"desc-{name}\t{text}" for name, text in (labels or {}).items()}
    atomic_write_text(out / "descriptions.tsv", "\n".join(known.values()) + "\n")
    write_json(out / "descriptions.json", columns)
    if not any(out.glob("README*")):
        text = (files("h2lo_bids") / "data/derivatives_readme.md").read_text(encoding="utf-8")
        atomic_write_text(out / "README.md", text)
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


def _described(folder: Path) -> dict[str, Any] | None:
    """Return what the description of a dataset holds; None if it is absent or broken."""
    try:
        content = read_json(folder / "dataset_description.json")
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else {}


def write_citation(out_dir: str | Path, text: str) -> None:
    """Write the methods text to ``logs/CITATION.md``."""
    atomic_write_text(result_path(out_dir, "citation"), text.rstrip("\n") + "\n")


def require_own(out_dir: Path) -> None:
    """Refuse a folder that holds somebody else's dataset."""
    content = _described(out_dir)
    if content is None:  # there is nothing to protect
        return
    makers = content.get("GeneratedBy")
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
    if inside := container(os.environ):
        generated["Container"] = inside
    return {
        "Name": "H2LO-BIDS: synthesized or enhanced low-field MRI",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [generated],
        "HowToAcknowledge": "Please cite the works in logs/CITATION.md or logs/CITATION.bib.",
        "SourceDatasets": [_source(bids_dir)],
        "DatasetLinks": {
            "raw": bids_dir.as_uri(),
            **{name: root.as_uri() for name, root in (links or {}).items()},
        },
    }


def container(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Describe the container this runs in; Apptainer and Singularity name the image themselves."""
    # H2LO_CONTAINER is set when the image is built, e.g. to h2lo-bids:0.1.0.
    tag = environment.get("H2LO_CONTAINER")
    for kind in ("apptainer", "singularity"):
        image = environment.get(f"{kind.upper()}_CONTAINER")
        if image:
            return {"Type": kind, **({"Tag": tag} if tag else {}), "URI": Path(image).name}
    return {"Type": "docker", "Tag": tag} if tag else None


def _source(bids_dir: Path) -> dict[str, str]:
    """Point to the raw dataset: by DOI where it has one, so that others find it too."""
    told = _described(bids_dir) or {}
    doi, name = told.get("DatasetDOI"), told.get("Name")
    named = {"Name": name} if isinstance(name, str) and name else {}
    if not isinstance(doi, str) or not (bare := re.search(r"10\.\d{4,}.*/.*", doi)):
        return {"URL": bids_dir.as_uri(), **named}
    return {"DOI": bare[0], "URL": f"https://doi.org/{bare[0]}", **named}


def other_source(out_dir: Path, bids_dir: Path) -> str | None:
    """Return what to say where an output folder holds images of another dataset."""
    # Inside containers all datasets have one path, and outside one dataset may have been moved.
    listed, now = (_described(out_dir) or {}).get("SourceDatasets"), _source(bids_dir.absolute())
    before = listed[0] if isinstance(listed, list) and listed else None
    if not isinstance(before, dict) or not any(out_dir.glob("sub-*")):
        return None
    place = urlsplit(str(before.get("URL", "")))
    if place.scheme == "file" and Path(unquote(place.path)).resolve() == bids_dir.resolve():
        before = {**before, "URL": now["URL"]}  # also by a link, or without its DOI of now
    # What is not said of it, as by earlier versions, does not differ.
    if all(before[key] == now[key] for key in before.keys() & now.keys()):
        return None
    return (
        f"{out_dir}: holds images of another dataset ({_shown(before)}; now {_shown(now)}): "
        "choose another output folder, unless the dataset was moved or renamed, as images of a "
        "participant with the same label will be replaced"
    )


def _shown(source: Mapping[str, Any]) -> str:
    return " at ".join(str(source[key]) for key in ("Name", "URL") if source.get(key))
