"""The analysis levels, and which of them takes which option."""

from __future__ import annotations

from collections.abc import Iterable

from h2lo_bids.errors import UnknownLevelError, UsageError
from h2lo_bids.vocabulary import ENHANCE, LEVEL_ALIASES, LEVELS, SYNTHESIZE
from h2lo_bids.wording import did_you_mean

_PAIRS = "participant --pairs"
_ENHANCE = "participant --task enhance"
_GROUP, _BENCHMARK = "group --task enhance", "benchmark --task enhance"
_ON_PAIRS = (_PAIRS, "group", "evaluate", "benchmark", _GROUP, _BENCHMARK)
_TAKEN_BY: dict[tuple[str, ...], tuple[str, ...]] = {
    ("participant", _ENHANCE): ("all_scans", "sloppy", "write_graph"),
    ("participant",): (
        "output_spaces",
        "template_file",
        "fetch_templates",
        "lf_grid",
        "slice_profile",
        "slice_thickness",
        "noise",
        "noise_scale",
        "realisations",
        "uncertainty",
    ),
    ("participant", _ENHANCE, "evaluate", _GROUP): ("model",),
    (*LEVELS, _ENHANCE): ("method",),
    (*LEVELS, _ENHANCE, _GROUP, _BENCHMARK): ("task", "precision", "device", "reports_only"),
    _ON_PAIRS: ("contrast", "hf", "lf_dir", "resolution"),
    (*_ON_PAIRS, _ENHANCE): ("lf", "lf_fusion"),
    ("group", "evaluate", "benchmark", _GROUP, _BENCHMARK): (
        "keep_flagged_pairs",
        "metrics_convention",
    ),
    (_PAIRS, "group", "evaluate", "benchmark"): ("protocol",),
    ("group", "benchmark"): (
        "init",
        "steps",
        "epochs",
        "sampling",
        "crop",
        "batch",
        "trunk",
        "lambda_grad",
        "learning_rate",
        "devices",
    ),
    ("group", "benchmark", _GROUP, _BENCHMARK): (
        "validate_every",
        "folds",
        "val_count",
        "test_count",
        "fold",
        "collect",
        "n_folds_parallel",
        "max_time",
        "max_memory",
    ),
    ("group", _GROUP): ("no_final",),
    ("evaluate",): ("realism_reference",),
    ("benchmark",): ("external",),
    (_GROUP,): ("pretrain_derivatives", "augment"),
    (_BENCHMARK,): ("arm", "cohort"),
    (_GROUP, _BENCHMARK): ("schedule_factor", "finetune_rate", "features"),
}
TAKEN_BY = {option: levels for levels, options in _TAKEN_BY.items() for option in options}
"""Levels that take an option; one that is not listed is taken by all."""


def canonical(level: str) -> str:
    """Return a level's own name.

    Raises
    ------
    UnknownLevelError
        If it is not one of ours.
    """
    level = LEVEL_ALIASES.get(level, level)
    if level not in LEVELS:
        known = [*LEVELS, *LEVEL_ALIASES]
        meant = did_you_mean(level, known) or f"; use {', '.join(known)}"
        raise UnknownLevelError(f"analysis level {level!r} is unknown{meant}")
    return level


def check_options(
    level: str, options: Iterable[str], *, pairs: bool = False, task: str = SYNTHESIZE
) -> None:
    """Refuse options that a level would ignore.

    Parameters
    ----------
    level
        One of `LEVELS`.
    options
        Fields of `Settings` that the user gave.
    pairs
        Whether ``--pairs`` is among them.
    task
        What ``--task`` says.

    Raises
    ------
    UsageError
        With the levels that take the option.
    """
    if pairs and level != "participant":
        raise UsageError(f"--pairs is an option of participant; {level} prepares pairs by itself")
    enhances = task == ENHANCE and level != "evaluate"
    mode = _PAIRS if pairs else f"{level} --task enhance" if enhances else level
    for option in options:
        takers = TAKEN_BY.get(option)
        if takers is not None and mode not in takers:
            name = option.replace("_", "-")
            told = [t for t in takers if t in LEVELS or t.partition(" ")[0] not in takers]
            raise UsageError(
                f"--{name} is an option of {' and '.join(told)}; {mode} does not take it"
            )
