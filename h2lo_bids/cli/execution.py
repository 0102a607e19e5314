"""A run while it goes on: its folders and log, its processes, what is done and what failed."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from h2lo_bids import __version__
from h2lo_bids.bids.dataset import other_source, write_dataset_files
from h2lo_bids.bids.derivatives import result_path
from h2lo_bids.bids.discover import Discovery
from h2lo_bids.bids.gather import Skipped
from h2lo_bids.bids.pairs import PairDiscovery
from h2lo_bids.cli import resources
from h2lo_bids.cli.checks import check_usage, prepare_folders
from h2lo_bids.cli.console import Console
from h2lo_bids.errors import Failed, H2loError, TemporaryError, UnexpectedError
from h2lo_bids.io import atomic_write_text, common_lock, exclusive, remove_temporaries
from h2lo_bids.processes import Event, Job, Pool, Process, note
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import Send
from h2lo_bids.wording import counted, duration, summarise

COLUMNS = ("scan", "step", "error", "message", "crash_file")
"""Of the table of failures."""
_REMEDY = "run again with fewer --nprocs or on a machine with more memory"


class Outcome(NamedTuple):
    """What a participant's process returns: scans by path relative to the input dataset."""

    done: tuple[str, ...]
    failed: tuple[Failed, ...]
    unlike: tuple[str, ...] = ()
    """Scans that are not like the training data."""


