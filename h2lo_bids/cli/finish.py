"""What ends a run of any level."""

from __future__ import annotations

from h2lo_bids.bids.results import result_path
from h2lo_bids.cli.account import Run
from h2lo_bids.cli.failures import write_table


def tell_failures(run: Run, things: str) -> None:
    """Write the table of failures, and list them once more.

    Parameters
    ----------
    run
        With at least one failure.
    things
        What the run's level works on, in the plural.
    """
    table = result_path(run.settings.out_dir, "failures", run=run.logs.name)
    write_table(table, run.failed)
    run.console.line(f"{len(run.failed)} failed, {len(run.done)} {things} done:")
    for failed in run.failed:
        run.console.line(f"  {failed.scan}\t{failed.step}\t{failed.message}")
    run.console.line(f"table of failures: {table}")
