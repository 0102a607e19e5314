"""``h2lo-slurm``: from an ordinary command line to job arrays of a Slurm cluster."""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from h2lo_bids import __version__
from h2lo_bids.bids.dataset import require_own
from h2lo_bids.bids.results import result_pattern
from h2lo_bids.cli.checks import check_usage
from h2lo_bids.cli.config import read_settings
from h2lo_bids.cli.console import printable
from h2lo_bids.cli.failures import COLUMNS
from h2lo_bids.cli.parser import EXIT_CODES
from h2lo_bids.cli.slurm_scripts import (
    build_parser,
    check_cluster,
    failures_script,
    submit_script,
    task_script,
)
from h2lo_bids.cli.slurm_stages import PARTICIPANT, Stage, State, read_states, stages_of
from h2lo_bids.errors import H2loError, TemporaryError, UsageError
from h2lo_bids.io import atomic_write_text
from h2lo_bids.settings import Settings

Rows = list[tuple[str, ...]]
_PLAN, _SUBMIT, _SUBMITTED = "plan.json", "submit.sh", "submitted.tsv"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``h2lo-slurm`` on words, those of the process if None; return its exit code."""
    try:
        options = build_parser().parse_args(argv)
        if options.failures is not None:
            return report_failures(options.failures)
        return _write(options)
    except H2loError as err:
        print(f"h2lo-slurm: error: {printable(str(err))}", file=sys.stderr)
        return err.exit_code


def _write(cluster: argparse.Namespace) -> int:
    words = cluster.command[1:] if cluster.command[:1] in (["h2lo"], ["--"]) else cluster.command
    if not words:
        raise UsageError("give the h2lo command line after the cluster's options; see --help")
    check_cluster(cluster)
    settings = read_settings(words)
    if settings.nprocs is None and cluster.cpus is not None:
        settings = replace(settings, nprocs=cluster.cpus)
    check_usage(settings)
    require_own(settings.out_dir)
    folder = run_folder(settings)
    if re.search(r"[\x00-\x1f\x7f\\]", str(folder)):
        raise UsageError(
            f"out_dir {folder}: Slurm takes no such path; use a link with a plain name"
        )
    stages = stages_of(settings, folder)
    total = sum(len(stage.tasks) for stage in stages)
    if not _write_scripts(settings, cluster, stages, folder, total):
        print(f"all {total} tasks are done or in the queue")
        return 0
    if not cluster.submit:
        print(f"to submit: bash {folder / _SUBMIT}")
        return 0
    return _submit(folder / _SUBMIT)


def run_folder(settings: Settings) -> Path:
    """Name the folder of all that is submitted for a command line.

    A repeated command has the same folder, so that it finds what was done before;
    so has one for other participants, if each is a task of its own.
    """
    own = settings
    if settings.level == "participant":
        own = replace(settings, participant_label=(), session_label=())
    digest = hashlib.sha256("\0".join(own.words()).encode()).hexdigest()[:8]
    return settings.out_dir / "logs" / "slurm" / f"{settings.level}-{digest}"


def _write_scripts(
    settings: Settings, cluster: argparse.Namespace, stages: list[Stage], folder: Path, total: int
) -> int:
    """Write lists of tasks and scripts; return how many tasks there are to submit."""
    waiting = _in_queue(folder)
    arrays: list[tuple[str, int, str]] = []
    missing = 0
    for stage in stages:
        lines = _list_tasks(folder, stage)
        todo = [lines[task.name] for task in stage.tasks if cluster.all or not task.done]
        todo = [n for n in todo if (stage.name, n) not in waiting]
        missing += len(todo)
        print(f"{stage.name}: {len(todo)} of {len(stage.tasks)} tasks to submit")
        for first, part in groupby(sorted(todo), lambda n: n - n % cluster.max_array):
            arrays.append((stage.name, first, as_ranges(n - first for n in part)))
        atomic_write_text(folder / f"{stage.name}.sh", task_script(stage, cluster, folder))
    atomic_write_text(folder / "failures.sh", failures_script(settings, cluster, folder))
    jobs = sorted(set(waiting.values()))
    text = submit_script(arrays, cluster, folder, counts=(missing, total), queued=jobs)
    atomic_write_text(folder / _SUBMIT, text)
    record: dict[str, Any] = {
        "version": __version__, "level": settings.level, "out_dir": str(settings.out_dir),
        "stages": [stage.name for stage in stages],
    }  # fmt: skip
    atomic_write_text(folder / _PLAN, json.dumps(record, indent=2) + "\n")
    return missing


def _list_tasks(folder: Path, stage: Stage) -> dict[str, int]:
    """Write a stage's tasks, and return the line of each.

    A task keeps its line for ever, because arrays that were submitted earlier go by
    its number; new ones are added at the end.
    """
    path = folder / f"{stage.name}.tsv"
    tasks = {row[0]: row[1] for row in _read_rows(path) if len(row) > 1}
    tasks |= {task.name: " ".join(task.words) for task in stage.tasks}
    atomic_write_text(path, "".join(f"{name}\t{words}\n" for name, words in tasks.items()))
    return {name: line for line, name in enumerate(tasks)}


def as_ranges(numbers: Iterable[int]) -> str:
    """Write numbers as ``--array`` takes them.

    Examples
    --------
    >>> as_ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    runs = groupby(enumerate(sorted(numbers)), lambda item: item[1] - item[0])
    ends = [(run[0][1], run[-1][1]) for run in (list(items) for _, items in runs)]
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in ends)


