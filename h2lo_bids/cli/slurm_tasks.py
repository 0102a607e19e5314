"""A command line divided into stages of tasks for different machines, and how those ended.

What is done is read from the records in the output folder, never from what a task printed.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from h2lo_bids.bids.derivatives import result_path, result_pattern
from h2lo_bids.cli import outputs
from h2lo_bids.cli.console import printable
from h2lo_bids.cli.failures import COLUMNS
from h2lo_bids.cli.parser import EXIT_CODES
from h2lo_bids.errors import UsageError
from h2lo_bids.io import atomic_write_text
from h2lo_bids.settings import OPTIONS, Settings
from h2lo_bids.settings.options import PAIRS as PAIRS_MODE
from h2lo_bids.vocabulary import ENHANCER

PARTICIPANT, PAIRS, FOLDS, COLLECT = "participant", "pairs", "folds", "collect"
PLAN = "plan.json"
"""What a run of h2lo-slurm writes for `report_failures`."""
Rows = list[tuple[str, ...]]
_OWNER = re.compile(r"sub-([^/]+)(?:/ses-([A-Za-z0-9+]+)(?=/|$))?")
_Work = tuple[str, str, Iterable[Path], Callable[[], Iterable[outputs.Output]] | None]
"""Subject, session, input files, and what lists the output files; None for unusable input."""


@dataclass(frozen=True)
class Task:
    """An element of an array: a unique name, the words it adds, and whether it is done."""

    name: str
    words: tuple[str, ...]
    done: bool = False


@dataclass(frozen=True)
class Stage:
    """An array of tasks; with `own_work` each has a work folder of its own, else they share one."""

    name: str
    settings: Settings
    tasks: tuple[Task, ...]
    own_work: bool = False


@dataclass(frozen=True)
class State:
    """A task's record: exit code, None while it runs or if it was killed; job; and time."""

    code: int | None
    job: str
    when: float


def read_states(folder: Path, stage: str) -> dict[str, State]:
    """Return the records of a stage's tasks that ever began, by name."""
    states = {}
    for path in sorted((folder / "state" / stage).glob("[!.]*")):
        try:
            code, job = path.read_text(encoding="utf-8").split()
            when = path.stat().st_mtime
            states[path.name] = State(None if code == "begun" else int(code), job, when)
        except (OSError, ValueError):
            continue  # as if it had never begun: it is only done again
    return states


def stages_of(settings: Settings, folder: Path) -> list[Stage]:
    """Divide a command line into stages; `folder` holds the records of tasks that ended before."""
    for option in ("dry_run", "output_spec", "reports_only", "fold", "collect"):
        if getattr(settings, option):
            raise UsageError(
                f"{OPTIONS[option].flag}: leave it out; h2lo-slurm divides the work by itself"
            )
    if settings.level == "participant":
        if settings.pairs:
            return [_pairs(settings)[0]]
        return [_participants(settings, read_states(folder, PARTICIPANT))]
    if settings.level in ("group", "benchmark"):
        return _fits(settings, read_states(folder, COLLECT).get(COLLECT))
    raise UsageError(
        f"{settings.level} is one job, not many: submit `h2lo … {settings.level}` with sbatch"
    )


def _warn(found: Any, root: Path) -> None:
    """Print what concerns the dataset, which no task sees, as each has one participant."""
    whole = [problem.message for problem in found.problems if problem.path == root]
    odd = [f"{s.path}: {s.reason}" for s in found.skipped if s.path == root]
    for text in (*found.warnings, *whole, *odd):
        print(f"h2lo-slurm: warning: {printable(text)}", file=sys.stderr)


def _participants(settings: Settings, ended: Mapping[str, State]) -> Stage:
    """Make a task of each session; a participant with a scan outside sessions is one task."""
    works = list(_works(settings))
    whole = {subject for subject, session, *_ in works if not session}
    items: dict[tuple[str, str], list[_Work]] = defaultdict(list)
    for work in works:
        items[work[0], "" if work[0] in whole else work[1]].append(work)
    tasks = []
    for (subject, session), works in sorted(items.items()):
        name = f"sub-{subject}" + (f"_ses-{session}" if session else "")
        words = ("--participant-label", subject, *(("--session-label", session) if session else ()))
        tasks.append(Task(name, words, _is_current(ended.get(name), works)))
    common = replace(settings, participant_label=(), session_label=())
    return Stage(PARTICIPANT, common, tuple(tasks), own_work=True)


