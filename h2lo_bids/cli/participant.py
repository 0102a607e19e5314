"""The participant and trial levels: a process per participant, reports, what is collected."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from h2lo_bids.bids.derivatives import report_path, result_path, software_versions
from h2lo_bids.bids.discover import Discovery, discover
from h2lo_bids.bids.names import in_place, parse_name
from h2lo_bids.cli.checks import Templates
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.execution import Run, start_run
from h2lo_bids.cli.resources import text_of
from h2lo_bids.errors import Failed, H2loError, NoMatchError, exit_code
from h2lo_bids.io import common_lock, exclusive
from h2lo_bids.outputs import grids_of
from h2lo_bids.processes import note
from h2lo_bids.reports import records
from h2lo_bids.reports.subject import write_scan_pages, write_subject_report
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import CONTRASTS, ENHANCE, SYNTHESIZE, Send
from h2lo_bids.wording import all_counted, counted

PROCESS = "h2lo_bids.cli.subject:process"
"""The function that does a `SubjectTask`; only the process that runs it imports its module."""


@dataclass(frozen=True)
class SubjectTask:
    """What is done with the scans of one participant."""

    settings: Settings
    subject: str
    found: Discovery
    """What was found of this participant alone."""
    logs: Path
    """The run's folder for crash files and graphs."""
    templates: Templates = field(default_factory=dict)
    """Of every contrast of the run, of which this participant may have one alone."""


def run_participant(settings: Settings, console: Console) -> int:
    """Process the chosen participants and return the exit code."""
    with start_run(settings, console) as run:
        if settings.collect:
            run.write_dataset()
            collect(run)
            return 0
        if settings.reports_only:
            return reports_only(run)
        run.pool()  # its imports take as long as the search
        found = discover(settings)
        run.report_discovery(found)
        suffixes = tuple(sorted({scan.suffix for scan in found.scans}))
        templates: Templates = {}
        if suffixes:
            work = "h2lo_bids.cli.checks:check_models_and_templates"
            templates = run.ask("checking models and templates", work, settings, suffixes)
        run.write_dataset()
        if suffixes:
            _process(run, found, templates)
        unread = _store_unread(run, found)
        if settings.level == "trial" and run.done:
            collect(run)
        _finish(run)
        if suffixes or unread:
            write_pages_of_all(run)
        return exit_code(run.failed, len(run.done))


def _process(run: Run, found: Discovery, templates: Templates) -> None:
    tasks = {
        name: SubjectTask(run.settings, name.removeprefix("sub-"), own, run.logs, templates)
        for name, own in _by_subject(run.settings.bids_dir, found).items()
        if own.sources
    }
    run.each_participant(
        f"{counted(len(tasks), 'participant')}, {counted(len(found.scans), 'scan')}",
        PROCESS,
        {name: (task,) for name, task in tasks.items()},
        {name: [scan.relative_path for scan in task.found.scans] for name, task in tasks.items()},
        "scan",
        after_loss=lambda name, failed: _store(run, tasks[name], failed),
    )


def _by_subject(root: Path, found: Discovery) -> dict[str, Discovery]:
    """Divide what was found by the participant's folder, which holds the images."""
    items: list[tuple[str, Path, Any]] = [("sources", s.scan.path, s) for s in found.sources]
    items += [("skipped", item.path, item) for item in found.skipped]
    items += [("problems", item.path, item) for item in found.problems]
    groups: dict[str, dict[str, tuple[Any, ...]]] = defaultdict(lambda: defaultdict(tuple))
    for kind, path, item in items:
        for name in path.relative_to(root).parts[:1]:  # none for the dataset as a whole
            groups[name][kind] += (item,)
    return {name: Discovery(**own) for name, own in groups.items()}


def _store(run: Run, task: SubjectTask, failed: Iterable[Failed] = ()) -> None:
    """Do for a participant whose process died, or who needs none, what it could not do."""
    try:
        write_report(task, [replace(item, crash_file="") for item in failed], ())
    except (H2loError, OSError) as err:
        run.console.line(f"sub-{task.subject}: no report: {err}", level="warning")


def _store_unread(run: Run, found: Discovery) -> bool:
    """Report scans that could not be read of participants without another; return if any."""
    settings, lone = run.settings, False
    for name, own in sorted(_by_subject(settings.bids_dir, found).items()):
        if not own.sources and any(item.scan for item in unread_scans(settings, own.problems)):
            _store(run, SubjectTask(settings, name.removeprefix("sub-"), own, run.logs))
            lone = True
    return lone


def unread_scans(settings: Settings, problems: Iterable[Failed]) -> list[records.Failure]:
    """Return what reports say of scans, or other files, that could not be read."""
    found = []
    for problem in problems:
        name = parse_name(problem.path.name) if settings.task == SYNTHESIZE else None
        # Images that would be fused with others have no record, nor do misnamed ones: theirs would
        # be that of another scan.
        stem = ""
        if name and name.suffix in CONTRASTS and in_place(problem.path, name):
            stem = name.stem
        found.append(records.Failure(problem.step, str(problem.error), "", stem))
    return found