def _in_queue(folder: Path) -> dict[tuple[str, int], str]:
    """Return the job of each stage's line that is still waiting or running."""
    submitted = {row[0]: (row[1], int(row[2])) for row in _read_rows(folder / _SUBMITTED)}
    if not submitted or shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--noheader", "--array", "--format=%F %K"]
    with contextlib.suppress(OSError):
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        pairs = [line.split() for line in listed.splitlines()]
        return {
            (submitted[job][0], submitted[job][1] + int(element)): job
            for job, element in (pair for pair in pairs if len(pair) == 2)
            if job in submitted and element.isdigit()
        }
    return {}


def _submit(script: Path) -> int:
    sys.stdout.flush()  # what was said comes before what the script says
    try:
        done = subprocess.run(["bash", str(script)], check=False)
    except OSError as err:
        raise TemporaryError(f"{script}: bash cannot be started: {err.strerror}") from err
    if done.returncode:
        raise TemporaryError(
            f"{script}: submitting ended with code {done.returncode}; correct what sbatch "
            "says, and give the same command again"
        )
    return 0


def report_failures(folder: Path) -> int:
    """Write the tables of what failed in a run; return 0 if all tasks are done, else 1.

    ``failed_tasks.tsv`` has a row per task that is not done, ``failures.tsv`` one per
    scan or fit that its last run recorded as failed.
    """
    try:
        record = json.loads((folder / _PLAN).read_text(encoding="utf-8"))
        stages, out_dir = list(record["stages"]), Path(record["out_dir"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise UsageError(f"--failures {folder}: holds no run of h2lo-slurm") from err
    recorded = _recorded_failures(out_dir)
    tasks: Rows = []
    scans: Rows = []
    total = 0
    for stage in stages:
        states = read_states(folder, stage)
        for name, *_ in _read_rows(folder / f"{stage}.tsv"):
            total += 1
            state = states.get(name)
            if state is not None and state.code == 0:
                continue
            job = state.job if state else "n/a"
            log = f"{folder}/log/{stage}-{job}.log" if state else "n/a"
            code = "n/a" if state is None or state.code is None else str(state.code)
            rows = recorded.get(job, []) if code != "n/a" else []
            rows = rows or [("n/a", stage, "n/a", _cause(state), log)]
            tasks.append((stage, name, code, job, log, rows[0][3]))
            scans += [(name, *row) for row in rows]
    columns = ("stage", "task", "exit_code", "job", "log", "message")
    _write_rows(folder / "failed_tasks.tsv", [columns, *tasks])
    _write_rows(folder / "failures.tsv", [("task", *COLUMNS), *scans])
    if stages == [PARTICIPANT]:
        _write_citation(out_dir)
    for stage, name, *_, message in tasks:
        print(f"  {stage}\t{name}\t{message}")
    print(f"{len(tasks)} of {total} tasks failed; tables: {folder}/failures.tsv, failed_tasks.tsv")
    return 1 if tasks else 0


def _recorded_failures(out_dir: Path) -> dict[str, Rows]:
    """Return what the runs in an output folder recorded as failed, by the job they ran in."""
    found: dict[str, Rows] = {}
    for table in sorted(out_dir.glob(result_pattern("failures"))):  # the last run of a job counts
        with contextlib.suppress(OSError, ValueError, KeyError):
            run = tomllib.loads(table.with_name("config.toml").read_text(encoding="utf-8"))["run"]
            found[run["slurm-job"]] = _read_rows(table)[1:]
    return found


def _cause(state: State | None) -> str:
    """Return one line on why a task is not done that recorded no failure."""
    if state is None:
        return "never began"
    if state.code is None:
        return "killed or out of time before it could say how it ended; see its log"
    return EXIT_CODES.get(state.code, f"exit code {state.code}; see its log")


def _write_citation(out_dir: Path) -> None:
    """Let the methods text speak of the first participant, as in a run without a cluster."""
    from h2lo_bids.cli.reporting import write_citation_text

    subjects = sorted(path.parent.name for path in out_dir.glob("sub-*/figures"))
    if subjects:
        write_citation_text(out_dir, subjects[0].removeprefix("sub-"))


def _read_rows(path: Path) -> Rows:
    """Return the rows of a table, without those that are empty; none if there is no file."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
            return [tuple(row) for row in rows if row]
    except FileNotFoundError:
        return []


def _write_rows(path: Path, rows: Rows) -> None:
    text = "".join("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in rows)
    atomic_write_text(path, text)


if __name__ == "__main__":
    sys.exit(main())
