"""Running a workflow in this process, and what of it failed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx
from nipype import config
from nipype.pipeline.engine import Node, Workflow
from nipype.pipeline.engine.nodes import NodeExecutionError
from nipype.pipeline.engine.utils import (
    generate_expanded_graph,
    load_resultfile,
    topological_sort,
)
from nipype.pipeline.plugins.tools import report_crash

from h2lo_bids.errors import H2loError, UnexpectedError, recorded

StatusCallback = Callable[[Node, str], None]


@dataclass(frozen=True)
class RunOptions:
    """How Nipype is to run a workflow."""

    crash_dir: Path
    """Takes the tracebacks of this run."""
    stop_on_first_crash: bool = False
    """Give up at the first failed node instead of finishing the others."""
    status_callback: StatusCallback = lambda node, status: None
    """Called with a node and ``"start"``, ``"end"`` or ``"exception"``."""


@dataclass(frozen=True)
class NodeFailure:
    """A node that failed, and the nodes that were never run because of it."""

    node: str
    error: H2loError
    crash_file: str = ""
    dependents: tuple[str, ...] = ()


class _Runner:
    """Runs the nodes of a graph, as Nipype asks its plugins to."""

    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self.plugin_args: dict[str, Any] = {}
        self.failures: list[NodeFailure] = []

    def run(self, graph: Any, config: dict[str, Any], updatehash: bool = False) -> None:
        held: set[Node] = set()
        for node in topological_sort(graph)[0]:
            if node in held:
                continue
            self.options.status_callback(node, "start")
            try:
                node.run()
            except Exception as err:
                after = networkx.descendants(graph, node)
                held |= after
                crash_file = ""
                with contextlib.suppress(OSError):  # a full disk
                    crash_file = report_crash(node)
                self.options.status_callback(node, "exception")
                names = tuple(sorted(n.fullname for n in after))
                error = _error_of(node, err)
                self.failures.append(NodeFailure(node.fullname, error, crash_file, names))
                if self.options.stop_on_first_crash:
                    return
            else:
                self.options.status_callback(node, "end")


def run_workflow(workflow: Workflow, options: RunOptions) -> list[NodeFailure]:
    """Run all nodes that can run, and return those that failed."""
    os.environ.setdefault("NIPYPE_NO_ET", "1")
    options.crash_dir.mkdir(parents=True, exist_ok=True)
    workflow.config["execution"] = {
        **workflow.config.get("execution", {}),
        "crashdump_dir": str(options.crash_dir),
        "crashfile_format": "txt",
        "check_version": "false",
        "create_report": "false",
        "hash_method": "content",
        "remove_unnecessary_outputs": "false",
        "stop_on_first_rerun": "false",
        "use_relative_paths": "true",
    }
    # Read from the global configuration alone: a moved work folder still counts as done.
    config.set("execution", "use_relative_paths", "true")
    runner = _Runner(options)
    here = Path.cwd()
    try:
        workflow.run(plugin=runner)
    finally:
        os.chdir(here)
    return runner.failures


def durations(workflow: Workflow) -> dict[str, float]:
    """Return the seconds that each finished node took when it was last computed.

    They are read from the work folder, so that a run that resumes has those of the whole.
    """
    seconds = {}
    for node in generate_expanded_graph(workflow._create_flat_graph()):
        node.base_dir = workflow.base_dir
        result = Path(node.output_dir()) / f"result_{node.name}.pklz"
        if result.exists():
            runtime = load_resultfile(result, resolve=False).runtime
            seconds[node.fullname] = float(getattr(runtime, "duration", 0.0))
    return seconds


def _error_of(node: Node, raised: Exception) -> H2loError:
    """Return the error that an interface kept, in place of Nipype's own."""
    error = getattr(node.interface, "error", None)
    if isinstance(error, H2loError):
        return error
    if not isinstance(raised, NodeExecutionError):
        return recorded(raised, node.output_dir())
    last = str(raised).strip().splitlines()[-1]
    kind, _, message = last.strip().rpartition("Error: ")
    return UnexpectedError(message or last, f"{kind.rpartition('.')[2] or 'NodeExecution'}Error")
