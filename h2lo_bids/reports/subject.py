"""The page of one subject, and the page and table of all scans in an output folder.

Both are made from the records of the subjects; a page is one HTML file that loads nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from markupsafe import Markup

import bids_app_spec
from h2lo_bids import __version__
from h2lo_bids.bids.dataset import write_citation
from h2lo_bids.bids.derivatives import report_path, result_files, result_path
from h2lo_bids.bids.names import parse_name
from h2lo_bids.errors import H2loError
from h2lo_bids.evaluation.catalogue import columns_of, write_table
from h2lo_bids.io import atomic_write_text
from h2lo_bids.outputs import PREDICTION, SIMULATED, TRAINED_ON_SIMULATED
from h2lo_bids.reports.methods import describe
from h2lo_bids.reports.mosaic import data_uri
from h2lo_bids.reports.page import render
from h2lo_bids.reports.records import (
    FoundScan,
    ModelInfo,
    ScanReport,
    SubjectReport,
    load_subject_report,
    recorded_subjects,
)
from h2lo_bids.vocabulary import CONTRASTS


def write_subject_report(report: SubjectReport, path: Path) -> None:
    """Write a subject's page, atomically, and those of many sessions; figures lie beside `path`."""
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
        script="script.js.jinja",
        report=report,
        found=[*report.found, *_made_before(report)],
        scans=[_scan_view(s, out_dir) for s in report.scans if s.session not in pages],
        pages=pages,
        name=f"sub-{report.subject}" + (f" ses-{session}" if session else ""),
        whole=report_path("", report.subject).name if session else "",
        models=list({(m.sha256, m.name): m for s in report.scans if (m := s.model)}.values()),
        methods=described,
        methods_html=Markup(described.html),  # noqa: S704 - escaped by its own renderer
        texts=bids_app_spec.load("report.yml"),
    )


def _made_before(report: SubjectReport) -> Iterator[FoundScan]:
    """Yield the scans of the page that the latest run did not look for, such as T2w ones."""
    known = {item.path for item in report.found}
    for scan in report.scans:
        use = "enhanced" if scan.enhances else "synthesized"
        for path in scan.parts or (scan.source,):
            if path not in known:
                yield FoundScan(path, scan.field_strength, scan.field_source, use)


def warnings_of(scan: ScanReport) -> tuple[str, ...]:
    """Return the warnings of a scan: those on record, and those that its facts call for."""
    model = scan.model or ModelInfo("", training_kind="")
    warnings, kind = [], model.training_kind
    if scan.enhances:
        warnings.append(f"{PREDICTION}.")
    if kind == "simulated":
        warnings.append(f"{TRAINED_ON_SIMULATED if scan.enhances else SIMULATED}.")
    elif kind == "unknown":
        warnings.append(
            "The checkpoint of this model does not say what it was trained on: check that your "
            "scans resemble its training data."
        )
    if model.contrast not in ("", scan.suffix):
        warnings.append(f"A {model.contrast} model was applied to a {scan.suffix} scan.")
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
    }


_TISSUES = ("white_matter", "grey_matter", "cerebrospinal_fluid")
COLUMNS = columns_of("scans")
MEASURES = {name: told for name, told in COLUMNS.items() if "LongName" in told}
"""The columns of ``scans.tsv`` that ``index.html`` draws."""

Row = dict[str, Any]
"""A scan: `COLUMNS`, and ``link``, where the subject's page shows it."""


def write_scan_pages(out_dir: Path) -> tuple[str, ...]:
    """Write ``index.html``, ``scans.tsv`` and the methods text; return what could not be read."""
    rows: list[Row] = []
    reports, problems = list[SubjectReport](), list[str]()
    for subject in recorded_subjects(out_dir):
        try:
            report = load_subject_report(out_dir, subject)
            rows += _rows(report)
            reports.append(report)
        except H2loError as error:
            problems.append(str(error))
    table, _ = result_files(out_dir, "scans")
    write_table(table, ([row[name] for name in COLUMNS] for row in rows), COLUMNS)
    page = render(
        "scans.html.jinja",
        version=__version__,
        rows=rows,
        measures=MEASURES,
        plots=[plot for name in MEASURES for plot in _plots(rows, name)],
        problems=problems,
        table=table.name,
    )
    atomic_write_text(result_path(out_dir, "index"), page)
    if any(report.scans for report in reports):
        write_citation(out_dir, describe(*reports).markdown)
    return tuple(problems)


def _rows(report: SubjectReport) -> Iterator[Row]:
    page = report_path("", report.subject).as_posix()
    pages = report.session_pages
    numbers: Counter[str] = Counter()
    for scan in report.scans:
        shown = pages.get(scan.session, page)
        numbers[shown] += 1
        yield _row(report, scan, f"{shown}#scan-{numbers[shown]}")
    for stem in sorted(report.failed - {scan.stem for scan in report.scans}):
        name = parse_name(f"{stem}.nii.gz")  # none of the subject as a whole
        entities, suffix = (name.entities, name.suffix) if name else ((), "")
        yield _row(report, ScanReport(stem, "", tuple(entities), suffix), f"{page}#errors")


def _row(report: SubjectReport, scan: ScanReport, link: str) -> Row:
    row: Row = dict.fromkeys(COLUMNS)
    row |= {
        "link": link,
        "participant_id": f"sub-{report.subject}",
        "session_id": f"ses-{scan.session}" if scan.session else None,
        "scan": scan.stem or None,
        "contrast": scan.suffix or None,
        "status": "failed" if scan.stem in report.failed else "done",
        "input_check": scan.likeness or None,
        "warnings": len({*scan.noticed, *scan.warnings, *scan.metadata_warnings}),
        "mask_volume": scan.mask_volume,
        "seconds": round(math.fsum(s for _, s in scan.seconds), 2) if scan.seconds else None,
    }
    for _, noise, *ratios in scan.signal_to_noise[:1]:
        row["noise"] = noise
        row |= {f"snr_{tissue}": ratio for tissue, ratio in zip(_TISSUES, ratios, strict=True)}
    row |= {f"level_{t}": level for t, level in zip(_TISSUES, scan.levels, strict=False)}
    return row


def _plots(rows: Sequence[Row], name: str) -> Iterator[dict[str, Any]]:
    """Yield how to draw a measure, if there are two different values: a line per contrast."""
    values = [row[name] for row in rows if row[name] is not None]
    low, high = min(values, default=0), max(values, default=0)
    if low == high:
        return

    def place(value: float) -> float:
        return round(10 + 480 * (value - low) / (high - low), 1)

    lines = []
    for contrast in CONTRASTS:
        known = [row for row in rows if row["contrast"] == contrast and row[name] is not None]
        if known:
            dots = [{"x": place(row[name]), "row": row, "value": row[name]} for row in known]
            middle = place(median(row[name] for row in known))
            lines.append({"contrast": contrast, "dots": dots, "median": middle})
    yield {"name": name, "low": low, "high": high, "lines": lines}
