"""What a run reads and writes, known before it: for ``--dry-run`` and ``h2lo-slurm``."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from h2lo_bids.bids import derivatives
from h2lo_bids.bids.dataset import other_source
from h2lo_bids.bids.discover import Discovery, discover
from h2lo_bids.bids.pairs import PairDiscovery
from h2lo_bids.bids.scan import Scan
from h2lo_bids.cli.checks import check_models_and_templates, check_usage
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.execution import skipped_lines
from h2lo_bids.cli.pairs import check_further, find_pairs, subjects_of, unprepared
from h2lo_bids.cli.participant import unread_scans
from h2lo_bids.cli.resources import fit_threads
from h2lo_bids.cli.subject import mask_words
from h2lo_bids.errors import BadDataError, Failed, MissingInputError, UsageError, exit_code
from h2lo_bids.evaluation.splits import Fold
from h2lo_bids.models.choice import named_models
from h2lo_bids.outputs import enhanced_paths, extras_of, grids_of, output_path, output_paths
from h2lo_bids.processes import Event
from h2lo_bids.reports.records import figure_file, figure_paths
from h2lo_bids.settings import Settings
from h2lo_bids.training.pairs import find_prepared
from h2lo_bids.vocabulary import CURVE, ENHANCER, SYNTHESIZE
from h2lo_bids.wording import counted, summarise

Divided = tuple[str, tuple[Fold, ...] | None, list[str], list[Failed]]
RUN = "<run>"
"""Stands for the name of a run's folder in ``logs``, which holds the time of its start."""


class Output(NamedTuple):
    """A file that a run will write, and the scans it is made of, by relative path."""

    path: Path
    source: str = ""


def dry_run(settings: Settings, console: Console) -> int:
    """Print what a run would do; return its exit code: what cannot be used counts as failed."""
    check_usage(settings)
    if settings.reports_only or (settings.collect and not settings.fits):
        text = "--reports-only and a trial's --collect read out_dir alone; leave --dry-run out"
        raise UsageError(text)
    found, lines = _find(settings)
    kept = _kept(settings, found) if settings.on_pairs else frozenset()
    divided = [*_divided(settings, found, kept)] if settings.fits else []
    console.line(f"dry run: nothing is written; the work folder would be {settings.work}")
    for line in (*found.notes, *lines, *_fold_lines(settings, divided)):
        console.line(line)
    folds = {contrast: parts for contrast, parts, *_ in divided if parts is not None}
    failed = (*found.problems, *(item for *_, lost in divided for item in lost))
    for output in expected_outputs(settings, replace(found, problems=failed), folds, kept):
        console.line(f"write {output.path}{' (exists)' if output.path.exists() else ''}")
    other = other_source(settings.out_dir, settings.bids_dir)
    for warning in (*found.warnings, *([other] if other else [])):
        console.line(warning, level="warning")
    unusable = summarise((p.path, f"cannot use: {p.error}") for p in found.problems)
    for line in (*unusable, *skipped_lines(found.skipped)):
        console.line(line)
    done = found.scans if isinstance(found, Discovery) else found.pairs
    if code := exit_code(failed, len(done)):
        console.line(f"the run would exit with code {code}: some inputs cannot be used")
    return code


def _find(settings: Settings) -> tuple[Any, Iterable[str]]:
    """Return what a level works on, and what describes it."""
    if not settings.on_pairs:
        scans = discover(settings)
        return scans, [*_check(settings, scans), *_scan_lines(settings, scans)]
    pairs = find_pairs(settings)
    check_further(settings, subjects_of(pairs.pairs))
    lines = [*_pair_lines(settings, pairs)]
    if settings.level == "evaluate":
        given = [f"score {path}{f' [{kind}]' if kind else ''}" for kind, path in settings.model]
        lines += given or ["score the embedded models"]
        lines += [f"compare with {path} [{kind}]" for kind, path in settings.realism_reference]
    return pairs, lines


def _check(settings: Settings, found: Discovery) -> list[str]:
    """Load the models and find the templates; those that the run would fetch may be missing."""
    suffixes = tuple(sorted({scan.suffix for scan in found.scans}))
    if not suffixes:
        return []
    here, lines = replace(settings, fetch_templates=False), list[str]()
    try:
        check_models_and_templates(here, suffixes, lambda event: lines.append(event["text"]))
    except MissingInputError:
        if not settings.fetch_templates:
            raise
    return lines


