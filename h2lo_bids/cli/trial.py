"""The trial level, and what labels and conditions add to each participant."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from h2lo_bids.cli.failures import Failed
from h2lo_bids.cli.tasks import SubjectTask, TrialTask
from h2lo_bids.errors import H2loError
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import Send

if TYPE_CHECKING:
    from h2lo_bids.cli.console import Console
    from h2lo_bids.cli.execution import Run
    from h2lo_bids.reports.records import ScanReport
    from h2lo_bids.trial.scan import Plan

STEP = "trial"
MOST_ROWS = 20


def run_collect(settings: Settings, console: Console) -> int:
    """Collect the study from the ratings that are there; return the exit code."""
    from h2lo_bids.cli.checks import check_usage
    from h2lo_bids.cli.execution import stand_somewhere, start_run, write_dataset

    stand_somewhere()
    check_usage(settings)
    with start_run(settings, console) as run:
        write_dataset(run)
        collect(run)
    return 0


def collect(run: Run) -> None:
    """Write the study's tables and page, unless some participants were chosen."""
    if run.settings.participant_label and not run.settings.collect:
        run.console.line("run trial with --collect once all participants are done")
        return
    result = run.ask(TrialTask(run.settings), "collecting the study")
    for note in result["notes"]:
        run.console.line(note, level="warning")
    run.console.line(f"report: {result['path']}")


def collect_study(task: TrialTask, send: Send) -> dict[str, Any]:
    """Write the tables, the page and the reader set of a study; return the last event."""
    from h2lo_bids.trial.report import write_trial_report
    from h2lo_bids.trial.study import collect

    settings = task.settings
    study = collect(settings.out_dir, seed=settings.random_seed)
    if settings.reader_set:
        from h2lo_bids.trial.reader_set import write_reader_set

        study.notes += write_reader_set(settings.out_dir, settings.reader_set, settings.random_seed)
    path = write_trial_report(settings.out_dir, study, settings.words())
    return {"event": "collected", "path": str(path), "notes": study.notes}


def wanted(settings: Settings) -> bool:
    """Tell whether scans have labels or conditions."""
    return bool(settings.labels or settings.condition or settings.level == STEP)


def plan_of(task: SubjectTask) -> Plan:
    """Return what is done with each scan."""
    from h2lo_bids.cli.subject import device_of, precision_of
    from h2lo_bids.outputs import grids_for
    from h2lo_bids.synthesis.options import EngineOptions
    from h2lo_bids.trial.condition import conditions_of
    from h2lo_bids.trial.scan import Plan

    settings = task.settings
    return Plan(
        settings.out_dir,
        settings.labels,
        conditions_of(settings),
        grids_for(settings),
        rated=settings.level == STEP,
        kept=1 if settings.reader_set else 0,
        seed=settings.random_seed,
        options=EngineOptions(
            device=device_of(settings.device),
            precision=precision_of(settings),
            threads=task.resources.omp_nthreads,
        ),
    )


def examine(
    task: SubjectTask, records: list[ScanReport], broken: set[str], send: Send
) -> tuple[list[Failed], list[ScanReport]]:
    """Do what labels and conditions ask for with each scan that is not broken.

    Returns
    -------
    failed : list of Failed
        Scans of which something could not be done; the others go on.
    records : list of ScanReport
        With the lesions' table and pictures.
    """
    from h2lo_bids.models.choice import bundles_for
    from h2lo_bids.trial.report import draw_lesions, region_rows
    from h2lo_bids.trial.scan import Examination

    settings, plan, failed = task.settings, plan_of(task), []
    bundles: dict[Any, Any] = {}
    by_stem = {record.stem: record for record in records}
    for scan in task.scans:
        if scan.relative_path in broken:
            continue

        def bundle_of(condition: Any, suffix: str = scan.suffix) -> Any:
            model = condition.model if condition else None
            if (model, suffix) not in bundles:
                own = replace(settings, model=((suffix, model),)) if model else settings
                bundles[model, suffix] = bundles_for(own, (suffix,))[suffix]
            return bundles[model, suffix]

        send({"event": "step", "step": f"{scan.stem} {STEP}"})
        work = Examination(scan, plan, bundle_of)
        try:
            found = work.run()
        except H2loError as err:
            failed.append(Failed(scan.relative_path, STEP, err))
            continue
        for note in found.notes:
            send({"event": "note", "level": "warning", "text": f"{scan.stem}: {note}"})
        if scan.stem in by_stem and found.rows:
            record = by_stem[scan.stem]
            figures = draw_lesions(plan.out_dir, scan, found)
            by_stem[scan.stem] = replace(
                record,
                figures=(*record.figures, *figures),
                regions=region_rows(found.rows, MOST_ROWS),
            )
    return failed, list(by_stem.values())
