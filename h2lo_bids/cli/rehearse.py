"""A run without the work: what it would read, write and return; nothing is touched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from h2lo_bids.bids.dataset import require_own
from h2lo_bids.bids.results import result_path
from h2lo_bids.cli.checks import check_usage
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.failures import Failed, error_of_code, exit_code
from h2lo_bids.cli.promise import RUN, Promise
from h2lo_bids.cli.start import skipped_lines, stand_somewhere
from h2lo_bids.errors import UsageError
from h2lo_bids.settings import Settings
from h2lo_bids.wording import summarise

Describe = Callable[[Settings, Any], Iterator[str]]
Promised = Callable[[Settings, Any], Iterator[Promise]]


def rehearse(settings: Settings, console: Console) -> int:
    """Tell what a run would do, as lines or with ``--output-spec`` as JSON.

    Parameters
    ----------
    settings
        What is asked for.
    console
        Where it is told.

    Returns
    -------
    int
        The exit code of the run, as far as it is known beforehand: what cannot be used
        counts as failed, all else as done.

    Raises
    ------
    H2loError
        What would keep the run from beginning.
    """
    stand_somewhere()
    check_usage(settings)
    if settings.reports_only:
        raise UsageError("--reports-only writes nothing but pages; leave --dry-run out")
    require_own(settings.out_dir)
    found, describe, promised = _of_level(settings)
    code = exit_code(
        [Failed(str(p.path), "discovery", error_of_code(p.exit_code), p.message)
         for p in found.problems],
        len(getattr(found, "scans", ()) or getattr(found, "pairs", ())),
    )  # fmt: skip
    promises = tuple(promised(settings, found))
    if settings.output_spec:
        print(json.dumps(spec_of(settings, found, promises, code), indent=2))
        return code
    console.line(f"dry run: nothing is written; the work folder would be {settings.work}")
    for line in (*found.notes, *describe(settings, found), *_writes(promises)):
        console.line(line)
    for warning in found.warnings:
        console.line(warning, level="warning")
    for line in (*_unusable(found), *skipped_lines(found.skipped)):
        console.line(line)
    if code:
        console.line(f"the run would exit with code {code}: some inputs cannot be used")
    return code


def _of_level(settings: Settings) -> tuple[Any, Describe, Promised]:
    """Find what a level works on, and say how it is told."""
    if settings.level == "participant" and not settings.pairs:
        from h2lo_bids.cli.dryrun import check_beforehand, describe
        from h2lo_bids.cli.participant import find
        from h2lo_bids.cli.promise import of_participants

        scans = find(settings)
        check_beforehand(settings, scans)
        return scans, describe, of_participants
    from h2lo_bids.cli import dryrun_group as told
    from h2lo_bids.cli import promise_group as promise
    from h2lo_bids.cli.pairs import find_pairs

    ways: dict[str, tuple[Describe, Promised]] = {
        "participant": (told.describe_pairs, promise.of_pairs),
        "group": (told.describe_group, promise.of_group),
        "evaluate": (told.describe_evaluation, promise.of_evaluation),
        "benchmark": (told.describe_group, promise.of_benchmark),
    }
    return find_pairs(settings), *ways[settings.level]


def spec_of(
    settings: Settings, found: Any, promises: Iterable[Promise], code: int
) -> dict[str, Any]:
    """Return what ``--output-spec`` prints.

    Parameters
    ----------
    settings, found
        What is asked for, and what was found.
    promises
        What would be written.
    code
        The exit code to expect.
    """
    return {
        "level": settings.level,
        "bids_dir": str(settings.bids_dir),
        "out_dir": str(settings.out_dir),
        "work_dir": str(settings.work),
        "exit_code": code,
        "files": [
            {
                "path": item.path.relative_to(settings.out_dir).as_posix(),
                "kind": item.kind,
                **({"source": item.source} if item.source else {}),
                "exists": item.path.exists(),
            }
            for item in promises
        ],
        "unusable": [{"path": str(p.path), "reason": p.message} for p in found.problems],
        "left_out": [{"path": str(s.path), "reason": s.reason} for s in found.skipped],
        "warnings": list(found.warnings),
        "logs": f"{result_path(settings.out_dir, 'run', run=RUN).name} stands for the time and "
        "a unique name of a run; locks, crash files and logs of single steps come beside these",
    }


def _writes(promises: Iterable[Promise]) -> Iterator[str]:
    for item in promises:
        yield f"write {item.path}{' (exists)' if item.path.exists() else ''}"


def _unusable(found: Any) -> list[str]:
    return summarise((p.path, f"cannot use: {p.message}") for p in found.problems)
