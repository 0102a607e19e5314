"""The participant level: one child process per participant, and what frames them."""

from __future__ import annotations

from pathlib import Path

from h2lo_bids.bids.discover import Discovery, discover
from h2lo_bids.bids.lowfield import (
    LowFieldDiscovery,
    LowFieldQuery,
    LowFieldSource,
    discover_lowfield,
)
from h2lo_bids.bids.query import Query
from h2lo_bids.bids.scan import Scan
from h2lo_bids.cli.account import LOST, Run, fail_rest, hear, start
from h2lo_bids.cli.checks import check_usage
from h2lo_bids.cli.children import Ended, Job, call, run_jobs
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.environment import child_environment
from h2lo_bids.cli.failures import Failed, exit_code
from h2lo_bids.cli.finish import tell_failures
from h2lo_bids.cli.fits import duration
from h2lo_bids.cli.resources import Resources, plan
from h2lo_bids.cli.start import (
    by_subject,
    query_words,
    raise_again,
    report_discovery,
    stand_somewhere,
    start_run,
    write_dataset,
)
from h2lo_bids.cli.tasks import CheckTask, ReportTask, SubjectTask
from h2lo_bids.errors import H2loError, TemporaryError
from h2lo_bids.io import remove_temporaries
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import ENHANCE
from h2lo_bids.wording import all_counted, counted

Templates = tuple[tuple[str, str, Path, Path | None], ...]


def run_participant(settings: Settings, console: Console) -> int:
    """Process the chosen participants.

    Parameters
    ----------
    settings
        What is asked for.
    console
        Where it is told.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    H2loError
        If nothing can be begun.
    """
    stand_somewhere()
    check_usage(settings)
    run = start_run(settings, console)
    if settings.reports_only:
        from h2lo_bids.cli.reporting import reports_only

        return reports_only(run)
    found = find(settings)
    report_discovery(run, found)
    subjects = _group(found.scans)
    resources = plan(settings, len(subjects))
    env = child_environment(settings.work, resources.omp_nthreads)
    templates = _check(run, found, env)
    write_dataset(run)
    _process(run, found, subjects, resources, env, templates)
    return _finish(run)


def find(settings: Settings) -> Discovery:
    """Find the scans that the settings ask for."""
    if settings.task == ENHANCE:
        words = {"lf": settings.lf, "fusion": settings.lf_fusion, **query_words(settings)}
        return discover_lowfield(LowFieldQuery(all_scans=settings.all_scans, **words))
    return discover(Query(all_scans=settings.all_scans, **query_words(settings)))


def sources_of(found: Discovery) -> tuple[LowFieldSource, ...]:
    """Return which low-field scans belong together, where that was looked for."""
    return found.sources if isinstance(found, LowFieldDiscovery) else ()


def _group(scans: tuple[Scan, ...]) -> dict[str, tuple[Scan, ...]]:
    subjects: dict[str, list[Scan]] = {}
    for scan in scans:
        subjects.setdefault(scan.subject, []).append(scan)
    return {subject: tuple(own) for subject, own in subjects.items()}


def _check(run: Run, found: Discovery, env: dict[str, str]) -> Templates:
    """Load the models and find the templates in a child, before anything is begun."""
    suffixes = tuple(sorted({scan.suffix for scan in found.scans}))
    if not suffixes:
        return ()
    run.console.status("checking the models and templates")
    log, tick = run.logs / "checks.log", run.console.tick
    result = call(CheckTask(run.settings, suffixes), env, log, tick=tick)
    run.console.status("")
    if result["event"] == "error":
        raise_again(result, log)
    for note in result["notes"]:
        run.console.line(note)
    return tuple(
        (suffix, space, Path(image), Path(mask) if mask else None)
        for suffix, space, image, mask in result["templates"]
    )


def _process(
    run: Run,
    found: Discovery,
    subjects: dict[str, tuple[Scan, ...]],
    resources: Resources,
    env: dict[str, str],
    templates: Templates,
) -> None:
    if not subjects:
        return
    run.total = len(subjects)
    if resources.warning:
        run.console.line(resources.warning, level="warning")
    scans = sum(len(own) for own in subjects.values())
    run.console.line(
        f"{counted(run.total, 'participant')}, {counted(scans, 'scan')}; "
        f"{resources.children} at a time, {counted(resources.omp_nthreads, 'thread')} per step"
    )
    root = run.settings.bids_dir
    skipped = by_subject(root, found.skipped)
    problems = by_subject(root, found.problems)

    def job(subject: str) -> Job:
        task = SubjectTask(
            settings=run.settings,
            subject=subject,
            scans=subjects[subject],
            resources=resources,
            logs=run.logs,
            templates=templates,
            skipped=tuple(skipped.get(subject, ())),
            problems=tuple(problems.get(subject, ())),
            sources=tuple(s for s in sources_of(found) if s.scan.subject == subject),
        )
        return Job(subject, task, run.logs / f"sub-{subject}.log")

    run_jobs(
        (job(subject) for subject in subjects),
        limit=resources.children,
        env=env,
        on_start=lambda job: start(run, job, "scan"),
        tick=run.console.tick,
        on_event=lambda job, event: hear(run, job, event),
        on_end=lambda ended: _end(run, ended, env),
    )


def _end(run: Run, ended: Ended, env: dict[str, str]) -> bool:
    """Close the account of one participant; say whether to go on with others."""
    job = ended.job
    run.steps.pop(job.name, None)
    run.ended += 1
    if not run.steps:
        run.console.status("")
    scans = [scan.relative_path for scan in job.task.scans]
    remedy = "run again with fewer --nprocs or on a machine with more memory"
    fail_rest(run, job, TemporaryError.__name__, f"{ended.cause}; {remedy}")
    lost = [item for item in run.failed if item.step == LOST and item.scan in scans]
    if lost:
        _clean_up_after(run, job, lost, env)
    done = sum(scan in run.done for scan in scans)
    run.console.line(
        f"[{run.ended}/{run.total}] sub-{job.name}: {done} of {counted(len(scans), 'scan')} done "
        f"in {duration(ended.seconds)}"
    )
    return not (run.settings.stop_on_first_crash and run.failed)


def _clean_up_after(run: Run, job: Job, lost: list[Failed], env: dict[str, str]) -> None:
    """Do for a participant whose process died what it could not do any more."""
    stems = {scan.relative_path: scan.stem for scan in job.task.scans}
    remove_temporaries(run.settings.out_dir / f"sub-{job.name}", older_than=0.0)
    failures = tuple((stems[item.scan], item.message) for item in lost)
    try:
        call(ReportTask(run.settings, job.name, failures), env, job.log)
    except H2loError as err:
        run.console.line(f"sub-{job.name}: no report: {err}", level="warning")


def _finish(run: Run) -> int:
    """Write the table of failures, sum up, and choose the exit code."""
    console = run.console
    if run.failed:
        tell_failures(run, counted(len(run.done), "scan"))
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
    return exit_code(run.failed, len(run.done))
