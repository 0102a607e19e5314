"""What a job array is made of: tasks, and stages of tasks."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from h2lo_bids.cli.console import printable
from h2lo_bids.cli.settings import Settings


@dataclass(frozen=True)
class Task:
    """What one element of an array does.

    Parameters
    ----------
    name
        Unique in its stage: letters, digits, ``+``, ``-`` and ``_``.
    words
        Added to the stage's command line; they hold no space.
    done
        Whether that was done before, so that it need not be submitted.
    """

    name: str
    words: tuple[str, ...]
    done: bool = False


@dataclass(frozen=True)
class Stage:
    """An array of tasks; it begins when the stage before it has ended.

    Parameters
    ----------
    name
        A word.
    settings
        What all its tasks have in common.
    tasks
        At least one.
    own_work
        Whether each task has a work folder of its own; fits share one, where they
        find the checkpoints of an earlier try.
    """

    name: str
    settings: Settings
    tasks: tuple[Task, ...]
    own_work: bool


def warn_of(found: Any, settings: Settings) -> None:
    """Print what concerns the dataset, since no task, which has one participant, comes upon it."""
    whole = [problem.message for problem in found.problems if problem.path == settings.bids_dir]
    for text in (*found.warnings, *whole):
        print(f"h2lo-slurm: warning: {printable(text)}", file=sys.stderr)
