"""A command line divided into stages of tasks for different machines, and how those ended.

What is done is read from the records in the output folder, never from what a task printed.
"""

from __future__ import annotations

import contextlib
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from h2lo_bids.bids.derivatives import given_mask, result_path, result_pattern
from h2lo_bids.bids.discover import discover
from h2lo_bids.bids.metadata import Sidecars
from h2lo_bids.bids.scan import Scan
from h2lo_bids.cli import outputs
from h2lo_bids.cli.console import printable
from h2lo_bids.cli.execution import COLUMNS, skipped_lines, write_rows
from h2lo_bids.cli.parser import EXIT_CODES
from h2lo_bids.errors import H2loError, UsageError
from h2lo_bids.models.bundle import METADATA
from h2lo_bids.settings import OPTIONS, Settings
from h2lo_bids.settings.options import PAIRS as PAIRS_MODE
from h2lo_bids.vocabulary import ENHANCER
from h2lo_bids.wording import summarise

PARTICIPANT, PAIRS, FOLDS, COLLECT = "participant", "pairs", "folds", "collect"
Rows = list[tuple[str, ...]]
_OWNER = re.compile(r"sub-([^/]+)(?:/ses-([A-Za-z0-9+]+)(?=/|$))?")


@dataclass(frozen=True)
class Task:
    """An element of an array: a unique name, the words it adds, and whether it is done."""

    name: str
    words: tuple[str, ...]
    done: bool = False


@dataclass(frozen=True)
class Stage:
    """An array of tasks, each with a work folder of its own, or all with the same."""

    name: str
    settings: Settings
    tasks: tuple[Task, ...]
    own_work: bool = False


class State(NamedTuple):
    """A task's record: exit code, None while it runs or if it was killed; job; and times."""

    code: int | None
    job: str
    began: float
    ended: float


def read_states(folder: Path, stage: str) -> dict[str, State]:
    """Return the records of a stage's tasks that ever began, by name."""
    states = {}
    for path in (folder / "state" / stage).glob("[!.]*"):
        with contextlib.suppress(OSError, ValueError):  # as if it had never begun
            code, job = path.read_text(encoding="utf-8").split()
            ended, begun = path.stat().st_mtime, path.with_name(f".{path.name}.begun")
            began = begun.stat().st_mtime if begun.exists() else ended
            states[path.name] = State(None if code == "begun" else int(code), job, began, ended)
    return states


def stages_of(settings: Settings, folder: Path) -> list[Stage]:
    """Divide a command line into stages; `folder` holds the records of tasks that ended before."""
    for option in ("dry_run", "reports_only", "fold", "collect"):
        if getattr(settings, option):
            raise UsageError(f"{OPTIONS[option].flag}: h2lo-slurm divides the work itself; drop it")
    if settings.level == "participant":
        if settings.pairs:
            return [_pairs(settings)[0]]
        return [_participants(settings, read_states(folder, PARTICIPANT))]
    if settings.level == "trial":
        return _trial(settings, folder)
    if settings.fits:
        return _fits(settings, read_states(folder, COLLECT).get(COLLECT))
    raise UsageError(f"{settings.level} is one job: submit `h2lo … {settings.level}` with sbatch")


def _warn(found: Any, root: Path, tasks: Iterable[Task]) -> None:
    """Print what no task will, as each sees one participant or session; raise if there is none."""
    names = {task.name for task in tasks}

    def untold(path: Path) -> bool:
        owner = _OWNER.search(path.as_posix().removeprefix(f"{root.as_posix()}/"))
        return not owner or names.isdisjoint({f"sub-{owner[1]}", f"sub-{owner[1]}_ses-{owner[2]}"})

    problems = summarise((p.path, str(p.error)) for p in found.problems if untold(p.path))
    skipped = skipped_lines(item for item in found.skipped if untold(item.path))
    for text in (*found.warnings, *problems, *skipped):
        print(f"h2lo-slurm: warning: {printable(text)}", file=sys.stderr)
    if found.problems and not names:
        raise type(found.problems[0].error)(f"{root}: nothing can be done; see the warnings above")


