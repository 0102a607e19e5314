"""``h2lo-slurm``: from an ordinary command line to job arrays of a Slurm cluster."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from h2lo_bids import __version__
from h2lo_bids.bids.atomic import atomic_write_text
from h2lo_bids.bids.dataset import require_own
from h2lo_bids.cli.checks import check_usage
from h2lo_bids.cli.configure import read_settings
from h2lo_bids.cli.console import printable
from h2lo_bids.cli.settings import Settings
from h2lo_bids.cli.slurm_failures import write_failures
from h2lo_bids.cli.slurm_parser import build_parser
from h2lo_bids.cli.slurm_scripts import Cluster, collect_script, submit_script, task_script
from h2lo_bids.cli.slurm_stages import name_of_run, stages_of
from h2lo_bids.cli.slurm_state import SUBMITTED, as_ranges, read_rows, read_states, write_tasks
from h2lo_bids.cli.slurm_tasks import Stage
from h2lo_bids.errors import H2loError, TemporaryError, UsageError

PLAN, SUBMIT = "plan.json", "submit.sh"
_STAGES = ("participant", "pairs", "folds", "collect")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``h2lo-slurm`` and return its exit code.

    Parameters
    ----------
    argv
        Words after the program's name; those of the process if None.
    """
    try:
        options = build_parser().parse_args(argv)
        if options.failures is not None:
            return tell_failures(options.failures)
        return _write(options)
    except H2loError as err:
        print(f"h2lo-slurm: error: {printable(str(err))}", file=sys.stderr)
        return err.exit_code


def _write(options: argparse.Namespace) -> int:
    words = options.command[1:] if options.command[:1] in (["h2lo"], ["--"]) else options.command
    if not words:
        raise UsageError("give the h2lo command line after the cluster's options; see --help")
    cluster = _cluster(options)
    settings = _settings(words, cluster)
    check_usage(settings)
    require_own(settings.out_dir)
    folder = settings.out_dir / "logs" / "slurm" / name_of_run(settings)
    if re.search(r"[\x00-\x1f\x7f\\]", str(folder)):
        raise UsageError(
            f"out_dir {folder}: Slurm takes no such path; use a link with a plain name"
        )
    states = {stage: read_states(folder, stage) for stage in _STAGES}
    stages = stages_of(settings, states)
    missing = _write_scripts(settings, cluster, stages, folder, everything=options.all)
    if not missing:
        print(f"all {sum(len(stage.tasks) for stage in stages)} tasks are done or in the queue")
        return 0
    if not options.submit:
        print(f"to submit: bash {folder / SUBMIT}")
        return 0
    return _submit(folder)


def _cluster(options: argparse.Namespace) -> Cluster:
    for name in ("time", "mem", "partition", "account"):
        value = getattr(options, name)
        if value is not None and not re.fullmatch(r"[\w:.,@+-]+", value, re.ASCII):
            raise UsageError(f"--{name} {value!r}: is nothing that sbatch takes")
    for text in (*options.sbatch, *options.setup):
        if re.search(r"[\x00-\x1f\x7f]", text):
            raise UsageError(f"{text!r}: is more than one line")
    for text in options.sbatch:
        if not text.startswith("-"):
            raise UsageError(f"--sbatch {text}: give an option of sbatch, as --sbatch=--gres=gpu:1")
    if options.image is not None and not options.image.exists():
        raise UsageError(f"--image {options.image}: no such file; build it as docs/hpc.md tells")
    return Cluster(
        **{
            name: getattr(options, name)
            for name in ("time", "mem", "cpus", "partition", "account", "throttle", "max_array",
                         "warn", "scratch", "image", "runtime")
        },
        requeue=options.max_requeues if options.requeue else 0,
        sbatch=tuple(options.sbatch),
        binds=tuple(options.bind),
        setup=tuple(options.setup),
    )  # fmt: skip


