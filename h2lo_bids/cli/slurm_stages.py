"""A command line divided into stages of tasks that may run on different machines.

What is done is read from the records in the output folder, never from what a task printed.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from h2lo_bids.bids.results import result_path
from h2lo_bids.cli import outputs
from h2lo_bids.cli.console import printable
from h2lo_bids.errors import UsageError
from h2lo_bids.settings import OPTIONS, Settings
from h2lo_bids.settings.options import PAIRS as ON_PAIRS
from h2lo_bids.vocabulary import ENHANCER

STAGES = PARTICIPANT, PAIRS, FOLDS, COLLECT = "participant", "pairs", "folds", "collect"
_OWNER = re.compile(r"sub-([^/]+)(?:/ses-([A-Za-z0-9+]+)(?=/|$))?")


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
    """A task's own record: exit code, None while it runs or if it was killed; job; and time."""

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
            name = option.replace("_", "-")
            raise UsageError(f"--{name}: leave it out; h2lo-slurm divides the work by itself")
    if settings.level == "participant":
        if settings.pairs:
            return [_pairs(settings)[0]]
        return [_participants(settings, read_states(folder, PARTICIPANT))]
    if settings.level in ("group", "benchmark"):
        return _fits(settings, read_states(folder, COLLECT).get(COLLECT))
    raise UsageError(
        f"{settings.level} is one job, not many: submit `h2lo … {settings.level}` with sbatch"
    )


def _warn(found: Any, settings: Settings) -> None:
    """Print what concerns the dataset, which no task sees, as each has one participant."""
    whole = [problem.message for problem in found.problems if problem.path == settings.bids_dir]
    odd = [f"{s.path}: {s.reason}" for s in found.skipped if s.path == settings.bids_dir]
    for text in (*found.warnings, *whole, *odd):
        print(f"h2lo-slurm: warning: {printable(text)}", file=sys.stderr)


def _participants(settings: Settings, ended: Mapping[str, State]) -> Stage:
    """Make a task of each session; a participant with a scan outside sessions is one task."""
    from h2lo_bids.cli.participant import find, sources_of

    found = find(settings)
    _warn(found, settings)
    fused = sources_of(found)
    works = [(s.parts, partial(outputs.enhanced_outputs, settings, s)) for s in fused] or [
        ((scan,), partial(outputs.scan_outputs, settings, scan)) for scan in found.scans
    ]
    owned: list[tuple[tuple[str, str], list[Path], Any]] = [
        ((parts[0].subject, parts[0].session or ""), [part.path for part in parts], made)
        for parts, made in works
    ]
    for problem in found.problems:  # its task fails, so that the table of failures names it
        inside = problem.path.as_posix().removeprefix(f"{settings.bids_dir.as_posix()}/")
        if owner := _OWNER.match(inside):
            owned.append(((owner[1], owner[2] or ""), [problem.path], None))
    whole = {subject for (subject, session), *_ in owned if not session}
    items: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for (subject, session), *item in owned:
        items[subject, "" if subject in whole else session].append(item)
    tasks = []
    for (subject, session), own in sorted(items.items()):
        name = f"sub-{subject}" + (f"_ses-{session}" if session else "")
        words = ("--participant-label", subject, *(("--session-label", session) if session else ()))
        tasks.append(Task(name, words, _is_current(ended.get(name), own)))
    common = replace(settings, participant_label=(), session_label=())
    return Stage(PARTICIPANT, common, tuple(tasks), own_work=True)


def _is_current(state: State | None, items: Iterable[Any]) -> bool:
    """Whether a task ended well, after its inputs were last changed, and its outputs are there."""
    if state is None or state.code != 0:
        return False
    return all(
        made is not None
        and all(source.stat().st_mtime <= state.when for source in sources)
        and all(output.path.exists() for output in made())
        for sources, made in items
    )


def _pairs(settings: Settings) -> tuple[Stage, Any]:
    """Return the stage that prepares pairs, which their records show to be done, and the pairs."""
    from h2lo_bids.cli.pairs import find_pairs
    from h2lo_bids.cli.pairwork import find_missing
    from h2lo_bids.cli.tasks import MissingTask

    taken: dict[str, Any] = {
        option.name: getattr(settings, option.name)
        for option in OPTIONS.values()
        if ON_PAIRS in option.modes
    }
    own = Settings(**{**taken, "bids_dir": settings.bids_dir, "out_dir": settings.out_dir})
    own = replace(own, level="participant", pairs=True)
    found = find_pairs(own)
    _warn(found, own)
    missing = set(find_missing(MissingTask(own, found.pairs), lambda event: None)["missing"])
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
        from h2lo_bids.cli.armwork import check_synthesis

        for contrast, numbers in folds.items():
            check_synthesis(settings, contrast, numbers)
    methods = settings.arms if settings.fits_enhancer else settings.methods
    tasks = tuple(
        _fold(settings, contrast, method, index)
        for contrast, numbers in folds.items()
        for index in numbers
        for method in methods
    )
    stages = [pairs]
    if tasks:
        # Each task names its contrast and method; external commands run once, at the end.
        common = replace(settings, contrast=(), method=(), external=(), arm=())
        stages.append(Stage(FOLDS, common, tasks))
    done = all(task.done for stage in stages for task in stage.tasks)
    # A fold that is lost is not fitted there, which would take many times as long.
    last = replace(settings, collect=True)
    task = Task(COLLECT, (), done and _is_collected(settings, found, collected))
    return [*stages, Stage(COLLECT, last, (task,))]


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
        if parts[0] == "models" or len(parts) == 1 or path.name == "record.json":
            if not path.exists():
                return False
            if path.name == "record.json" and path.stat().st_mtime > state.when:
                return False
    return True