@dataclass
class Run(AbstractContextManager["Run"]):
    """One run; use it as a context, which ends its processes."""

    settings: Settings
    console: Console
    logs: Path
    """The run's own folder in ``out_dir/logs``."""
    done: set[str] = field(default_factory=set)
    """Scans, by path relative to the input dataset, and fits by name."""
    failed: list[Failed] = field(default_factory=list)
    unlike: set[str] = field(default_factory=set)
    """Scans that are not like the training data."""
    steps: dict[str, str] = field(default_factory=dict)
    """What each running process is at."""
    ended: int = 0
    total: int = 0
    _pool: Pool | None = None
    _threads: int = 0

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def pool(self, threads: int = 0) -> Pool:
        """Return processes of so many threads, by default those of a step; they start at once."""
        threads = threads or resources.step_threads(self.settings)
        if self._pool is None or threads != self._threads:
            self.__exit__()
            env = resources.child_environment(self.settings.work, threads)
            self._pool, self._threads = Pool(env, resources.imports_of(self.settings)), threads
        return self._pool

    def ask(self, status: str, work: str, *args: Any, threads: int = 0) -> Any:
        """Let a process call a function; print what it reports, return its result or raise."""
        log = self.logs / f"{work.rpartition(':')[2]}.log"
        self.console.status(status)
        try:
            job = Job("", work, args, log)
            return self.pool(threads).call(job, self.hear, self.console.tick)
        except UnexpectedError as err:
            raise H2loError(f"{err.kind}: {err}; see {log}, and report it") from err
        finally:
            self.console.status("")

    def do(
        self,
        jobs: Sequence[Job],
        limit: int,
        threads: int,
        on_end: Callable[[str, Process], None],
        **hooks: Any,
    ) -> None:
        """Run jobs, `limit` at a time; `on_end` gets how many have ended of how many."""
        self.steps.clear()
        self.ended, self.total = 0, len(jobs)

        def ended(end: Process) -> bool:
            self.steps.pop(end.job.name, None)
            self.ended += 1
            if not self.steps:
                self.console.status("")
            on_end(f"[{self.ended}/{self.total}]", end)
            return not self.gives_up

        hooks = {"on_event": self.hear, "tick": self.console.tick, **hooks}
        todo = () if self.gives_up else jobs  # a contrast that cannot be fitted fails before them
        self.pool(threads).run(todo, limit=limit, on_end=ended, **hooks)
        if left := self.total - self.ended:
            text = f"stopped at the first failure: {left} of {self.total} not done"
            self.console.line(text, level="warning")

    def hear(self, job: Job, event: Event) -> None:
        """Take in one event of a process."""
        kind, title = event["event"], f"{job.name}: " if job.name else ""
        if kind == "note":
            self.console.line(title + event["text"], level=event.get("level", ""))
        elif kind == "lost":
            step = "fit" if self.settings.fits else "score"
            self.fail(Failed(job.name, step, H2loError(title + event["text"])))
        elif kind == "table":
            for line in (event["contrast"], *event["text"].splitlines()):
                self.console.line(line)
        elif kind == "step":
            step = plain_step(event["step"])
            self.status(job.name, step)
            if "seconds" in event:
                say = self.console.line if self.settings.verbose else self.console.progress
                say(f"{title}{step} took {event['seconds']:.1f} s")

    def fail(self, failed: Failed) -> None:
        """Record a failure and print its line."""
        self.failed.append(failed)
        self.console.line(failed.line, level="error")

    def fail_job(
        self, end: Process, step: str, names: Iterable[str], remedy: str
    ) -> tuple[Failed, ...]:
        """Let all fail that a process was to do, unless it ended well; return the failures."""
        error = end.failure(remedy)
        log = "" if isinstance(error, TemporaryError) else str(end.job.log)
        lost = () if error is None else tuple(Failed(name, step, error, log) for name in names)
        for item in lost:
            self.fail(item)
        return lost

    def fail_alike(self, failed: Sequence[Failed]) -> None:
        """Record failures that come together, and print one line for each kind."""
        self.failed += failed
        # What a search found names the file at fault, which may be one that many scans share.
        items = ((f.path, f.message) if f.path.name else (Path(f.scan), f.line) for f in failed)
        for line in summarise(items):
            self.console.line(line, level="error")

    def writes_for_all(self) -> AbstractContextManager[bool]:
        """Hold the lock of what every run in out_dir writes, and say for whom this one waits."""
        return exclusive(
            common_lock(self.settings.out_dir, "dataset"),
            lambda by: self.console.line(f"waiting for another run in this out_dir ({by})"),
        )

    def status(self, name: str, step: str) -> None:
        """Show what each process is at."""
        self.steps[name] = step
        now = ", ".join(f"{name}: {what}" for name, what in self.steps.items())
        self.console.status(f"[{self.ended}/{self.total}] {now}")

    @property
    def gives_up(self) -> bool:
        """Whether a failure is to end the run: none that was known before the work began."""
        failed = any(item.step != "discovery" for item in self.failed)
        return self.settings.stop_on_first_crash and failed

    def report_discovery(self, found: Discovery | PairDiscovery) -> None:
        """Print what a search noted, warns of, skipped and cannot use; one line for each kind."""
        for line in found.notes:
            self.console.line(line)
        for warning in found.warnings:
            self.console.line(warning, level="warning")
        for line in skipped_lines(found.skipped):
            self.console.line(line)
        self.fail_alike(found.problems)

    def write_dataset(self) -> None:
        """Write the files at the root of the output dataset."""
        settings = self.settings
        links = dict(settings.derivatives)
        if settings.lf_dir is not None:
            links["lf"] = settings.lf_dir
        # Links of other runs are kept, so that reading and writing belong together.
        with self.writes_for_all():
            if line := other_source(settings.out_dir, settings.bids_dir):
                self.console.line(line, level="warning")
            write_dataset_files(
                settings.out_dir, bids_dir=settings.bids_dir, links=links, labels=_labels(settings)
            )

    def each_participant(
        self,
        title: str,
        work: str,
        args: Mapping[str, tuple[Any, ...]],
        scans: Mapping[str, Sequence[str]],
        unit: str,
        *,
        done: str = "done",
        after_loss: Callable[[str, tuple[Failed, ...]], None] = lambda name, failed: None,
    ) -> None:
        """Call a function, which gives an `Outcome`, for each participant's folder."""
        threads = resources.step_threads(self.settings)
        limit, warning = resources.participants_at_a_time(self.settings, len(args))
        if warning:
            self.console.line(warning, level="warning")
        self.console.line(f"{title}; {limit} at a time, {counted(threads, 'thread')} per step")

        def started(job: Job) -> None:
            self.status(job.name, "starting")
            self.console.progress(f"{job.name}: started, {counted(len(scans[job.name]), unit)}")

        def ended(count: str, end: Process) -> None:
            name, outcome = end.job.name, end.result or Outcome((), ())
            seconds = end.seconds  # before what is cleaned up
            if lost := self.fail_job(end, "participant", scans[name], _REMEDY):
                # Another run may be at work on other sessions of the participant.
                for visit in {"_".join(Path(scan).parts[:-2]) for scan in scans[name]}:
                    remove_temporaries(self.settings.out_dir / name, visit)
                after_loss(name, lost)
            for failed in outcome.failed:
                self.fail(failed)
            self.done.update(outcome.done)
            self.unlike.update(outcome.unlike)
            ready = f"{len(outcome.done)} of {counted(len(scans[name]), unit)} {done}"
            self.console.line(f"{count} {name}: {ready} in {duration(seconds)}")

        jobs = [Job(name, work, args[name], self.logs / f"{name}.log") for name in args]
        self.do(jobs, limit, threads, ended, on_start=started)

    def sum_up(self, done: str, well: str = "") -> None:
        """Write the table of failures and count them, beside what is done, or say that all is."""
        if self.failed:
            table = result_path(self.settings.out_dir, "failures", run=self.logs.name)
            write_table(table, self.failed)
            well = f"{len(self.failed)} failed, {done} done; table of failures: {table}"
        if well:
            self.console.line(well)