def _is_done(
    state: State | None, inputs: Iterable[Path], own: Iterable[Path], made: Iterable[Path]
) -> bool:
    """Whether a task ended well, with all it made, and no file is newer that it read or made."""
    if state is None or state.code != 0 or not all(path.exists() for path in made):
        return False
    dated = [*((path, state.began) for path in inputs), *((path, state.ended) for path in own)]
    return all(path.stat().st_mtime <= when for path, when in dated if path.is_file())


def _participants(settings: Settings, states: dict[str, State]) -> Stage:
    """Make a task of each session; a participant with a scan outside sessions is one task."""
    root, found = settings.bids_dir, discover(settings)
    expected = outputs.expected_outputs(settings, found)
    files: list[tuple[str, Path | None]] = [(made.source, made.path) for made in expected]
    # A task, too, so that the table of failures names it.
    files += [(problem.scan, None) for problem in found.problems]
    owned = [(owner, *item) for item in files if (owner := _OWNER.match(item[0]))]
    whole = {owner[1] for owner, *_ in owned if not owner[2]}
    items: dict[tuple[str, str], dict[Path | None, str]] = defaultdict(dict)
    for owner, source, path in owned:
        items[owner[1], "" if owner[1] in whole else owner[2]][path] = source
    inputs = [*settings.inputs()]
    given = {path for _, path in inputs if path.is_file()}  # such as a template
    for flag, path in inputs:
        if flag in ("--model", "--condition"):  # a model's folder, or one that holds several
            given.update(path.glob(f"**/{METADATA}"))
    sidecars, parts = Sidecars(root), [part for item in found.sources for part in item.parts]
    beside = {part.relative_path: {*_beside(settings, sidecars, part)} for part in parts}
    tasks = []
    for (subject, session), made in sorted(items.items()):
        name = f"sub-{subject}" + (f"_ses-{session}" if session else "")
        visits = (session,) if session else settings.session_label
        words = ("--participant-label", subject, *(("--session-label", *visits) if visits else ()))
        scans = {part for source in made.values() for part in source.split(" ")}
        read = given.union((root / scan for scan in scans), *(beside.get(s, ()) for s in scans))
        paths = [path for path in made if path is not None]
        # Images that are newer are of another command, maybe of another dataset.
        images = [path for path in paths if path.suffix == ".gz"]
        done = None not in made and _is_done(states.get(name), read, images, paths)
        tasks.append(Task(name, words, done))
    _warn(found, root, tasks)
    common = replace(settings, participant_label=(), session_label=())
    return Stage(PARTICIPANT, common, tuple(tasks), own_work=True)


def _beside(settings: Settings, sidecars: Sidecars, scan: Scan) -> Iterator[Path]:
    """Yield what a scan is read with: its sidecars, and its mask and labels if there are any."""
    yield from sidecars.applicable(scan.path, scan.name)
    if mask := given_mask(settings.derivatives, scan):
        yield mask[0]
    for name, root in settings.labels:
        from h2lo_bids.trial.scan import find_label  # imports PyTorch

        with contextlib.suppress(H2loError):  # which its task reports
            yield find_label(name, root, scan)


def _trial(settings: Settings, folder: Path) -> list[Stage]:
    """Return the participants and the one task that collects their ratings."""
    first = _participants(settings, read_states(folder, PARTICIPANT))
    ratings = settings.out_dir.glob(result_pattern("trial_ratings"))
    made = [result_path(settings.out_dir, "trial_report")]
    collected = _is_done(read_states(folder, COLLECT).get(COLLECT), ratings, (), made)
    last = Task(COLLECT, (), collected and all(task.done for task in first.tasks))
    return [first, Stage(COLLECT, replace(first.settings, collect=True), (last,))]


def _pairs(settings: Settings) -> tuple[Stage, Any]:
    """Return the stage that prepares pairs, which their records show to be done, and the pairs."""
    from h2lo_bids.bids.pairs import discover_pairs
    from h2lo_bids.cli.pairs import find_missing

    taken: dict[str, Any] = {
        option.name: getattr(settings, option.name)
        for option in OPTIONS.values()
        if PAIRS_MODE in option.modes
    }
    own = Settings(settings.bids_dir, settings.out_dir, **{**taken, "pairs": True})
    found = discover_pairs(own)
    missing = set(find_missing(own, found.pairs, lambda event: None))
    lacking = {pair.subject for pair in found.pairs if pair.name in missing}
    tasks = tuple(
        Task(f"sub-{subject}", ("--participant-label", subject), subject not in lacking)
        for subject in sorted({pair.subject for pair in found.pairs})
    )
    _warn(found, own.bids_dir, tasks)
    return Stage(PAIRS, replace(own, participant_label=()), tasks, own_work=True), found


