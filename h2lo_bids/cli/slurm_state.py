"""How the tasks of a job array ended, as their scripts wrote it down."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from h2lo_bids.bids.atomic import atomic_write_text

STATES, LOGS, SUBMITTED = "state", "log", "submitted.tsv"


@dataclass(frozen=True)
class State:
    """The last that is known of a task.

    Parameters
    ----------
    code
        Exit code; None if it began and has not said how it ended.
    job
        Slurm's name for it, as ``12_3``.
    when
        Time of the note, seconds since the epoch.
    """

    code: int | None
    job: str
    when: float


def read_states(folder: Path, stage: str) -> dict[str, State]:
    """Return the states of the tasks of a stage that ever began, by name."""
    states = {}
    for path in sorted((folder / STATES / stage).glob("[!.]*")):
        try:
            code, job = path.read_text(encoding="utf-8").split()
            states[path.name] = State(int(code) if code != "begun" else None, job, _when(path))
        except (OSError, ValueError):
            continue  # as if it had never begun: it is only done again
    return states


def _when(path: Path) -> float:
    return path.stat().st_mtime


def read_rows(path: Path) -> list[tuple[str, ...]]:
    """Return the rows of a table without a header; none if there is no such file."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return [
                tuple(row) for row in csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
            ]
    except FileNotFoundError:
        return []


def write_tasks(
    folder: Path, stage: str, tasks: Iterable[tuple[str, tuple[str, ...]]]
) -> list[str]:
    """Write the list of a stage's tasks.

    A task keeps its line for ever, because arrays that were submitted earlier go by
    its number; new ones are added at the end.

    Parameters
    ----------
    folder
        Of the run.
    stage
        Its name.
    tasks
        Name and words of each.

    Returns
    -------
    list of str
        The name on each line.
    """
    path = folder / f"{stage}.tsv"
    lines = {row[0]: row[1] if len(row) > 1 else "" for row in read_rows(path) if row}
    for name, words in tasks:
        lines[name] = " ".join(words)
    atomic_write_text(path, "".join(f"{name}\t{words}\n" for name, words in lines.items()))
    return list(lines)


def as_ranges(numbers: Iterable[int]) -> str:
    """Write numbers as ``--array`` takes them.

    Examples
    --------
    >>> as_ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)