def _scan_lines(settings: Settings, found: Discovery) -> Iterator[str]:
    for scan in found.scans:
        yield f"read  {scan.path} [{scan.strength}{_mask(settings, scan)}]"
    for source in found.sources:
        if len(source.parts) > 1:
            names = ", ".join(part.path.name for part in source.parts)
            yield f"fuse  {names} [as {source.scan.stem}]"
    for grid in grids_of(settings) if found.scans else ():
        if grid.kind == "lf":
            yield f"grid  res-{grid.res} [{grid.meaning}]"


def _mask(settings: Settings, scan: Scan) -> str:
    """Say which brain mask a scan gets, if derivatives could hold one."""
    return f"; brain mask: {mask_words(settings, scan)}" if settings.derivatives else ""


def _pair_lines(settings: Settings, found: PairDiscovery) -> Iterator[str]:
    for pair in found.pairs:
        way = "fused on the high-field grid" if pair.fusion == "mrr" else "registered"
        way = "already on the high-field grid" if pair.registered else way
        yield f"pair  {pair.hf.path} [{pair.contrast}{_mask(settings, pair.hf)}]"
        for scan in pair.lf:
            yield f"      {scan.path} [{way}]"


def _fold_lines(settings: Settings, divided: Iterable[Divided]) -> Iterator[str]:
    for contrast, folds, lines, lost in divided:
        yield from (*lines, *(item.line for item in lost))
        if folds is None:
            continue
        for fold in folds:
            yield (
                f"{contrast} fold {fold.index}: train on {len(fold.train)}; validate on "
                f"{', '.join(fold.validation)}; test on {', '.join(fold.test)}"
            )
        yield (
            f"{contrast}: {', '.join(settings.arms)}; {settings.n_folds_parallel} at a time, "
            f"{counted(fit_threads(settings), 'thread')} each"
        )


def expected_outputs(
    settings: Settings,
    found: Any,
    folds: dict[str, tuple[Fold, ...]] | None = None,
    kept: Container[str] = (),
) -> Iterator[Output]:
    """Yield the files of a run on what was found; no log of subjects whose pairs are `kept`."""
    if not settings.on_pairs:
        yield from _of_participants(settings, found)
    else:
        yield from _of_pairs(settings, found, kept)
    yield from _result(settings, "dataset")
    yield from _result(settings, "run", run=RUN)
    if found.problems:
        yield from _result(settings, "failures", run=RUN)
    if settings.level == "evaluate" and found.pairs:
        yield from _of_evaluation(settings, found)
    elif settings.fits:
        yield from _of_fits(settings, folds_of(settings, found) if folds is None else folds)


def folds_of(settings: Settings, found: PairDiscovery) -> dict[str, tuple[Fold, ...]]:
    """Return the folds of each contrast."""
    divided = _divided(settings, found, _kept(settings, found))
    return {contrast: folds for contrast, folds, *_ in divided if folds is not None}


def _kept(settings: Settings, found: PairDiscovery) -> frozenset[str]:
    """Return the high-field scans (BIDS URI) of pairs that a run would not prepare again."""
    there = {
        prepared.sources[0]
        for contrast in subjects_of(found.pairs)
        for prepared in find_prepared(settings.out_dir, contrast=contrast)
    }
    asked = tuple(pair for pair in found.pairs if pair.hf.uri in there)
    again = unprepared(settings, asked) if asked else ()
    return frozenset(pair.hf.uri for pair in asked if pair.name not in again)


