"""The participant level: one child process per participant, and what frames them."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from h2lo_bids import __version__
from h2lo_bids.bids.atomic import atomic_write_text, remove_temporaries
from h2lo_bids.bids.discover import Discovery, discover
from h2lo_bids.bids.filters import load_filter_file
from h2lo_bids.bids.query import Query
from h2lo_bids.bids.scan import Scan
from h2lo_bids.cli.account import LOST, Run, fail_problems, fail_rest, hear, status
from h2lo_bids.cli.checks import check_usage, prepare_folders
from h2lo_bids.cli.children import Ended, Job, call, run_jobs
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.environment import child_environment, temporary_folder
from h2lo_bids.cli.failures import Failed, exit_code, write_table
from h2lo_bids.cli.resources import Resources, plan
from h2lo_bids.cli.settings import Settings, to_toml
from h2lo_bids.cli.tasks import CheckTask, ReportTask, SubjectTask
from h2lo_bids.errors import H2loError, TemporaryError

_MOST_NAMED = 10

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
    _stand_somewhere()
    check_usage(settings)
    if settings.dry_run:
        from h2lo_bids.cli.dryrun import describe

        for line in describe(settings, find(settings)):
            console.line(line)
        return 0
    prepare_folders(settings)
    tempfile.tempdir = str(temporary_folder(os.environ, settings.work))
    run = Run(settings, console, settings.out_dir / "logs" / _run_name())
    _begin(run)
    if settings.reports_only:
        from h2lo_bids.cli.reporting import reports_only

        return reports_only(run)
    found = find(settings)
    for note in found.notes:
        console.line(note)
    _tell_left_out(run, found)
    fail_problems(run, found)
    subjects = _group(found.scans)
    resources = plan(settings, len(subjects))
    env = child_environment(settings.work, resources.omp_nthreads)
    templates = _check(run, found, env)
    _write_dataset(run)
    _process(run, found, subjects, resources, env, templates)
    return _finish(run)


def _stand_somewhere() -> None:
    """Leave a current folder that was deleted: Nipype and others want one, and none is used."""
    try:
        Path.cwd()
    except FileNotFoundError:
        os.chdir("/")


def find(settings: Settings) -> Discovery:
    """Find the scans that the settings ask for."""
    filters = (
        {} if settings.bids_filter_file is None else load_filter_file(settings.bids_filter_file)
    )
    return discover(
        Query(
            bids_dir=settings.bids_dir,
            participant_labels=settings.participant_label,
            session_labels=settings.session_label,
            filters=filters,
            inline=settings.filter,
            all_scans=settings.all_scans,
            # A dry run may not write an index, and one that is not kept is of no use.
            database_dir=None if settings.dry_run else settings.bids_database_dir,
            skip_bids_validation=settings.skip_bids_validation,
        )
    )


def _run_name() -> str:
    return f"{time.strftime('%Y%m%dT%H%M%S')}_{uuid.uuid4()}"


def _begin(run: Run) -> None:
    """Write down what was asked for, and open the log."""
    settings = run.settings
    record = {
        "version": __version__,
        "bids-dir": str(settings.bids_dir),
        "out-dir": str(settings.out_dir),
        "analysis-level": settings.level,
        "command": shlex.join(["h2lo", *sys.argv[1:]]),
        "python": sys.version.split()[0],
    }
    atomic_write_text(run.logs / "config.toml", to_toml({**settings.to_options(), "run": record}))
    run.console.open_log(run.logs / "h2lo.log")
    run.console.line(f"h2lo {__version__}: {settings.bids_dir} -> {settings.out_dir}")


def _group(scans: tuple[Scan, ...]) -> dict[str, tuple[Scan, ...]]:
    subjects: dict[str, list[Scan]] = {}
    for scan in scans:
        subjects.setdefault(scan.subject, []).append(scan)
    return {subject: tuple(own) for subject, own in subjects.items()}


def _tell_left_out(run: Run, found: Discovery) -> None:
    """Name the participants without any scan to work on; single images go to the log alone."""
    for skipped in found.skipped:
        run.console.to_log(f"left out: {skipped.path}: {skipped.reason}")
    folders = [item for item in found.skipped if item.path.parent == run.settings.bids_dir]
    for skipped in folders[:_MOST_NAMED]:
        run.console.line(f"{skipped.path.name}: left out: {skipped.reason}")
    if len(folders) > _MOST_NAMED:
        rest = len(folders) - _MOST_NAMED
        run.console.line(f"{rest} more participants left out, see {run.console.log}")


def _check(run: Run, found: Discovery, env: dict[str, str]) -> Templates:
    """Load the models and find the templates in a child, before anything is begun."""
    suffixes = tuple(sorted({scan.suffix for scan in found.scans}))
    if not suffixes:
        return ()
    result = call(CheckTask(run.settings, suffixes), env, run.logs / "checks.log")
    if result["event"] == "error":
        raise_again(result, run.logs / "checks.log")
    for note in result["notes"]:
        run.console.line(note)
    return tuple(
        (suffix, space, Path(image), Path(mask) if mask else None)
        for suffix, space, image, mask in result["templates"]
    )


def raise_again(result: dict[str, Any], log: Path) -> None:
    """Raise in this process what a child reported; its log has the traceback of a surprise."""
    from h2lo_bids import errors

    kind = getattr(errors, result["error"], None)
    if kind is None:
        raise H2loError(f"{result['error']}: {result['message']}; see {log}, and report it")
    raise kind(result["message"])


def _write_dataset(run: Run) -> None:
    from h2lo_bids.bids.dataset import write_dataset_files

    write_dataset_files(
        run.settings.out_dir,
        bids_dir=run.settings.bids_dir,
        links=dict(run.settings.derivatives),
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
        f"{run.total} participants, {scans} scans; {resources.children} at a time, "
        f"{resources.omp_nthreads} threads per step"
    )
    root = run.settings.bids_dir
    skipped = _by_subject(root, found.skipped)
    problems = _by_subject(root, found.problems)

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
        )
        return Job(subject, task, run.logs / f"sub-{subject}.log")

    run_jobs(
        (job(subject) for subject in subjects),
        limit=resources.children,
        env=env,
        on_start=lambda job: status(run, job, "starting"),
        on_event=lambda job, event: hear(run, job, event),
        on_end=lambda ended: _end(run, ended, env),
    )


def _by_subject(root: Path, items: Iterable[Any]) -> dict[str, list[Any]]:
    """Group what concerns images by the participant whose folder holds them."""
    groups: dict[str, list[Any]] = {}
    for item in items:
        label = item.path.relative_to(root).parts[0].removeprefix("sub-")
        groups.setdefault(label, []).append(item)
    return groups


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
        f"[{run.ended}/{run.total}] sub-{job.name}: {done} of {len(scans)} scans done "
        f"in {ended.seconds:.0f} s"
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
        table = run.logs / "failures.tsv"
        write_table(table, run.failed)
        console.line(f"{len(run.failed)} failed, {len(run.done)} scans done:")
        for failed in run.failed:
            console.line(f"  {failed.scan}\t{failed.step}\t{failed.message}")
        console.line(f"table of failures: {table}")
    else:
        console.line(f"all {len(run.done)} scans done")
    subjects = sorted({name.split("/")[0] for name in run.done})
    if subjects:
        from h2lo_bids.cli.reporting import write_citation_text

        write_citation_text(run.settings.out_dir, subjects[0].removeprefix("sub-"))
    for subject in subjects:
        report = run.settings.out_dir / f"{subject}.html"
        if report.exists():
            console.line(f"report: {report}")
    return exit_code(run.failed, len(run.done))