def _settings(words: Sequence[str], cluster: Cluster) -> Settings:
    """Read h2lo's command line, and tell it of the processors that it gets."""
    settings = read_settings(words)
    if settings.nprocs is None and cluster.cpus is not None:
        settings = replace(settings, nprocs=cluster.cpus)
    return settings


def _write_scripts(
    settings: Settings, cluster: Cluster, stages: list[Stage], folder: Path, *, everything: bool
) -> int:
    """Write everything; return how many tasks there are to submit."""
    waiting = _in_queue(folder)
    arrays: list[tuple[str, int, str]] = []
    missing = 0
    for stage in stages:
        tasks = [(task.name, task.words) for task in stage.tasks]
        lines = {name: n for n, name in enumerate(write_tasks(folder, stage.name, tasks))}
        todo = [lines[task.name] for task in stage.tasks if everything or not task.done]
        todo = [n for n in todo if (stage.name, n) not in waiting]
        missing += len(todo)
        print(f"{stage.name}: {len(todo)} of {len(stage.tasks)} tasks to submit")
        for first in range(0, max(todo, default=-1) + 1, cluster.max_array):
            part = [n - first for n in todo if first <= n < first + cluster.max_array]
            if part:
                arrays.append((stage.name, first, as_ranges(part)))
        atomic_write_text(folder / f"{stage.name}.sh", task_script(stage, cluster, folder))
    atomic_write_text(folder / "failures.sh", collect_script(settings, cluster, folder))
    total = sum(len(stage.tasks) for stage in stages)
    jobs = sorted(set(waiting.values()))
    text = submit_script(arrays, cluster, folder, counts=(missing, total), queued=jobs)
    atomic_write_text(folder / SUBMIT, text)
    record: dict[str, Any] = {
        "version": __version__, "level": settings.level, "out_dir": str(settings.out_dir),
        "stages": [stage.name for stage in stages],
    }  # fmt: skip
    atomic_write_text(folder / PLAN, json.dumps(record, indent=2) + "\n")
    return missing


def _in_queue(folder: Path) -> dict[tuple[str, int], str]:
    """Return the job of each stage's line that is still waiting or running."""
    submitted = {row[0]: (row[1], int(row[2])) for row in read_rows(folder / SUBMITTED) if row}
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


def _submit(folder: Path) -> int:
    sys.stdout.flush()  # what was said comes before what the script says
    try:
        done = subprocess.run(["bash", str(folder / SUBMIT)], check=False)
    except OSError as err:
        raise TemporaryError(f"{folder / SUBMIT}: bash cannot be started: {err.strerror}") from err
    if done.returncode:
        raise TemporaryError(
            f"{folder / SUBMIT}: submitting ended with code {done.returncode}; correct what sbatch "
            "says, and give the same command again"
        )
    return 0


def tell_failures(folder: Path) -> int:
    """Write the table of failures of a run, and what concerns all its participants.

    Returns
    -------
    int
        0 if all tasks are done, else 1.

    Raises
    ------
    UsageError
        If the folder holds no run.
    """
    try:
        record = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        stages, out_dir = list(record["stages"]), Path(record["out_dir"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise UsageError(f"--failures {folder}: holds no run of h2lo-slurm") from err
    failed, total = write_failures(folder, stages)
    if stages == ["participant"]:
        _write_citation(out_dir)
    for task in failed:
        print(f"  {task.stage}\t{task.name}\t{task.rows[0][3] if task.rows else task.cause}")
    print(f"{len(failed)} of {total} tasks failed; tables: {folder}/failures.tsv, failed_tasks.tsv")
    return 1 if failed else 0


def _write_citation(out_dir: Path) -> None:
    """Let the methods text speak of the first participant, as in a run without a cluster."""
    from h2lo_bids.cli.reporting import write_citation_text

    subjects = sorted(path.parent.name for path in out_dir.glob("sub-*/figures"))
    if subjects:
        write_citation_text(out_dir, subjects[0].removeprefix("sub-"))


if __name__ == "__main__":
    sys.exit(main())
