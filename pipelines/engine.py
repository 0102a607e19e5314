"""Building a workflow of nodes, running it in this process, and what came of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx
from nipype import config
from nipype.interfaces.utility import Merge
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
Source = tuple[Any, str]
"""A node and one of its outputs."""


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
    """A node that failed."""

    step: str
    error: H2loError
    crash_file: str = ""
    branches: tuple[str, ...] = ()
    """The workflows within the workflow that cannot end because of it, its own first."""


def add(
    workflow: Workflow,
    interface: Any,
    name: str,
    threads: int = 1,
    /,
    **inputs: Source | list[Source] | None,
) -> Node:
    """Add a node; outputs of others are its inputs, several of them as a list."""
    node = Node(interface, name=name, n_procs=threads)
    workflow.add_nodes([node])
    for key, source in inputs.items():
        if isinstance(source, list):
            merge = Node(Merge(len(source)), f"{name}_list_{key}", run_without_submitting=True)
            # What it keeps are paths as they were: a work folder may have been moved since.
            merge.interface._always_run = True
            for number, one in enumerate(source, start=1):
                workflow.connect(*one, merge, f"in{number}")
            source = (merge, "out")
        if source is not None:
            workflow.connect(*source, node, key)
    return node


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
                names = (node.fullname, *sorted(n.fullname for n in after))
                lost = dict.fromkeys(name.split(".")[1] for name in names if name.count(".") > 1)
                error = _error_of(node, err)
                self.failures.append(NodeFailure(node.name, error, crash_file, tuple(lost)))
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


def results(workflow: Workflow) -> Iterator[tuple[str, Any]]:
    """Yield each node that has ended by its full name, and what Nipype kept of it.

    They are read from the work folder, so that a run that resumes has those of the whole.
    """
    for node in generate_expanded_graph(workflow._create_flat_graph()):
        node.base_dir = workflow.base_dir
        file = Path(node.output_dir()) / f"result_{node.name}.pklz"
        if file.exists():
            yield node.fullname, load_resultfile(file, resolve=False)


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
