"""Finding and preparing pairs: one child process per participant, as for scans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from h2lo_bids.bids.pairs import PairDiscovery, PairQuery, PairSource, discover_pairs
from h2lo_bids.cli.account import Run, fail_rest, hear, start
from h2lo_bids.cli.checks import check_usage
from h2lo_bids.cli.children import Ended, Job, call, run_jobs
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.environment import child_environment
from h2lo_bids.cli.failures import exit_code
from h2lo_bids.cli.finish import tell_failures
from h2lo_bids.cli.fits import duration
from h2lo_bids.cli.resources import plan
from h2lo_bids.cli.start import (
    query_words,
    raise_again,
    report_discovery,
    stand_somewhere,
    start_run,
    write_dataset,
)
from h2lo_bids.cli.tasks import MissingTask, PairTask
from h2lo_bids.errors import TemporaryError
from h2lo_bids.io import remove_temporaries
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import CONTRASTS
from h2lo_bids.wording import all_counted, counted


def run_pairs(settings: Settings, console: Console) -> int:
    """Prepare the pairs of the chosen participants, and do nothing else.

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
    return run_on_pairs(settings, console, work=_prepare_alone)


def run_on_pairs(
    settings: Settings,
    console: Console,
    *,
    work: Callable[[Run], int],
    report: Callable[[Run], Path] | None = None,
) -> int:
    """Begin a run of any level that works on pairs, and do its work.

    Parameters
    ----------
    settings, console
        As in `run_pairs`.
    work
        Does the rest and returns the exit code.
    report
        Assembles the report again, where the level has one.

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
    run = start_run(settings, console)
    if settings.reports_only and report is not None:
        console.line(f"report: {report(run)}")
        return 0
    return work(run)


def _prepare_alone(run: Run) -> int:
    found = prepare_pairs(run)
    flagged = _tell_flagged(run, found)
    if run.failed:
        tell_failures(run, counted(len(run.done), "pair"))
    else:
        text = f"{all_counted(len(run.done), 'pair')} prepared"
        if flagged:
            text += (
                f"; {flagged} flagged: group and evaluate skip them without --keep-flagged-pairs"
            )
        run.console.line(text)
    return exit_code(run.failed, len(run.done))


def _tell_flagged(run: Run, found: PairDiscovery) -> int:
    """Warn of prepared pairs whose registration is doubtful; return how many there are."""
    from h2lo_bids.training.experiments.options import flagged_line, usable_pairs

    settings = replace(run.settings, keep_flagged_pairs=False)
    lines = []
    for contrast, sources in prepared_sources(run, found).items():
        lines += [flagged_line(pair) for pair in usable_pairs(settings, contrast, sources)[1]]
    for line in lines:
        run.console.line(line, level="warning")
    return len(lines)


def prepared_sources(run: Run, found: PairDiscovery) -> dict[str, tuple[str, ...]]:
    """Return the BIDS URIs of the high-field scans whose pairs are prepared, by contrast."""
    sources: dict[str, list[str]] = {}
    for pair in found.pairs:
        if pair.hf.relative_path in run.done:
            sources.setdefault(pair.contrast, []).append(pair.hf.uri)
    return {contrast: tuple(sources[contrast]) for contrast in sorted(sources)}


def find_pairs(settings: Settings) -> PairDiscovery:
    """Find the pairs that the settings ask for."""
    return discover_pairs(
        PairQuery(
            contrasts=settings.contrast or CONTRASTS,
            hf=settings.hf,
            lf=settings.lf,
            lf_dir=settings.lf_dir,
            derivatives=settings.derivatives,
            fusion=settings.lf_fusion,
            **query_words(settings),
        )
    )


def prepare_pairs(run: Run) -> PairDiscovery:
    """Find pairs and prepare those that are not prepared yet.

    Parameters
    ----------
    run
        Takes what is done and what failed.

    Returns
    -------
    PairDiscovery
        All pairs that were found, those that failed among them.

    Raises
    ------
    H2loError
        If no pair is found, or nothing can be begun.
    """
    found = find_pairs(run.settings)
    report_discovery(run, found)
    write_dataset(run)
    missing = _missing(run, found)
    lacking = {pair.name for pair in missing}
    done = [pair for pair in found.pairs if pair.name not in lacking]
    for pair in done:
        run.told.add(pair.hf.relative_path)
        run.done.add(pair.hf.relative_path)
    if missing:
        _prepare(run, missing, len(done))
    elif found.pairs:
        run.console.line(f"{all_counted(len(found.pairs), 'pair')} prepared already")
    return found


def _missing(run: Run, found: PairDiscovery) -> list[PairSource]:
    """Return the pairs that a look at their records does not find whole and current."""
    if not found.pairs:
        return []
    env = child_environment(run.settings.work, 1)
    log = run.logs / "checks.log"
    run.console.status("checking which pairs are prepared")
    result = call(MissingTask(run.settings, found.pairs), env, log, tick=run.console.tick)
    run.console.status("")
    if result["event"] == "error":
        raise_again(result, log)
    names = set(result["missing"])
    return [pair for pair in found.pairs if pair.name in names]


def _prepare(run: Run, pairs: list[PairSource], done: int) -> None:
    subjects: dict[str, list[PairSource]] = {}
    # Tasks of a job array begin at different subjects, so that they share the work.
    first = sum(run.settings.fold) % len(pairs)
    for pair in (*pairs[first:], *pairs[:first]):
        subjects.setdefault(pair.subject, []).append(pair)
    run.total = len(subjects)
    resources = plan(run.settings, run.total)
    if resources.warning:
        run.console.line(resources.warning, level="warning")
    already = f", {done} prepared already" if done else ""
    run.console.line(
        f"preparing {counted(len(pairs), 'pair')} of {counted(run.total, 'participant')}{already}; "
        f"{resources.children} at a time, {counted(resources.omp_nthreads, 'thread')} per step"
    )
    env = child_environment(run.settings.work, resources.omp_nthreads)

    def job(subject: str) -> Job:
        own = tuple(subjects[subject])
        task = PairTask(run.settings, subject, own, resources, run.logs)
        return Job(subject, task, run.logs / f"sub-{subject}.log")

    run_jobs(
        (job(subject) for subject in subjects),
        limit=resources.children,
        env=env,
        on_start=lambda job: start(run, job, "pair"),
        tick=run.console.tick,
        on_event=lambda job, event: hear(run, job, event),
        on_end=lambda ended: _end(run, ended),
    )


def _end(run: Run, ended: Ended) -> bool:
    """Close the account of one participant; say whether to go on with others."""
    job = ended.job
    run.steps.pop(job.name, None)
    run.ended += 1
    if not run.steps:
        run.console.status("")
    remedy = "run again with fewer --nprocs or on a machine with more memory"
    fail_rest(run, job, TemporaryError.__name__, f"{ended.cause}; {remedy}")
    if ended.killed:
        remove_temporaries(run.settings.out_dir / f"sub-{job.name}", older_than=0.0)
    scans = job.task.scans
    done = sum(scan.relative_path in run.done for scan in scans)
    run.console.line(
        f"[{run.ended}/{run.total}] sub-{job.name}: {done} of {counted(len(scans), 'pair')} "
        f"prepared in {duration(ended.seconds)}"
    )
    return not (run.settings.stop_on_first_crash and run.failed)
