"""``h2lo-slurm``: from an ordinary command line to job arrays of a Slurm cluster."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from h2lo_bids import __version__
from h2lo_bids.bids.dataset import require_own
from h2lo_bids.cli.checks import check_usage
from h2lo_bids.cli.config import read_settings
from h2lo_bids.cli.console import printable
from h2lo_bids.cli.parser import Parser
from h2lo_bids.cli.slurm_tasks import PLAN, Stage, read_rows, report_failures, stages_of
from h2lo_bids.errors import H2loError, TemporaryError, UsageError
from h2lo_bids.io import atomic_write_text
from h2lo_bids.settings import Settings, convert

_DESCRIPTION = """Write, and submit, job arrays that do on a Slurm cluster what h2lo does elsewhere.

Each participant and session, or each fold of each method, is one task. Give the options
of the cluster first, then what would follow h2lo:

  h2lo-slurm --time 1:00:00 --mem 4G --cpus 4 --submit /data/bids /data/out participant

Scripts, lists of tasks and logs go to out_dir/logs/slurm. The same command again submits
only what is not done. See docs/hpc.md."""
_OPTIONS: dict[str, tuple[tuple[str, str, str, Any], ...]] = {
    "what is submitted": (
        ("--submit", "", "submit the scripts as soon as they are written", False),
        ("--all", "", "submit also the tasks that are done", False),
        ("--failures", "DIR", "write the table of failures of a run, only", None),
    ),
    "of each task, as sbatch takes them": (
        ("--time", "TIME", "", None),
        ("--mem", "SIZE", "", None),
        ("--partition", "NAME", "", None),
        ("--account", "NAME", "", None),
        ("--cpus", "N", "processors", None),
        ("--sbatch", "=--OPTION", "any other, as --sbatch=--gres=gpu:1", []),
    ),
    "the array": (
        ("--throttle", "N", "tasks that may run at once", None),
        ("--max-array", "N", "elements of one array; the cluster's MaxArraySize less one", 1000),
        ("--requeue", "", "put a task back into the queue when its time is up or its machine "
         "fails; it goes on where it was", False),
        ("--max-requeues", "N", "how often at most", 10),
        ("--warn", "SECONDS", "before the time is up, for a fit to end its step and save", 60),
        ("--scratch", "FOLDER", "where each participant's task has its work folder, such as "
         "/scratch/me or '$TMPDIR' of the machine it runs on; removed when all went well "
         "(default: h2lo's own -w)", None),
    ),
    "how h2lo is started": (
        ("--image", "SIF", "container image", None),
        ("--runtime", "PROGRAM", "or singularity", "apptainer"),
        ("--bind", "SRC[:DST[:OPTS]]", "further paths for the container; those on the command "
         "line are bound already", []),
        ("--setup", "LINE", "shell first, as 'module load x'", []),
    ),
}  # fmt: skip
"""Flag, what its values are called, help and default; a list is given several times."""
_READERS: dict[str, Any] = {
    "N": convert.integer(1),
    "SECONDS": convert.integer(1),
    "DIR": Path,
    "SIF": convert.path,
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))(/.*)?")
_SUBMIT, _SUBMITTED = "submit.sh", "submitted.tsv"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``h2lo-slurm`` on words, those of the process if None; return its exit code."""
    try:
        options = build_parser().parse_args(argv)
        if options.failures is not None:
            return report_failures(options.failures)
        return _write_run(options)
    except H2loError as err:
        print(f"h2lo-slurm: error: {printable(str(err))}", file=sys.stderr)
        return err.exit_code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``h2lo-slurm``."""
    parser = Parser(
        prog="h2lo-slurm",
        usage="h2lo-slurm [options] bids_dir out_dir analysis_level [options of h2lo]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"h2lo-slurm {__version__}")
    for title, options in _OPTIONS.items():
        group = parser.add_argument_group(title)
        for flag, metavar, text, default in options:
            if default is False:
                group.add_argument(flag, action="store_true", help=text)
                continue
            group.add_argument(
                flag,
                action="append" if isinstance(default, list) else "store",
                metavar=metavar,
                type=_READERS.get(metavar, str),
                default=default,
                help=f"{text} (default: {default})" if default else text,
            )
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _check_cluster(cluster: argparse.Namespace) -> None:
    """Refuse what would break a script, or what sbatch cannot take."""
    for name in ("time", "mem", "partition", "account"):
        value = getattr(cluster, name)
        if value is not None and not re.fullmatch(r"[\w:.,@+-]+", value, re.ASCII):
            raise UsageError(f"--{name} {value!r}: is nothing that sbatch takes")
    for text in (*cluster.sbatch, *cluster.setup):
        if _CONTROL.search(text):
            raise UsageError(f"{text!r}: is more than one line")
    for text in cluster.sbatch:
        if not text.startswith("-"):
            raise UsageError(f"--sbatch {text}: give an option of sbatch, as --sbatch=--gres=gpu:1")
    if cluster.image is not None and not cluster.image.exists():
        raise UsageError(f"--image {cluster.image}: no such file; build it as docs/hpc.md says")


def _write_run(cluster: argparse.Namespace) -> int:
    """Write lists of tasks and scripts for a command line, and submit them if asked to."""
    words = cluster.command[1:] if cluster.command[:1] in (["h2lo"], ["--"]) else cluster.command
    if not words:
        raise UsageError("give the h2lo command line after the cluster's options; see --help")
    _check_cluster(cluster)
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
    elif cluster.submit:
        _submit(folder / _SUBMIT)
    else:
        print(f"to submit: bash {folder / _SUBMIT}")
    return 0


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
    record = {"out_dir": str(settings.out_dir), "stages": [stage.name for stage in stages]}
    atomic_write_text(folder / PLAN, json.dumps(record, indent=2) + "\n")
    return missing


def _list_tasks(folder: Path, stage: Stage) -> dict[str, int]:
    """Write a stage's tasks, and return the line of each.

    A task keeps its line for ever, because arrays that were submitted earlier go by
    its number; new ones are added at the end.
    """
    path = folder / f"{stage.name}.tsv"
    tasks = {row[0]: row[1] for row in read_rows(path) if len(row) > 1}
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


def task_script(stage: Stage, cluster: argparse.Namespace, folder: Path) -> str:
    """Return the script of one stage's tasks; refuse a path that no container can be given."""
    lines = [line for line in stage.settings.lines() if line[0] != "--work-dir"]
    work = _work(stage.settings, cluster.scratch if stage.own_work else None)
    own = {"name": stage.name, "own_work": stage.own_work, "work": work, "lines": lines}
    return _rendered("task", cluster, folder, **own, **_program(cluster, stage.settings, "h2lo"))


