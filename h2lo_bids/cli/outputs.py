"""Every file that a run will write: printed by a dry run, looked for by ``h2lo-slurm``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2lo_bids.bids.derivatives import (
    pair_paths,
    report_path,
    result_files,
    result_path,
    session_paths,
    sidecar_path,
)
from h2lo_bids.bids.discover import Discovery, LowFieldSource
from h2lo_bids.bids.pairs import PairDiscovery
from h2lo_bids.bids.scan import Scan
from h2lo_bids.outputs import extras_of, grids_for
from h2lo_bids.settings import Settings
from h2lo_bids.vocabulary import SYNTHESIZE

RUN = "<run>"
"""Stands for the name of a run's folder in ``logs``, which holds the time of its start."""


@dataclass(frozen=True)
class Output:
    """A file that a run will write: where, a kind of ``io_spec.json``, and of which scan."""

    path: Path
    kind: str
    source: str = ""


def expected_outputs(settings: Settings, found: Any) -> Iterator[Output]:
    """Yield the files of a run on the scans or pairs that were found."""
    if settings.level in ("participant", "trial") and not settings.pairs:
        yield from _of_participants(settings, found)
    else:
        yield from _of_pairs(settings, found)
    yield from _result(settings, "dataset")
    yield from _result(settings, "run", run=RUN)
    if found.problems:
        yield from _result(settings, "failures", run=RUN)
    if settings.level == "evaluate" and found.pairs:
        yield from _of_evaluation(settings, found)
    elif settings.level in ("group", "benchmark"):
        yield from _of_fits(settings, folds_of(settings, found))


def scan_outputs(settings: Settings, scan: Scan) -> Iterator[Output]:
    """Yield the images of a scan with their sidecars, and its figures."""
    from h2lo_bids.outputs import output_paths

    grids = grids_for(settings)
    images = output_paths(settings.out_dir, scan, grids, extras_of(settings))
    yield from _with_sidecars(images, scan.relative_path)
    yield from _figures(settings, scan, "scan", scan.relative_path)
    for grid in grids:
        if grid.kind == "template":
            yield from _figures(settings, scan, "registration", scan.relative_path, grid.space)
    yield _report(settings, scan, scan.relative_path)


def enhanced_outputs(settings: Settings, source: LowFieldSource) -> Iterator[Output]:
    """Yield the images that low-field scans become, with their sidecars, and the figures."""
    from h2lo_bids.outputs import enhanced_paths

    name = " ".join(part.relative_path for part in source.parts)
    yield from _with_sidecars(enhanced_paths(settings.out_dir, source.scan), name)
    yield from _figures(settings, source.scan, "enhancement", name)
    yield _report(settings, source.scan, name)


def subjects_of(found: PairDiscovery) -> dict[str, list[str]]:
    """Return the subjects of each contrast's pairs, both sorted."""
    subjects: dict[str, set[str]] = {}
    for pair in found.pairs:
        subjects.setdefault(pair.contrast, set()).add(pair.subject)
    return {contrast: sorted(subjects[contrast]) for contrast in sorted(subjects)}


def folds_of(settings: Settings, found: PairDiscovery) -> dict[str, tuple[int, ...]]:
    """Return the numbers of the folds of each contrast."""
    from h2lo_bids.training.experiments.plan import divide_subjects

    return {
        contrast: tuple(fold.index for fold in divide_subjects(settings, contrast, subjects)[0])
        for contrast, subjects in subjects_of(found).items()
    }


def _of_participants(settings: Settings, found: Discovery) -> Iterator[Output]:
    sources = found.sources
    for source in sources:
        yield from enhanced_outputs(settings, source)
    for scan in () if sources else found.scans:
        yield from scan_outputs(settings, scan)
    if settings.labels or settings.condition or settings.level == "trial":
        yield from _of_trial(settings, found)
    for subject in dict.fromkeys(scan.subject for scan in found.scans):
        sessions = (scan.session for scan in found.scans if scan.subject == subject)
        pages = session_paths(settings.out_dir, subject, sessions)
        for page in (report_path(settings.out_dir, subject), *pages.values()):
            yield Output(page, "subject_report")
        yield from _result(settings, "subject_summary", sub=subject)
        yield from _result(settings, "subject_log", run=RUN, sub=subject)
    if found.scans:
        for key in ("citation", "index", "scans"):
            yield from _result(settings, key)


def _of_trial(settings: Settings, found: Discovery) -> Iterator[Output]:
    """Yield what conditions and labels add; whether a label is a dseg is known when it is read."""
    from h2lo_bids.trial.condition import conditions_of, output_name

    conditions, rated = conditions_of(settings), settings.level == "trial"
    every = [*grids_for(settings), *(c.grid for c in conditions)]
    grids = {grid.name: grid for grid in every if grid.kind in ("native", "lf")}.values()
    for scan in found.scans:
        images = {}
        for c in conditions:
            count = int(bool(settings.reader_set)) if rated else c.realisations
            for end in ("", *(f"noise{n:02d}" for n in range(1, count + 1))):
                name = output_name(settings.out_dir, scan, c.name + end, scan.suffix, c.grid)
                images[f"condition_{c.name}{end}"] = name
        for label, _ in settings.labels:
            images |= {
                f"label_{label}_{g.name}": output_name(settings.out_dir, scan, label, "probseg", g)
                for g in grids
            }
            if rated:
                yield from _result(settings, "trial_ratings", scan=f"{scan.stem}_{label}")
        yield from _with_sidecars(images, scan.relative_path)
        for extension in (".tsv", ".json") if settings.labels else ():
            name = output_name(settings.out_dir, scan, "regions", "stats", extension=extension)
            yield Output(name, "regions", scan.relative_path)
    if rated and not settings.participant_label:
        yield from _result(settings, "trial")
        yield from _result(settings, "trial_report")