def start_run(settings: Settings, console: Console) -> Run:
    """Check the options, create the folders, record the options, and open the log."""
    check_usage(settings)
    prepare_folders(settings)
    tempfile.tempdir = str(resources.temporary_folder(os.environ, settings.work))
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


def skipped_lines(skipped: Iterable[Skipped]) -> list[str]:
    """Return one line for each kind of reason."""
    # A reason that begins with the participant need not name it again.
    items = ((s.path, s.reason.removeprefix(f"{s.path.name}: ")) for s in skipped)
    return summarise((path, f"skipped: {path}: {reason}") for path, reason in items)


def _labels(settings: Settings) -> dict[str, str]:
    """Return what the desc labels of this run's conditions and labels mean."""
    if settings.collect or not (settings.condition or settings.labels):
        return {}
    from h2lo_bids.trial.condition import conditions_of

    found = {name: f"Label image given with --labels {name}" for name, _ in settings.labels}
    for condition in conditions_of(settings):
        noisy = "Noisy images of this condition; noise02 and so on are further ones"
        found[condition.name] = f"Low-field image of a condition: {condition.text}"
        found[f"{condition.name}noise01"] = noisy
    return found


@contextmanager
def alone(settings: Settings, subject: str, send: Send, other: str) -> Iterator[None]:
    """Keep every other run from a participant, or warn where that cannot be."""
    lock = settings.work / "locks" / f"sub-{subject}.lock"
    with exclusive(
        lock, lambda by: send(note(f"waiting for another run {other} ({by})"))
    ) as locked:
        if not locked:
            text = "this file system has no file locks; do not start two runs on it at once"
            send(note(f"{settings.work}: {text}", "warning"))
        yield


def plain_step(node: str) -> str:
    """Return the scan and the step of a workflow's node as words: ``ses HF T1w find brain``."""
    branch, _, step = node.partition(".")
    scan = re.sub(r"^(scan|pair)_(sub_[^_]+_)?|_wf$", "", branch)
    return f"{scan} {step}".replace("_", " ").strip()


def write_table(path: Path, failed: Iterable[Failed]) -> None:
    """Write the failures as a TSV file with a header row."""
    rows = ((f.scan, f.step, f.kind, f.message, f.crash_file) for f in failed)
    write_rows(path, [COLUMNS, *rows])


def write_rows(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    """Write a TSV file, each row of which is one line whatever its cells hold."""
    lines = ("\t".join(" ".join(cell.split()) or "n/a" for cell in row) for row in rows)
    atomic_write_text(path, "".join(f"{line}\n" for line in lines))
