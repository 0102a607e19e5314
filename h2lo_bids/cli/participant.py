"""The participant level: one process per participant, and what frames them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from h2lo_bids.bids.discover import Discovery, discover, discover_lowfield
from h2lo_bids.bids.query import Query
from h2lo_bids.bids.scan import Scan
from h2lo_bids.cli.checks import check_usage
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.execution import (
    LOST,
    Run,
    query_words,
    report_discovery,
    report_failures,
    run_participants,
    stand_somewhere,
    start_run,
    write_dataset,
)
from h2lo_bids.cli.failures import exit_code
from h2lo_bids.cli.resources import plan
from h2lo_bids.cli.tasks import CheckTask, SubjectTask, Templates
from h2lo_bids.errors import H2loError
from h2lo_bids.io import remove_temporaries
from h2lo_bids.processes import Ended
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import ENHANCE
from h2lo_bids.wording import all_counted, counted


def run_participant(settings: Settings, console: Console) -> int:
    """Process the chosen participants and return the exit code."""
    stand_somewhere()
    check_usage(settings)
    with start_run(settings, console) as run:
        if settings.reports_only:
            from h2lo_bids.cli.reporting import reports_only

            return reports_only(run)
        run.pool()  # its imports take as long as the search
        found = find(settings)
        report_discovery(run, found)
        templates = _check(run, found)
        write_dataset(run)
        if found.scans:
            _process(run, found, templates)
        if settings.level == "trial":
            from h2lo_bids.cli.trial import collect

            collect(run)
        return _finish(run)


def find(settings: Settings) -> Discovery:
    """Find the scans that the settings ask for."""
    words = query_words(settings) | {"lf": settings.lf, "fusion": settings.lf_fusion}
    query = Query(all_scans=settings.all_scans, **words)
    return (discover_lowfield if settings.task == ENHANCE else discover)(query)


def _check(run: Run, found: Discovery) -> Templates:
    """Load the models and find the templates before anything is begun."""
    suffixes = tuple(sorted({scan.suffix for scan in found.scans}))
    if not suffixes:
        return ()
    result = run.ask(CheckTask(run.settings, suffixes), "checking the models and templates")
    for note in result["notes"]:
        run.console.line(note)
    return tuple(
        (suffix, space, Path(image), Path(mask) if mask else None)
        for suffix, space, image, mask in result["templates"]
    )


def _process(run: Run, found: Discovery, templates: Templates) -> None:
    subjects: dict[str, list[Scan]] = {}
    for scan in found.scans:
        subjects.setdefault(scan.subject, []).append(scan)
    resources = plan(run.settings, len(subjects))
    if resources.warning:
        run.console.line(resources.warning, level="warning")
    run.console.line(
        f"{counted(len(subjects), 'participant')}, {counted(len(found.scans), 'scan')}; "
        f"{resources.children} at a time, {counted(resources.omp_nthreads, 'thread')} per step"
    )
    root = run.settings.bids_dir
    skipped, problems = _by_subject(root, found.skipped), _by_subject(root, found.problems)
    tasks = [
        SubjectTask(
            settings=run.settings,
            subject=subject,
            scans=tuple(scans),
            resources=resources,
            logs=run.logs,
            templates=templates,
            skipped=tuple(skipped.get(subject, ())),
            problems=tuple(problems.get(subject, ())),
            sources=tuple(s for s in found.sources if s.scan.subject == subject),
        )
        for subject, scans in subjects.items()
    ]
    run_participants(run, tasks, resources, "scan", after_loss=lambda end: _clean_up(run, end))


def _by_subject(root: Path, items: Iterable[Any]) -> dict[str, list[Any]]:
    """Group what concerns images by the participant whose folder holds them."""
    groups: dict[str, list[Any]] = {}
    for item in items:
        for name in item.path.relative_to(root).parts[:1]:  # none for the dataset as a whole
            groups.setdefault(name.removeprefix("sub-"), []).append(item)
    return groups


def _clean_up(run: Run, ended: Ended) -> None:
    """Do for a participant whose process died what it could not do any more."""
    from h2lo_bids.cli.reporting import add_failures

    out_dir, task = run.settings.out_dir, ended.job.task
    remove_temporaries(out_dir / ended.job.name, older_than=0.0)
    stems = {scan.relative_path: scan.stem for scan in task.scans}
    lost = [item for item in run.failed if item.step == LOST and item.scan in stems]
    try:
        add_failures(out_dir, task.subject, {stems[item.scan]: item.message for item in lost})
    except (H2loError, OSError) as err:
        run.console.line(f"{ended.job.name}: no report: {err}", level="warning")


def _finish(run: Run) -> int:
    """Write the table of failures, sum up, and choose the exit code."""
    console = run.console
    if run.failed:
        report_failures(run, counted(len(run.done), "scan"))
    else:
        console.line(f"{all_counted(len(run.done), 'scan')} done")
    if run.unlike:
        console.line(
            f"{counted(len(run.unlike), 'scan')} not like the training data of the model: see the "
            "warnings above, and the reports before you use the images"
        )
    subjects = sorted({name.split("/")[0] for name in run.done})
    if subjects:
        from h2lo_bids.cli.reporting import write_citation_text

        write_citation_text(run.settings.out_dir, subjects[0].removeprefix("sub-"))
    for subject in subjects:
        report = run.settings.out_dir / f"{subject}.html"
        if report.exists():
            console.line(f"report: {report}")
    if run.reported:
        from h2lo_bids.cli.reporting import write_pages_of_all

        write_pages_of_all(run)
    return exit_code(run.failed, len(run.done))
