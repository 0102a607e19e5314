"""A run while it goes on: its folders and log, its processes, what is done and what failed."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from h2lo_bids import __version__
from h2lo_bids.bids.derivatives import result_path
from h2lo_bids.bids.discover import Discovery
from h2lo_bids.bids.gather import Problem, Skipped
from h2lo_bids.bids.pairs import PairDiscovery
from h2lo_bids.bids.query import Query, load_filter_file
from h2lo_bids.cli.checks import check_usage, prepare_folders
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.resources import (
    Resources,
    child_environment,
    imports_of,
    plan,
    step_threads,
    temporary_folder,
)
from h2lo_bids.cli.tasks import Failed, PairTask, SubjectTask, write_table
from h2lo_bids.errors import H2loError, TemporaryError, UnexpectedError, error_of_code
from h2lo_bids.io import atomic_write_text, common_lock, exclusive, remove_temporaries
from h2lo_bids.processes import Ended, Event, Job, Pool
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import CONTRASTS
from h2lo_bids.wording import counted, duration, summarise

LOST = "participant"
"""The step that is named when a participant's process ended before it could report."""
_REMEDY = "run again with fewer --nprocs or on a machine with more memory"


@dataclass
class Run:
    """One run; use it as a context, which ends its processes."""

    settings: Settings
    console: Console
    logs: Path
    """The run's own folder in ``out_dir/logs``."""
    done: set[str] = field(default_factory=set)
    """Scans, by path relative to the input dataset, and fits by name."""
    failed: list[Failed] = field(default_factory=list)
    reported: set[str] = field(default_factory=set)
    """What is done or failed."""
    unlike: set[str] = field(default_factory=set)
    """Scans that are not like the training data."""
    steps: dict[str, str] = field(default_factory=dict)
    """What each running process is at."""
    ended: int = 0
    total: int = 0
    _pool: Pool | None = None
    _threads: int = 0

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def pool(self, threads: int = 0) -> Pool:
        """Return processes of so many threads, by default those of a step; they start at once."""
        threads = threads or step_threads(self.settings)
        if self._pool is None or threads != self._threads:
            self.__exit__()
            env = child_environment(self.settings.work, threads)
            self._pool, self._threads = Pool(env, imports_of(self.settings)), threads
        return self._pool

    def ask(self, task: Any, status: str, threads: int = 0) -> Any:
        """Let a process do a task, print what it reports, and return its result or raise."""
        log = self.logs / f"{type(task).__name__.removesuffix('Task').lower()}.log"
        self.console.status(status)
        job = Job(status, task.work, task, log)
        try:
            return self.pool(threads).call(job, self._print, self.console.tick)
        except UnexpectedError as err:
            raise H2loError(f"{err.kind}: {err}; see {log}, and report it") from err
        finally:
            self.console.status("")

    def _print(self, job: Job, event: Event) -> None:
        if event["event"] == "note":
            self.console.line(event["text"], level=event.get("level", ""))
        elif event["event"] == "table":
            for line in (event["contrast"], *event["text"].splitlines()):
                self.console.line(line)

    def fail(self, failed: Failed) -> None:
        """Record a failure and print its line."""
        self.reported.add(failed.scan)
        self.failed.append(failed)
        self.console.line(failed.line, level="error")

    def fail_alike(self, failed: Iterable[Failed]) -> None:
        """Record failures that come together, and print one line for each kind."""
        failed = tuple(failed)
        self.failed += failed
        for line in summarise((Path(item.scan), item.line) for item in failed):
            self.console.line(line, level="error")

    def status(self, name: str, step: str) -> None:
        """Show what each process is at."""
        self.steps[name] = step
        now = ", ".join(f"{name}: {what}" for name, what in self.steps.items())
        self.console.status(f"[{self.ended}/{self.total}] {now}")

    def close(self, name: str) -> str:
        """Count one process as ended; return how many have ended, of how many."""
        self.steps.pop(name, None)
        self.ended += 1
        if not self.steps:
            self.console.status("")
        return f"[{self.ended}/{self.total}]"

    def plan(self, subjects: int) -> Resources:
        """Return how the work is spread over subjects; warn of too little memory."""
        resources = plan(self.settings, subjects)
        if resources.warning:
            self.console.line(resources.warning, level="warning")
        return resources

    @property
    def gives_up(self) -> bool:
        """Whether a failure is to end the run."""
        return self.settings.stop_on_first_crash and bool(self.failed)


