"""``h2lo-slurm``: from an ordinary command line to job arrays of a Slurm cluster."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from h2lo_bids import __version__
from h2lo_bids.bids.dataset import other_source
from h2lo_bids.cli import slurm_tasks
from h2lo_bids.cli.checks import check_usage
from h2lo_bids.cli.console import complain, printable
from h2lo_bids.cli.parser import INTERRUPTED, Parser, read_settings
from h2lo_bids.errors import H2loError, TemporaryError, UsageError, recorded
from h2lo_bids.io import atomic_write_text, digest
from h2lo_bids.reports.page import template_of
from h2lo_bids.settings import Settings, convert
from h2lo_bids.wording import counted

_DESCRIPTION = """Write Slurm job arrays for an h2lo command line, and submit them with --submit.

Each participant and session, or each fold of each method, is one task. Give the options
of the cluster first, then the words that follow h2lo:

  h2lo-slurm --time 1:00:00 --mem 4G --cpus 4 --submit /data/bids /data/out participant

Scripts, lists of tasks and logs go to out_dir/logs/slurm. Repeat the command to submit
only what is missing. See docs/hpc.md."""
_REPLACED = {
    "--failures": "the same command again, which writes failures.tsv",
    "--warn": "--sbatch=--signal=B:USR1@SECONDS",
    "--max-requeues": "--requeue, ten times at most",
    "--runtime": "--setup to put apptainer or singularity on PATH",
}
_SBATCH = (
    ("--time", "TIME", "time limit of each task, as for sbatch (default: the partition's)"),
    ("--mem", "SIZE", "memory of each task, as for sbatch (default: the partition's)"),
    ("--partition", "NAME", "partition to run in (default: the cluster's)"),
    ("--account", "NAME", "account to charge (default: yours)"),
    ("--sbatch", "=--OPTION", "any other option of sbatch, such as --sbatch=--gres=gpu:1"),
)
_MAX_ARRAY = "tasks per array, at most the cluster's MaxArraySize less one (default: 1000)"
_REQUEUE = "requeue a task when its time is up or its node fails, at most ten times; it resumes"
_SCRATCH = (
    "parent of each participant task's work folder, such as '/scratch/$USER' or '$TMPDIR' of the "
    "node; the work folder is removed after success (default: the -w of h2lo)"
)
_IMAGE = "run h2lo in this container with apptainer or singularity (default: h2lo as installed)"
_BIND = "further paths for the container; those on the command line are bound already"
_SETUP = (
    "shell line to run first in each task, such as 'module load apptainer'; use full paths, as "
    "tasks start in a folder of out_dir"
)
_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)\}?")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``h2lo-slurm`` on words, those of the process if None; return its exit code."""
    try:
        return _write_run(build_parser().parse_args(argv))
    except H2loError as err:
        text, code = str(err), err.exit_code
    except OSError as err:  # as where out_dir is another user's, who has umask 077
        known = recorded(err)
        text, code = str(known), known.exit_code
    except KeyboardInterrupt:
        text, code = "interrupted; repeat the command", INTERRUPTED
    return complain("h2lo-slurm", text, code)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``h2lo-slurm``."""
    parser = Parser(
        prog="h2lo-slurm",
        usage="h2lo-slurm [options] bids_dir out_dir analysis_level [options of h2lo]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.replaced = _REPLACED
    add, count = parser.add_argument, convert.integer(1)
    add("--version", action="version", version=f"h2lo-slurm {__version__}")
    add("--submit", action="store_true", help="submit the scripts as soon as they are written")
    add("--all", action="store_true", help="also submit tasks that are done")
    for flag, metavar, text in _SBATCH:
        reader = partial(_sbatch, flag)
        add(flag, type=reader, metavar=metavar, help=text, action="append", dest="sbatch")
    add("--cpus", type=count, metavar="N", help="processors of each task, and its --nprocs")
    add("--throttle", type=count, metavar="N", help="tasks that may run at once (default: all)")
    add("--max-array", type=count, metavar="N", default=1000, help=_MAX_ARRAY)
    add("--requeue", action="store_true", help=_REQUEUE)
    add("--scratch", type=_scratch, metavar="FOLDER", help=_SCRATCH)
    add("--image", type=convert.path, metavar="SIF", help=_IMAGE)
    form = "SRC[:DST[:OPTS]]"
    add("--bind", type=_bind, metavar=form, help=_BIND, action="append", default=[])
    add("--setup", type=_line, metavar="LINE", help=_SETUP, action="append", default=[])
    add("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(sbatch=[])
    return parser


def _sbatch(flag: str, text: str) -> str:
    """Return an option of sbatch as a script holds it."""
    if flag != "--sbatch":
        text = f"{flag}={text}"
    if not re.fullmatch(r"-[^\s]+" if flag != "--sbatch" else r"-.+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an option of sbatch, as --gres=gpu:1")
    return _line(text)


def _bind(text: str) -> str:
    """Name what a container is given in full, as tasks begin in a folder of out_dir."""
    source, colon, rest = text.partition(":")
    return f"{convert.path(source)}{colon}{rest}"


def _scratch(text: str) -> str:
    """Quote a folder for the shell, but for variables, which are those of the task's machine."""
    text = text if text[:1] == "$" else str(convert.path(text))
    parts = _VARIABLE.split(_line(text))  # with the name of a variable between two of them
    if re.search("[${}]", "".join(parts[::2])):
        raise argparse.ArgumentTypeError(f"{text}: give variables as $NAME, nothing else of bash")
    parts[::2] = [shlex.quote(part) if part else "" for part in parts[::2]]
    parts[1::2] = [f'"${{{name}:?is not set on this machine}}"' for name in parts[1::2]]
    return "".join(parts)


