"""The text of the scripts that a Slurm cluster runs."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from h2lo_bids import __version__
from h2lo_bids.cli.settings import Settings
from h2lo_bids.cli.slurm_state import LOGS, STATES, SUBMITTED
from h2lo_bids.cli.slurm_tasks import Stage
from h2lo_bids.cli.words import option_lines
from h2lo_bids.errors import UsageError

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))(/.*)?")
_SAFE = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


@dataclass(frozen=True)
class Cluster:
    """What the cluster is asked for.

    Parameters
    ----------
    time, mem, cpus, partition, account
        Of one task, as ``sbatch`` takes them; None leaves them to the cluster.
    sbatch
        Further options of ``sbatch``.
    throttle
        Tasks of an array that may run at once; None for no limit.
    max_array
        Elements of one array that the cluster takes.
    requeue
        How often a task may go back into the queue when its time is up; 0 for never.
    warn
        How many seconds before the end of its time it is told.
    scratch
        Folder, or ``$VARIABLE`` and a path below, for the work of each task; None for
        the work folder of the command line.
    image, runtime, binds
        Container image, the program that runs it, and further ``--bind`` values.
    setup
        Lines of shell that come first, such as ``module load``.
    """

    time: str | None = None
    mem: str | None = None
    cpus: int | None = None
    partition: str | None = None
    account: str | None = None
    sbatch: tuple[str, ...] = ()
    throttle: int | None = None
    max_array: int = 1000
    requeue: int = 0
    warn: int = 60
    scratch: str | None = None
    image: Path | None = None
    runtime: str = "apptainer"
    binds: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()


_TASK = """\
#!/bin/bash
# One task of an array: the line of {stage}.tsv that SLURM_ARRAY_TASK_ID names, counted
# from 0, after as many lines as the first argument says. By h2lo-slurm {version}.
{directives}
set -u
folder={folder}
number=$((SLURM_ARRAY_TASK_ID + ${{1:-0}}))
IFS=$'\\t' read -r name words < <(sed -n "$((number + 1))p" "$folder/{stage}.tsv")
read -ra chosen <<<"${{words:-}}"
work={work}
mkdir -p "$work/tmp"
{setup}
# What is written here tells a rerun and the table of failures how the task ended.
states=$folder/{states}/{stage}
note() {{
    echo "$1 ${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" >"$states/.$name"
    mv -f "$states/.$name" "$states/$name"
}}

note begun
command=(
{command}
)
"${{command[@]}}" &
child=$!
{listen}trap 'kill -TERM "$child"' TERM # on which h2lo keeps what it has
wait "$child"
code=$?
while [ "$code" -gt 128 ] && kill -0 "$child" 2>/dev/null; do
    wait "$child"
    code=$?
done
{requeue}note "$code"
{cleanup}exit "$code"
"""
_LISTEN = """\
again=no
trap 'again=yes; kill -TERM "$child"' USR1 # comes from Slurm before the time is up
"""
_REQUEUE = """\
if [ "$again" = yes ] && [ "$code" != 0 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {times} ]; then
    echo "time is up: back into the queue"
    # Not SLURM_JOB_ID, which for an array's last task names the array with all its tasks.
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" && exit
fi
"""
_COLLECT = """\
#!/bin/bash
# The table of failures, once all tasks have ended. By h2lo-slurm {version}.
{directives}
set -u
{setup}
command=(
{command}
)
"${{command[@]}}"
"""
_SUBMIT = """\
#!/bin/bash
# Submits {missing} of {total} tasks; the rest is done. By h2lo-slurm {version}.
# Words after the script's name are handed to each sbatch.
set -euo pipefail
cd {folder}
mkdir -p {folders}
logs={logs} # where Slurm takes %A for the job, %a for the task and %% for a plain %
jobs={queued}
before=$jobs

# Submit some lines of a stage's list, once the jobs in $before have ended.
array() {{
    local stage=$1 first=$2 elements=$3 job
    shift 3
    job=$(sbatch --parsable ${{before:+"--dependency=afterany$before"}} --array="$elements" \\
        --output="$logs/$stage-%A_%a.log" "$@" "$stage.sh" "$first")
    job=${{job%%;*}}
    printf '%s\\t%s\\t%s\\n' "$job" "$stage" "$first" >>{submitted}
    echo "$stage: job $job, tasks $elements, counted from line $first of $stage.tsv"
    jobs=$jobs:$job
}}

{arrays}
if [ -z "$jobs" ]; then
    echo "nothing to submit"
    exit
fi
job=$(sbatch --parsable "--dependency=afterany$jobs" --output="$logs/failures-%j.log" \\
    "$@" failures.sh)
