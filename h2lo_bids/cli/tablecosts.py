"""What each method of a benchmark has cost: the further columns of its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from h2lo_bids.evaluation.layout import Shown, Value
from h2lo_bids.models.catalogue import CATALOGUE
from h2lo_bids.wording import counted

Records = Sequence[Mapping[str, Any]]

_MILLION = 1e6
_FEW = 10_000

VALUES = (
    Value("folds", "Folds that were scored"),
    Value("folds_planned", "Folds of the cross-validation"),
    Value("participants", "Participants that were scored"),
    Value("parameters", "Parameters of the model that makes the images"),
    Value("parameters_trained", "Parameters of all networks that its training needs"),
    Value("training_seconds", "Time of training, mean over folds", "s"),
    Value("seconds_per_volume", "Time of synthesizing one volume, mean over test subjects", "s"),
    Value("peak_memory_gb", "Largest resident memory of the process of a fold", "GB"),
    Value("steps", "Optimiser steps done, the least of all folds"),
    Value("steps_planned", "Optimiser steps of the schedule"),
    Value("stopped_early", "Folds that the time budget ended before the schedule did"),
    Value("time_budget_minutes", "Time budget of a fit", "min"),
)
"""Columns of the TSV file, from `costs_of`."""


def costs_of(name: str, records: Records) -> dict[str, Any]:
    """Sum up what the folds of a method recorded.

    Parameters
    ----------
    name
        The method.
    records
        Of its finished folds.

    Returns
    -------
    dict
        By the keys of `VALUES` after the first three; None where nothing is recorded.
    """
    options = [record.get("options") or {} for record in records]
    steps = _numbers(records, "steps")
    planned_steps = _numbers(options, "steps")
    limits = _numbers(options, "max_seconds")
    size = max(_numbers(records, "parameters"), default=None)
    entry = CATALOGUE.get(name)
    usual = entry is not None and entry.parameters == size
    volumes = [s for r in records for s in r.get("synthesis_seconds") or ()]
    return {
        "parameters": size,
        "parameters_trained": entry.trained or size if entry is not None and usual else None,
        "training_seconds": _mean(_numbers(records, "seconds")),
        "seconds_per_volume": _mean(volumes),
        "peak_memory_gb": max(_numbers(records, "peak_memory_gb"), default=None),
        "steps": min(steps, default=None),
        "steps_planned": max(planned_steps, default=None),
        "stopped_early": sum(bool(r.get("timed_out")) for r in records) if steps else None,
        "time_budget_minutes": max(limits) / 60 if limits else None,
    }


def budget_notes(methods: Mapping[str, Records]) -> tuple[str, ...]:
    """Tell which methods the time budget ended early, one sentence each.

    Parameters
    ----------
    methods
        Records by the method's title.
    """
    lines = []
    for title, records in methods.items():
        early = [r for r in records if r.get("timed_out")]
        if early:
            steps = [int(r["steps"]) for r in early]
            options = early[0].get("options") or {}
            span = f"{min(steps)}" if len(set(steps)) == 1 else f"{min(steps)} to {max(steps)}"
            limit = options.get("max_seconds")
            minutes = f" of {limit / 60:g} min" if limit else ""
            lines.append(
                f"{title}: the time budget{minutes} ended {len(early)} of "
                f"{counted(len(records), 'fit')} after {span} of {options.get('steps', '?')} steps."
            )
    return tuple(lines)


def parameters(values: Mapping[str, Any]) -> str:
    """Write numbers of parameters as the paper does.

    Examples
    --------
    >>> [parameters({"parameters": n}) for n in (4, 581_409, 16_389_619, 0, None)]
    ['4', '0.58M', '16.39M', '', '']
    >>> parameters({"parameters": 4_165_537, "parameters_trained": 4_864_370})
    '4.17M (4.86M trained)'
    """
    count, trained = values.get("parameters"), values.get("parameters_trained")
    if not count:
        return ""
    more = f" ({_count(trained)} trained)" if trained not in (None, count) else ""
    return _count(count) + more


def _count(number: int) -> str:
    return f"{number:,}" if number < _FEW else f"{number / _MILLION:.2f}M"


def _folds(values: Mapping[str, Any]) -> str:
    done = values.get("folds")
    return "" if done is None else f"{done} of {values['folds_planned']}"


def _steps(values: Mapping[str, Any]) -> str:
    done, planned = values.get("steps"), values.get("steps_planned")
    if not done:
        return ""
    return f"{done:,}" if planned in (None, done) else f"{done:,} of {planned:,}"


def _seconds(key: str) -> Any:
    def write(values: Mapping[str, Any]) -> str:
        value = values.get(key)
        return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"

    return write


SHOWN = (
    Shown("Param.", parameters, "Parameters of the model that makes the images"),
    Shown("Training (s)", _seconds("training_seconds"), "Mean over folds"),
    Shown("s / volume", _seconds("seconds_per_volume"), "Mean over test subjects"),
    Shown("Memory (GB)", _seconds("peak_memory_gb"), "Largest resident memory of a fold"),
    Shown("Steps", _steps, "Optimiser steps, the least of all folds, of those of the schedule"),
    Shown("Folds", _folds, "Scored, of those planned"),
)
"""The same as text."""


def _numbers(records: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    return [v for r in records if isinstance(v := r.get(key), int | float)]


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 3) if values else None