def _line(text: str) -> str:
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise argparse.ArgumentTypeError(f"{text!r} is more than one line")
    return text


def _write_run(cluster: argparse.Namespace) -> int:
    """Write lists of tasks and scripts for a command line, and submit them if asked to."""
    words = cluster.command[1:] if cluster.command[:1] in (["h2lo"], ["--"]) else cluster.command
    if not words:
        raise UsageError("give the h2lo command line after the cluster's options; see --help")
    if cluster.image is not None and not cluster.image.exists():
        raise UsageError(f"--image {cluster.image}: no such file; see docs/containers.md")
    settings = read_settings(words)
    if settings.nprocs is None and cluster.cpus is not None:
        settings = replace(settings, nprocs=cluster.cpus)
    check_usage(settings)
    folder = run_folder(settings)
    if re.search(r"[\x00-\x1f\x7f\\]", str(folder)):
        raise UsageError(f"{folder}: Slurm does not accept this path; use a link with a plain name")
    if line := other_source(settings.out_dir, settings.bids_dir):
        print(f"h2lo-slurm: warning: {printable(line)}", file=sys.stderr)
    stages = slurm_tasks.stages_of(settings, folder)
    missing, total = _write_scripts(cluster, stages, folder)
    script = folder / "submit.sh"
    if not missing:
        print(f"all {total} tasks are done or in the queue")
    elif cluster.submit:
        sys.stdout.flush()
        if code := subprocess.run(["bash", str(script)], check=False).returncode:
            raise TemporaryError(
                f"{script}: failed with code {code}; fix the problem that sbatch reports, and "
                "repeat the command"
            )
    else:
        print(f"to submit: bash {shlex.quote(str(script))}")
    return 0


def run_folder(settings: Settings) -> Path:
    """Name the folder of a command line, which finds there what was submitted and done before."""
    # More memory for tasks that were killed, say, makes no other run of it.
    own = replace(settings, nprocs=None, mem=None, work_dir=None, clean_workdir=False, verbose=0)
    if settings.level in ("participant", "trial"):  # whose other participants are other tasks
        own = replace(own, participant_label=(), session_label=())
    return settings.out_dir / "logs" / "slurm" / f"{settings.level}-{digest(own.words(), 4)}"


def _write_scripts(
    cluster: argparse.Namespace, stages: list[slurm_tasks.Stage], folder: Path
) -> tuple[int, int]:
    """Write tasks, scripts and failures; return how many tasks are to submit, of how many."""
    queue = _queue(folder, submits=cluster.submit)
    arrays: list[tuple[str, int, str]] = []
    failed: dict[tuple[str, str], slurm_tasks.State] = {}
    missing = total = 0
    for stage in stages:
        lines, states = _list_tasks(folder, stage), slurm_tasks.read_states(folder, stage.name)
        idle = [task for task in stage.tasks if (stage.name, lines[task.name]) not in queue]
        begun = [task.name for task in idle if not task.done and task.name in states]
        failed |= {(stage.name, name): states[name] for name in begun if states[name].code != 0}
        todo = sorted(lines[task.name] for task in idle if cluster.all or not task.done)
        missing, total = missing + len(todo), total + len(stage.tasks)
        print(f"{stage.name}: {len(todo)} of {len(stage.tasks)} tasks to submit")
        for first, part in groupby(todo, lambda n: n - n % cluster.max_array):
            arrays.append((stage.name, first, as_ranges(n - first for n in part)))
        atomic_write_text(folder / f"{stage.name}.sh", task_script(stage, cluster, folder))
    jobs = sorted(set(queue.values()))
    submit = render("submit", cluster, folder, arrays=arrays, queued=jobs)
    atomic_write_text(folder / "submit.sh", submit)
    (folder / "submitted").unlink(missing_ok=True)
    slurm_tasks.write_failures(folder, failed)
    if failed:
        print(f"{counted(len(failed), 'task')} failed; table: {folder}/failures.tsv")
    return missing, total