def _finish(run: Run) -> None:
    """Write the table of failures, sum up, and name the reports."""
    console, count = run.console, len(run.done)
    run.sum_up(counted(count, "scan"), f"{all_counted(count, 'scan')} done")
    if run.unlike:
        console.line(
            f"{counted(len(run.unlike), 'scan')} unlike the model's training data: see the "
            "warnings above, and look at the reports before you use the images"
        )
    for subject in sorted({name.split("/")[0] for name in run.done}):
        page = run.settings.out_dir / f"{subject}.html"
        if page.exists():
            console.line(f"report: {page}")


def collect(run: Run) -> None:
    """Write the study's tables and page, unless some participants were chosen."""
    if run.settings.participant_label and not run.settings.collect:
        run.console.line("run trial with --collect once all participants are done")
        return
    work = "h2lo_bids.cli.participant:collect_study"
    run.console.line(f"report: {run.ask('collecting the study', work, run.settings)}")


def collect_study(settings: Settings, send: Send) -> Path:
    """Write the tables, the page and the reader set of a study; return the page."""
    from h2lo_bids.trial.report import write_reader_set, write_trial_report
    from h2lo_bids.trial.study import collect

    study = collect(settings)
    if settings.reader_set:
        study.notes += write_reader_set(
            settings.out_dir, study, settings.reader_set, settings.random_seed
        )
    path = write_trial_report(settings.out_dir, study, settings.words())
    for text in study.notes:
        send(note(text, "warning"))
    return path


def write_report(
    task: SubjectTask, failed: Iterable[Failed], scans: Sequence[records.ScanReport]
) -> Path:
    """Write the records and the page of a participant whose workflow has ended."""
    settings, out_dir = task.settings, task.settings.out_dir
    stems = {scan.relative_path: scan.stem for scan in task.found.scans}
    failures = [
        records.Failure(item.step, item.message, text_of(Path(item.crash_file)), stems[item.scan])
        for item in failed
    ]
    failures += unread_scans(settings, task.found.problems)
    use = "enhanced" if settings.task == ENHANCE else "synthesized"
    uses, broken = {scan.stem: use for scan in scans}, {item.scan for item in failed}
    found = [
        records.FoundScan(
            path=scan.relative_path,
            field_strength=scan.field_strength,
            field_source=scan.field_source,
            use="failed" if scan.relative_path in broken else uses.get(scan.stem, "not begun"),
        )
        for scan in task.found.scans
    ]
    others = {item.path: f"not used: {item.reason}" for item in task.found.skipped}
    others |= {item.path: "failed" for item in task.found.problems}
    for path, use in others.items():
        if path.suffix in (".gz", ".nii"):
            name = path.relative_to(settings.bids_dir).as_posix()
            found.append(records.FoundScan(name, use=use))
    lines = [f"at {g.meaning}" for g in grids_of(settings) if g.kind in ("model", "lf")]
    if settings.noise == "calibrated":
        times = f"{settings.noise_factor:g} times " if settings.noise_scale else ""
        draws = counted(settings.draws, "draw")
        lines.append(f"with {times}the noise of the model's training pairs, {draws} of each")
    if settings.uncertainty:
        lines.append("by the model of each fold, for the standard deviation over them")
    report = records.SubjectReport(
        subject=task.subject,
        found=tuple(found),
        failures=tuple(dict.fromkeys(failures)),  # all parts of a fused image share one
        task=settings.task,
        command=shlex.join(["h2lo", *task.settings.words()]),
        versions=tuple(software_versions().items()),
        grids=tuple(lines),
    )
    with exclusive(common_lock(out_dir, f"sub-{task.subject}")):
        report = replace(_with_other_sessions(task, report), scans=tuple(scans))
        records.save_subject_report(out_dir, report)
        return _render(out_dir, task.subject)


def _with_other_sessions(task: SubjectTask, report: records.SubjectReport) -> records.SubjectReport:
    """Keep what other runs, each on a session of its own, said of theirs."""
    chosen = [f"/ses-{label}/" for label in task.settings.session_label]
    if not chosen:
        return report
    try:
        before = records.load_subject_report(task.settings.out_dir, task.subject)
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


def reports_only(run: Run) -> int:
    """Assemble the reports of all or the chosen participants; return the exit code."""
    out_dir = run.settings.out_dir
    subjects = run.settings.participant_label or records.recorded_subjects(out_dir)
    if not subjects:
        raise NoMatchError(f"{out_dir}: holds no figures; run once without --reports-only")
    for subject in subjects:
        try:
            run.console.line(f"report: {_render(out_dir, subject)}")
        except H2loError as err:
            run.fail(Failed(f"sub-{subject}", "report", err))
    write_pages_of_all(run)
    done = len(subjects) - len(run.failed)
    run.sum_up(counted(done, "report"))
    return exit_code(run.failed, done)


def write_pages_of_all(run: Run) -> None:
    """Write page, table and methods text of all scans in the output folder, of whatever run."""
    out_dir = run.settings.out_dir
    with run.writes_for_all():
        problems = write_scan_pages(out_dir)
    for problem in problems:
        run.console.line(problem, level="warning")
    run.console.line(f"all scans: {result_path(out_dir, 'index')}")


def _render(out_dir: Path, subject: str) -> Path:
    path = report_path(out_dir, subject)
    write_subject_report(records.load_subject_report(out_dir, subject), path)
    return path
