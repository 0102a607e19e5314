"""Finding and preparing pairs: one process per participant, as for scans."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from h2lo_bids.bids.derivatives import pair_paths, result_pattern
from h2lo_bids.bids.pairs import PairDiscovery, PairSource, discover_pairs
from h2lo_bids.cli.console import Console
from h2lo_bids.cli.execution import Outcome, Run, alone, start_run
from h2lo_bids.cli.resources import step_threads
from h2lo_bids.cli.subject import mask_words, steps
from h2lo_bids.errors import exit_code
from h2lo_bids.imaging.brain import synthstrip_weights
from h2lo_bids.io import read_json
from h2lo_bids.models.bundle import load_model
from h2lo_bids.models.choice import given_bundles, named_models
from h2lo_bids.processes import note
from h2lo_bids.settings import Settings
from h2lo_bids.training.pairs import find_prepared
from h2lo_bids.vocabulary import CONTRASTS, Send
from h2lo_bids.wording import all_counted, counted


def run_pairs(settings: Settings, console: Console) -> int:
    """Prepare the pairs of the chosen participants, do nothing else, and return the exit code."""
    with start_run(settings, console) as run:
        flagged = _warn_of_flagged(run, prepare_pairs(run))
        text = f"{all_counted(len(run.done), 'pair')} prepared"
        if flagged:
            text += f"; {flagged} flagged: group and evaluate skip them without "
            text += "--keep-flagged-pairs"
        run.sum_up(counted(len(run.done), "pair"), text)
        return exit_code(run.failed, len(run.done))


def _warn_of_flagged(run: Run, found: PairDiscovery) -> int:
    """Warn of prepared pairs whose registration is doubtful; return how many there are."""
    from h2lo_bids.training.experiments.fits import flagged_line

    flagged = 0
    for contrast, names in prepared_sources(run, found).items():
        for pair in find_prepared(run.settings.out_dir, contrast=contrast, sources=names):
            if pair.doubts:
                run.console.line(flagged_line(pair), level="warning")
                flagged += 1
    return flagged


def prepared_sources(run: Run, found: PairDiscovery) -> dict[str, tuple[str, ...]]:
    """Return the BIDS URIs of the high-field scans whose pairs are prepared, by contrast.

    A contrast of which none could be prepared is there, too: a model for it is no misuse.
    """
    ready = [pair for pair in found.pairs if pair.hf.relative_path in run.done]
    return {
        contrast: tuple(pair.hf.uri for pair in ready if pair.contrast == contrast)
        for contrast in subjects_of(found.pairs)
    }


def subjects_of(pairs: Sequence[PairSource]) -> dict[str, list[str]]:
    """Return the subjects of each contrast's pairs, both sorted."""
    contrasts = sorted({pair.contrast for pair in pairs})
    return {c: sorted({pair.subject for pair in pairs if pair.contrast == c}) for c in contrasts}


def find_pairs(settings: Settings) -> PairDiscovery:
    """Find the pairs that are asked for; to evaluate given models, of their contrasts alone."""
    if settings.level == "evaluate" and not settings.contrast:
        kinds = {bundle.contrast for bundle in given_bundles(settings, CONTRASTS)}
        settings = replace(settings, contrast=tuple(sorted(kinds)))
    return discover_pairs(settings)


def prepare_pairs(run: Run) -> PairDiscovery:
    """Find pairs, prepare those that are not prepared yet, and return all that were found."""
    run.pool()  # its imports take as long as the search
    found = find_pairs(run.settings)
    run.report_discovery(found)
    run.write_dataset()
    if not found.pairs:
        return found
    work = "h2lo_bids.cli.pairs:find_missing"
    names = {*run.ask("checking which pairs are prepared", work, run.settings, found.pairs)}
    missing = [pair for pair in found.pairs if pair.name in names]
    run.done.update(pair.hf.relative_path for pair in found.pairs if pair.name not in names)
    if missing:
        _prepare(run, missing, len(found.pairs) - len(missing))
    else:
        run.console.line(f"{all_counted(len(found.pairs), 'pair')} prepared already")
    return found


