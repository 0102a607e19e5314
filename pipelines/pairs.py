"""One call that makes a subject's pairs, for the command line's child processes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from h2lo_bids import __version__
from h2lo_bids.bids.pairnames import pair_paths
from h2lo_bids.bids.pairs import PairSource
from h2lo_bids.errors import H2loError, InputOutputError
from h2lo_bids.models.frame import Frame
from h2lo_bids.training.prepared import PreparedPair, find_prepared
from h2lo_bids.vocabulary import Say
from pipelines.engine import NodeFailure, RunOptions, durations, run_workflow
from pipelines.workflows.pair import PairOptions, init_pairs_wf, pair_word

RECIPE = 1
"""Raised whenever the same inputs and settings give another pair."""


@dataclass(frozen=True)
class PairFailure:
    """A pair that could not be made.

    Parameters
    ----------
    name
        Of the pair.
    step
        What failed.
    error, message
        Class and one-line text of the exception.
    crash_file
        Where the traceback is; None where nothing was run.
    """

    name: str
    step: str
    error: str
    message: str
    crash_file: Path | None = None


@dataclass(frozen=True)
class PairsOutcome:
    """What became of a subject's pairs.

    Parameters
    ----------
    made, kept
        Names of pairs that were made now, and that were there already.
    failed
        Those that could not be made.
    seconds
        By pair and step, of those that were made now.
    """

    made: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    failed: tuple[PairFailure, ...] = ()
    seconds: dict[str, dict[str, float]] | None = None


def prepare_pairs(
    subject: str,
    pairs: tuple[PairSource, ...],
    *,
    out_dir: Path,
    work_dir: Path,
    frame: Frame,
    skull_strip: str = "auto",
    synthstrip_weights: Path | None = None,
    seed: int = 42,
    own_masks: bool = False,
    omp_nthreads: int = 1,
    options: RunOptions,
    tell: Say = lambda line: None,
) -> PairsOutcome:
    """Make those of a subject's pairs that are not there yet, or not from these inputs.

    Parameters
    ----------
    subject
        Label without ``sub-``.
    pairs
        Those of the subject that are wanted.
    out_dir, work_dir
        Root of the derivative dataset, and the folder for intermediate results.
    frame
        From `h2lo_bids.training.prepared.training_frame`.
    skull_strip, synthstrip_weights
        How brains are found, as the options of these names.
    seed
        Of the registrations.
    own_masks
        Whether each image of a pair is masked by its own brain mask.
    omp_nthreads
        Threads of one step.
    options
        How Nipype is to run.
    tell
        Called with one line per pair that is kept or damaged.

    Returns
    -------
    PairsOutcome
        A pair that fails does not keep the others from being made.
    """
    how = PairOptions(frame, skull_strip, synthstrip_weights, seed, omp_nthreads, own_masks)
    fingerprints, failed = _fingerprints(pairs, how)
    current = _current(Path(out_dir), subject, pairs, tell)
    kept = tuple(name for name, own in fingerprints.items() if current.get(name) == own)
    for name in kept:
        tell(f"{name}: pair is there already")
    missing = tuple(p for p in pairs if p.name in fingerprints and p.name not in kept)
    if not missing:
        return PairsOutcome((), kept, tuple(failed), {})
    workflow = init_pairs_wf(
        name=f"sub_{subject.replace('+', 'plus')}_pairs_wf",
        pairs=missing,
        fingerprints=fingerprints,
        out_dir=Path(out_dir),
        options=how,
    )
    workflow.base_dir = str(work_dir)
    failed += _failures(run_workflow(workflow, options), missing)
    bad = {item.name for item in failed}
    made = tuple(pair.name for pair in missing if pair.name not in bad)
    return PairsOutcome(made, kept, tuple(failed), _seconds(durations(workflow), missing))


def missing_pairs(
    subject: str,
    pairs: tuple[PairSource, ...],
    *,
    out_dir: Path,
    frame: Frame,
    skull_strip: str = "auto",
    synthstrip_weights: Path | None = None,
    seed: int = 42,
    own_masks: bool = False,
) -> tuple[str, ...]:
    """Name the pairs that `prepare_pairs`, with the same arguments, would have to make.

    Returns
    -------
    tuple of str
        Names of pairs that are absent, damaged, of other inputs, or cannot be read.
    """
    how = PairOptions(frame, skull_strip, synthstrip_weights, seed, own_masks=own_masks)
    fingerprints, _ = _fingerprints(pairs, how)
    current = _current(Path(out_dir), subject, pairs, lambda line: None)
    names = [pair.name for pair in pairs]
    return tuple(n for n in names if n not in current or current[n] != fingerprints.get(n))


def pair_fingerprint(pair: PairSource, options: PairOptions) -> str:
    """Return a digest of a pair's scans and of all settings that change what comes of them.

    Parameters
    ----------
    pair
        The scans; their bytes count, not their times, which copying changes.
    options
        The settings.

    Raises
    ------
    InputOutputError
        If a file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    settings = {
        "version": __version__,
        "recipe": RECIPE,
        "fusion": pair.fusion,
        "registered": pair.registered,
        "frame": options.frame.to_dict(),
        "skull_strip": options.skull_strip,
        "own_masks": options.own_masks,
        "seed": options.seed,
        "sources": [scan.uri for scan in (pair.hf, *pair.lf)],
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    donor = (pair.donor,) if pair.donor and not options.own_masks else ()
    paths = [scan.path for scan in (pair.hf, *pair.lf, *donor)]
    for path in [*paths, *((options.synthstrip_weights,) if options.synthstrip_weights else ())]:
        try:
            digest.update(hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest())
        except OSError as err:
            raise InputOutputError(
                f"{path}: cannot be read ({err.strerror}); for DataLad run: datalad get {path}"
            ) from err
    return digest.hexdigest()


def _fingerprints(
    pairs: tuple[PairSource, ...], how: PairOptions
) -> tuple[dict[str, str], list[PairFailure]]:
    """Return the fingerprint of each pair, and the pairs whose files cannot be read."""
    failed, fingerprints = [], {}
    for pair in pairs:
        try:
            fingerprints[pair.name] = pair_fingerprint(pair, how)
        except H2loError as err:
            failed.append(PairFailure(pair.name, "read", type(err).__name__, str(err)))
    return fingerprints, failed


def _current(
    out_dir: Path, subject: str, pairs: tuple[PairSource, ...], tell: Say
) -> dict[str, str]:
    """Return the fingerprints of the pairs that are whole, by the pair's name."""
    found: list[PreparedPair] = []
    for contrast in sorted({pair.contrast for pair in pairs}):
        found += find_prepared(out_dir, contrast=contrast, subjects=(subject,), damaged=tell)
    by_record = {pair.record.name: pair.fingerprint for pair in found}
    records = {p.name: pair_paths(out_dir, p.hf, p.contrast)["record"].name for p in pairs}
    return {name: by_record[record] for name, record in records.items() if record in by_record}


def _failures(failures: list[NodeFailure], pairs: tuple[PairSource, ...]) -> list[PairFailure]:
    """Say which pair each failed node belongs to; a pair counts once."""
    names = {f"{pair_word(pair)}_wf": pair.name for pair in pairs}
    found: dict[str, PairFailure] = {}
    for failure in failures:
        for node in (failure.node, *failure.dependents):
            name = next((names[part] for part in node.split(".") if part in names), None)
            if name is not None and name not in found:
                step = failure.node.rpartition(".")[2]
                found[name] = PairFailure(
                    name, step, failure.error, failure.message, failure.crash_file
                )
    return list(found.values())


def _seconds(found: dict[str, float], pairs: tuple[PairSource, ...]) -> dict[str, dict[str, float]]:
    """Return the seconds of each pair's steps."""
    names = {f"{pair_word(pair)}_wf": pair.name for pair in pairs}
    seconds: dict[str, dict[str, float]] = {pair.name: {} for pair in pairs}
    for node, duration in found.items():
        parts = node.split(".")
        name = next((names[part] for part in parts if part in names), None)
        if name is not None:
            own = seconds[name]
            own[parts[-1]] = own.get(parts[-1], 0.0) + duration
    return seconds
