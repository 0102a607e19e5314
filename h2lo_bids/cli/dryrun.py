"""What a run would read and write, told without touching anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from h2lo_bids.bids.derivatives import report_path
from h2lo_bids.bids.discover import Discovery
from h2lo_bids.cli.beside import beside_of
from h2lo_bids.cli.settings import Settings

_OF_THE_DATASET = (
    "dataset_description.json",
    ".bidsignore",
    "descriptions.tsv",
    "descriptions.json",
    "README.md",
    "logs",
)


def describe(settings: Settings, found: Discovery) -> Iterator[str]:
    """Yield one line per input, output, problem and image left out."""
    from pipelines.grids import grids_of, output_paths

    grids = grids_of(settings.output_spaces, settings.lf_grid)
    yield f"dry run: nothing is written; work folder would be {settings.work}"
    for scan in found.scans:
        strength = (
            "unknown field strength"
            if scan.field_strength is None
            else (f"{scan.field_strength:g} T ({scan.field_source})")
        )
        yield f"read  {scan.path} [{strength}; model: {_model(settings, scan.suffix)}]"
        for path in output_paths(settings.out_dir, scan, grids, beside_of(settings)).values():
            yield f"write {path}{' (exists)' if path.exists() else ''}"
    for subject in dict.fromkeys(scan.subject for scan in found.scans):
        yield f"write {report_path(settings.out_dir, subject)}"
    yield "write a .json beside each image and transform, and figures in sub-<label>/figures"
    for name in _OF_THE_DATASET:
        yield f"write {Path(settings.out_dir) / name}"
    for problem in found.problems:
        yield f"cannot use: {problem.message}"
    for skipped in found.skipped:
        yield f"leave out: {skipped.path} [{skipped.reason}]"


def _model(settings: Settings, suffix: str) -> str:
    """Say which model a contrast gets; weights are not read for that."""
    from h2lo_bids.models.collection import choose_bundles, is_collection

    given = dict(settings.model)
    embedded = f"embedded {settings.method[0]}" if settings.method else "embedded"
    path = given.get(suffix, given.get(""))
    if path is None:
        return embedded
    if is_collection(path):
        found = choose_bundles(path, contrasts=("T1w", "T2w"), methods=settings.method)
        own = [item.path for item in found if item.contrast == suffix]
        return " or ".join(map(str, own)) if own else embedded
    return str(path) if suffix in given else f"{path} if it is for {suffix}, else {embedded}"
