"""All that is done for one participant, inside its own process."""

from __future__ import annotations

import functools
import shutil
import time
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from h2lo_bids.bids.derivatives import given_mask, mask_in
from h2lo_bids.bids.names import identifier
from h2lo_bids.bids.scan import Scan
from h2lo_bids.cli.execution import Outcome, alone
from h2lo_bids.cli.participant import SubjectTask, write_report
from h2lo_bids.cli.resources import step_threads
from h2lo_bids.errors import Failed, H2loError, error_named, recorded
from h2lo_bids.processes import note
from h2lo_bids.reports.records import FUSION, ScanReport, from_json
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import SYNTHESIZE, Send

if TYPE_CHECKING:
    from pipelines.engine import StatusCallback
    from pipelines.participant import ImageSpec

STEP = "trial"


def process(task: SubjectTask, send: Send) -> Outcome:
    """Run one participant's workflow, alone among all runs, and write the report."""
    settings = task.settings
    with alone(settings, task.subject, send, "of this participant"):
        failed, scans = _run(task, send)
        examined = settings.labels or settings.condition or settings.level == STEP
        if examined and settings.task == SYNTHESIZE:
            more, scans = examine(task, scans, send)
            failed += more
        failed += [
            Failed(path, FUSION, error_named(error, message))
            for scan in scans
            for path, error, message in scan.lost
        ]
        write_report(task, failed, scans)
        if settings.clean_workdir and not failed:
            shutil.rmtree(settings.work / _workflow_name(task), ignore_errors=True)
    first = {item.scan: item for item in reversed(failed)}
    # With --stop-on-first-crash some scans neither failed nor were begun.
    ready = {path for record in scans for path in (record.source, *record.parts)} - first.keys()
    whole = [scan for scan in task.found.scans if scan.relative_path in ready]
    shown = [record for record in scans if record.stem in {scan.stem for scan in whole}]
    for record in sorted(shown, key=lambda record: record.stem):
        for text in (*record.noticed, *record.warnings):
            send(note(text, "warning"))
    return Outcome(
        tuple(scan.relative_path for scan in whole),
        tuple(first[s.relative_path] for s in task.found.scans if s.relative_path in first),
        tuple(record.source for record in shown if record.likeness == "no"),
    )


def _run(task: SubjectTask, send: Send) -> tuple[list[Failed], list[ScanReport]]:
    """Build the workflow and run it; return what failed, and the records of what did not."""
    from h2lo_bids.synthesis.options import resolve_device
    from pipelines.engine import run_workflow
    from pipelines.participant import RunSpec, init_participant_wf, records

    settings, device = task.settings, str(resolve_device(task.settings.device))
    images = _images(task, device, send)
    how = RunSpec(settings, task.templates, device, step_threads(settings))
    workflow = init_participant_wf(_workflow_name(task), images, how)
    workflow.base_dir = str(settings.work)
    parts = {f"{i.name}_wf": [scan.relative_path for scan in i.parts] for i in images}
    crashes = task.logs / f"sub-{task.subject}"
    # Of a scan that failed now, or was not begun, the work folder may hold an earlier record.
    stems, whole, tell = {f"{i.name}_wf": i.scan.stem for i in images}, set[str](), steps(send)

    def follow(node: Any, status: str) -> None:
        tell(node, status)
        if (node.name, status) == ("ds_record", "end"):
            whole.add(stems[node.fullname.split(".")[1]])

    failed = run_workflow(workflow, parts, settings, crashes, follow)
    found = [from_json(ScanReport, record) for record in records(workflow)]
    return failed, [record for record in found if record.stem in whole]


def _workflow_name(task: SubjectTask) -> str:
    return f"{identifier(f'sub-{task.subject}')}_wf"


def _images(task: SubjectTask, device: str, send: Send) -> list[ImageSpec]:
    """Return what each image of a participant is made from; say which masks are given."""
    from h2lo_bids.models.choice import bundles_for
    from h2lo_bids.synthesis.predict import fastest_precision
    from pipelines.participant import ImageSpec

    settings, sources = task.settings, task.found.sources
    parts = [part for source in sources for part in source.parts]
    masks = {part: given_mask(settings.derivatives, part) for part in parts}
    for part in masks if settings.derivatives else ():
        level = "" if any(masks.values()) else "warning"
        send(note(f"{part.stem}: brain mask {mask_words(settings, part)}", level))
    models = bundles_for(settings, tuple(task.templates))  # of all contrasts of the run
    precisions = {
        suffix: settings.precision or fastest_precision(models[suffix], device)
        for suffix in sorted({scan.suffix for scan in task.found.scans})
    }
    return [
        ImageSpec(
            f"scan_{identifier(source.scan.stem.partition('_')[2])}",
            source.scan,
            models[source.scan.suffix],
            source.parts,
            tuple(masks[part] for part in source.parts),
            precisions[source.scan.suffix],
        )
        for source in sources
    ]


def mask_words(settings: Settings, scan: Scan) -> str:
    """Name the mask that is given for a scan, or where the derivatives lack it."""
    if mask := given_mask(settings.derivatives, scan):
        return str(mask[0])
    return f"computed, as there is no {mask_in(settings.derivatives[0][1], scan)}"


def examine(
    task: SubjectTask, records: list[ScanReport], send: Send
) -> tuple[list[Failed], list[ScanReport]]:
    """Do what labels and conditions ask for with each scan that has a record; return failures."""
    from h2lo_bids.synthesis.options import EngineOptions, resolve_device
    from h2lo_bids.trial.condition import Images
    from h2lo_bids.trial.report import draw_lesions, region_rows
    from h2lo_bids.trial.scan import Examination

    settings, failed = task.settings, []
    by_stem = {record.stem: record for record in records}
    options = EngineOptions(
        device=str(resolve_device(settings.device)),
        precision=settings.precision or "fp32",
        threads=step_threads(settings),
    )

    load = functools.cache(lambda suffix, condition: condition.bundle(settings, suffix))
    for scan in task.found.scans:
        if scan.stem not in by_stem:
            continue
        send({"event": "step", "step": f"{scan.stem} {STEP}"})
        try:
            images = Images(scan, settings, options, functools.partial(load, scan.suffix))
            found = Examination(images).run()
            drawn = draw_lesions(settings.out_dir, scan, found) if found.rows else ()
        except Exception as err:
            if not isinstance(err, H2loError):
                traceback.print_exc()
            failed.append(Failed(scan.relative_path, STEP, recorded(err)))
            continue
        for text in found.notes:
            send(note(f"{scan.stem}: {text}", "warning"))
        if found.rows:
            record = by_stem[scan.stem]
            by_stem[scan.stem] = replace(
                record, figures=(*record.figures, *drawn), regions=region_rows(found.rows)
            )
    return failed, list(by_stem.values())


def steps(send: Send) -> StatusCallback:
    """Return what tells the parent, as Nipype reports, which step runs and how long each took."""
    began: dict[str, float] = {}

    def heard(node: Any, status: str) -> None:
        name = ".".join(node.fullname.split(".")[1:])
        if "_list_" in name:  # several outputs that become one input
            return
        event: dict[str, Any] = {"event": "step", "step": name}
        if status == "start":
            began[name] = time.monotonic()
        elif name in began:
            event["seconds"] = time.monotonic() - began.pop(name)
        send(event)

    return heard
