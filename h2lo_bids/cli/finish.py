"""What ends a run of any level."""

from __future__ import annotations

from h2lo_bids.bids.results import result_path
from h2lo_bids.cli.account import Run
from h2lo_bids.cli.failures import write_table
from h2lo_bids.wording import summarise


def tell_failures(run: Run, things: str) -> None:
    """Write the table of failures, and list them once more, one line for each kind.

    Parameters
    ----------
    run
        With at least one failure.
    things
        What the run's level works on, in the plural.
    """
    table = result_path(run.settings.out_dir, "failures", run=run.logs.name)
    write_table(table, run.failed)
    run.console.line(f"{len(run.failed)} failed, {len(run.done)} {things} done")
    root = run.settings.bids_dir
    if any(failed.step != "discovery" for failed in run.failed):  # else it was just printed
        for line in summarise((root / f.scan, f.line) for f in run.failed):
            run.console.line(f"  {line}")
    run.console.line(f"table of failures: {table}")
