"""The run engine, against workflows of small nodes."""

from __future__ import annotations

import gzip
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from nipype.pipeline import engine as pe

from h2lo_bids.errors import BadDataError, Failed, InputOutputError, UnexpectedError
from h2lo_bids.settings import Settings
from pipelines.engine import AnyFile, InFile, Label, add, interface, results, run_workflow

RAISED = {
    "bad": BadDataError("/data/sub-01_T1w.nii.gz: is cut short; copy it again"),
    "full": OSError(28, "No space", "/x/y"),
    "odd": LookupError("a\nb"),
}


def step(folder: Path, log: Label, raises: str = "", after: str = "") -> dict[str, Any]:
    """Write its process down, or raise an error."""
    if raises:
        raise RAISED[raises]
    with Path(log).open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    return {"out": "done"}


Step = interface(step, out=str)


def _workflow(folder: Path, *names: str) -> list[pe.Workflow]:
    """Return a workflow and its branches."""
    workflow, *branches = (pe.Workflow(name=name) for name in ("wf", *names))
    workflow.base_dir = str(folder)
    workflow.add_nodes(branches)
    return [workflow, *branches]


def _run(workflow: pe.Workflow, **scans: list[str]) -> list[Failed]:
    folder = Path(workflow.base_dir)
    return run_workflow(workflow, scans, Settings(folder, folder), folder / "crash")


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        ("bad", BadDataError, str(RAISED["bad"])),
        ("full", InputOutputError, "/x/y: writing failed"),
        ("odd", UnexpectedError, "a b"),
    ],
)
def test_a_failed_node_is_told_in_its_own_words_and_the_others_finish(tmp_path, raised, kind, text):
    """Of three branches one begins with the bad node, and another waits for it."""
    log = tmp_path / "log"
    workflow, a, b, c = _workflow(tmp_path, *"abc")
    add(c, Step(log=log, raises=raised), "bad")
    add(a, Step(log=log), "later")
    workflow.connect(c, "bad.out", a, "later.after")
    add(b, Step(log=log), "last", after=(add(b, Step(log=log), "good"), "out"))
    failed = _run(workflow, a=["1"], b=["2"], c=["3", "4"])
    assert [(item.scan, item.step) for item in failed] == [(s, "bad") for s in ("3", "4", "1")]
    failure = failed[0]
    assert type(failure.error) is kind
    assert str(failure.error).startswith(text)
    assert "Traceback" in Path(failure.crash_file).read_text()
    assert log.read_text().split() == 2 * [str(os.getpid())]  # good and last, not later


def save(folder: Path, text: str | None = None) -> dict[str, Any]:
    """Write a text, or name a file that is not there."""
    path = folder / "x.txt"
    if text:
        path.write_text(text)
    return {"out": path, "note": "kept"}


def read(folder: Path, path: AnyFile | None = None, note: str = "") -> dict[str, Any]:
    """Read it, if it is given."""
    return {"out": [Path(path).read_text() if path else "no file", note]}


Save, Read = interface(save, out=InFile, note=str), interface(read, out=list[str])


def test_an_error_outside_of_our_functions_keeps_its_class_and_text(tmp_path):
    workflow, branch = _workflow(tmp_path, "a")
    add(branch, Save(), "bad")
    (failure,) = _run(workflow, a=["1"])
    assert (failure.kind, "x.txt" in failure.message) == ("FileNotFoundError", True)


@pytest.mark.parametrize("damage", ["file", "result", "cut"])
def test_a_step_whose_files_were_deleted_runs_again(tmp_path, damage):
    def run() -> list[str]:
        workflow, branch = _workflow(tmp_path, "a")
        first = add(branch, Save(text="7"), "first")
        add(branch, Read(), "second", path=(first, "out"), note=(first, "note"))
        assert _run(workflow, a=["1"]) == []
        return next(r.outputs.out for name, r in results(workflow) if name.endswith("second"))

    assert run() == ["7", "kept"]
    result = tmp_path / "wf/a/first/result_first.pklz"
    if damage == "cut":
        result.write_bytes(result.read_bytes()[:40])
    else:
        (result if damage == "result" else result.with_name("x.txt")).unlink()
    assert run() == ["7", "kept"]


def test_results_that_another_version_left_behind_a_step_that_fails_now_are_passed_over(tmp_path):
    def run(**values: str) -> list[Failed]:
        first = Step(log=tmp_path / "log", **values)
        add(a, Step(log=tmp_path / "log"), "last", after=(add(a, first, "first"), "out"))
        add(b, Step(log=tmp_path / "log"), "other")
        return _run(workflow, a=["1"], b=["2"])

    workflow, a, b = _workflow(tmp_path, *"ab")
    assert run() == []
    file, here = tmp_path / "wf/a/last/result_last.pklz", __name__.encode()
    kept = gzip.decompress(file.read_bytes())
    assert here in kept  # the module of its step, which is another now
    file.write_bytes(gzip.compress(kept.replace(here, b"_" * len(here))))
    workflow, a, b = _workflow(tmp_path, *"ab")
    assert [item.step for item in run(raises="bad")] == ["first"]
    assert "wf.b.other" in dict(results(workflow))


def attempt(folder: Path, log: Label) -> dict[str, Any]:
    """Find no disk at the first attempt."""
    with Path(log).open("a") as stream:
        stream.write("x")
    return {"error": "" if len(Path(log).read_text()) > 1 else "MissingInputError: x: is away"}


Attempt = interface(attempt, error=str)


def test_a_step_whose_result_is_an_error_is_tried_again(tmp_path):
    log, found = tmp_path / "log", []
    for _ in range(3):
        workflow, branch = _workflow(tmp_path, "a")
        add(branch, Attempt(log=log), "only")
        assert _run(workflow, a=["1"]) == []
        found += [result.outputs.error for _, result in results(workflow)]
    assert found == ["MissingInputError: x: is away", "", ""]
    assert log.read_text() == "xx"  # what succeeded is done


def test_results_of_other_software_are_not_taken_for_done():
    inputs = Step().inputs
    for name in ("h2lo-bids", "torch", "deepbet", "antspyx"):
        assert f"{name} {version(name)}" in inputs.app_version
    before = inputs.get_hashval()[1]
    inputs.app_version = inputs.app_version.replace(version("torch"), "0.0")
    assert inputs.get_hashval()[1] != before
