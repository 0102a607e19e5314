"""An ordinary command line, divided into tasks that may run on different machines."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from h2lo_bids.cli.levels import TAKEN_BY
from h2lo_bids.cli.settings import ENHANCER, Settings
from h2lo_bids.cli.slurm_state import State
from h2lo_bids.cli.words import command_words
from h2lo_bids.errors import UsageError

_IN_SESSION = re.compile(r"ses-([A-Za-z0-9+]+)")


@dataclass(frozen=True)
class Task:
    """What one element of an array does.

    Parameters
    ----------
    name
        Unique in its stage: letters, digits, ``+``, ``-`` and ``_``.
    words
        Added to the stage's command line; they hold no space.
    done
        Whether that was done before, so that it need not be submitted.
    """

    name: str
    words: tuple[str, ...]
    done: bool = False


@dataclass(frozen=True)
class Stage:
    """An array of tasks; it begins when the stage before it has ended.

    Parameters
    ----------
    name
        A word.
    settings
        What all its tasks have in common.
    tasks
        At least one.
    own_work
        Whether each task has a work folder of its own; fits share one, where they
        find the checkpoints of an earlier try.
    """

    name: str
    settings: Settings
    tasks: tuple[Task, ...]
    own_work: bool


def name_of_run(settings: Settings) -> str:
    """Return a word for all that is submitted for a command line.

    A repeated command has the same name, so that it finds what was done before;
    so has one for other participants, if each is a task of its own.
    """
    if settings.level == "participant":
        settings = replace(settings, participant_label=(), session_label=())
    text = "\0".join(command_words(settings))
    return f"{settings.level}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def stages_of(settings: Settings, states: Mapping[str, Mapping[str, State]]) -> list[Stage]:
    """Divide a command line into stages.

    Parameters
    ----------
    settings
        The command line.
    states
        How the tasks of each stage ended before, by stage and task.

    Returns
    -------
    list of Stage
        ``participant`` and ``pairs`` have one task per participant and session;
        ``group`` and ``benchmark`` have pairs, then one task per contrast, method
        and fold, then one that collects.

    Raises
    ------
    UsageError
        If a level or option cannot be divided.
    H2loError
        If nothing matches or the input cannot be read.
    """
    for option in ("dry_run", "output_spec", "reports_only", "fold"):
        if getattr(settings, option):
            name = option.replace("_", "-")
            raise UsageError(f"--{name}: leave it out; h2lo-slurm divides the work by itself")
    if settings.level == "participant" and not settings.pairs:
        return [_scans(settings, states.get("participant", {}))]
    if settings.level == "participant":
        return [_pairs(settings)[0]]
    if settings.level in ("group", "benchmark"):
        return _fits(settings, states)
    raise UsageError(
        f"{settings.level} is one job, not many: submit `h2lo … {settings.level}` with sbatch"
    )


def _scans(settings: Settings, states: Mapping[str, State]) -> Stage:
    from h2lo_bids.cli.beside import beside_of
    from h2lo_bids.cli.participant import find
    from pipelines.grids import grids_of, output_paths

    found = find(settings)
    grids, beside = grids_of(settings.output_spaces, settings.lf_grid), beside_of(settings)
    files: dict[tuple[str, str | None], list[tuple[Path, list[Path]]]] = {}
    for scan in found.scans:
        outputs = list(output_paths(settings.out_dir, scan, grids, beside).values())
        files.setdefault((scan.subject, scan.session), []).append((scan.path, outputs))
    for problem in found.problems:  # a task of its own tells of it in the table of failures
        subject, *rest = problem.path.relative_to(settings.bids_dir).parts
        session = _IN_SESSION.fullmatch(rest[0]) if rest else None
        key = (subject.removeprefix("sub-"), session[1] if session else None)
        files.setdefault(key, []).append((problem.path, [problem.path / "never"]))
    return Stage("participant", _for_all(settings), _by_session(files, states), own_work=True)


def _by_session(
    files: Mapping[tuple[str, str | None], list[tuple[Path, list[Path]]]],
    states: Mapping[str, State],
) -> tuple[Task, ...]:
    """Make a task per participant and session; one whose scans have none is a task as a whole."""
    merged: dict[tuple[str, str | None], list[tuple[Path, list[Path]]]] = {}
    whole = {subject for subject, session in files if session is None}
    for (subject, session), items in files.items():
        merged.setdefault((subject, None if subject in whole else session), []).extend(items)
    tasks = []
    for (subject, session), items in sorted(merged.items(), key=lambda i: (i[0][0], i[0][1] or "")):
        name, words = f"sub-{subject}", ["--participant-label", subject]
        if session is not None:
            name += f"_ses-{session}"
            words += ["--session-label", session]
        tasks.append(Task(name, tuple(words), _is_current(states.get(name), items)))
    return tuple(tasks)


def _is_current(state: State | None, items: list[tuple[Path, list[Path]]]) -> bool:
    """Whether a task ended well, after its inputs were last changed, and its outputs are there."""
    if state is None or state.code != 0:
        return False
    return all(
        source.stat().st_mtime <= state.when and all(path.exists() for path in outputs)
        for source, outputs in items
    )


def _for_all(settings: Settings) -> Settings:
    return replace(settings, participant_label=(), session_label=())


def _pairs(settings: Settings) -> tuple[Stage, dict[str, list[str]]]:
    """Return the stage that prepares pairs, and the subjects of each contrast."""
    from h2lo_bids.cli.pairs import find_pairs
    from h2lo_bids.cli.pairwork import find_missing
    from h2lo_bids.cli.tasks import MissingTask

    own = _as_pairs(settings)
    found = find_pairs(own)
    missing = set(find_missing(MissingTask(own, found.pairs), lambda event: None)["missing"])
    lacking: dict[str, bool] = {}
    people: dict[str, set[str]] = {}
    for pair in found.pairs:
        lacking[pair.subject] = lacking.get(pair.subject, False) or pair.name in missing
        people.setdefault(pair.contrast, set()).add(pair.subject)
    tasks = tuple(
        Task(f"sub-{subject}", ("--participant-label", subject), not lacking[subject])
        for subject in sorted(lacking)
    )
    common = replace(own, participant_label=())
    stage = Stage("pairs", common, tasks, own_work=True)
    return stage, {contrast: sorted(people[contrast]) for contrast in sorted(people)}


def _as_pairs(settings: Settings) -> Settings:
    """Keep the options that ``participant --pairs`` takes."""
    kept: dict[str, Any] = {}
    for item in fields(Settings):
        takers = TAKEN_BY.get(item.name)
        if takers is None or "participant --pairs" in takers:
            kept[item.name] = getattr(settings, item.name)
    return Settings(**{**kept, "level": "participant", "pairs": True})


def _fits(settings: Settings, states: Mapping[str, Mapping[str, State]]) -> list[Stage]:
    from h2lo_bids.cli.planwork import divide_subjects

    pairs, people = _pairs(settings)
    folds = tuple(
        _fold(settings, contrast, method, fold.index)
        for contrast, subjects in people.items()
        for fold in divide_subjects(settings, contrast, subjects)
        for method in (settings.arms if settings.fits_enhancer else settings.methods)
    )
    stages = [pairs]
    if folds:
        # Each task names its own contrast and method; commands of others run once, at the end.
        common = replace(settings, contrast=(), method=(), external=(), arm=())
        stages.append(Stage("folds", common, folds, own_work=False))
    before = all(task.done for stage in stages for task in stage.tasks)
    state = states.get("collect", {}).get("collect")
    done = before and state is not None and state.code == 0
    page = "enhancement.html" if settings.fits_enhancer else "group.html"
    collect = Task("collect", (), done and (settings.out_dir / page).exists())
    return [*stages, Stage("collect", settings, (collect,), own_work=False)]


def _fold(settings: Settings, contrast: str, method: str, index: int) -> Task:
    named: tuple[str, ...] = ("--method", method)
    if settings.fits_enhancer:  # the group level has one enhancer, which needs no name
        arm = method.removeprefix(f"{ENHANCER}-")
        named = ("--arm", arm) if settings.level == "benchmark" else ()
    words = ("--contrast", contrast, *named, "--fold", str(index))
    # The record decides, whoever made it.
    record = settings.out_dir / "folds" / contrast / method / f"fold-{index}" / "record.json"
    return Task(f"{contrast}_{method}_fold-{index}", words, record.is_file())
