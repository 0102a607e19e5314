"""Pairs and fits, divided into tasks that may run on different machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from h2lo_bids.bids.results import result_files, result_path
from h2lo_bids.cli.levels import TAKEN_BY
from h2lo_bids.cli.settings import ENHANCER, Settings
from h2lo_bids.cli.slurm_state import State
from h2lo_bids.cli.slurm_tasks import Stage, Task, warn_of

_COLLECT = "collect"


def pairs_stage(settings: Settings) -> tuple[Stage, dict[str, list[str]]]:
    """Return the stage that prepares pairs, and the subjects of each contrast.

    Raises
    ------
    H2loError
        If no pair is found or the input cannot be read.
    """
    from h2lo_bids.cli.pairs import find_pairs
    from h2lo_bids.cli.pairwork import find_missing
    from h2lo_bids.cli.tasks import MissingTask

    own = _as_pairs(settings)
    found = find_pairs(own)
    warn_of(found, own)
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


def fit_stages(settings: Settings, states: Mapping[str, Mapping[str, State]]) -> list[Stage]:
    """Return the stages of a level that fits: pairs, folds, and one task that collects.

    Parameters
    ----------
    settings, states
        As in `h2lo_bids.cli.slurm_stages.stages_of`.

    Raises
    ------
    H2loError
        As `pairs_stage`, and if the folds cannot be made.
    """
    from h2lo_bids.cli.planwork import divide_subjects

    pairs, people = pairs_stage(settings)
    folds = {
        contrast: [fold.index for fold in divide_subjects(settings, contrast, subjects)]
        for contrast, subjects in people.items()
    }
    if settings.fits_enhancer and settings.level == "benchmark":
        from h2lo_bids.cli.armwork import check_synthesis

        for contrast, numbers in folds.items():
            check_synthesis(settings, contrast, numbers)
    tasks = tuple(
        _fold(settings, contrast, method, index)
        for contrast, numbers in folds.items()
        for index in numbers
        for method in _fitted(settings)
    )
    stages = [pairs]
    if tasks:
        # Each task names its own contrast and method; commands of others run once, at the end.
        common = replace(settings, contrast=(), method=(), external=(), arm=())
        stages.append(Stage("folds", common, tasks, own_work=False))
    before = all(task.done for stage in stages for task in stage.tasks)
    done = before and _is_collected(settings, states.get(_COLLECT, {}).get(_COLLECT), folds)
    # What a lost task was to fit would take its time many times over; a rerun submits it.
    last = replace(settings, collect=True)
    return [*stages, Stage(_COLLECT, last, (Task(_COLLECT, (), done),), own_work=False)]


def _fitted(settings: Settings) -> Sequence[str]:
    return settings.arms if settings.fits_enhancer else settings.methods


def _is_collected(
    settings: Settings, state: State | None, folds: Mapping[str, Sequence[int]]
) -> bool:
    """Whether what is collected is there, and not older than a fold."""
    if state is None or state.code != 0:
        return False
    records = [
        _record(settings, contrast, method, index)
        for contrast, numbers in folds.items()
        for index in numbers
        for method in _fitted(settings)
    ]
    newest = max((path.stat().st_mtime for path in records), default=0.0)
    return newest <= state.when and all(path.exists() for path in _collected(settings, folds))


def _collected(settings: Settings, folds: Mapping[str, Sequence[int]]) -> Iterator[Path]:
    """Name the files that the last job writes."""
    out, benchmark = settings.out_dir, settings.level == "benchmark"
    prefix = "enhancement" if settings.fits_enhancer else "group"
    yield from result_files(out, f"{prefix}_report")
    if benchmark:
        yield from result_files(
            out, "enhancement_benchmark" if settings.fits_enhancer else "benchmark"
        )
    for contrast in (contrast for contrast, numbers in folds.items() if numbers):
        yield from result_files(out, f"{prefix}_tables", contrast=contrast)
        if not (benchmark or settings.no_final):
            yield from result_files(out, "model", method=settings.methods[0], contrast=contrast)


def _fold(settings: Settings, contrast: str, method: str, index: int) -> Task:
    named: tuple[str, ...] = ("--method", method)
    if settings.fits_enhancer:  # the group level has one enhancer, which needs no name
        arm = method.removeprefix(f"{ENHANCER}-")
        named = ("--arm", arm) if settings.level == "benchmark" else ()
    words = ("--contrast", contrast, *named, "--fold", str(index))
    # The record decides, whoever made it.
    done = _record(settings, contrast, method, index).is_file()
    return Task(f"{contrast}_{method}_fold-{index}", words, done)


def _record(settings: Settings, contrast: str, method: str, index: int) -> Path:
    folder = result_path(settings.out_dir, "fold", contrast=contrast, method=method, fold=index)
    return folder / "record.json"
