"""Where every output goes, as ``bids_app_spec/io_spec.json`` says, and what is in all their JSON.

Acquisition parameters of the input (field strength, echo time and so on) are
never copied: they do not hold for a synthesized image. What was simulated has
other names.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import bids_app_spec
import h2lo_bids
from h2lo_bids.bids.names import parse_name
from h2lo_bids.bids.scan import Scan
from h2lo_bids.errors import MissingInputError
from h2lo_bids.io import write_json

_FIELD = re.compile(r"\{(?P<name>\w+)(?:<(?P<allowed>[^>]*)>)?\}")
_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")
_LABEL = re.compile(r"[A-Za-z0-9+]+")
_NUMBER = re.compile(r"\d{2,}$")
"""Further draws of ``lowfieldnoise01`` are named like the first."""
_NOT_LABELS = {"suffix", "extension", "datatype"}
_OF_ALL_CONTRASTS = {"mask", "probseg", "dseg", "stats"}

SESSIONS_PER_REPORT = 4
"""A subject with more sessions gets a report of each, as fMRIPrep's do."""

SOFTWARE = ("torch", "numpy", "scipy", "nibabel", "antspyx", "nipype", "pybids", "deepbet")
TEMPLATE_URI = "https://templateflow.s3.amazonaws.com"
MODEL_FRAME = "the model's frame, centred on the brain"

Source = Scan | Mapping[str, str] | Iterable[tuple[str, str]]


def derivative_path(
    out_dir: str | Path, source: Source, *, extension: str = ".nii.gz", **added: str | None
) -> Path:
    """Name one output, by the entities of its source and those that are added."""
    # BIDS has no entity for the contrast, by which a T2w scan's mask, label or table differs.
    fields = dict(source.entities if isinstance(source, Scan) else source)
    suffix = added.get("suffix")
    if isinstance(source, Scan) and source.suffix == "T2w" and suffix in _OF_ALL_CONTRASTS:
        here = suffix == "mask" and added.get("space") in (None, "T2w")
        added |= {"space": "T2w"} if here else {"desc": f"{added['desc']}T2w"}
    fields |= {key.rstrip("_"): value for key, value in added.items() if value is not None}
    fields["extension"] = extension
    for key, value in fields.items():
        if key not in _NOT_LABELS and not _LABEL.fullmatch(value):
            raise ValueError(f"{key}-{value}: a BIDS label holds letters and digits only")
    for output in bids_app_spec.load("io_spec.json")["outputs"].values():
        name = _fill(output["pattern"], fields)
        if name is not None:
            return Path(out_dir) / name
    described = ", ".join(f"{key}={value}" for key, value in fields.items())
    raise ValueError(f"no output pattern in io_spec.json takes {described}")


def report_path(out_dir: str | Path, subject: str) -> Path:
    """Name a subject's report: ``sub-01.html``."""
    return derivative_path(out_dir, {"sub": subject}, extension=".html")


def session_paths(
    out_dir: str | Path, subject: str, sessions: Iterable[str | None]
) -> dict[str, Path]:
    """Name the reports of a subject's sessions, ``sub-01_ses-A.html``; few of them have none."""
    labels = sorted({label for label in sessions if label})
    if len(labels) <= SESSIONS_PER_REPORT:
        return {}
    whole = report_path(out_dir, subject)
    return {label: whole.with_stem(f"{whole.stem}_ses-{label}") for label in labels}


def sidecar_path(path: Path) -> Path:
    """Give the JSON that belongs to an image, transform or table."""
    name = re.sub(r"\.(nii\.gz|h5|tsv)$", "", path.name)
    return path.with_name(f"{name}.json")


def _fill(pattern: str, fields: Mapping[str, str]) -> str | None:
    """Fill a pattern; None when a value does not fit or would be lost."""

    def optional(match: re.Match[str]) -> str:
        names = [field["name"] for field in _FIELD.finditer(match[1])]
        return match[1] if all(name in fields for name in names) else ""

    pattern = _OPTIONAL.sub(optional, pattern)
    blanks = {field["name"]: field["allowed"] for field in _FIELD.finditer(pattern)}
    if {*blanks} != {*fields}:
        return None
    for name, allowed in blanks.items():
        values = {fields[name], _NUMBER.sub("01", fields[name])}
        if allowed is not None and not values & {*allowed.split("|")}:
            return None
    return _FIELD.sub(lambda field: fields[field["name"]], pattern)


_BLANK = re.compile(r"\{(\w+)\}")
_WORD = re.compile(r"[\w+<>][\w.+<>-]*")


def result_path(out_dir: str | Path, key: str, **fields: str | int) -> Path:
    """Name a result: a file, a folder, or what the names of several files begin with."""
    return Path(out_dir) / _filled(key, fields)


def result_files(out_dir: str | Path, key: str, **fields: str | int) -> tuple[Path, ...]:
    """Name every file of a result."""
    begin, ends = _filled(key, fields), _result(key).get("files", [""])
    return tuple(Path(out_dir) / (begin + end) for end in ends)


def result_pattern(key: str, end: str = "", **fields: str | int) -> str:
    """Return the pattern, for `Path.glob`, of all results of a kind."""
    path = _result(key)["path"]
    return str(path.format(**dict.fromkeys(_BLANK.findall(path), "*") | fields)) + end