def _list_tasks(folder: Path, stage: slurm_tasks.Stage) -> dict[str, int]:
    """Write a stage's tasks, and return the line of each, which arrays in the queue go by."""
    path = folder / f"{stage.name}.tsv"
    tasks = {row[0]: row[1] for row in slurm_tasks.read_rows(path) if len(row) > 1}
    tasks |= {task.name: " ".join(task.words) for task in stage.tasks}
    atomic_write_text(path, "".join(f"{name}\t{words}\n" for name, words in tasks.items()))
    return {name: line for line, name in enumerate(tasks)}


def as_ranges(numbers: Iterable[int]) -> str:
    """Write ascending numbers as ``--array`` takes them: ``0-2,5,7-8``."""
    runs = groupby(enumerate(numbers), lambda item: item[1] - item[0])
    ends = [(run[0][1], run[-1][1]) for run in (list(items) for _, items in runs)]
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in ends)


def _queue(folder: Path, *, submits: bool) -> dict[tuple[str, int], str]:
    """Return the job of each stage's line that is waiting or running, which its name holds."""
    if shutil.which("squeue") is None:
        if (folder / "submit.sh").exists():
            text = "squeue is not available: tasks in the queue would be submitted again"
            print(f"h2lo-slurm: warning: {text}", file=sys.stderr)
        return {}
    command = ["squeue", "--noheader", "--array", "--format=%j/%K/%F"]
    # Whoever has SQUEUE_STATES=RUNNING in a shell would not see what waits.
    env = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split())
        text = (
            f"squeue ended with code {done.returncode} ({said}): tasks in the queue would be "
            "submitted again; repeat the command later"
        )
        if submits:
            raise TemporaryError(text)
        print(f"h2lo-slurm: warning: {printable(text)}", file=sys.stderr)
    own = re.escape(folder.name.rpartition("-")[2])
    found = re.findall(rf"^h2lo-{own}-(\w+)-(\d+)/(\d+)/(\d+)$", done.stdout, re.MULTILINE)
    return {(stage, int(first) + int(element)): job for stage, first, element, job in found}


def task_script(stage: slurm_tasks.Stage, cluster: argparse.Namespace, folder: Path) -> str:
    """Return the script of one stage's tasks; refuse a path that no container can be given."""
    settings = stage.settings
    scratch = cluster.scratch if stage.own_work else None
    installed = Path(sys.executable).with_name("h2lo")
    by_path = not (cluster.image or cluster.setup) and installed.exists()
    return render(
        "task",
        cluster,
        folder,
        stage=stage,
        work=scratch or shlex.quote(str(settings.work)),
        lines=[line for line in settings.lines() if line[0] != "--work-dir"],
        program=installed if by_path else "h2lo",
        binds=_binds(settings) if cluster.image else [],
    )


def render(script: str, cluster: argparse.Namespace, folder: Path, **values: Any) -> str:
    """Fill ``data/slurm.sh.jinja``, which quotes for the shell what the user gave."""
    common = {"script": script, "cluster": cluster, "folder": folder, "version": __version__}
    job = f"h2lo-{folder.name.rpartition('-')[2]}"
    return template_of("slurm.sh.jinja").render(job=job, **common, **values)


def _binds(settings: Settings) -> list[str]:
    """Return what a container sees: every path of the command line, inputs read-only."""
    writable = [path for path in (settings.out_dir, settings.bids_database_dir) if path]
    given = dict.fromkeys([settings.bids_dir, *(path for _, path in settings.inputs())])
    readable = [path for path in given if path not in writable]
    for path in (*readable, *writable):
        if re.search(r'[:,\\"]', str(path)):
            raise UsageError(
                f"{path}: a container's path cannot have a colon, a comma, a backslash or a "
                "quotation mark; use a link with a plain name"
            )
    return [*(f"{path}:{path}:ro" for path in readable), *(f"{path}:{path}" for path in writable)]


if __name__ == "__main__":
    sys.exit(main())