def failures_script(settings: Settings, cluster: argparse.Namespace, folder: Path) -> str:
    """Return the script of the job that writes the table of failures."""
    program = _program(cluster, settings, "h2lo-slurm")
    lines = [["--failures", folder]]
    return _rendered("failures", cluster, folder, name="failures", lines=lines, **program)


def submit_script(
    arrays: Sequence[tuple[str, int, str]],
    cluster: argparse.Namespace,
    folder: Path,
    *,
    counts: tuple[int, int],
    queued: Iterable[str] = (),
) -> str:
    """Return the script that submits arrays: the stage, first line and elements of each."""
    jobs = "".join(f":{job}" for job in queued)
    own = {"arrays": arrays, "missing": counts[0], "total": counts[1], "queued": jobs}
    return _rendered("submit", cluster, folder, **own)


def _rendered(script: str, cluster: argparse.Namespace, folder: Path, **values: Any) -> str:
    """Fill ``data/slurm.sh.jinja``, which quotes for the shell what the user gave."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("h2lo_bids", "data"),
        autoescape=select_autoescape(),  # of HTML, which this is not
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quote"] = lambda word: shlex.quote(str(word))
    common = {"script": script, "cluster": cluster, "folder": folder, "version": __version__}
    return environment.get_template("slurm.sh.jinja").render(**common, **values)


def _work(settings: Settings, scratch: str | None) -> str:
    """Return the folder below which a task works, as a word of the shell."""
    if scratch and (found := _VARIABLE.fullmatch(scratch)):
        where = f'"${{{found[1] or found[2]}:?is not set on this machine}}"'
        return where + (shlex.quote(found[3]) if found[3] else "")
    return shlex.quote(scratch or str(settings.work))


def _program(cluster: argparse.Namespace, settings: Settings, name: str) -> dict[str, Any]:
    """Return how a program is started, and what its container sees."""
    if cluster.image is None:
        installed = Path(sys.executable).with_name(name)
        return {"program": name if cluster.setup or not installed.exists() else installed}
    writable = [path for path in (settings.out_dir, settings.bids_database_dir) if path]
    given = dict.fromkeys([settings.bids_dir, *(path for _, path in settings.inputs())])
    readable = [path for path in given if path not in writable]
    for path in (*readable, *writable):
        if re.search(r'[:,\\"]', str(path)):
            raise UsageError(
                f"{path}: a container cannot be given a path with a colon, a comma, a backslash "
                "or a quotation mark; use a link with a plain name"
            )
    binds = [*(f"{path}:{path}:ro" for path in readable), *(f"{path}:{path}" for path in writable)]
    return {"program": name, "binds": binds, "cuda": settings.device.startswith("cuda")}


def _in_queue(folder: Path) -> dict[tuple[str, int], str]:
    """Return the job of each stage's line that is still waiting or running."""
    submitted = {row[0]: (row[1], int(row[2])) for row in read_rows(folder / _SUBMITTED)}
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


def _submit(script: Path) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
