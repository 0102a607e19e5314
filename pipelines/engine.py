"""Nipype as it is used here: steps made of functions, nodes, and a run in this process.

A step sets its threads first, and its errors are one line.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import networkx
import nibabel as nib
from nipype import config, logging
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from nipype.interfaces.utility import Merge
from nipype.pipeline.engine import Node, Workflow
from nipype.pipeline.engine.nodes import NodeExecutionError
from nipype.pipeline.engine.utils import generate_expanded_graph, load_resultfile, topological_sort
from nipype.pipeline.plugins.tools import report_crash

from h2lo_bids.bids.derivatives import software_versions
from h2lo_bids.bids.names import identifier
from h2lo_bids.errors import Failed, H2loError, UnexpectedError, recorded
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import THREAD_VARIABLES

StatusCallback = Callable[[Node, str], None]
"""Called with a node and ``"start"``, ``"end"`` or ``"exception"``."""
Source = tuple[Any, str]
"""A node and one of its outputs."""
InFile = Annotated[str, "exists"]
"""A file, which Nipype hashes by its content."""
AnyFile = Annotated[str, "may be absent"]
Label = Annotated[str, "nohash"]
"""A text that changes messages alone, so that its change runs nothing again."""

_TRAITS: dict[Any, tuple[Any, dict[str, Any]]] = {
    InFile: (File, {"exists": True}), AnyFile: (File, {}), Label: (traits.Str, {"nohash": True}),
    str: (traits.Str, {}), int: (traits.Int, {}), float: (traits.Float, {}),
    bool: (traits.Bool, {}), dict: (traits.Dict, {}),
}  # fmt: skip


class InputSpec(BaseInterfaceInputSpec):
    """Inputs of every interface here."""

    # An upgrade takes no older result for done, of which sidecars would name the new software.
    app_version = traits.Str(
        " ".join(itertools.chain(*software_versions().items())), usedefault=True
    )
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="Nipype sets it to n_procs")


class Interface(SimpleInterface):
    """Runs `function` in the node's folder with the inputs that are defined."""

    input_spec = InputSpec
    output_spec = TraitedSpec
    function: Callable[..., dict[str, Any]]
    error: H2loError | None = None

    def __init__(self, **values: Any) -> None:
        """Take inputs; None stands for one that is not given, and a path for its text."""
        known = {key: str(v) if isinstance(v, Path) else v for key, v in values.items()}
        super().__init__(**{key: value for key, value in known.items() if value is not None})

    def _run_interface(self, runtime: Any) -> Any:
        inputs = {**self.inputs.get(), "threads": self.inputs.num_threads}
        set_threads(inputs["threads"])
        values = {name: inputs[name] for name in [*inspect.signature(self.function).parameters][1:]}
        given = {name: value for name, value in values.items() if isdefined(value)}
        try:
            self._results.update(self.function(Path(runtime.cwd), **given))
        except Exception as err:
            self.error = recorded(err, str(runtime.cwd))  # Nipype keeps the text alone
            raise
        return runtime


def interface(
    function: Callable[..., dict[str, Any]], *, always_run: bool = False, **outputs: Any
) -> Any:
    """Make an interface of a function of the node's folder; it is named like it, in camel case."""
    name = "".join(word.capitalize() for word in function.__name__.split("_"))
    hints = get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    inputs = {p.name: _input(hints[p.name], p.default) for p in parameters if p.name != "threads"}
    specs = {
        "input_spec": (InputSpec, inputs),
        "output_spec": (TraitedSpec, {key: _trait(hint) for key, hint in outputs.items()}),
    }
    # Nodes are pickled for worker processes, which look classes up by these names.
    made = {
        key: type(key, (base,), {**fields, "__module__": function.__module__,
                                 "__qualname__": f"{name}.{key}"})
        for key, (base, fields) in specs.items()
    }  # fmt: skip
    members = {"function": staticmethod(function), **made}
    members |= {"_always_run": always_run, "__module__": function.__module__}
    return type(name, (Interface,), {**members, "__doc__": function.__doc__})


