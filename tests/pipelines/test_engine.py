"""The run engine, against workflows of small shell-free nodes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe

from pipelines.engine import RunOptions, last_exception, read_crash, run_workflow


def double(x: int, log: str) -> int:
    import os
    from pathlib import Path

    with Path(log).open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    return 2 * x


def kill_self(x: int) -> int:
    import os
    import signal
    import time

    time.sleep(0.5)  # the others are running by now
    os.kill(os.getpid(), signal.SIGKILL)
    return x


def complain(x: int) -> int:
    from h2lo_bids.errors import BadDataError

    raise BadDataError("/data/sub-01_T1w.nii.gz: is cut short; copy it again")


def _node(function, name, **inputs):
    names = list(inputs) if "x" in inputs else ["x", *inputs]
    node = pe.Node(Function(function=function, input_names=names, output_names=["out"]), name=name)
    for key, value in inputs.items():
        setattr(node.inputs, key, value)
    return node


def _workflow(base: Path, bad, log: Path) -> pe.Workflow:
    """Two independent chains; the first node of one of them is the bad one."""
    workflow = pe.Workflow(name="wf", base_dir=str(base))
    first = _node(bad, "bad", x=1)
    after = _node(double, "after", log=str(log))
    good = _node(double, "good", x=3, log=str(log))
    last = _node(double, "last", log=str(log))
    workflow.connect([(first, after, [("out", "x")]), (good, last, [("out", "x")])])
    return workflow


@pytest.mark.parametrize("nprocs", [1, 2])
def test_a_failed_node_is_told_in_its_own_words_and_the_others_finish(tmp_path, nprocs):
    log = tmp_path / "log"
    workflow = _workflow(tmp_path / "work", complain, log)
    failures = run_workflow(workflow, RunOptions(crash_dir=tmp_path / "crash", nprocs=nprocs))
    (failure,) = failures
    assert failure.node == "wf.bad"
    assert failure.error == "BadDataError"
    assert failure.message == "/data/sub-01_T1w.nii.gz: is cut short; copy it again"
    assert failure.crash_file is not None
    assert "Traceback" in failure.crash_file.read_text()
    assert len(log.read_text().splitlines()) == 2  # good and last, not after


@pytest.mark.slow
def test_a_killed_worker_costs_its_node_only(tmp_path):
    log = tmp_path / "log"
    workflow = _workflow(tmp_path / "work", kill_self, log)
    began = time.monotonic()
    (failure,) = run_workflow(workflow, RunOptions(crash_dir=tmp_path / "crash", nprocs=2))
    assert time.monotonic() - began < 60  # Nipype's own plugin waits for ever
    assert (failure.node, failure.error) == ("wf.bad", "TemporaryError")
    assert "memory" in failure.message
    pids = log.read_text().split()
    assert len(pids) == 2
    assert str(os.getpid()) not in pids


def test_everything_runs_in_this_process_when_there_is_one_processor(tmp_path):
    log = tmp_path / "log"
    node = _node(double, "good", x=1, log=str(log))
    workflow = pe.Workflow(name="wf", base_dir=str(tmp_path))
    workflow.add_nodes([node])
    assert run_workflow(workflow, RunOptions(crash_dir=tmp_path / "crash")) == []
    assert log.read_text().split() == [str(os.getpid())]


def test_a_plugin_of_the_user_replaces_ours_and_status_is_still_told(tmp_path):
    log, seen = tmp_path / "log", []
    node = _node(double, "good", x=1, log=str(log))
    workflow = pe.Workflow(name="wf", base_dir=str(tmp_path))
    workflow.add_nodes([node])
    options = RunOptions(
        crash_dir=tmp_path / "crash",
        nprocs=2,
        plugin={"plugin": "Linear"},
        status_callback=lambda node, status: seen.append((node.name, status)),
    )
    assert run_workflow(workflow, options) == []
    assert seen == [("good", "start"), ("good", "end")]
    assert log.read_text().split() == [str(os.getpid())]


def test_stop_on_first_crash_starts_nothing_else(tmp_path):
    log = tmp_path / "log"
    workflow = pe.Workflow(name="wf", base_dir=str(tmp_path))
    workflow.add_nodes([_node(complain, "a", x=1), _node(double, "b", x=1, log=str(log))])
    options = RunOptions(crash_dir=tmp_path / "crash", stop_on_first_crash=True)
    assert [failure.node for failure in run_workflow(workflow, options)] == ["wf.a"]
    assert not log.exists()


def test_the_last_exception_is_found_in_a_wrapped_traceback():
    text = (
        "Traceback (most recent call last):\n  File x\n"
        "nipype.pipeline.engine.nodes.NodeExecutionError: Exception raised while executing\n\n"
        "Traceback:\n\tTraceback (most recent call last):\n\t  File y\n\t    raise E(\n"
        "\th2lo_bids.errors.MissingInputError: /a b/c: gone: get it\n\n"
    )
    assert last_exception(text) == ("MissingInputError", "/a b/c: gone: get it")
    assert last_exception("Traceback\n  x\nKeyError: 'a'\n") == ("KeyError", "'a'")
    assert last_exception("Traceback\n  x\nMemoryError\n") == ("MemoryError", "MemoryError")


def test_a_crash_file_cut_by_a_full_disk_is_still_a_failure(tmp_path):
    path = tmp_path / "crash-x.txt"
    path.write_text("")
    assert read_crash(path).node == "crash-x"
