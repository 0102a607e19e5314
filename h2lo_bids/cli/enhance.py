"""What the participant level does for low-field scans, beside what it does for all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from h2lo_bids.cli.checks import synthstrip_weights
from h2lo_bids.cli.failures import Failed
from h2lo_bids.cli.subject import device_of, given_masks, models_of, precision_of, scan_word
from h2lo_bids.cli.tasks import SubjectTask
from h2lo_bids.errors import H2loError
from h2lo_bids.vocabulary import Send

LEFT_OUT = "fusion"
"""The step that is named for a scan without which the others were fused."""


def build_enhancement(task: SubjectTask, send: Send, name: str) -> Any:
    """Build the workflow that enhances one participant's low-field scans.

    Parameters
    ----------
    task
        With `sources`.
    send
        Takes events for the parent.
    name
        Of the workflow.
    """
    from pipelines.workflows.enhance import EnhanceOptions, EnhanceSpec, init_enhance_wf

    settings = task.settings
    masks = given_masks(settings, (part for item in task.sources for part in item.parts), send)
    models = models_of(task)

    def mask_path(part: Any) -> Path | None:
        given = masks[part]
        return given[0] if given else None

    return init_enhance_wf(
        name=name,
        specs=tuple(
            EnhanceSpec(
                scan_word(source.scan),
                source,
                models[source.scan.suffix],
                tuple(mask_path(part) for part in source.parts),
            )
            for source in task.sources
        ),
        out_dir=settings.out_dir,
        options=EnhanceOptions(
            skull_strip=settings.skull_strip,
            synthstrip_weights=synthstrip_weights(settings),
            device=device_of(settings.device),
            precision=precision_of(settings),
            random_seed=settings.random_seed,
            omp_nthreads=task.resources.omp_nthreads,
        ),
    )


def left_out(task: SubjectTask, failed: Iterable[Failed]) -> list[Failed]:
    """Return the scans without which the others of their session were fused.

    Parameters
    ----------
    task
        What was to be done; it has been.
    failed
        What is known to have failed as a whole.
    """
    from h2lo_bids.reports.records import load_subject_report

    broken = {item.scan for item in failed}
    stems = {scan.stem for scan in task.scans if scan.relative_path not in broken}
    try:
        records = load_subject_report(task.settings.out_dir, task.subject).scans
    except H2loError:  # nothing was done
        return []
    return [
        Failed(path, LEFT_OUT, error, message)
        for record in records
        if record.stem in stems
        for path, error, message in record.lost
    ]