def _fits(settings: Settings, collected: State | None) -> list[Stage]:
    """Return pairs, folds, and the one task that collects."""
    pairs, found = _pairs(settings)
    folds = outputs.folds_of(settings, found)
    if settings.fits_enhancer and settings.level == "benchmark":
        from h2lo_bids.training.experiments.fits import check_synthesis

        for contrast, divided in folds.items():
            check_synthesis(settings, contrast, [fold.index for fold in divided])
    # Each task names its contrast and method; external tools run once, at the end.
    common = replace(settings, contrast=(), method=(), external=(), arm=())
    tasks = tuple(
        _fold(settings, contrast, method, fold.index)
        for contrast, divided in folds.items()
        for fold in divided
        for method in (settings.arms if settings.fits_enhancer else settings.methods)
    )
    stages = [pairs, Stage(FOLDS, common, tasks)] if tasks else [pairs]
    made = [o.path for o in outputs.expected_outputs(settings, found, folds)]
    made = [path for path in made if outputs.RUN not in path.parts]
    # Those of external tools are its own.
    records = (path for path in made if path.name == "record.json")
    done = all(task.done for stage in stages for task in stage.tasks)
    last = Task(COLLECT, (), done and _is_done(collected, (), records, made))
    # A fold that is lost is not fitted there, which would take many times as long.
    return [*stages, Stage(COLLECT, replace(settings, collect=True), (last,))]


def _fold(settings: Settings, contrast: str, method: str, index: int) -> Task:
    """Return the task of a fold, which its record shows to be done, whoever made it."""
    named: tuple[str, ...] = ("--method", method)
    if settings.fits_enhancer:  # the group level has one enhancer, which needs no name
        arm = method.removeprefix(f"{ENHANCER}-")
        named = ("--arm", arm) if settings.level == "benchmark" else ()
    words = ("--contrast", contrast, *named, "--fold", str(index))
    where = result_path(settings.out_dir, "fold", contrast=contrast, method=method, fold=index)
    return Task(f"{contrast}_{method}_fold-{index}", words, (where / "record.json").is_file())


def write_failures(folder: Path, ended: Mapping[tuple[str, str], State]) -> None:
    """Write ``failures.tsv``: a row for each failure that a task recorded, or one for the task."""
    recorded = _recorded_failures(folder.parents[2]) if ended else {}
    table: Rows = [("stage", "task", "exit_code", "log", *COLUMNS)]
    for (stage, name), state in ended.items():
        code, cause, rows = "n/a", "killed or out of time; see its log", None
        # What a killed task had recorded before is not how it ended.
        if state.code is not None:
            code, rows = str(state.code), recorded.get(state.job)
            # Of scans that failed there is a table: without one, 1 is Python's, or the shell's.
            known = EXIT_CODES.get(state.code) if state.code != 1 else None
            cause = known or f"exit code {code}; see its log"
        own = (stage, name, code, f"{folder}/log/{stage}-{state.job}.log")
        table += [(*own, *row) for row in rows or [("n/a", stage, "n/a", cause, "n/a")]]
    write_rows(folder / "failures.tsv", table)


def _recorded_failures(out_dir: Path) -> dict[str, Rows]:
    """Return what the runs in an output folder recorded as failed, by the job they ran in."""
    found: dict[str, Rows] = {}
    for table in sorted(out_dir.glob(result_pattern("failures"))):  # the last run of a job counts
        with contextlib.suppress(OSError, ValueError, KeyError):
            run = tomllib.loads(table.with_name("config.toml").read_text(encoding="utf-8"))["run"]
            found[run["slurm-job"]] = read_rows(table)[1:]
    return found


def read_rows(path: Path) -> Rows:
    """Return the rows of a table, without those that are empty; none if there is no file."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [tuple(line.split("\t")) for line in text.split("\n") if line]
