"""From what a run left behind to each participant's report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from h2lo_bids.bids.derivatives import report_path, result_path
from h2lo_bids.bids.scan import Scan
from h2lo_bids.bids.sidecars import software_versions
from h2lo_bids.cli.failures import Failed
from h2lo_bids.cli.tasks import SubjectTask
from h2lo_bids.errors import H2loError, NoMatchError
from h2lo_bids.io import common_lock, exclusive
from h2lo_bids.outputs import grids_for
from h2lo_bids.reports.records import (
    Failure,
    FoundScan,
    ScanReport,
    SubjectReport,
    load_subject_report,
    save_subject_report,
    write_scan_failure,
)
from h2lo_bids.reports.subject import write_subject_report

if TYPE_CHECKING:
    from h2lo_bids.cli.execution import Run


def write_report(task: SubjectTask, failed: list[Failed], scans: Sequence[ScanReport]) -> Path:
    """Write the records and the page of a participant whose workflow has ended."""
    out_dir = task.settings.out_dir
    stems = {scan.relative_path: scan.stem for scan in task.scans}
    failures = [
        Failure(item.step, item.message, _traceback(item.crash_file), stems[item.scan])
        for item in failed
    ]
    failures += [Failure("discovery", problem.message) for problem in task.problems]
    broken = {item.scan for item in failed}
    use = "enhanced" if task.sources else "synthesized"
    found = [_found(s, "failed" if s.relative_path in broken else use) for s in task.scans]
    root = task.settings.bids_dir
    for skipped in task.skipped:
        if skipped.path.suffix in (".gz", ".nii"):
            name = skipped.path.relative_to(root).as_posix()
            found.append(FoundScan(name, use=f"not used: {skipped.reason}"))
    report = SubjectReport(
        subject=task.subject,
        found=tuple(found),
        failures=tuple(failures),
        command=shlex.join(["h2lo", *task.settings.words()]),
        versions=tuple(software_versions().items()),
        facts={"grids": _grids(task)} if _grids(task) else {},
    )
    with exclusive(common_lock(out_dir, f"sub-{task.subject}")):
        report = replace(_with_other_sessions(task, report), scans=tuple(scans))
        save_subject_report(out_dir, report)
        return _render(out_dir, task.subject)


def _with_other_sessions(task: SubjectTask, report: SubjectReport) -> SubjectReport:
    """Keep what other runs, each on a session of its own, said of theirs."""
    chosen = [f"/ses-{label}/" for label in task.settings.session_label]
    if not chosen:
        return report
    try:
        before = load_subject_report(task.settings.out_dir, task.subject)
    except H2loError:  # there is none, or it is broken
        return report

    def of_others(text: str) -> bool:
        return not any(folder in text for folder in chosen)

    found = [item for item in before.found if of_others(item.path)]
    failures = [item for item in before.failures if not item.scan and of_others(item.message)]
    return replace(
        report,
        found=tuple(sorted((*found, *report.found), key=lambda item: item.path)),
        failures=(*report.failures, *failures),
    )


def add_failures(out_dir: Path, subject: str, failures: Mapping[str, str]) -> None:
    """Write a report again with the messages of scans, by stem, that had no chance to report."""
    with exclusive(common_lock(out_dir, f"sub-{subject}")):
        for stem, message in failures.items():
            write_scan_failure(out_dir, stem, Failure("participant", message, "", stem))
        _render(out_dir, subject)


def reports_only(run: Run) -> int:
    """Assemble the reports of all or the chosen participants; return the exit code."""
    settings, console = run.settings, run.console
    out_dir = settings.out_dir
    subjects = settings.participant_label or tuple(
        sorted(path.parent.name.removeprefix("sub-") for path in out_dir.glob("sub-*/figures"))
    )
    if not subjects:
        raise NoMatchError(f"{out_dir}: holds no figures; run once without --reports-only")
    for subject in subjects:
        console.line(f"report: {_render(out_dir, subject)}")
    write_pages_of_all(run)
    return 0


def write_pages_of_all(run: Run) -> None:
    """Write the page and the table of all scans in the output folder, of whatever run."""
    from h2lo_bids.reports.scans import write_scan_pages

    out_dir = run.settings.out_dir
    with exclusive(common_lock(out_dir, "dataset")):
        problems = write_scan_pages(out_dir)
    for problem in problems:
        run.console.line(problem, level="warning")
    run.console.line(f"all scans: {result_path(out_dir, 'index')}")


def write_citation_text(out_dir: Path, subject: str) -> None:
    """Write ``logs/CITATION.md`` from what was done for one participant."""
    from h2lo_bids.bids.dataset import write_citation
    from h2lo_bids.reports.methods import describe, facts_of

    facts = facts_of(load_subject_report(out_dir, subject))
    write_citation(out_dir, describe(facts).markdown)


def _render(out_dir: Path, subject: str) -> Path:
    path = report_path(out_dir, subject)
    write_subject_report(load_subject_report(out_dir, subject), path)
    return path


def _found(scan: Scan, use: str) -> FoundScan:
    return FoundScan(
        path=scan.relative_path,
        session=scan.session or "",
        field_strength=scan.field_strength,
        field_source=scan.field_source,
        use=use,
    )


def _grids(task: SubjectTask) -> list[str]:
    grids = grids_for(task.settings)
    return [f"at {grid.meaning}" for grid in grids if grid.kind in ("model", "lf")]


def _traceback(crash_file: str) -> str:
    try:
        return Path(crash_file).read_text(errors="replace") if crash_file else ""
    except OSError:
        return ""
