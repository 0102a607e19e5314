"""The benchmark level: every method on the same pairs and folds, in one table."""

from __future__ import annotations

from pathlib import Path

from h2lo_bids.cli.console import Console
from h2lo_bids.cli.execution import Run
from h2lo_bids.cli.group import Plan, ask, cross_validate, write_report
from h2lo_bids.cli.pairs import run_on_pairs
from h2lo_bids.settings import Settings
from h2lo_bids.training.experiments import CollectTask, TableTask


def run_benchmark(settings: Settings, console: Console) -> int:
    """Prepare pairs, fit and score every method on every fold, and write Table 1."""
    return run_on_pairs(
        settings,
        console,
        work=lambda run: cross_validate(run, _close),
        report=_write_table,
    )


def _close(run: Run, plan: Plan) -> int:
    ask(run, CollectTask(run.settings, tuple(plan)))
    run.console.line(f"table: {_write_table(run)}")
    run.console.line(f"report: {write_report(run)}")
    return 0


def _write_table(run: Run) -> Path:
    return Path(ask(run, TableTask(run.settings))["path"])
