"""The account of a run: what was done, what failed, what goes on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from h2lo_bids.bids.discover import Problem
from h2lo_bids.cli.children import Job
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.failures import Failed, error_of_code
from h2lo_bids.errors import TemporaryError
from h2lo_bids.settings import Settings
from h2lo_bids.wording import counted, summarise

LOST = "participant"
"""The step that is named when a participant's process ended before it could tell."""


@dataclass
class Run:
    """One run, as it goes on.

    Parameters
    ----------
    settings
        What is asked for.
    console
        Where it is told.
    logs
        The run's own folder in ``out_dir/logs``.
    done, failed, told, unlike
        Scans that are done, scans that failed, all that were spoken of, and those that are
        not like the training data, by path relative to the input dataset.
    steps
        What each running participant is at.
    ended, total
        How many participants have ended, and how many there are.
    """

    settings: Settings
    console: Console
    logs: Path
    done: set[str] = field(default_factory=set)
    failed: list[Failed] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    unlike: set[str] = field(default_factory=set)
    steps: dict[str, str] = field(default_factory=dict)
    ended: int = 0
    total: int = 0


def fail(run: Run, failed: Failed) -> None:
    """Take note of a failure, and tell it once."""
    run.failed.append(failed)
    run.console.line(failed.line, level="error")


def fail_problems(run: Run, problems: Iterable[Problem]) -> None:
    """Take note of what discovery found to be unusable, and print one line for each kind."""
    root, problems = run.settings.bids_dir, tuple(problems)
    for problem in problems:
        inside = problem.path.is_relative_to(root)  # else it is of a second dataset
        name = problem.path.relative_to(root).as_posix() if inside else str(problem.path)
        name = "" if problem.path == root else name  # of the dataset as a whole
        error = error_of_code(problem.exit_code)
        run.failed.append(Failed(name, "discovery", error, problem.message))
    for line in summarise((problem.path, problem.message) for problem in problems):
        run.console.line(line, level="error")


def fail_alike(run: Run, failed: Iterable[Failed]) -> None:
    """Take note of failures that come together, and print one line for each kind."""
    failed = tuple(failed)
    run.failed += failed
    for line in summarise((Path(item.scan), item.line) for item in failed):
        run.console.line(line, level="error")


def start(run: Run, job: Job, thing: str) -> None:
    """Say that a participant is begun, and with how many things."""
    status(run, job, "starting")
    things = counted(len(job.task.scans), thing)
    run.console.progress(f"sub-{job.name}: started, {things}")


_STEPS = {
    "find_brain": "brain extraction",
    "align": "registration",
    "register": "registration",
    "check": "quality check",
    "check_registration": "quality check",
    "conform": "resampling",
    "normalise_frame": "normalisation",
    "normalise_native": "normalisation",
    "fuse": "fusion",
    "figures": "figures",
    "synthesize": "synthesis",
    "enhance": "enhancement",
}


def plain_step(node: str) -> str:
    """Say what a node of a workflow does, and to which scan.

    Examples
    --------
    >>> plain_step("scan_ses_HF_T1w_wf.find_brain"), plain_step("scan_T1w_wf.synthesize_native")
    ('ses-HF_T1w brain extraction', 'T1w synthesis')
    >>> plain_step("pair_sub_01_T2w_wf.align_0"), plain_step("scan_T1w_wf.ds_record")
    ('T2w registration', 'T1w writing record')
    """
    branch, _, rest = node.partition(".")
    step = re.sub(r"_\d+$|(?<=^register)_.*|(?<=^synthesize)_.*", "", rest)
    step = step.replace("ds_", "writing ")
    *words, suffix = branch.removesuffix("_wf").split("_")[1:] or [branch]
    entities = zip(words[::2], words[1::2], strict=False)
    scan = "_".join([f"{key}-{label}" for key, label in entities if key != "sub"] + [suffix])
    return f"{scan} {_STEPS.get(step) or step.replace('_', ' ')}".strip()


def status(run: Run, job: Job, step: str) -> None:
    """Show what each participant is at."""
    run.steps[job.name] = step
    now = ", ".join(f"sub-{name}: {what}" for name, what in run.steps.items())
    run.console.status(f"[{run.ended}/{run.total}] {now}")


def hear(run: Run, job: Job, event: dict[str, Any]) -> None:
    """Take in one event of a child."""
    kind = event["event"]
    if kind == "step":
        status(run, job, plain_step(event["step"]))
        if "seconds" in event:
            say = run.console.line if run.settings.verbose else run.console.to_log
            say(f"sub-{job.name}: {plain_step(event['step'])} took {event['seconds']:.1f} s")
    elif kind == "note":
        run.console.line(f"sub-{job.name}: {event['text']}", level=event.get("level", ""))
    elif kind == "failed":
        run.told.add(event["failed"]["scan"])
        fail(run, Failed(**event["failed"]))
    elif kind == "done":
        run.told.add(event["scan"])
        run.done.add(event["scan"])
    elif kind == "unlike":
        run.unlike.add(event["scan"])
    elif kind == "error":
        # The child as a whole: every scan that it has not spoken of.
        fail_rest(run, job, event["error"], event["message"])


def fail_rest(run: Run, job: Job, error: str, message: str) -> None:
    """Let every scan of a participant fail that was not spoken of yet."""
    for scan in job.task.scans:
        if scan.relative_path not in run.told:
            run.told.add(scan.relative_path)
            log = "" if error == TemporaryError.__name__ else str(job.log)
            fail(run, Failed(scan.relative_path, LOST, error, message, log))