def _works(settings: Settings) -> Iterator[_Work]:
    """Yield each scan, or each group of low-field scans that become one image."""
    from h2lo_bids.cli.participant import find, sources_of

    found = find(settings)
    _warn(found, settings.bids_dir)
    sources = sources_of(found)
    for source in sources:
        listed = partial(outputs.enhanced_outputs, settings, source)
        first, paths = source.parts[0], [part.path for part in source.parts]
        yield first.subject, first.session or "", paths, listed
    for scan in () if sources else found.scans:
        listed = partial(outputs.scan_outputs, settings, scan)
        yield scan.subject, scan.session or "", [scan.path], listed
    for problem in found.problems:  # its task fails, so that the table of failures names it
        inside = problem.path.as_posix().removeprefix(f"{settings.bids_dir.as_posix()}/")
        if owner := _OWNER.match(inside):
            yield owner[1], owner[2] or "", [problem.path], None


def _is_current(state: State | None, works: Iterable[_Work]) -> bool:
    """Whether a task ended well, after its inputs were last changed, and its outputs are there."""
    if state is None or state.code != 0:
        return False
    return all(
        listed is not None
        and all(path.stat().st_mtime <= state.when for path in paths)
        and all(output.path.exists() for output in listed())
        for _, _, paths, listed in works
    )


def _pairs(settings: Settings) -> tuple[Stage, Any]:
    """Return the stage that prepares pairs, which their records show to be done, and the pairs."""
    from h2lo_bids.cli.pairs import find_missing, find_pairs
    from h2lo_bids.cli.tasks import MissingTask

    taken: dict[str, Any] = {
        option.name: getattr(settings, option.name)
        for option in OPTIONS.values()
        if PAIRS_MODE in option.modes
    }
    taken |= {"bids_dir": settings.bids_dir, "out_dir": settings.out_dir, "pairs": True}
    own = Settings(**taken)
    found = find_pairs(own)
    _warn(found, own.bids_dir)
    missing = set(find_missing(MissingTask(own, found.pairs), lambda event: None))
    lacking = {pair.subject for pair in found.pairs if pair.name in missing}
    tasks = tuple(
        Task(f"sub-{subject}", ("--participant-label", subject), subject not in lacking)
        for subject in sorted({pair.subject for pair in found.pairs})
    )
    return Stage(PAIRS, replace(own, participant_label=()), tasks, own_work=True), found


def _fits(settings: Settings, collected: State | None) -> list[Stage]:
    """Return pairs, folds, and the one task that collects."""
    pairs, found = _pairs(settings)
    folds = outputs.folds_of(settings, found)
    if settings.fits_enhancer and settings.level == "benchmark":
        from h2lo_bids.training.experiments.enhancement import check_synthesis

        for contrast, numbers in folds.items():
            check_synthesis(settings, contrast, numbers)
    tasks = tuple(
        _fold(settings, contrast, method, index)
        for contrast, numbers in folds.items()
        for index in numbers
        for method in (settings.arms if settings.fits_enhancer else settings.methods)
    )
    stages = [pairs]
    if tasks:
        # Each task names its contrast and method; external tools run once, at the end.
        common = replace(settings, contrast=(), method=(), external=(), arm=())
        stages.append(Stage(FOLDS, common, tasks))
    done = all(task.done for stage in stages for task in stage.tasks)
    # A fold that is lost is not fitted there, which would take many times as long.
    last = Task(COLLECT, (), done and _is_collected(settings, found, collected))
    return [*stages, Stage(COLLECT, replace(settings, collect=True), (last,))]


def _fold(settings: Settings, contrast: str, method: str, index: int) -> Task:
    named: tuple[str, ...] = ("--method", method)
    if settings.fits_enhancer:  # the group level has one enhancer, which needs no name
        arm = method.removeprefix(f"{ENHANCER}-")
        named = ("--arm", arm) if settings.level == "benchmark" else ()
    words = ("--contrast", contrast, *named, "--fold", str(index))
    where = result_path(settings.out_dir, "fold", contrast=contrast, method=method, fold=index)
    # The record decides, whoever made it.
    return Task(f"{contrast}_{method}_fold-{index}", words, (where / "record.json").is_file())


