"""What child processes do for pairs: look for those that are missing, and prepare them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from h2lo_bids.bids.derivatives import pair_paths
from h2lo_bids.bids.pairs import PairSource
from h2lo_bids.cli.checks import read_plugin, synthstrip_weights
from h2lo_bids.cli.failures import Failed
from h2lo_bids.cli.tasks import MissingTask, PairTask
from h2lo_bids.io import exclusive, read_json
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import Send


def find_missing(task: MissingTask, send: Send) -> dict[str, Any]:
    """Compare what was prepared with the scans and settings of now.

    Parameters
    ----------
    task
        The pairs.
    send
        Not used: the answer is the result.

    Returns
    -------
    dict
        ``{"event": "missing", "missing": [name]}``.

    Raises
    ------
    H2loError
        If the pairs cannot serve what comes after, however well they are prepared.
    """
    from pipelines.pairs import missing_pairs

    subjects: dict[str, list[PairSource]] = {}
    people: dict[str, set[str]] = {}
    for pair in task.pairs:
        subjects.setdefault(pair.subject, []).append(pair)
        people.setdefault(pair.contrast, set()).add(pair.subject)
    # Preparing may take hours: nobody should learn only then of a misspelled option.
    if task.settings.level in ("group", "benchmark"):
        from h2lo_bids.training.experiments.plan import check_ahead

        check_ahead(task.settings, people)
    elif task.settings.level == "evaluate":
        from h2lo_bids.models.bundle import load_model
        from h2lo_bids.models.choice import named_models

        for named in named_models(task.settings, tuple(sorted(people))).values():
            for _, bundle in named:
                load_model(bundle)  # for its complaints alone
    missing = [
        name
        for subject, own in subjects.items()
        for name in missing_pairs(subject, tuple(own), _how(task.settings))
    ]
    return {"event": "missing", "missing": missing}


def prepare(task: PairTask, send: Send) -> dict[str, Any]:
    """Prepare one participant's pairs, alone among all runs.

    Parameters
    ----------
    task
        What is to be done.
    send
        Takes events for the parent: ``step``, ``note``, ``failed``, ``done``.

    Returns
    -------
    dict
        The last event.
    """

    def waiting(holder: str) -> None:
        text = f"waiting for another run that prepares these pairs ({holder})"
        send({"event": "note", "text": text})

    # Tasks of a job array want the same pairs: one prepares them, the others find them done.
    lock = task.settings.work / "locks" / f"sub-{task.subject}.lock"
    with exclusive(lock, waiting):
        return _prepare(task, send)


def _prepare(task: PairTask, send: Send) -> dict[str, Any]:
    from nipype import config, logging

    from h2lo_bids.cli.subject import Steps
    from pipelines.engine import RunOptions
    from pipelines.pairs import prepare_pairs

    settings = task.settings
    level = "DEBUG" if settings.verbose > 1 else "INFO"
    config.update_config({"logging": {"workflow_level": level, "interface_level": level}})
    logging.update_logging(config)
    outcome = prepare_pairs(
        task.subject,
        task.pairs,
        replace(_how(settings), omp_nthreads=task.resources.omp_nthreads),
        work_dir=settings.work,
        options=RunOptions(
            crash_dir=task.logs / f"sub-{task.subject}",
            stop_on_first_crash=settings.stop_on_first_crash,
            plugin=read_plugin(settings.use_plugin) if settings.use_plugin else None,
            status_callback=Steps(send),
        ),
    )
    scans = {pair.name: pair.hf.relative_path for pair in task.pairs}
    for item in outcome.failed:
        failed = Failed(scans[item.name], item.step, item.error, item.crash_file)
        send({"event": "failed", "failed": failed})
    for name in (*outcome.made, *outcome.kept):
        send({"event": "done", "scan": scans[name]})
    for pair in task.pairs:
        if pair.name in outcome.made:
            record = pair_paths(settings.out_dir, pair.hf, pair.contrast)["record"]
            for text in read_json(record).get("Warnings", ()):
                send({"event": "note", "level": "warning", "text": text})
    return {"event": "end"}


def _how(settings: Settings) -> Any:
    """Return what decides a pair besides its scans."""
    from h2lo_bids.training.experiments.options import frame_of
    from pipelines.pairs import PairOptions

    return PairOptions(
        out_dir=settings.out_dir,
        frame=frame_of(settings),
        skull_strip=settings.skull_strip,
        synthstrip_weights=synthstrip_weights(settings),
        seed=settings.random_seed,
        own_masks=settings.protocol == "paper",
    )
