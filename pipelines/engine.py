"""Running a workflow, and telling what failed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nipype.pipeline.engine import Node, Workflow

_LAST_LINE = re.compile(r"^\s*((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)(?:: (.*))?$")
_HEADER = re.compile(r"^Node: (.+)$", re.MULTILINE)

StatusCallback = Callable[[Node, str], None]


@dataclass(frozen=True)
class RunOptions:
    """How Nipype is to run a workflow.

    Parameters
    ----------
    crash_dir
        Folder of this run for crash files.
    nprocs
        Processes that may run at once; 1 runs every node in this process.
    mem_gb
        Memory to share among them, GB.
    stop_on_first_crash
        Give up at the first failed node instead of finishing the others.
    plugin
        A Nipype plugin in place of ours: ``{"plugin": name, "plugin_args": {}}``.
    status_callback
        Called with a node and ``"start"``, ``"end"`` or ``"exception"``.
    """

    crash_dir: Path
    nprocs: int = 1
    mem_gb: float = 4.0
    stop_on_first_crash: bool = False
    plugin: dict[str, Any] | None = None
    status_callback: StatusCallback | None = None


@dataclass(frozen=True)
class NodeFailure:
    """One node that failed.

    Parameters
    ----------
    node
        Dotted name within its workflow.
    error
        Name of the exception's class, without its module.
    message
        Its text, one line.
    crash_file
        Where the traceback is.
    dependents
        Nodes that were never run because of it.
    """

    node: str
    error: str
    message: str
    crash_file: Path
    dependents: tuple[str, ...] = ()


def run_workflow(workflow: Workflow, options: RunOptions) -> list[NodeFailure]:
    """Run all nodes that can run, and return those that failed.

    Parameters
    ----------
    workflow
        With ``base_dir`` set.
    options
        See `RunOptions`.

    Returns
    -------
    list of NodeFailure
        Empty if everything was done.

    Raises
    ------
    Exception
        If the workflow ended early and left no crash file to tell why.
    """
    os.environ.setdefault("NIPYPE_NO_ET", "1")
    options.crash_dir.mkdir(parents=True, exist_ok=True)
    workflow.config["execution"] = {
        **workflow.config.get("execution", {}),
        "crashdump_dir": str(options.crash_dir),
        "crashfile_format": "txt",
        "check_version": "false",
        "create_report": "false",
        "hash_method": "content",
        "poll_sleep_duration": "0.1",
        "remove_unnecessary_outputs": "false",
        "stop_on_first_crash": str(options.stop_on_first_crash).lower(),
        "stop_on_first_rerun": "false",
        "use_relative_paths": "true",
    }
    _relative_results()
    before = set(options.crash_dir.glob("crash-*.txt"))
    error: Exception | None = None
    try:
        workflow.run(plugin=_plugin(options))
    except Exception as caught:
        error = caught
    crashes = sorted(set(options.crash_dir.glob("crash-*.txt")) - before)
    if error is not None and not crashes:
        raise error
    after = _dependents(workflow)
    failures = [read_crash(path) for path in crashes]
    return [replace(item, dependents=after.get(item.node, ())) for item in failures]


def _dependents(workflow: Workflow) -> dict[str, tuple[str, ...]]:
    """Return the names of all nodes downstream of each node."""
    import networkx
    from nipype.pipeline.engine.utils import generate_expanded_graph

    # As Nipype runs it: identity nodes, where unrelated chains meet, are gone.
    graph = generate_expanded_graph(workflow._create_flat_graph())
    return {
        node.fullname: tuple(sorted(n.fullname for n in networkx.descendants(graph, node)))
        for node in graph
    }


def durations(workflow: Workflow) -> dict[str, float]:
    """Return how long each finished node took when it was last computed, seconds.

    Read from the results in the work folder, so that a run that resumes still
    tells what the whole took.
    """
    from nipype.pipeline.engine.utils import generate_expanded_graph, load_resultfile

    seconds = {}
    for node in generate_expanded_graph(workflow._create_flat_graph()):
        node.base_dir = workflow.base_dir
        result = Path(node.output_dir()) / f"result_{node.name}.pklz"
        if result.exists():
            runtime = load_resultfile(result, resolve=False).runtime
            seconds[node.fullname] = float(getattr(runtime, "duration", 0.0))
    return seconds


def read_crash(path: Path) -> NodeFailure:
    """Read which node failed, and why, from Nipype's text crash file.

    Parameters
    ----------
    path
        A ``crash-*.txt``.

    Returns
    -------
    NodeFailure
        The last exception of its traceback, in one line.
    """
    text = path.read_text(errors="replace")
    header = _HEADER.search(text)
    error, message = last_exception(text)
    return NodeFailure(header.group(1).strip() if header else path.stem, error, message, path)


def last_exception(traceback: str) -> tuple[str, str]:
    r"""Return class name and one-line text of the exception that ended a traceback.

    Nipype wraps the traceback of a node in its own exception and indents it,
    so the last line that looks like ``module.Class: text`` counts.

    Examples
    --------
    >>> last_exception("Traceback (most recent call last):\n  f()\na.b.BadError: no: file")
    ('BadError', 'no: file')
    >>> last_exception("nothing here")
    ('Error', 'nothing here')
    """
    lines = [line.strip() for line in traceback.splitlines() if line.strip()]
    for line in reversed(lines):
        match = _LAST_LINE.match(line)
        if match and re.search(r"(Error|Exception|Interrupt|Exit|Pool)$", match.group(1)):
            return match.group(1).rpartition(".")[2], (match.group(2) or match.group(1)).strip()
    return "Error", lines[-1] if lines else "no traceback"


def _plugin(options: RunOptions) -> Any:
    """Return the plugin object that is to run the workflow."""
    from nipype.pipeline import plugins

    from pipelines.plugin import ResilientMultiProcPlugin

    if options.plugin:
        # Nipype names the jobs of a cluster after the user, and asks for nothing else.
        os.environ.setdefault("LOGNAME", os.environ.get("USER") or "h2lo")
        name, args = options.plugin["plugin"], dict(options.plugin.get("plugin_args") or {})
        # Nipype's own MultiProc waits for ever for a worker that was killed.
        own = name == "MultiProc"
        kind = ResilientMultiProcPlugin if own else getattr(plugins, f"{name}Plugin")
        return kind(plugin_args={"status_callback": options.status_callback, **args})
    if options.nprocs < 2:
        return plugins.LinearPlugin(plugin_args={"status_callback": options.status_callback})
    return ResilientMultiProcPlugin(
        plugin_args={
            "n_procs": options.nprocs,
            "memory_gb": options.mem_gb,
            "status_callback": options.status_callback,
        }
    )


def _relative_results() -> None:
    """Let Nipype store results so that a moved work folder still counts as done."""
    from nipype import config

    # Read from the global configuration alone, whatever a workflow's own says.
    config.set("execution", "use_relative_paths", "true")
