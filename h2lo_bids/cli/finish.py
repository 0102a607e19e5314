"""What ends a run of any level."""

from __future__ import annotations

from h2lo_bids.bids.derivatives import result_path
from h2lo_bids.cli.account import Run
from h2lo_bids.cli.failures import write_table


def tell_failures(run: Run, done: str) -> None:
    """Write the table of failures and say how many there are; each was printed when it came.

    Parameters
    ----------
    run
        With at least one failure.
    done
        How many things of which kind are done.
    """
    table = result_path(run.settings.out_dir, "failures", run=run.logs.name)
    write_table(table, run.failed)
    run.console.line(f"{len(run.failed)} failed, {done} done; table of failures: {table}")