def _prepare(run: Run, pairs: list[PairSource], done: int) -> None:
    subjects: dict[str, list[PairSource]] = {}
    # Tasks of a job array begin at different subjects, so that they share the work.
    first = sum(run.settings.fold) % len(pairs)
    for pair in (*pairs[first:], *pairs[:first]):
        subjects.setdefault(f"sub-{pair.subject}", []).append(pair)
    title = f"preparing {counted(len(pairs), 'pair')} of {counted(len(subjects), 'participant')}"
    title += f", {done} prepared already" if done else ""
    run.each_participant(
        title,
        "h2lo_bids.cli.pairs:prepare_participant",
        {name: (run.settings, tuple(own), run.logs) for name, own in subjects.items()},
        {name: [pair.hf.relative_path for pair in own] for name, own in subjects.items()},
        "pair",
        done="prepared",
    )


def find_missing(settings: Settings, pairs: tuple[PairSource, ...], send: Send) -> tuple[str, ...]:
    """Return which pairs are not prepared, or raise what would keep them from being used."""
    # Preparing may take hours: nobody should learn only then of a misspelled option.
    check_further(settings, subjects_of(pairs))
    return unprepared(settings, pairs)


def unprepared(settings: Settings, pairs: tuple[PairSource, ...]) -> tuple[str, ...]:
    """Name the pairs that a run would prepare; none takes the place of one that was fitted to."""
    from pipelines.pairs import missing_pairs

    missing = missing_pairs(pairs, _how(settings))
    _check_fitted(settings, [pair for pair in pairs if pair.name in missing])
    return missing


def _check_fitted(settings: Settings, missing: Collection[PairSource]) -> None:
    """Refuse to prepare anew what folds were fitted to: this run's own, or else any that exist."""
    from h2lo_bids.training.experiments.arms import find_arm
    from h2lo_bids.training.experiments.crossvalidation import read_record
    from h2lo_bids.training.experiments.fits import fitted_otherwise

    out, methods = settings.out_dir, [*settings.arms] if settings.fits else ["*"]
    if settings.fits_enhancer and settings.level == "benchmark":
        methods += [arm.pretrain for arm in map(find_arm, settings.arms) if arm.pretrain]
    for contrast, method in product(sorted({pair.contrast for pair in missing}), methods):
        sources = {pair.hf.uri for pair in missing if pair.contrast == contrast}
        there = find_prepared(out, contrast=contrast, sources=sources)
        now = {(pair.record.stem, pair.fingerprint) for pair in there}
        for folder in sorted(out.glob(result_pattern("fold", contrast=contrast, method=method))):
            if now & ((read_record(folder) or {}).get("pairs") or {}).items():
                raise fitted_otherwise(folder)


def check_further(settings: Settings, people: dict[str, list[str]]) -> None:
    """Raise what would stop the work on some subjects' pairs, before any of it begins."""
    synthstrip_weights(settings)  # only for the error that it raises
    if settings.fits:
        from h2lo_bids.training.experiments.fits import check_ahead

        check_ahead(settings, people)
    elif settings.level == "evaluate":
        for named in named_models(settings, tuple(people)).values():
            for _, bundle in named:
                load_model(bundle)  # only for the errors that it raises


def prepare_participant(
    settings: Settings, pairs: tuple[PairSource, ...], logs: Path, send: Send
) -> Outcome:
    """Prepare one participant's pairs, alone among all runs; runs in a process."""
    from pipelines.pairs import prepare_pairs

    how, subject = _how(settings), pairs[0].subject
    scans = (scan for pair in pairs for scan in (pair.hf, *pair.lf, pair.donor) if scan)
    masks = {scan: mask for scan in scans if (mask := how.mask_of(scan))}
    for scan, (path, _) in masks.items():
        send(note(f"{scan.stem}: brain mask {path}"))
    if settings.derivatives and not masks and not any(pair.registered for pair in pairs):
        text = f"{pairs[0].hf.stem}: brain mask {mask_words(settings, pairs[0].hf)}"
        send(note(text, "warning"))
    # Tasks of a job array want the same pairs: one prepares them, the others find them done.
    with alone(settings, subject, send, "that prepares these pairs"):
        made, kept, failed = prepare_pairs(pairs, how, logs / f"sub-{subject}", steps(send))
    for pair in made:
        record = pair_paths(settings.out_dir, pair.hf, pair.contrast)["record"]
        for text in read_json(record).get("Warnings", ()):
            send(note(text, "warning"))
    ready = (pair.hf.relative_path for pair in pairs if pair in made or pair in kept)
    return Outcome(tuple(ready), tuple(failed))


def _how(settings: Settings) -> Any:
    """Return what decides a pair besides its scans."""
    from h2lo_bids.training.options import frame_of
    from pipelines.pairs import PairOptions

    return PairOptions(settings, frame_of(settings), step_threads(settings))