echo "table of failures: job ${{job%%;*}}, will be {table}"
"""


def task_script(stage: Stage, cluster: Cluster, folder: Path) -> str:
    """Return the script of one stage's tasks.

    Parameters
    ----------
    stage
        What is to be done.
    cluster
        What the cluster is asked for.
    folder
        Of the run, absolute.

    Raises
    ------
    UsageError
        If a path cannot be handed to the container.
    """
    settings = stage.settings
    scratch = cluster.scratch if stage.own_work else None
    words = [_line([settings.bids_dir, settings.out_dir, settings.level])]
    words += [_line(line) for line in option_lines(settings) if line[0] != "--work-dir"]
    words.append('"${chosen[@]}" --work-dir "$work"')
    return _TASK.format(
        version=__version__,
        stage=stage.name,
        states=STATES,
        directives=_directives(cluster, stage.name),
        folder=_quote(folder),
        work=_work(settings, scratch) + ('/"$name"' if stage.own_work else ""),
        setup=_setup(cluster),
        command=_indented([*_program(cluster, settings, "h2lo", work=True), *words]),
        listen=_LISTEN if cluster.requeue else "",
        requeue=_REQUEUE.format(times=cluster.requeue) if cluster.requeue else "",
        cleanup='[ "$code" = 0 ] && rm -rf -- "$work"\n' if scratch else "",
    )


def collect_script(settings: Settings, cluster: Cluster, folder: Path) -> str:
    """Return the script of the job that writes the table of failures."""
    small = Cluster(
        partition=cluster.partition, account=cluster.account, time="01:00:00", mem="1G", cpus=1
    )
    words = _program(cluster, settings, "h2lo-slurm", work=False)
    return _COLLECT.format(
        version=__version__,
        directives=_directives(small, "failures"),
        setup=_setup(cluster),
        command=_indented([*words, _line(["--failures", folder])]),
    )


def submit_script(
    arrays: Sequence[tuple[str, int, str]],
    cluster: Cluster,
    folder: Path,
    *,
    counts: tuple[int, int],
    queued: Iterable[str] = (),
) -> str:
    """Return the script that submits all.

    Parameters
    ----------
    arrays
        Stage, first line and elements of each array, in order.
    cluster
        Its throttle is used.
    folder
        Of the run, absolute.
    counts
        How many tasks are submitted, and how many there are.
    queued
        Jobs of earlier runs that still go on.
    """
    lines, last = [], ""
    limit = f"%{cluster.throttle}" if cluster.throttle else ""
    for stage, first, elements in arrays:
        # A throttle holds for one array, so that arrays of a stage take turns.
        if stage != last or limit:
            lines.append("before=$jobs")
        lines.append(f'array {stage} {first} {elements}{limit} "$@"')
        last = stage
    stages = dict.fromkeys(stage for stage, _, _ in arrays)
    return _SUBMIT.format(
        version=__version__,
        missing=counts[0],
        total=counts[1],
        folder=_quote(folder),
        folders=" ".join([LOGS, *(f"{STATES}/{stage}" for stage in stages)]),
        queued=_quote("".join(f":{job}" for job in queued)),
        logs=_quote(str(folder / LOGS).replace("%", "%%")),
        submitted=SUBMITTED,
        arrays="\n".join(lines[1:] if lines[:1] == ["before=$jobs"] else lines),
        table="failures.tsv beside this script",
    )


def _directives(cluster: Cluster, stage: str) -> str:
    """Return the lines that sbatch reads."""
    options = {
        "job-name": f"h2lo-{stage}",
        "time": cluster.time,
        "mem": cluster.mem,
        "cpus-per-task": cluster.cpus,
        "partition": cluster.partition,
        "account": cluster.account,
    }
    words = [f"--{name}={value}" for name, value in options.items() if value is not None]
    words += ["--ntasks=1", "--open-mode=append"]
    words += (
        ["--requeue", f"--signal=B:USR1@{cluster.warn}"] if cluster.requeue else ["--no-requeue"]
    )
    return "\n".join(f"#SBATCH {word}" for word in [*words, *cluster.sbatch])


def _setup(cluster: Cluster) -> str:
    return "".join(f"{line}\n" for line in cluster.setup)


def _work(settings: Settings, scratch: str | None) -> str:
    """Return the folder below which a task works, as a word of the shell."""
    if scratch is None:
        return _quote(settings.work)
    if found := _VARIABLE.fullmatch(scratch):
        rest = found[3] or ""
        where = f'"${{{found[1] or found[2]}:?is not set on this machine}}"'
        return where + (_quote(rest) if rest else "")
    return _quote(scratch)


def _program(cluster: Cluster, settings: Settings, name: str, *, work: bool) -> list[str]:
    """Return the lines that come before a program's own words."""
    if cluster.image is None:
        beside = Path(sys.executable).with_name(name)
        return [_line([name if cluster.setup or not beside.exists() else beside])]
    lines = [_line([cluster.runtime, "exec", "--cleanenv", "--contain", "--no-home"])]
    for path, mode in _bound(settings):
        if re.search(r'[:,\\"]', str(path)):
            raise UsageError(
                f"{path}: a container cannot be given a path with a colon, a comma, a backslash "
                "or a quotation mark; use a link with a plain name"
            )
        lines.append(_line(["--bind", f"{path}:{path}{mode}"]))
    lines += [_line(["--bind", bind]) for bind in cluster.binds]
    if work:  # what is in memory there by default is small
        lines.append('--bind "$work" --bind "$work/tmp:/tmp"')
    if settings.device.startswith("cuda"):
        lines.append("--nv")
    return [*lines, _line([cluster.image, name])]


def _bound(settings: Settings) -> list[tuple[Path, str]]:
    """Return the paths that the container must see, and how."""
    writable = [settings.out_dir]
    if settings.bids_database_dir is not None:
        writable.append(settings.bids_database_dir)
    readable = [path for item in fields(Settings) for path in _paths(getattr(settings, item.name))]
    if Path(settings.folds).is_absolute():
        readable.append(Path(settings.folds))
    hidden = (*writable, settings.work_dir)  # bound otherwise
    return [
        *((path, ":ro") for path in dict.fromkeys(readable) if path not in hidden),
        *((path, "") for path in writable),
    ]


def _paths(value: Any) -> list[Path]:
    if isinstance(value, Path):
        return [value]
    if isinstance(value, tuple):
        return [path for item in value for path in _paths(item)]
    return []


def _line(words: Iterable[object]) -> str:
    return " ".join(_quote(word) for word in words)


def _quote(word: object) -> str:
    """Quote what a shell would take apart; option names and plain paths stay readable."""
    text = str(word)
    return text if _SAFE.fullmatch(text) else shlex.quote(text)


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
