"""The evaluate level: score any models on paired scans."""

from __future__ import annotations

from h2lo_bids.cli.console import Console
from h2lo_bids.cli.execution import Run
from h2lo_bids.cli.failures import Failed
from h2lo_bids.cli.group import ask, finish, write_report
from h2lo_bids.cli.pairs import prepare_pairs, prepared_sources, run_on_pairs
from h2lo_bids.errors import BadDataError
from h2lo_bids.settings import Settings
from h2lo_bids.training.experiments import ScoreTask


def run_evaluate(settings: Settings, console: Console) -> int:
    """Prepare pairs, score the models on them, and report."""
    return run_on_pairs(settings, console, work=_work, report=write_report)


def _work(run: Run) -> int:
    sources = prepared_sources(run, prepare_pairs(run))
    if not sources:
        return finish(run, 0)
    result = ask(run, ScoreTask(run.settings, sources))
    run.done -= {scan for scan, _ in result["lost"]}
    for step, items in (("score", result["lost"]), ("reference", result["unusable"])):
        run.fail_alike(Failed(name, step, BadDataError(line)) for name, line in items)
    for table in result["tables"]:
        run.console.line(f"table: {table}")
    run.console.line(f"report: {write_report(run)}")
    return finish(run, len(run.done))