def _divided(settings: Settings, found: PairDiscovery, kept: frozenset[str]) -> Iterator[Divided]:
    """Yield each contrast, its folds or None if it has none, lines on these, and what is lost."""
    from h2lo_bids.training.experiments import fits

    refused, contrasts = list[Failed](), subjects_of(found.pairs)
    for contrast in contrasts:
        people = {pair.hf.uri: pair.subject for pair in found.pairs if pair.contrast == contrast}
        whole = people.keys() & kept
        prepared = find_prepared(settings.out_dir, contrast=contrast, sources=whole)
        skipped = fits.skipped_pairs(settings, prepared)
        lines = [*skipped.values()]
        if lacking := len(people) - len(prepared):
            lines.append(
                f"{contrast}: {counted(lacking, 'pair')} to prepare; the folds change if that "
                "shows one person under two labels or a doubtful registration"
            )
        for pair in skipped:
            del people[pair.sources[0]]
        folds, lost, heard = None, list[Failed](), list[Event]()
        try:
            if not people:
                raise fits.every_pair_flagged(contrast)
            subjects, used = sorted({*people.values()}), (p for p in prepared if p not in skipped)
            folds, _ = fits.divide_subjects(settings, contrast, subjects, used, send=heard.append)
        except (BadDataError, UsageError) as err:  # the other contrast may have pairs enough
            lost = [Failed(contrast, "fit", err)]
        refused += lost
        yield contrast, folds, [*lines, *(event["text"] for event in heard)], lost
    if len(refused) == len(contrasts) > 0:
        raise refused[0].error


def _of_participants(settings: Settings, found: Discovery) -> Iterator[Output]:
    """Yield images with their sidecars and figures, then reports and tables."""
    out_dir, grids = settings.out_dir, grids_of(settings)
    spaces = [grid.space for grid in grids if grid.kind == "template"]
    for item in found.sources:
        source = " ".join(part.relative_path for part in item.parts)
        if settings.task == SYNTHESIZE:
            images = output_paths(out_dir, item.scan, grids, extras_of(settings))
            groups = [("scan", None), *(("registration", space) for space in spaces)]
        else:
            images, groups = enhanced_paths(out_dir, item.scan), [("enhancement", None)]
        paths = [*_with_sidecars(images.values())]
        paths.append(figure_file(out_dir, item.scan.stem, "report", ".json"))
        for group, space in groups:
            paths += figure_paths(out_dir, item.scan.stem, group, space).values()
        yield from (Output(path, source) for path in paths)
    if settings.labels or settings.condition or settings.level == "trial":
        yield from _of_trial(settings, found)
    subjects = dict.fromkeys(scan.subject for scan in found.scans)
    stems = [item.scan for item in unread_scans(settings, found.problems) if item.scan]
    yield from (Output(figure_file(out_dir, stem, "report", ".json")) for stem in stems)
    lone = {stem.partition("_")[0].removeprefix("sub-") for stem in stems} - subjects.keys()
    for subject in (*sorted(lone), *subjects):
        sessions = (scan.session for scan in found.scans if scan.subject == subject)
        pages = derivatives.session_paths(out_dir, subject, sessions)
        yield from map(Output, (derivatives.report_path(out_dir, subject), *pages.values()))
        yield from _result(settings, "subject_summary", sub=subject)
        if subject in subjects:
            yield from _result(settings, "subject_log", run=RUN, sub=subject)
    for key in [*["citation"] * bool(subjects), *["index", "scans"] * bool(subjects or lone)]:
        yield from _result(settings, key)


def _of_trial(settings: Settings, found: Discovery) -> Iterator[Output]:
    """Yield what conditions and labels add."""
    from h2lo_bids.trial.condition import conditions_of

    conditions, rated = conditions_of(settings), settings.level == "trial"
    grids = {grid.name: grid for grid in (*grids_of(settings), *(c.grid for c in conditions))}
    name = partial(output_path, settings.out_dir)
    for scan in found.scans:
        images = []
        for c in conditions:
            count = int(bool(settings.reader_set)) if rated else c.realisations
            ends = ("", *(f"noise{n:02d}" for n in range(1, count + 1)))
            images += [name(scan, c.name + end, scan.suffix, c.grid) for end in ends]
        files = [*_with_sidecars(images)]
        for label, _ in settings.labels:  # a dseg is known when it is read: no source
            shares = (name(scan, label, "probseg", grid) for grid in grids.values())
            yield from map(Output, _with_sidecars(shares))
            if rated:
                own = f"{scan.stem}_{label}"
                files += derivatives.result_files(settings.out_dir, "trial_ratings", scan=own)
        if settings.labels:
            files += [name(scan, "regions", "stats", extension=end) for end in (".tsv", ".json")]
            files += figure_paths(settings.out_dir, scan.stem, "lesions").values()
        yield from (Output(path, scan.relative_path) for path in files)
    if rated and not settings.participant_label:  # the study is collected, too
        for key in ("trial", "trial_report", *["reader_set"] * bool(settings.reader_set)):
            yield from _result(settings, key)
        for number in range(1, (settings.reader_set or 0) + 1):
            yield from _result(settings, "reader_image", number=f"{number:03d}")


