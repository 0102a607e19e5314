"""The run engine, against workflows of small nodes."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from nipype.interfaces.base import TraitedSpec, traits
from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe

from h2lo_bids.errors import BadDataError, InputOutputError, UnexpectedError
from h2lo_bids.settings import Settings
from pipelines.engine import (
    AnyFile,
    InFile,
    InputSpec,
    Interface,
    Label,
    add,
    interface,
    results,
    run_workflow,
)


def double(x: int, log: str) -> int:
    import os
    from pathlib import Path

    with Path(log).open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    return 2 * x


class _ComplainInput(InputSpec):
    x = traits.Int()
    error = traits.Any()


class _ComplainOutput(TraitedSpec):
    out = traits.Int()


class Complain(Interface):
    """Raises what it is given."""

    input_spec, output_spec, names = _ComplainInput, _ComplainOutput, ("error",)

    def function(self, folder, error):
        raise error


BAD = BadDataError("/data/sub-01_T1w.nii.gz: is cut short; copy it again")


def _node(function, name, **inputs):
    names = list(inputs) if "x" in inputs else ["x", *inputs]
    node = pe.Node(Function(function=function, input_names=names, output_names=["out"]), name=name)
    for key, value in inputs.items():
        setattr(node.inputs, key, value)
    return node


def _workflow(base: Path, first: pe.Node, log: Path) -> pe.Workflow:
    """Three branches; the first node of one of them is the bad one, and the next waits for it."""
    workflow = pe.Workflow(name="wf", base_dir=str(base))
    after = _node(double, "after", log=str(log))
    good = _node(double, "good", x=3, log=str(log))
    last = _node(double, "last", log=str(log))
    a, b, c = (pe.Workflow(name=name) for name in "cab")
    a.add_nodes([first])
    b.add_nodes([after])
    c.connect(good, "out", last, "x")
    workflow.connect(a, f"{first.name}.out", b, "after.x")
    workflow.add_nodes([c])
    return workflow


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (BAD, BadDataError, str(BAD)),
        (OSError(28, "No space", "/x/y"), InputOutputError, "/x/y: writing failed"),
        (LookupError("a\nb"), UnexpectedError, "a b"),
    ],
)
def test_a_failed_node_is_told_in_its_own_words_and_the_others_finish(tmp_path, raised, kind, text):
    log = tmp_path / "log"
    first = pe.Node(Complain(x=1, error=raised), name="bad")
    workflow = _workflow(tmp_path / "work", first, log)
    scans = {"a": ["1"], "b": ["2"], "c": ["3", "4"]}
    failed = run_workflow(workflow, scans, Settings(tmp_path, tmp_path), tmp_path / "crash")
    assert [(item.scan, item.step) for item in failed] == [(s, "bad") for s in ("3", "4", "1")]
    failure = failed[0]
    assert type(failure.error) is kind
    assert str(failure.error).startswith(text)
    assert "Traceback" in Path(failure.crash_file).read_text()
    assert log.read_text().split() == 2 * [str(os.getpid())]  # good and last, not after


def test_an_error_outside_of_our_interfaces_keeps_its_class_and_text(tmp_path):
    first = _node(double, "a", x=1, log=str(tmp_path / "no" / "such"))
    workflow, scans = _workflow(tmp_path, first, tmp_path / "log"), {"c": ["1"], "a": []}
    (failure,) = run_workflow(workflow, scans, Settings(tmp_path, tmp_path), tmp_path / "crash")
    assert isinstance(failure.error, UnexpectedError)
    assert failure.error.kind == "FileNotFoundError"
    assert "No such file or directory" in str(failure.error)


def save(folder: Path, x: int) -> dict[str, Any]:
    """Write a number."""
    path = folder / "x.txt"
    path.write_text(str(x))
    return {"out": path, "note": "kept"}


def read(folder: Path, path: AnyFile | None = None, note: str = "") -> dict[str, Any]:
    """Read it, if it is given."""
    return {"out": [Path(path).read_text() if path else "no file", note]}


Save, Read = interface(save, out=InFile, note=str), interface(read, out=list[str])


@pytest.mark.parametrize("damage", ["file", "result", "cut"])
def test_a_step_whose_files_were_deleted_runs_again(tmp_path, damage):
    def run() -> list[str]:
        workflow, branch = pe.Workflow(name="wf", base_dir=str(tmp_path)), pe.Workflow(name="a")
        first = add(branch, Save(x=7), "first")
        add(branch, Read(), "second", path=(first, "out"), note=(first, "note"))
        workflow.add_nodes([branch])
        settings = Settings(tmp_path, tmp_path)
        assert run_workflow(workflow, {"a": ["1"]}, settings, tmp_path / "crash") == []
        return next(r.outputs.out for name, r in results(workflow) if name.endswith("second"))

    assert run() == ["7", "kept"]
    result = tmp_path / "wf/a/first/result_first.pklz"
    if damage == "cut":
        result.write_bytes(result.read_bytes()[:40])
    else:
        (result if damage == "result" else result.with_name("x.txt")).unlink()
    assert run() == ["7", "kept"]


def attempt(folder: Path, log: Label) -> dict[str, Any]:
    """Find no disk at the first attempt."""
    with Path(log).open("a") as stream:
        stream.write("x")
    return {"error": "" if len(Path(log).read_text()) > 1 else "MissingInputError: x: is away"}


Attempt = interface(attempt, error=str)


def test_a_step_whose_result_is_an_error_is_tried_again(tmp_path):
    log = tmp_path / "log"

    def run() -> str:
        workflow, branch = pe.Workflow(name="wf", base_dir=str(tmp_path)), pe.Workflow(name="a")
        add(branch, Attempt(log=str(log)), "only")
        workflow.add_nodes([branch])
        settings = Settings(tmp_path, tmp_path)
        assert run_workflow(workflow, {"a": ["1"]}, settings, tmp_path / "crash") == []
        return next(r.outputs.error for _, r in results(workflow))

    assert [run() for _ in range(3)] == ["MissingInputError: x: is away", "", ""]
    assert log.read_text() == "xx"  # what succeeded is done


def test_results_of_other_software_are_not_taken_for_done():
    inputs = interface(_none)().inputs
    for name in ("h2lo-bids", "torch", "deepbet", "antspyx"):
        assert f"{name} {version(name)}" in inputs.app_version
    before = inputs.get_hashval()[1]
    inputs.app_version = inputs.app_version.replace(version("torch"), "0.0")
    assert inputs.get_hashval()[1] != before


def _none(folder):
    """Do nothing."""
    return {}