def _of_pairs(settings: Settings, found: PairDiscovery) -> Iterator[Output]:
    for pair in found.pairs:
        paths = pair_paths(settings.out_dir, pair.hf, pair.contrast)
        images = {f"pair_{key}": path for key, path in paths.items() if key != "record"}
        yield from _with_sidecars(images, pair.hf.relative_path)
    for subject in dict.fromkeys(pair.subject for pair in found.pairs):
        yield from _result(settings, "subject_log", run=RUN, sub=subject)


def _of_evaluation(settings: Settings, found: PairDiscovery) -> Iterator[Output]:
    from h2lo_bids.models.choice import named_models

    for contrast, models in named_models(settings, tuple(subjects_of(found))).items():
        for name, bundle in models:
            yield from _result(settings, "evaluated", contrast=contrast, model=name)
            if bundle.task == SYNTHESIZE:
                yield from _result(settings, "evaluated_realism", contrast=contrast, model=name)
        yield from _result(settings, "evaluation_tables", contrast=contrast)
    yield from _result(settings, "group_report")


def _of_fits(settings: Settings, folds: dict[str, tuple[int, ...]]) -> Iterator[Output]:
    """Yield the folds; what is collected from them; the final models or the benchmark's tables."""
    if any(folds.values()):
        yield from _result(settings, "splits")
    for contrast, numbers in folds.items():
        for name in settings.arms:
            wanted = [n for n in numbers if not settings.fold or n in settings.fold]
            yield from _of_folds(settings, contrast, name, wanted)
    if settings.fold or not folds:
        return
    yield from _collected(settings, folds)
    if settings.level == "benchmark":
        key = "enhancement_benchmark" if settings.fits_enhancer else "benchmark"
        yield from _result(settings, key)
        for contrast in folds:
            yield from _result(settings, f"{key}_contrast", contrast=contrast)
    elif not settings.no_final:
        for contrast, numbers in folds.items():
            yield from _of_final(settings, contrast, () if settings.fits_enhancer else numbers)


def _collected(settings: Settings, folds: dict[str, tuple[int, ...]]) -> Iterator[Output]:
    prefix = "enhancement" if settings.fits_enhancer else "group"
    yield from _result(settings, f"{prefix}_report")
    if any(folds.values()):
        yield from _result(settings, "citation")
    for contrast, numbers in folds.items():
        if numbers:
            yield from _result(settings, f"{prefix}_tables", contrast=contrast)


def _of_folds(
    settings: Settings, contrast: str, name: str, folds: Iterable[int]
) -> Iterator[Output]:
    key = "external_fold" if name in dict(settings.external) else "fold"
    for fold in folds:
        fields: dict[str, Any] = {"contrast": contrast, "method": name, "fold": fold}
        yield from _result(settings, key, **fields)
        if not settings.fits_enhancer:
            yield from _result(settings, "fold_realism", **fields)
        yield _log(settings, f"folds/{contrast}/{name}/fold-{fold}")


def _of_final(settings: Settings, contrast: str, members: Iterable[int]) -> Iterator[Output]:
    names = {"method": settings.methods[0], "contrast": contrast}
    yield from _result(settings, "model", **names)
    for number, _ in enumerate(members):
        yield from _result(settings, "member", **names, number=number)
    yield _log(settings, f"models/{settings.methods[0]}_{contrast}")


def _result(settings: Settings, key: str, **fields: str | int) -> Iterator[Output]:
    """Yield the files of a result of ``io_spec.json``."""
    for path in result_files(settings.out_dir, key, **fields):
        yield Output(path, key)


def _log(settings: Settings, name: str) -> Output:
    """Return the log of a fit, whose name is given."""
    folder = result_path(settings.out_dir, "run", run=RUN)
    return Output(folder / f"{name.replace('/', '_')}.log", "fit_log")


def _with_sidecars(images: dict[str, Path], source: str) -> Iterator[Output]:
    for kind, path in images.items():
        yield Output(path, kind, source)
        yield Output(sidecar_path(path), f"{kind}_sidecar", source)


def _figures(
    settings: Settings, scan: Scan, group: str, source: str, space: str | None = None
) -> Iterator[Output]:
    from h2lo_bids.reports.records import figure_paths

    for kind, path in figure_paths(settings.out_dir, scan.stem, group, space).items():
        yield Output(path, kind, source)


def _report(settings: Settings, scan: Scan, source: str) -> Output:
    from h2lo_bids.reports.records import figure_file

    path = figure_file(settings.out_dir, scan.stem, "report", ".json")
    return Output(path, "scan_report", source)
