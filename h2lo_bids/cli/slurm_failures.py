"""The table of failures of all tasks of a job array."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from h2lo_bids.bids.atomic import atomic_write_text
from h2lo_bids.cli.failures import COLUMNS
from h2lo_bids.cli.slurm_state import LOGS, State, read_rows, read_states

_TABLE = re.compile(r"^table of failures: (.+)$", re.MULTILINE)
_LINE = re.compile(r"^(?:h2lo|slurmstepd|srun): error: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class FailedTask:
    """A task that has not ended well.

    Parameters
    ----------
    stage, name
        Which.
    state
        How it ended; None if it never began.
    log
        What it printed.
    rows
        Its own table of failures, without the header.
    message
        The last error it told; empty if none.
    """

    stage: str
    name: str
    state: State | None
    log: Path | None
    rows: tuple[tuple[str, ...], ...]
    message: str

    @property
    def cause(self) -> str:
        """One line on why it is not done."""
        if self.state is None:
            return "never began"
        if self.state.code is None:
            return f"ended before it could say how, killed or out of time; {self.message}".strip(
                "; "
            )
        return self.message or f"exit code {self.state.code}"


def write_failures(folder: Path, stages: list[str]) -> tuple[list[FailedTask], int]:
    """Write ``failed_tasks.tsv`` and ``failures.tsv`` of all that ended before now.

    Parameters
    ----------
    folder
        Of the run.
    stages
        Names of its stages.

    Returns
    -------
    failed : list of FailedTask
        Those that are not done.
    total : int
        How many tasks there are.
    """
    failed, total = [], 0
    for stage in stages:
        states = read_states(folder, stage)
        names = [row[0] for row in read_rows(folder / f"{stage}.tsv") if row]
        total += len(names)
        failed += [
            _look(folder, stage, name, states.get(name))
            for name in names
            if name not in states or states[name].code != 0
        ]
    _write(
        folder / "failed_tasks.tsv",
        ("stage", "task", "exit_code", "job", "log", "message"),
        (_row(task) for task in failed),
    )
    _write(
        folder / "failures.tsv",
        ("task", *COLUMNS),
        ((task.name, *row) for task in failed for row in _rows_of(task)),
    )
    return failed, total


def _look(folder: Path, stage: str, name: str, state: State | None) -> FailedTask:
    log = folder / LOGS / f"{stage}-{state.job}.log" if state else None
    text = _read(log) if log else ""
    tables = _TABLE.findall(text)
    rows = read_rows(Path(tables[-1]))[1:] if tables and state and state.code is not None else []
    lines = _LINE.findall(text)
    return FailedTask(stage, name, state, log, tuple(rows), lines[-1] if lines else "")


def _read(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _rows_of(task: FailedTask) -> Iterator[tuple[str, ...]]:
    if task.rows:
        yield from task.rows
    else:
        yield ("n/a", task.stage, "n/a", task.cause, str(task.log or "n/a"))


def _row(task: FailedTask) -> tuple[str, ...]:
    code = task.state.code if task.state else None
    message = task.rows[0][3] if task.rows else task.cause
    return (
        task.stage,
        task.name,
        "n/a" if code is None else str(code),
        task.state.job if task.state else "n/a",
        str(task.log or "n/a"),
        message,
    )


def _write(path: Path, header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> None:
    lines = [header, *rows]
    text = "".join("\t".join(" ".join(cell.split()) for cell in line) + "\n" for line in lines)
    atomic_write_text(path, text)