def start_run(settings: Settings, console: Console) -> Run:
    """Check the options, create the folders, record the options, and open the log."""
    check_usage(settings)
    prepare_folders(settings)
    tempfile.tempdir = str(temporary_folder(os.environ, settings.work))
    name = f"{time.strftime('%Y%m%dT%H%M%S')}_{uuid.uuid4()}"
    run = Run(settings, console, settings.out_dir / "logs" / name)
    record = {
        "version": __version__,
        "bids-dir": str(settings.bids_dir),
        "out-dir": str(settings.out_dir),
        "analysis-level": settings.level,
        "command": shlex.join(["h2lo", *sys.argv[1:]]),
        "python": sys.version.split()[0],
    }
    if "SLURM_ARRAY_JOB_ID" in os.environ:  # by which h2lo-slurm finds what this run records
        array, task = os.environ["SLURM_ARRAY_JOB_ID"], os.environ.get("SLURM_ARRAY_TASK_ID", "0")
        record["slurm-job"] = f"{array}_{task}"
    config = tomli_w.dumps({**settings.to_options(), "run": record})
    atomic_write_text(run.logs / "config.toml", config)
    console.open_log(run.logs / "h2lo.log")
    console.line(f"h2lo {__version__}: {settings.bids_dir} -> {settings.out_dir}")
    return run


def query_of(settings: Settings) -> Query:
    """Return which scans or pairs are looked for."""
    file = settings.bids_filter_file
    return Query(
        settings.bids_dir,
        settings.participant_label,
        settings.session_label,
        suffixes=settings.contrast or CONTRASTS,
        filters={} if file is None else load_filter_file(file),
        inline=settings.filter,
        all_scans=settings.all_scans,
        # A dry run may not write an index, and one that is not kept is of no use.
        database_dir=None if settings.dry_run else settings.bids_database_dir,
        skip_bids_validation=settings.skip_bids_validation,
        hf=settings.hf,
        lf=settings.lf,
        lf_dir=settings.lf_dir,
        derivatives=settings.derivatives,
        fusion=settings.lf_fusion,
    )


def report_discovery(run: Run, found: Discovery | PairDiscovery) -> None:
    """Print what a search noted, warns of, skipped and cannot use; one line for each kind."""
    for note in found.notes:
        run.console.line(note)
    for warning in found.warnings:
        run.console.line(warning, level="warning")
    for line in skipped_lines(found.skipped):
        run.console.line(line)
    run.failed += [_problem(run.settings.bids_dir, problem) for problem in found.problems]
    for line in summarise((problem.path, problem.message) for problem in found.problems):
        run.console.line(line, level="error")


def _problem(root: Path, problem: Problem) -> Failed:
    inside = problem.path.is_relative_to(root)  # else it is of a second dataset
    name = problem.path.relative_to(root).as_posix() if inside else str(problem.path)
    name = "" if problem.path == root else name  # of the dataset as a whole
    return Failed(name, "discovery", error_of_code(problem.exit_code, problem.message))


def skipped_lines(skipped: Iterable[Skipped]) -> list[str]:
    """Return one line for each kind of reason."""
    # A reason that begins with the participant need not name it again.
    items = ((s.path, s.reason.removeprefix(f"{s.path.name}: ")) for s in skipped)
    return summarise((path, f"skipped: {path}: {reason}") for path, reason in items)


def write_dataset(run: Run) -> None:
    """Write the files at the root of the output dataset."""
    from h2lo_bids.bids.dataset import write_dataset_files

    settings = run.settings
    links = dict(settings.derivatives)
    if settings.lf_dir is not None:
        links["lf"] = settings.lf_dir
    # Links of other runs are kept, so that reading and writing belong together.
    with exclusive(common_lock(settings.out_dir, "dataset")):
        write_dataset_files(
            settings.out_dir, bids_dir=settings.bids_dir, links=links, labels=_labels(settings)
        )


