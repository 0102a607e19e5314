"""The page of one subject: one HTML file that loads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

import bids_app_spec
from h2lo_bids.bids.derivatives import report_path
from h2lo_bids.io import atomic_write_text
from h2lo_bids.reports.methods import describe
from h2lo_bids.reports.page import asset, render
from h2lo_bids.reports.records import FoundScan, ScanReport, SubjectReport
from h2lo_bids.reports.svg import data_uri

SOURCES = {
    "ImagingFrequency": "from the imaging frequency",
    "MagneticFieldStrength": "as its sidecar states",
    "Manufacturer": "by the name of its manufacturer",
    "label": "by a label in its name, the sidecar does not say",
    "assumed": "assumed, the sidecar does not say",
}
"""How a field strength is known, in words."""

MASKS = {
    "given": "given by the user",
    "shared": "shared with the session's other contrast",
    "stripped": "the scan came without a skull",
    "skip": "not extracted, as asked",
}
"""Where a brain mask comes from, in words, where it is no program."""


def write_subject_report(report: SubjectReport, path: Path) -> None:
    """Write a subject's page, atomically, with its figures embedded from the folder of `path`.

    The scans of many sessions are on a page of each, to which the subject's leads.
    Everything that comes from data is escaped; the page's policy forbids every request and
    every other script.
    """
    path = Path(path)
    for session, name in report.session_pages.items():
        page = render_subject_report(report.of_session(session), path.parent, session)
        atomic_write_text(path.with_name(name), page)
    atomic_write_text(path, render_subject_report(report, path.parent))


def render_subject_report(report: SubjectReport, out_dir: Path, session: str = "") -> str:
    """Return the HTML of `write_subject_report`: of the subject, or of one of many sessions."""
    pages = report.session_pages
    described = describe(report)
    return render(
        "report.html.jinja",
        style=asset("style.css"),
        script=asset("script.js.jinja"),
        report=report,
        found=report.found
        or [FoundScan(s.source, s.session, s.field_strength, s.field_source) for s in report.scans],
        scans=[_scan_view(s, out_dir) for s in report.scans if s.session not in pages],
        pages=pages,
        name=f"sub-{report.subject}" + (f" ses-{session}" if session else ""),
        whole=report_path("", report.subject).name if session else "",
        models=list({(m.sha256, m.name): m for s in report.scans if (m := s.model)}.values()),
        methods=described,
        methods_html=Markup(described.html),  # noqa: S704 - escaped by its own renderer
        texts=bids_app_spec.load("report.yml"),
        sources=SOURCES,
        masks=MASKS,
    )


def warnings_of(scan: ScanReport) -> tuple[str, ...]:
    """Return the warnings of a scan: those on record, and those that its facts call for."""
    warnings, kind = [], scan.model.training_kind if scan.model is not None else ""
    if scan.enhances:
        warnings.append(
            "The enhanced image is a prediction, not an acquired image: it may show structure "
            "that is not there and hide what is. It is not for diagnosis."
        )
    if kind == "simulated" and scan.enhances:
        warnings.append(
            "This model was trained on simulated data, not on acquired low-field scans."
        )
    elif kind == "simulated":
        warnings.append(
            "This model was trained on simulated pairs, not on acquired low-field scans. Its "
            "output shows how the method works; fit a model to your own pairs before you draw "
            "conclusions about a scanner."
        )
    elif kind == "unknown":
        warnings.append(
            "The checkpoint of this model does not say what it was trained on: check that your "
            "scans resemble its training data."
        )
    contrast = scan.model.contrast if scan.model is not None else ""
    if contrast not in ("", scan.suffix):
        warnings.append(f"A {contrast} model was applied to a {scan.suffix} scan.")
    return tuple(dict.fromkeys([*scan.noticed, *warnings, *scan.metadata_warnings, *scan.warnings]))


def _scan_view(scan: ScanReport, out_dir: Path) -> dict[str, Any]:
    figures: dict[str, dict[str, Any]] = {"": {}}
    for figure in scan.figures:
        entry = {"uri": data_uri(out_dir / figure.path, out_dir), "figure": figure}
        figures.setdefault(figure.space, {})[figure.kind] = entry
    return {
        "scan": scan,
        "title": scan.stem,
        "figures": figures.pop(""),
        # As a view of its own, which the macros of the page take.
        "registrations": [
            {"space": space, "figures": drawn, "title": scan.stem}
            for space, drawn in figures.items()
        ],
        "warnings": warnings_of(scan),
        "total": sum(seconds for _, seconds in scan.seconds),
    }
