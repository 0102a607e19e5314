"""An ordinary command line, divided into tasks that may run on different machines."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from h2lo_bids.cli.settings import Settings
from h2lo_bids.cli.slurm_fits import fit_stages, pairs_stage
from h2lo_bids.cli.slurm_state import State
from h2lo_bids.cli.slurm_tasks import Stage, Task, warn_of
from h2lo_bids.cli.words import command_words
from h2lo_bids.errors import UsageError

if TYPE_CHECKING:
    from h2lo_bids.bids.discover import Discovery
    from h2lo_bids.bids.scan import Scan

_IN_SESSION = re.compile(r"ses-([A-Za-z0-9+]+)")


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
    for option in ("dry_run", "output_spec", "reports_only", "fold", "collect"):
        if getattr(settings, option):
            name = option.replace("_", "-")
            raise UsageError(f"--{name}: leave it out; h2lo-slurm divides the work by itself")
    if settings.level == "participant" and not settings.pairs:
        return [_scans(settings, states.get("participant", {}))]
    if settings.level == "participant":
        return [pairs_stage(settings)[0]]
    if settings.level in ("group", "benchmark"):
        return fit_stages(settings, states)
    raise UsageError(
        f"{settings.level} is one job, not many: submit `h2lo … {settings.level}` with sbatch"
    )


def _scans(settings: Settings, states: Mapping[str, State]) -> Stage:
    from h2lo_bids.cli.participant import find

    found = find(settings)
    warn_of(found, settings)
    files: dict[tuple[str, str | None], list[tuple[Path, list[Path]]]] = {}
    for scan, outputs in _outputs_of(settings, found):
        files.setdefault((scan.subject, scan.session), []).append((scan.path, outputs))
    for problem in found.problems:  # a task of its own tells of it in the table of failures
        subject, *rest = problem.path.relative_to(settings.bids_dir).parts or ("",)
        if not subject.startswith("sub-"):  # it concerns the dataset as a whole
            continue
        session = _IN_SESSION.fullmatch(rest[0]) if rest else None
        key = (subject.removeprefix("sub-"), session[1] if session else None)
        files.setdefault(key, []).append((problem.path, [problem.path / "never"]))
    return Stage("participant", _for_all(settings), _by_session(files, states), own_work=True)


def _outputs_of(settings: Settings, found: Discovery) -> Iterator[tuple[Scan, list[Path]]]:
    """Yield each scan with the images that come of it, alone or fused with others."""
    from h2lo_bids.cli.beside import beside_of, grids_for
    from h2lo_bids.cli.participant import sources_of
    from pipelines.grids import enhanced_paths, output_paths

    sources = sources_of(found)
    for source in sources:
        enhanced = list(enhanced_paths(settings.out_dir, source.scan).values())
        yield from ((part, enhanced) for part in source.parts)
    grids, beside = grids_for(settings), beside_of(settings)
    for scan in () if sources else found.scans:
        yield scan, list(output_paths(settings.out_dir, scan, grids, beside).values())


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