def _labels(settings: Settings) -> dict[str, str]:
    """Return what the desc labels of this run's conditions and labels mean."""
    if settings.collect or not (settings.condition or settings.labels):
        return {}
    from h2lo_bids.trial.condition import conditions_of

    found = {name: f"Label image given with --labels {name}" for name, _ in settings.labels}
    for condition in conditions_of(settings):
        found[condition.name] = f"Low-field image of a condition: {condition.text}"
        found[f"{condition.name}noise01"] = "Noisy images of this condition, 01 and on"
    return found


def run_participants(
    run: Run,
    tasks: Sequence[SubjectTask | PairTask],
    resources: Resources,
    unit: str,
    *,
    done: str = "done",
    after_loss: Callable[[Ended], None] = lambda ended: None,
) -> None:
    """Do the tasks of participants, some at a time; `unit` is what a task has several of.

    `after_loss` is called where a process ended before it had reported each of its scans.
    """

    def started(job: Job) -> None:
        run.status(job.name, "starting")
        run.console.progress(f"{job.name}: started, {counted(len(job.task.scans), unit)}")

    def ended(end: Ended) -> bool:
        count = run.close(end.job.name)
        if _fail_rest(run, end):
            remove_temporaries(run.settings.out_dir / end.job.name, older_than=0.0)
            after_loss(end)
        scans = end.job.task.scans
        ready = sum(scan.relative_path in run.done for scan in scans)
        run.console.line(
            f"{count} {end.job.name}: {ready} of {counted(len(scans), unit)} {done} in "
            f"{duration(end.seconds)}"
        )
        return not run.gives_up

    run.ended, run.total = 0, len(tasks)
    names = [f"sub-{task.subject}" for task in tasks]
    run.pool(resources.omp_nthreads).run(
        [Job(n, t.work, t, run.logs / f"{n}.log") for n, t in zip(names, tasks, strict=True)],
        limit=resources.children,
        on_start=started,
        on_event=lambda job, event: _hear(run, job, event),
        on_end=ended,
        tick=run.console.tick,
    )


def _hear(run: Run, job: Job, event: Event) -> None:
    """Take in one event of a participant's process."""
    kind = event["event"]
    if kind == "step":
        run.status(job.name, plain_step(event["step"]))
        if "seconds" in event:
            say = run.console.line if run.settings.verbose else run.console.progress
            say(f"{job.name}: {plain_step(event['step'])} took {event['seconds']:.1f} s")
    elif kind == "note":
        run.console.line(f"{job.name}: {event['text']}", level=event.get("level", ""))
    elif kind == "failed":
        run.fail(event["failed"])
    elif kind == "done":
        run.reported.add(event["scan"])
        run.done.add(event["scan"])
    elif kind == "unlike":
        run.unlike.add(event["scan"])


def _fail_rest(run: Run, ended: Ended) -> bool:
    """Let each scan fail that a process did not report; return whether there was one."""
    error = TemporaryError(f"{ended.cause}; {_REMEDY}") if ended.cause else ended.error
    rest = [s for s in ended.job.task.scans if s.relative_path not in run.reported]
    for scan in rest if error is not None else ():
        log = "" if isinstance(error, TemporaryError) else str(ended.job.log)
        run.fail(Failed(scan.relative_path, LOST, error, log))  # type: ignore[arg-type]
    return bool(rest) and error is not None


def plain_step(node: str) -> str:
    """Return the scan and the step of a workflow's node as words.

    Examples
    --------
    >>> plain_step("scan_ses_HF_T1w_wf.find_brain"), plain_step("pair_sub_01_T2w_wf.align_0")
    ('ses HF T1w find brain', 'T2w align 0')
    """
    branch, _, step = node.partition(".")
    scan = re.sub(r"^(scan|pair)_(sub_[^_]+_)?|_wf$", "", branch)
    return f"{scan} {step}".replace("_", " ").strip()


def report_failures(run: Run, done: str) -> None:
    """Write the table of failures and print how many there are; `done` counts the rest."""
    table = result_path(run.settings.out_dir, "failures", run=run.logs.name)
    write_table(table, run.failed)
    run.console.line(f"{len(run.failed)} failed, {done} done; table of failures: {table}")
