"""The levels that work on pairs: group (also called train), evaluate and benchmark."""

from __future__ import annotations

import math
import shlex
import shutil
import time
from collections.abc import Sequence
from typing import Any

from h2lo_bids.cli.console import Console
from h2lo_bids.cli.execution import Run, start_run
from h2lo_bids.cli.pairs import prepare_pairs, prepared_sources
from h2lo_bids.cli.resources import fit_threads
from h2lo_bids.errors import Failed, TemporaryError, exit_code
from h2lo_bids.processes import Event, Job, Process
from h2lo_bids.reports.records import Failure
from h2lo_bids.settings import Settings
from h2lo_bids.training.experiments import FitTask, Plan, Sources
from h2lo_bids.vocabulary import CONTRASTS, Step
from h2lo_bids.wording import all_counted, counted, duration

Plans = dict[str, Plan]
_QUIET = 30.0  # seconds between two lines of one fit in the log
_GRACE = 600.0  # a step on whole volumes takes minutes on a CPU; a fit saves itself after it


def run_level(settings: Settings, console: Console) -> int:
    """Prepare pairs, fit or score models on them, and report; return the exit code."""
    with start_run(settings, console) as run:
        if settings.reports_only:
            if settings.level == "benchmark":
                _collect(run)
            _write_report(run)
            return 0
        sources, done = prepared_sources(run, prepare_pairs(run)), 0
        if any(sources.values()) and not run.gives_up:
            work = _evaluate if settings.level == "evaluate" else _cross_validate
            done = work(run, sources)
        return _finish(run, done)


def _evaluate(run: Run, sources: Sources) -> int:
    """Score the models; return how many pairs were scored."""
    # Those done are without flagged pairs, which are skipped.
    run.done, failed = _ask(run, "scoring the models", "scoring:score", sources)
    run.fail_alike(failed)
    _write_report(run)
    return len(run.done)


def _cross_validate(run: Run, sources: Sources) -> int:
    """Fit every fold, or those that are asked for, collect, and return how many fits are done."""
    settings, console = run.settings, run.console
    plans: Plans = _ask(run, "dividing the subjects", "fits:plan_folds", sources)
    for contrast, plan in plans.items():
        text = f"{contrast}: {counted(len(plan.sources), 'pair')}"
        for fold in plan.folds:
            text += f"; fold {fold.index}: {len(fold.train)} to train"
            text += f", {len(fold.validation)} to validate, {len(fold.test)} to test"
        console.line(text)
    done = fit_folds(run, plans)
    if settings.fold:
        console.line("run the same command without --fold to collect the results")
    if settings.fold or run.gives_up:
        return done
    if settings.folds != "0":
        _collect(run, tuple(plans))
    if settings.level != "benchmark" and not settings.no_final:
        done += _fit_final(run, plans)
    _write_report(run)
    _print_models(run)
    return done


def _ask(run: Run, status: str, work: str, *args: Any) -> Any:
    """Let a process with the threads of a fit call a function of the experiments."""
    work = f"h2lo_bids.training.experiments.{work}"
    return run.ask(status, work, run.settings, *args, threads=fit_threads(run.settings))


def _write_report(run: Run) -> None:
    """Write ``group.html`` from what is in the output folder, and what failed in this run."""
    failures = tuple(Failure(item.step, item.line) for item in run.failed)
    run.console.line(f"report: {_ask(run, 'writing the report', 'results:report', failures)}")


def _collect(run: Run, contrasts: tuple[str, ...] = ()) -> None:
    """Write the tables of the contrasts, and that of a benchmark."""
    page = _ask(run, "collecting the scores", "results:collect", contrasts)
    if page is not None:
        run.console.line(f"{'report' if run.settings.reports_only else 'table'}: {page}")


def _finish(run: Run, done: int) -> int:
    """Sum up, and choose the exit code."""
    fits = sum(name.startswith(("folds/", "models/")) for name in run.done)
    fitted = f" and {counted(fits, 'fit')}" if run.settings.level != "evaluate" else ""
    run.sum_up(counted(len(run.done) - fits, "pair") + fitted)
    if run.settings.clean_workdir and not (run.failed or run.settings.fold):
        clean_workdir(run.settings)
    return exit_code(run.failed, done)


def clean_workdir(settings: Settings) -> None:
    """Delete what this run has no more use of, but no other run's unfinished fits."""
    training = settings.work / "training"
    folders = list(settings.work.glob("sub_*_pairs_wf"))
    if settings.level != "evaluate":
        for contrast in settings.contrast or CONTRASTS:
            folders += [training / contrast / name for name in settings.arms]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    if not any(any(training.glob(f"{contrast}/*")) for contrast in CONTRASTS):
        shutil.rmtree(training, ignore_errors=True)  # nobody reads its copies of pairs any more


