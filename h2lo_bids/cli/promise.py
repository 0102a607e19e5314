"""What a run would write, file by file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from h2lo_bids.bids.derivatives import report_path, sidecar_path
from h2lo_bids.bids.discover import Discovery
from h2lo_bids.bids.lowfield import LowFieldSource
from h2lo_bids.bids.results import result_files, result_path
from h2lo_bids.bids.scan import Scan
from h2lo_bids.cli.beside import beside_of, grids_for
from h2lo_bids.cli.participant import sources_of
from h2lo_bids.settings import Settings

RUN = "<run>"
"""Stands for the name of a run's folder in ``logs``, which holds the time of its start."""


@dataclass(frozen=True)
class Promise:
    """One file that a run would write.

    Parameters
    ----------
    path
        Where; in the folder of a run's logs ``<run>`` stands for the name of the run.
    kind
        What it is: a key of `h2lo_bids.outputs.output_paths`, of ``results`` or ``figures``
        in ``io_spec.json``, or the like.
    source
        Scan that it is made of, relative to the input dataset; empty for what concerns
        several.
    """

    path: Path
    kind: str
    source: str = ""


def of_participants(settings: Settings, found: Discovery) -> Iterator[Promise]:
    """Name what the participant level writes, scan by scan.

    Parameters
    ----------
    settings
        What is asked for.
    found
        The scans.
    """
    sources = sources_of(found)
    for source in sources:
        yield from of_enhanced(settings, source)
    for scan in () if sources else found.scans:
        yield from of_scan(settings, scan)
    for subject in dict.fromkeys(scan.subject for scan in found.scans):
        yield Promise(report_path(settings.out_dir, subject), "subject_report")
        yield from of_result(settings, "subject_summary", sub=subject)
        yield from of_result(settings, "subject_log", run=RUN, sub=subject)
    if found.scans:
        yield from of_result(settings, "citation")
    yield from of_run(settings, failures=bool(found.problems))


def of_scan(settings: Settings, scan: Scan) -> Iterator[Promise]:
    """Name the images of a scan with their sidecars, and its pictures."""
    from h2lo_bids.outputs import output_paths
    from h2lo_bids.reports.records import figure_file, figure_paths

    out_dir, source = settings.out_dir, scan.relative_path
    grids = grids_for(settings)
    images = output_paths(out_dir, scan, grids, beside_of(settings))
    yield from _with_sidecars(images.items(), source)
    figures = figure_paths(out_dir, scan.stem, "scan")
    yield from (Promise(path, kind, source) for kind, path in figures.items())
    for grid in grids:
        if grid.kind == "template":
            drawn = figure_paths(out_dir, scan.stem, "registration", grid.space)
            yield from (Promise(path, kind, source) for kind, path in drawn.items())
    yield Promise(figure_file(out_dir, scan.stem, "report", ".json"), "scan_report", source)


def of_enhanced(settings: Settings, source: LowFieldSource) -> Iterator[Promise]:
    """Name the images that low-field scans become, with their sidecars, and the pictures."""
    from h2lo_bids.outputs import enhanced_paths
    from h2lo_bids.reports.records import figure_file, figure_paths

    out_dir, scan = settings.out_dir, source.scan
    name = " ".join(part.relative_path for part in source.parts)
    yield from _with_sidecars(enhanced_paths(out_dir, scan).items(), name)
    figures = figure_paths(out_dir, scan.stem, "enhancement")
    yield from (Promise(path, kind, name) for kind, path in figures.items())
    yield Promise(figure_file(out_dir, scan.stem, "report", ".json"), "scan_report", name)


def of_run(settings: Settings, *, failures: bool = False) -> Iterator[Promise]:
    """Name what every run writes: the files of the dataset, and its logs."""
    yield from of_result(settings, "dataset")
    yield from of_result(settings, "run", run=RUN)
    if failures:
        yield from of_result(settings, "failures", run=RUN)


def of_result(settings: Settings, key: str, **fields: str | int) -> Iterator[Promise]:
    """Name the files of a result, as `h2lo_bids.bids.results.result_files` does."""
    for path in result_files(settings.out_dir, key, **fields):
        yield Promise(path, key)


def log_of(settings: Settings, name: str) -> Promise:
    """Name the log of a fit; what `h2lo_bids.cli.fits.name_of` calls it is given."""
    folder = result_path(settings.out_dir, "run", run=RUN)
    return Promise(folder / f"{name.replace('/', '_')}.log", "fit_log")


def of_pair_images(paths: dict[str, Path], source: str) -> Iterator[Promise]:
    """Name the images of a pair with their sidecars."""
    images = ((f"pair_{key}", path) for key, path in paths.items() if key != "record")
    yield from _with_sidecars(images, source)


def _with_sidecars(images: Iterable[tuple[str, Path]], source: str) -> Iterator[Promise]:
    for kind, path in images:
        yield Promise(path, kind, source)
        yield Promise(sidecar_path(path), f"{kind}_sidecar", source)