def _is_collected(settings: Settings, found: Any, state: State | None) -> bool:
    """Whether the last task ended well, after every fold, and what it writes is there."""
    if state is None or state.code != 0:
        return False
    for path in (item.path for item in outputs.expected_outputs(settings, found)):
        parts = path.relative_to(settings.out_dir).parts
        record = path.name == "record.json"
        if (record or parts[0] == "models" or len(parts) == 1) and not path.exists():
            return False
        if record and path.stat().st_mtime > state.when:
            return False
    return True


def report_failures(folder: Path) -> int:
    """Write the tables of what failed in a run; return 0 if all tasks are done, else 1.

    ``failed_tasks.tsv`` has a row per task that is not done, ``failures.tsv`` one per
    scan or fit that its last run recorded as failed.
    """
    try:
        record = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        stages, out_dir = list(record["stages"]), Path(record["out_dir"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise UsageError(f"--failures {folder}: holds no run of h2lo-slurm") from err
    recorded = _recorded_failures(out_dir)
    tasks: Rows = [("stage", "task", "exit_code", "job", "log", "message")]
    scans: Rows = [("task", *COLUMNS)]
    total = 0
    for stage in stages:
        states = read_states(folder, stage)
        for name, *_ in read_rows(folder / f"{stage}.tsv"):
            total += 1
            state = states.get(name)
            if state is not None and state.code == 0:
                continue
            job, log, code = "n/a", "n/a", "n/a"
            if state is not None:
                job, log = state.job, f"{folder}/log/{stage}-{state.job}.log"
                code = code if state.code is None else str(state.code)
            # What a killed task had recorded before is not how it ended.
            rows = (recorded.get(job) if code != "n/a" else None) or [
                ("n/a", stage, "n/a", _cause(state), log)
            ]
            tasks.append((stage, name, code, job, log, rows[0][3]))
            scans += [(name, *row) for row in rows]
    _write_rows(folder / "failed_tasks.tsv", tasks)
    _write_rows(folder / "failures.tsv", scans)
    if stages == [PARTICIPANT]:
        _write_citation(out_dir)
    for stage, name, *_, message in tasks[1:]:
        print(f"  {stage}\t{name}\t{message}")
    failed = len(tasks) - 1
    print(f"{failed} of {total} tasks failed; tables: {folder}/failures.tsv, failed_tasks.tsv")
    return 1 if failed else 0


def _recorded_failures(out_dir: Path) -> dict[str, Rows]:
    """Return what the runs in an output folder recorded as failed, by the job they ran in."""
    found: dict[str, Rows] = {}
    for table in sorted(out_dir.glob(result_pattern("failures"))):  # the last run of a job counts
        with contextlib.suppress(OSError, ValueError, KeyError):
            run = tomllib.loads(table.with_name("config.toml").read_text(encoding="utf-8"))["run"]
            found[run["slurm-job"]] = read_rows(table)[1:]
    return found


def _cause(state: State | None) -> str:
    """Return one line on why a task is not done that recorded no failure."""
    if state is None:
        return "never began"
    if state.code is None:
        return "killed or out of time before it could say how it ended; see its log"
    return EXIT_CODES.get(state.code, f"exit code {state.code}; see its log")


def _write_citation(out_dir: Path) -> None:
    """Write the methods text of the first participant, as a run without a cluster does."""
    from h2lo_bids.cli.reporting import write_citation_text

    subjects = sorted(path.parent.name for path in out_dir.glob("sub-*/figures"))
    if subjects:
        write_citation_text(out_dir, subjects[0].removeprefix("sub-"))


def read_rows(path: Path) -> Rows:
    """Return the rows of a table, without those that are empty; none if there is no file."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    return [tuple(line.split("\t")) for line in lines if line]


def _write_rows(path: Path, rows: Rows) -> None:
    text = "".join("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in rows)
    atomic_write_text(path, text)
