"""Where every output goes, as ``bids_app_spec/io_spec.json`` says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import bids_app_spec
from h2lo_bids.bids.scan import Scan

_FIELD = re.compile(r"\{(?P<name>\w+)(?:<(?P<allowed>[^>]*)>)?\}")
_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")
_LABEL = re.compile(r"[A-Za-z0-9+]+")
_NUMBER = re.compile(r"\d{2,}$")
"""Further draws of ``lowfieldnoise01`` are named like the first."""
_NOT_LABELS = {"suffix", "extension", "datatype"}

Source = Scan | Mapping[str, str] | Iterable[tuple[str, str]]


def derivative_path(
    out_dir: str | Path,
    source: Source,
    *,
    suffix: str | None,
    desc: str | None = None,
    space: str | None = None,
    res: str | None = None,
    extension: str = ".nii.gz",
    **extra: str | None,
) -> Path:
    """Name one output.

    A T2w scan's brain mask would have the name of the T1w scan's, since BIDS
    gives masks no entity for the contrast: on the scan's own grid it is named
    ``space-T2w_..._desc-brain_mask``, in any other space ``desc-brainT2w``.

    Parameters
    ----------
    out_dir : path-like
        Root of the derivative dataset.
    source : Scan, mapping or pairs
        The input, or its entities by short name (``sub``, ``ses``, ``acq``,
        ``rec``, ``run`` ...), whose labels are kept as written.
    suffix : str or None
        ``T1w``, ``T2w``, ``mask`` or ``xfm``; None for a subject's report.
    desc, space, res : str, optional
        Entities of the output.
    extension : str, optional
        With its dot.
    **extra : str
        Further entities: ``from_``, ``to``, ``mode`` of a transform (a
        trailing underscore is dropped), ``datatype="figures"``.

    Returns
    -------
    Path
        Below ``out_dir``. Nothing is created.

    Raises
    ------
    ValueError
        A label is not alphanumeric, or no pattern takes these entities.
    """
    fields = dict(source.entities if isinstance(source, Scan) else source)
    added = {"desc": desc, "space": space, "res": res, "suffix": suffix, **extra}
    if isinstance(source, Scan) and source.suffix == "T2w" and suffix == "mask":
        added |= {"space": "T2w"} if space in (None, "T2w") else {"desc": f"{desc}T2w"}
    fields |= {key.rstrip("_"): value for key, value in added.items() if value is not None}
    fields["extension"] = extension
    for key, value in fields.items():
        if key not in _NOT_LABELS and not _LABEL.fullmatch(value):
            raise ValueError(f"{key}-{value}: a BIDS label holds letters and digits only")
    for pattern in _patterns():
        name = _fill(pattern, fields)
        if name is not None:
            return Path(out_dir) / name
    described = ", ".join(f"{key}={value}" for key, value in fields.items())
    raise ValueError(f"no output pattern in io_spec.json takes {described}")


def report_path(out_dir: str | Path, subject: str) -> Path:
    """Name a subject's report: ``sub-01.html``."""
    return derivative_path(out_dir, {"sub": subject}, suffix=None, extension=".html")


def sidecar_path(path: Path) -> Path:
    """Give the JSON that belongs to an image or transform."""
    name = re.sub(r"\.(nii\.gz|h5)$", "", path.name)
    return path.with_name(f"{name}.json")


@cache
def _patterns() -> tuple[str, ...]:
    outputs = bids_app_spec.load("io_spec.json")["outputs"]
    return tuple(output["pattern"] for output in outputs.values())


def _fill(pattern: str, fields: Mapping[str, str]) -> str | None:
    """Fill a pattern, or say None when a value does not fit or would be lost."""

    def optional(match: re.Match[str]) -> str:
        names = [field["name"] for field in _FIELD.finditer(match[1])]
        return match[1] if all(name in fields for name in names) else ""

    pattern = _OPTIONAL.sub(optional, pattern)
    used = set()
    for field in _FIELD.finditer(pattern):
        value, allowed = fields.get(field["name"]), field["allowed"]
        if value is None:
            return None
        if allowed is not None and not {value, _NUMBER.sub("01", value)} & {*allowed.split("|")}:
            return None
        used.add(field["name"])
    if used != set(fields):
        return None
    return _FIELD.sub(lambda field: fields[field["name"]], pattern)
