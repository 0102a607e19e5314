"""The report's records on disk, beside the figures that they speak of.

``sub-01/figures/<scan>_desc-report_T1w.json`` holds one scan and its failures,
``sub-01/figures/sub-01_desc-summary.json`` what concerns the subject.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import bids_app_spec
from h2lo_bids.bids.derivatives import derivative_path
from h2lo_bids.bids.names import parse_name
from h2lo_bids.bids.results import result_path
from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.io import atomic_write_text, read_json
from h2lo_bids.reports.records import Failure, ScanReport, SubjectReport, from_json, to_json


def figures_folder(out_dir: Path, subject: str) -> Path:
    """Name the folder that holds a subject's figures and records."""
    return Path(out_dir) / f"sub-{subject}" / "figures"


def figure_paths(out_dir: Path, stem: str, group: str, space: str | None = None) -> dict[str, Path]:
    """Name the pictures of one scan, by kind.

    Parameters
    ----------
    out_dir : Path
        Root of the derivatives.
    stem : str
        File name of the scan without extension.
    group : str
        ``"scan"``, or ``"registration"`` for those of one standard space.
    space : str, optional
        That space.
    """
    kinds = bids_app_spec.load("io_spec.json")["figures"][group]
    return {kind: figure_file(out_dir, stem, kind, ".svg", space) for kind in kinds}


def figure_file(
    out_dir: Path, stem: str, desc: str, extension: str, space: str | None = None
) -> Path:
    """Name a file of one scan, e.g. ``..._desc-detail_T1w.svg`` of ``..._T1w``."""
    name = parse_name(stem + extension)
    if name is None:
        raise ValueError(f"{stem}: is not the stem of a BIDS file name")
    return derivative_path(
        out_dir,
        name.entities,
        suffix=name.suffix,
        desc=desc,
        space=space,
        extension=extension,
        datatype="figures",
    )


def write_scan_report(out_dir: Path, scan: ScanReport) -> Path:
    """Store the record of one scan, atomically; an earlier failure of it is forgotten.

    Returns
    -------
    Path
        ``out_dir/sub-XX/figures/<stem>_desc-report_<suffix>.json``.
    """
    path = figure_file(out_dir, scan.stem, "report", ".json")
    _dump(path, {"scan": to_json(scan)})
    return path


def write_scan_failure(out_dir: Path, stem: str, *failures: Failure) -> Path:
    """Store how a scan failed, in place of earlier failures of it.

    What an earlier run made of the scan stays on the page.
    """
    path = figure_file(out_dir, stem, "report", ".json")
    content: dict[str, Any] = {}
    if path.is_file():
        content = _load(path)
    _dump(path, {**content, "failures": [to_json(replace(item, scan=stem)) for item in failures]})
    return path


def save_subject_report(out_dir: Path, report: SubjectReport) -> None:
    """Store a whole report: the subject's summary and every scan's record."""
    failed: dict[str, list[Failure]] = {}
    for failure in report.failures:
        if failure.scan:
            failed.setdefault(failure.scan, []).append(failure)
    for scan in report.scans:
        write_scan_report(out_dir, scan)
    for stem, failures in failed.items():
        write_scan_failure(out_dir, stem, *failures)
    general = tuple(failure for failure in report.failures if not failure.scan)
    summary = to_json(replace(report, scans=(), failures=general))
    del summary["scans"]
    _dump(result_path(out_dir, "subject_summary", sub=report.subject), summary)


def load_subject_report(out_dir: Path, subject: str) -> SubjectReport:
    """Read back what an earlier run stored, for ``--reports-only``.

    Scans are ordered by file name.

    Raises
    ------
    MissingInputError
        This subject has no stored report.
    BadDataError
        A record cannot be read.
    """
    folder = figures_folder(out_dir, subject)
    summary = result_path(out_dir, "subject_summary", sub=subject)
    paths = sorted(folder.glob(f"sub-{subject}_*desc-report_*.json"))
    if not paths and not summary.is_file():
        raise MissingInputError(
            f"{folder}: no stored report of sub-{subject}; run once without --reports-only"
        )
    report = SubjectReport(subject=subject)
    if summary.is_file():
        report = _read(SubjectReport, summary, lambda content: content)
    scans: list[ScanReport] = []
    failures: list[Failure] = list(report.failures)
    for path in paths:
        content = _load(path)
        if "scan" in content:
            scans.append(_read(ScanReport, path, lambda content: content["scan"]))
        failures += _read(tuple[Failure, ...], path, lambda content: content.get("failures", []))
    return replace(report, subject=subject, scans=tuple(scans), failures=tuple(failures))


def _read(kind: Any, path: Path, part: Any) -> Any:
    try:
        return from_json(kind, part(_load(path)))
    except (TypeError, ValueError, KeyError) as error:
        raise BadDataError(_broken(path, error)) from error


def _load(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise TypeError("not an object")
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise BadDataError(_broken(path, error)) from error
    return content


def _broken(path: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{path}: not a stored report ({reason}); delete it and run without --reports-only"


def _dump(path: Path, content: dict[str, Any]) -> None:
    atomic_write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
