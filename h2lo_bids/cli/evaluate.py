"""The evaluate level: score any models on paired scans."""

from __future__ import annotations

from h2lo_bids.cli.checks import check_usage
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.group import ask, finish, prepared_sources, write_report
from h2lo_bids.cli.pairs import find_pairs, prepare_pairs
from h2lo_bids.cli.settings import Settings
from h2lo_bids.cli.start import stand_somewhere, start_run
from h2lo_bids.cli.tasks import ScoreTask


def run_evaluate(settings: Settings, console: Console) -> int:
    """Prepare pairs, score the models on them, and report.

    Parameters
    ----------
    settings
        What is asked for.
    console
        Where it is told.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    H2loError
        If nothing can be begun.
    """
    stand_somewhere()
    check_usage(settings)
    if settings.dry_run:
        from h2lo_bids.cli.dryrun_group import describe_evaluation

        for line in describe_evaluation(settings, find_pairs(settings)):
            console.line(line)
        return 0
    run = start_run(settings, console)
    if settings.reports_only:
        console.line(f"report: {write_report(run)}")
        return 0
    sources = prepared_sources(run, prepare_pairs(run))
    if not sources:
        return finish(run, 0)
    for table in ask(run, ScoreTask(settings, sources))["tables"]:
        console.line(f"table: {table}")
    console.line(f"report: {write_report(run)}")
    return finish(run, len(run.done))
