"""What begins a run of any level, and what every level tells in the same way."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomli_w

from h2lo_bids import __version__
from h2lo_bids.bids.discover import Discovery, Skipped
from h2lo_bids.bids.pairs import PairDiscovery
from h2lo_bids.bids.query import load_filter_file
from h2lo_bids.cli.account import Run, fail_problems
from h2lo_bids.cli.checks import prepare_folders
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.environment import temporary_folder
from h2lo_bids.errors import H2loError
from h2lo_bids.io import atomic_write_text, common_lock, exclusive
from h2lo_bids.settings import Settings
from h2lo_bids.wording import summarise


def stand_somewhere() -> None:
    """Leave a current folder that was deleted: Nipype and others want one, and none is used."""
    try:
        Path.cwd()
    except FileNotFoundError:
        os.chdir("/")


def start_run(settings: Settings, console: Console) -> Run:
    """Create the folders, write down what was asked for, and open the log.

    Raises
    ------
    CannotCreateError
        If a folder cannot be created or written.
    """
    prepare_folders(settings)
    tempfile.tempdir = str(temporary_folder(os.environ, settings.work))
    name = f"{time.strftime('%Y%m%dT%H%M%S')}_{uuid.uuid4()}"
    run = Run(settings, console, settings.out_dir / "logs" / name)
    record = {
        "version": __version__,
        "bids-dir": str(settings.bids_dir),
        "out-dir": str(settings.out_dir),
        "analysis-level": settings.level,
        "command": shlex.join(["h2lo", *sys.argv[1:]]),
        "python": sys.version.split()[0],
    }
    if "SLURM_ARRAY_JOB_ID" in os.environ:  # by which h2lo-slurm finds what this run records
        array, task = os.environ["SLURM_ARRAY_JOB_ID"], os.environ.get("SLURM_ARRAY_TASK_ID", "0")
        record["slurm-job"] = f"{array}_{task}"
    config = tomli_w.dumps({**settings.to_options(), "run": record})
    atomic_write_text(run.logs / "config.toml", config)
    console.open_log(run.logs / "h2lo.log")
    console.line(f"h2lo {__version__}: {settings.bids_dir} -> {settings.out_dir}")
    return run


def query_words(settings: Settings) -> dict[str, Any]:
    """Return what a search for scans and one for pairs are asked alike."""
    filters = (
        {} if settings.bids_filter_file is None else load_filter_file(settings.bids_filter_file)
    )
    return {
        "bids_dir": settings.bids_dir,
        "participant_labels": settings.participant_label,
        "session_labels": settings.session_label,
        "filters": filters,
        "inline": settings.filter,
        # A dry run may not write an index, and one that is not kept is of no use.
        "database_dir": None if settings.dry_run else settings.bids_database_dir,
        "skip_bids_validation": settings.skip_bids_validation,
    }


def report_discovery(run: Run, found: Discovery | PairDiscovery) -> None:
    """Print what a search noted, warns of, skipped and cannot use; one line for each kind."""
    for note in found.notes:
        run.console.line(note)
    for warning in found.warnings:
        run.console.line(warning, level="warning")
    for line in skipped_lines(found.skipped):
        run.console.line(line)
    fail_problems(run, found.problems)


def skipped_lines(skipped: Iterable[Skipped]) -> list[str]:
    """Return one line for each kind of reason."""
    # A reason that begins with the participant need not name it again.
    items = ((s.path, s.reason.removeprefix(f"{s.path.name}: ")) for s in skipped)
    return summarise((path, f"skipped: {path}: {reason}") for path, reason in items)


def by_subject(root: Path, items: Iterable[Any]) -> dict[str, list[Any]]:
    """Group what concerns images by the participant whose folder holds them."""
    groups: dict[str, list[Any]] = {}
    for item in items:
        for name in item.path.relative_to(root).parts[:1]:  # none for the dataset as a whole
            groups.setdefault(name.removeprefix("sub-"), []).append(item)
    return groups


def raise_again(result: dict[str, Any], log: Path) -> None:
    """Raise in this process what a child reported; its log has the traceback of a surprise."""
    from h2lo_bids import errors

    kind = getattr(errors, result["error"], None)
    if kind is None:
        raise H2loError(f"{result['error']}: {result['message']}; see {log}, and report it")
    raise kind(result["message"])


def write_dataset(run: Run) -> None:
    """Write the files at the root of the output dataset."""
    from h2lo_bids.bids.dataset import write_dataset_files

    settings = run.settings
    links = dict(settings.derivatives)
    if settings.lf_dir is not None:
        links["lf"] = settings.lf_dir
    # Links of other runs are kept, so that reading and writing belong together.
    with exclusive(common_lock(settings.out_dir, "dataset")):
        write_dataset_files(settings.out_dir, bids_dir=settings.bids_dir, links=links)