def _of_pairs(settings: Settings, found: PairDiscovery, kept: Container[str]) -> Iterator[Output]:
    for pair in found.pairs:
        paths = derivatives.pair_paths(settings.out_dir, pair.hf, pair.contrast)
        images = (path for key, path in paths.items() if key != "record")
        yield from (Output(path, pair.hf.relative_path) for path in _with_sidecars(images))
    for subject in dict.fromkeys(p.subject for p in found.pairs if p.hf.uri not in kept):
        yield from _result(settings, "subject_log", run=RUN, sub=subject)


def _of_evaluation(settings: Settings, found: PairDiscovery) -> Iterator[Output]:
    for contrast, models in named_models(settings, tuple(subjects_of(found.pairs))).items():
        for name, bundle in models:
            yield from _result(settings, "evaluated", contrast=contrast, model=name)
            if bundle.task == SYNTHESIZE:
                yield from _result(settings, "evaluated_realism", contrast=contrast, model=name)
        yield from _result(settings, "evaluation_tables", contrast=contrast)
    yield from _result(settings, "evaluation_report")


def _of_fits(settings: Settings, folds: dict[str, tuple[Fold, ...]]) -> Iterator[Output]:
    """Yield the folds; what is collected from them; the final models or the benchmark's tables."""
    if any(folds.values()):
        yield from _result(settings, "splits")
    lone = {*dict(settings.external), f"{ENHANCER}-{CURVE}"}
    for contrast, divided in folds.items():
        for name, fold in product(settings.arms, divided):
            left = settings.fold and fold.index not in settings.fold
            if left or (settings.collect and name not in dict(settings.external)):
                continue
            fields: dict[str, Any] = {"contrast": contrast, "method": name, "fold": fold.index}
            yield from _result(settings, "external_fold" if name in lone else "fold", **fields)
            if not settings.fits_enhancer:
                yield from _result(settings, "fold_realism", **fields)
            yield _log(settings, f"folds/{contrast}/{name}/fold-{fold.index}")
    if folds and not settings.fold:
        yield from _collected(settings, folds)


def _collected(settings: Settings, folds: dict[str, tuple[Fold, ...]]) -> Iterator[Output]:
    """Yield what is made of all folds: report, tables, then the benchmark or the final models."""
    prefix = "enhancement" if settings.fits_enhancer else "group"
    yield from _result(settings, f"{prefix}_report")
    if any(folds.values()):
        yield from _result(settings, "citation")
    for contrast, divided in folds.items():
        if divided:
            yield from _result(settings, f"{prefix}_tables", contrast=contrast)
    if settings.level == "benchmark":
        key = "enhancement_benchmark" if settings.fits_enhancer else "benchmark"
        yield from _result(settings, key)
        for contrast in folds:
            yield from _result(settings, f"{key}_contrast", contrast=contrast)
    elif not settings.no_final:
        for contrast, divided in folds.items():
            names = {"method": settings.methods[0], "contrast": contrast}
            yield from _result(settings, "model", **names)
            for number in range(0 if settings.fits_enhancer else len(divided)):
                yield from _result(settings, "member", **names, number=number)
            yield _log(settings, f"models/{settings.methods[0]}_{contrast}")


def _result(settings: Settings, key: str, **fields: str | int) -> Iterator[Output]:
    """Yield the files of a result of ``io_spec.json``."""
    for path in derivatives.result_files(settings.out_dir, key, **fields):
        yield Output(path)


def _log(settings: Settings, name: str) -> Output:
    """Return the log of a fit, whose name is given."""
    folder = derivatives.result_path(settings.out_dir, "run", run=RUN)
    return Output(folder / f"{name.replace('/', '_')}.log")


def _with_sidecars(images: Iterable[Path]) -> Iterator[Path]:
    for path in images:
        yield from (path, derivatives.sidecar_path(path))
