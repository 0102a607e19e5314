"""The options of a cluster, and the scripts that come of them: ``data/slurm.sh.jinja``, filled."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from h2lo_bids import __version__
from h2lo_bids.cli.parser import Parser
from h2lo_bids.cli.slurm_stages import Stage
from h2lo_bids.errors import UsageError
from h2lo_bids.settings import Settings, convert

_DESCRIPTION = """Write, and submit, job arrays that do on a Slurm cluster what h2lo does elsewhere.

Each participant and session, or each fold of each method, is one task. Give the options
of the cluster first, then what would follow h2lo:

  h2lo-slurm --time 1:00:00 --mem 4G --cpus 4 --submit /data/bids /data/out participant

Scripts, lists of tasks and logs go to out_dir/logs/slurm. The same command again submits
only what is not done. See docs/hpc.md."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))(/.*)?")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``h2lo-slurm``."""
    parser = Parser(
        prog="h2lo-slurm",
        usage="h2lo-slurm [options] bids_dir out_dir analysis_level [options of h2lo]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"h2lo-slurm {__version__}")
    add("--submit", action="store_true", help="submit the scripts as soon as they are written")
    add("--all", action="store_true", help="submit also the tasks that are done")
    add("--failures", type=Path, metavar="DIR", help="write the table of failures of a run, only")
    add = parser.add_argument_group("of each task, as sbatch takes them").add_argument
    for name, value in (
        ("time", "TIME"),
        ("mem", "SIZE"),
        ("partition", "NAME"),
        ("account", "NAME"),
    ):
        add(f"--{name}", metavar=value)
    add("--cpus", type=convert.integer(1), metavar="N", help="processors")
    many: Any = {"action": "append", "default": []}
    text = "any other, as --sbatch=--gres=gpu:1"
    add("--sbatch", metavar="=--OPTION", help=text, **many)
    _add_array(parser)
    add = parser.add_argument_group("how h2lo is started").add_argument
    add("--image", type=convert.path, metavar="SIF", help="container image")
    text = "or singularity (default: apptainer)"
    add("--runtime", default="apptainer", metavar="PROGRAM", help=text)
    text = "further paths for the container; those on the command line are bound already"
    add("--bind", metavar="SRC[:DST[:OPTS]]", help=text, **many)
    add("--setup", metavar="LINE", help="shell first, as 'module load x'", **many)
    add("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _add_array(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the array").add_argument
    count: Any = {"type": convert.integer(1), "metavar": "N"}
    add("--throttle", help="tasks that may run at once", **count)
    text = "elements of one array; the cluster's MaxArraySize less one (default: 1000)"
    add("--max-array", default=1000, help=text, **count)
    text = "put a task back into the queue when its time is up or its machine fails; it goes on "
    add("--requeue", action="store_true", help=text + "where it was")
    add("--max-requeues", default=10, help="how often at most (default: 10)", **count)
    text = "before the time is up, for a fit to end its step and save (default: 60)"
    add("--warn", default=60, help=text, **{**count, "metavar": "SECONDS"})
    text = (
        "where each participant's task has its work folder, such as /scratch/me or '$TMPDIR' of "
        "the machine it runs on; removed when all went well (default: h2lo's own -w)"
    )
    add("--scratch", metavar="DIR", help=text)


def check_cluster(cluster: argparse.Namespace) -> None:
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
        raise UsageError(f"--image {cluster.image}: no such file; build it as docs/hpc.md tells")


def task_script(stage: Stage, cluster: argparse.Namespace, folder: Path) -> str:
    """Return the script of one stage's tasks; refuse a path that no container can be given."""
    settings = stage.settings
    lines = [line for line in settings.lines() if line[0] != "--work-dir"]
    work = _work(settings, cluster.scratch if stage.own_work else None)
    own = {"name": stage.name, "own_work": stage.own_work, "work": work, "lines": lines}
    return _rendered("task", cluster, folder, **own, **_program(cluster, settings, "h2lo"))


def failures_script(settings: Settings, cluster: argparse.Namespace, folder: Path) -> str:
    """Return the script of the job that writes the table of failures."""
    own = {"name": "failures", "lines": [["--failures", folder]]}
    program = _program(cluster, settings, "h2lo-slurm")
    return _rendered("failures", cluster, folder, **own, **program)


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
    """Fill the template, which quotes for the shell what the user gave."""
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
        beside = Path(sys.executable).with_name(name)
        return {"program": name if cluster.setup or not beside.exists() else beside}
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