def _filled(key: str, fields: dict[str, str | int]) -> str:
    for name, value in fields.items():
        if not _WORD.fullmatch(str(value)):
            raise ValueError(f"{name} {value!r} cannot stand in the name of a result")
    return str(_result(key)["path"].format(**fields))


def _result(key: str) -> dict[str, Any]:
    found: dict[str, Any] = bids_app_spec.load("io_spec.json")["results"][key]
    return found


def pair_paths(out_dir: Path, source: Source, contrast: str) -> dict[str, Path]:
    """Name the files of a pair: ``hf``, ``lf``, ``mask``, ``record``."""
    # Entities alone: a T2w scan's own mask would get another name for its own space.
    name = partial(derivative_path, out_dir, getattr(source, "entities", source), res="model")
    low = name(suffix=contrast, desc="pairLF")
    return {
        "hf": name(suffix=contrast, desc="pairHF"),
        "lf": low,
        "mask": name(suffix="mask", desc="pairT2w" if contrast == "T2w" else "pair"),
        "record": sidecar_path(low),
    }


def record_end(contrast: str) -> str:
    """Return what the name of every pair's record of a contrast ends with."""
    return pair_paths(Path(), {"sub": "x"}, contrast)["record"].name.removeprefix("sub-x")


def find_records(out_dir: Path, contrast: str) -> list[Path]:
    """List the records of the pairs of a contrast, sorted."""
    end = record_end(contrast)
    folders = ("sub-*/anat", "sub-*/ses-*/anat")
    return sorted(path for folder in folders for path in Path(out_dir).glob(f"{folder}/[!.]*{end}"))


def scan_entities(record: Path) -> tuple[tuple[str, str], ...]:
    """Return the entities of the scan that a record's pair was made of."""
    name = parse_name(record.name)
    if name is None:
        raise ValueError(f"{record.name}: is not the name of a pair's record")
    return tuple(pair for pair in name.entities if pair[0] not in ("res", "desc"))


def paths_of_record(record: Path, contrast: str) -> dict[str, Path]:
    """Name the files of the pair that a record belongs to, as `pair_paths` does."""
    entities = scan_entities(record)
    root = record.parents[3 if "ses" in dict(entities) else 2]
    return pair_paths(root, entities, contrast)


def mask_in(root: Path, scan: Scan) -> Path:
    """Name a scan's brain mask in a derivative dataset."""
    return derivative_path(root, scan, suffix="mask", desc="brain")


def given_mask(derivatives: Iterable[tuple[str, Path]], scan: Scan) -> tuple[Path, str] | None:
    """Return path and URI of a raw scan's mask in the first dataset that has one."""
    # A low-field image of a derivative or of --lf-dir may have the name of another image's mask.
    for name, root in derivatives if scan.dataset == "raw" else ():
        path = mask_in(root, scan)
        try:
            there = path.is_symlink() or path.exists()  # its content need not be there, or be open
        except PermissionError as error:
            raise MissingInputError(f"{path}: cannot be read; check its permissions") from error
        if there:
            return path, f"bids:{name}:{path.relative_to(root).as_posix()}"
    return None


def derivative_uri(path: str | Path, out_dir: str | Path) -> str:
    """Give the BIDS URI of a file of the derivative dataset itself."""
    return f"bids::{Path(path).absolute().relative_to(Path(out_dir).absolute()).as_posix()}"


def sidecar(desc: str, **facts: Any) -> dict[str, Any]:
    """Compose the sidecar of an image: each source once, and no facts that are None."""
    facts["Sources"] = list(dict.fromkeys(facts["Sources"]))
    content = {"Description": meaning_of(desc), **facts, "Software": software_versions()}
    return {key: value for key, value in content.items() if value is not None}


def write_sidecar(image: Path, content: Mapping[str, Any]) -> None:
    """Write the sidecar of an image or transform."""
    write_json(sidecar_path(image), content)


def template_reference(image: Path) -> str:
    """Give the URI of a template's image: in TemplateFlow's archive, or of a user's own file."""
    names = ("/".join(image.parts[depth:]) for depth in range(len(image.parts)))
    found = next((name for name in names if name in _archive()), None)
    return f"{TEMPLATE_URI}/{found}" if found else image.absolute().as_uri()


@cache
def _archive() -> frozenset[str]:
    """List what is in TemplateFlow's archive, as far as its client knows, which is not imported."""
    with suppress(OSError, metadata.PackageNotFoundError):
        client = metadata.distribution("templateflow")
        file = client.locate_file("templateflow/conf/templateflow-skel.zip")
        with ZipFile(str(file)) as skeleton:
            return frozenset(skeleton.namelist())
    return frozenset()


@cache
def software_versions() -> dict[str, str]:
    """List what computes here, with versions; without what is not installed."""
    versions = {"h2lo-bids": h2lo_bids.__version__, "python": platform.python_version()}
    for name in SOFTWARE:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def meaning_of(desc: str) -> str:
    """Return what ``descriptions.tsv`` says of a ``desc`` label."""
    rows = bids_app_spec.load("descriptions.tsv")
    return next(str(row["description"]) for row in rows if row["desc_id"] == f"desc-{desc}")