def _input(hint: Any, default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return _trait(hint, mandatory=True)
    if default is None:  # of `hint | None`
        return _trait(get_args(hint)[0])
    return _trait(hint, default, usedefault=True)


def _trait(hint: Any, *default: Any, **options: Any) -> Any:
    """Return the trait for an annotation."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if origin is list:
        options |= {"nohash": True} if args[0] == Label else {}
        return traits.List(_trait(args[0]), *default, **options)
    if origin is tuple:
        return traits.Tuple(*map(_trait, args), **options)
    kind, further = _TRAITS[hint if hint in _TRAITS else origin]
    return kind(*default, **further, **options)


def load_image(path: str, name: str | None = None) -> Any:
    """Open an image, under the name that messages give it."""
    image: Any = nib.load(path)  # the declared type lacks what every NIfTI image has
    if name is not None:
        image.set_filename(name)
    return image


def set_threads(count: int) -> None:
    """Limit the threads of the libraries, before they are imported where that matters (ITK)."""
    for name in THREAD_VARIABLES:
        os.environ[name] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def add(
    workflow: Workflow,
    interface: Any,
    name: str,
    threads: int = 1,
    /,
    **inputs: Source | list[Source] | None,
) -> Node:
    """Add a node; outputs of others are its inputs, several of them as a list."""
    node = Node(interface, name=identifier(name), n_procs=threads)
    workflow.add_nodes([node])
    for key, source in inputs.items():
        if isinstance(source, list):
            merge = Node(Merge(len(source)), f"{node.name}_list_{key}", run_without_submitting=True)
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

    def __init__(
        self, scans: Mapping[str, Iterable[str]], callback: StatusCallback, stops: bool
    ) -> None:
        self.scans, self.callback, self.stops = scans, callback, stops
        self.plugin_args: dict[str, Any] = {}
        self.failed: list[Failed] = []

    def run(self, graph: Any, config: dict[str, Any], updatehash: bool = False) -> None:
        held: set[Node] = set()
        for node in topological_sort(graph)[0]:
            if node in held:
                continue
            self.callback(node, "start")
            try:
                _forget_broken(node)
                node.run()
            except Exception as err:
                after = networkx.descendants(graph, node)
                held |= after
                crash_file = ""
                with contextlib.suppress(OSError):  # a full disk
                    crash_file = report_crash(node)
                self.callback(node, "exception")
                names = (node.fullname, *sorted(n.fullname for n in after))
                lost = dict.fromkeys(name.split(".")[1] for name in names if name.count(".") > 1)
                error = _error_of(node, err)
                self.failed += [
                    Failed(scan, node.name, error, crash_file)
                    for branch in lost
                    for scan in self.scans[branch]
                ]
                if self.stops:
                    return
            else:
                self.callback(node, "end")


def run_workflow(
    workflow: Workflow,
    scans: Mapping[str, Iterable[str]],
    settings: Settings,
    crash_dir: Path,
    callback: StatusCallback = lambda node, status: None,
) -> list[Failed]:
    """Run all nodes that can run; return the scans lost with each that failed, its own first."""
    level = "DEBUG" if settings.verbose > 1 else "INFO"
    execution = {
        "crashfile_format": "txt",
        "create_report": "false",
        "hash_method": "content",
        "remove_unnecessary_outputs": "false",
        "stop_on_first_rerun": "false",
        "use_relative_paths": "true",  # a moved work folder still counts as done
    }
    levels = {"workflow_level": level, "interface_level": level}
    config.update_config({"logging": levels, "execution": execution})
    logging.update_logging(config)
    crash_dir.mkdir(parents=True, exist_ok=True)
    workflow.config["execution"] = {"crashdump_dir": str(crash_dir)}
    runner = _Runner(scans, callback, settings.stop_on_first_crash)
    here = Path.cwd()
    try:
        workflow.run(plugin=runner)
    finally:
        os.chdir(here)
    return runner.failed


def _forget_broken(node: Node) -> None:
    """Have a node run again whose result lacks files or is an error; Nipype takes it for done."""
    file = Path(node.output_dir()) / f"result_{node.name}.pklz"
    try:
        broken = bool(getattr(load_resultfile(file).outputs, "error", ""))  # of a disk, say
    except Exception:  # each way of being broken raises another
        broken = True
    if broken:
        file.unlink(missing_ok=True)


def results(workflow: Workflow) -> Iterator[tuple[str, Any]]:
    """Yield each node that has ended, in this run or before, and what Nipype kept of it."""
    for node in generate_expanded_graph(workflow._create_flat_graph()):
        node.base_dir = workflow.base_dir
        file = Path(node.output_dir()) / f"result_{node.name}.pklz"
        with contextlib.suppress(Exception):  # there is none, or one of another version's steps
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