def fit_folds(run: Run, plans: Plans) -> int:
    """Fit the folds that are not done; return how many are done in all that were wanted."""
    settings = run.settings
    threads = fit_threads(settings)
    wanted = [
        (FitTask(settings, contrast, method, plan, fold, threads),
         (method, fold.index) in plan.done)
        for contrast, plan in plans.items()
        for method in settings.arms
        for fold in plan.folds
        if not settings.fold or fold.index in settings.fold
    ]  # fmt: skip
    todo = [task for task, done in wanted if not done]
    if settings.collect:  # other tasks fit the methods, and external tools run here
        external = dict(settings.external)
        for name in (task.name for task in todo if task.method not in external):
            text = f"{name}: is missing; fit it with --fold {name.rpartition('-')[2]}"
            run.fail(Failed(name, "collect", TemporaryError(f"{text}, then collect again")))
        todo = [task for task in todo if task.method in external]
    if todo:
        ready = f", {len(wanted) - len(todo)} done already" if len(todo) < len(wanted) else ""
        run.console.line(
            f"fitting {counted(len(todo), 'fold')}{ready}; "
            f"{settings.n_folds_parallel} at a time, {counted(threads, 'thread')} each"
        )
        run_fits(run, todo, at_a_time=settings.n_folds_parallel)
    elif wanted and all(done for _, done in wanted):
        verb = "is" if len(wanted) == 1 else "are"
        run.console.line(f"{all_counted(len(wanted), 'fold')} {verb} done already")
    run.done.update(task.name for task, done in wanted if done)
    return sum(task.name in run.done for task, _ in wanted)


def _fit_final(run: Run, plans: Plans) -> int:
    """Fit the final model of each contrast whose folds are all done; return how many."""
    settings = run.settings
    tasks = []
    for contrast, plan in plans.items():
        method = settings.methods[0]
        lacking = [
            str(fold.index)
            for fold in plan.folds
            if f"folds/{contrast}/{method}/fold-{fold.index}" not in run.done
        ]
        if lacking:
            text = f"no final model, as fold {', '.join(lacking)} of {method} is missing"
            run.console.line(f"{contrast}: {text}", level="warning")
        else:
            # As many threads as in the folds, so that a rerun with others gives the same bits.
            threads = fit_threads(settings)
            tasks.append(FitTask(settings, contrast, method, plan, None, threads))
    run_fits(run, tasks, at_a_time=1)
    return sum(task.name in run.done for task in tasks)


def _print_models(run: Run) -> None:
    """Print how the final models are used."""
    settings = run.settings
    names = {contrast: f"models/{settings.methods[0]}_{contrast}" for contrast in CONTRASTS}
    made = {c: settings.out_dir / name for c, name in names.items() if name in run.done}
    for contrast, path in made.items():
        run.console.line(f"{contrast} model: {path}")
    if made:
        words = [f"{contrast}={path}" for contrast, path in made.items()]
        task = ["--task", settings.task] if settings.fits_enhancer else []
        line = ["h2lo", "BIDS_DIR", "OUT_DIR", "participant", *task, "--model", *words]
        run.console.line(f"to use it: {shlex.join(line)}")


def run_fits(run: Run, tasks: Sequence[FitTask], *, at_a_time: int) -> None:
    """Run fits, some at a time; one that fails does not stop the others."""
    console, printed = run.console, dict[str, float]()
    jobs = [
        Job(t.name, t.work, (t,), run.logs / f"{t.name.replace('/', '_')}.log", _GRACE)
        for t in tasks
    ]
    run.do(
        jobs,
        at_a_time,
        fit_threads(run.settings),
        lambda count, end: _end_fit(run, count, end),
        on_start=lambda job: run.status(job.name, "starting"),
        on_event=lambda job, event: _hear_fit(run, job, event, printed),
        on_stop=lambda count: console.line(
            f"waiting for {counted(count, 'fit')} to save the current step; Ctrl-C ends them now"
        ),
    )


def _hear_fit(run: Run, job: Job, event: Event, printed: dict[str, float]) -> None:
    """Take in one event of a fit; a line of progress now and then is enough."""
    kind, line = event["event"], event["text"]
    if isinstance(line, Step):
        text, now = line[line.index("step ") :], time.monotonic()  # without its title
        run.status(job.name, text.partition(":")[0])  # without the losses
        if run.settings.verbose or now - printed.get(job.name, -math.inf) >= _QUIET:
            printed[job.name] = now
            run.console.line(f"{job.name}: {text}")
    elif kind == "said":
        run.status(job.name, line)
        run.console.to_log(line)
    else:
        run.hear(job, event)


def _end_fit(run: Run, count: str, ended: Process) -> None:
    name = ended.job.name
    remedy = "run again to resume, with more memory or a lower --n-folds-parallel"
    run.fail_job(ended, "fit", [name], remedy)
    if all(item.scan != name for item in run.failed):  # else it, or some test subjects, are lost
        run.done.add(name)
    end = "done in" if name in run.done else "failed after"
    run.console.line(f"{count} {name}: {end} {duration(ended.seconds)}")
