"""The tables of a benchmark: their further columns, of what each method cost and learned from."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Any

from h2lo_bids.evaluation.catalogue import columns_of
from h2lo_bids.evaluation.scores import Score
from h2lo_bids.evaluation.table import CITATION, CITATION_2, Block, Column, Printed, Table
from h2lo_bids.models.registry import CATALOGUE
from h2lo_bids.vocabulary import ENHANCE
from h2lo_bids.wording import counted

Records = Sequence[Mapping[str, Any]]

_FEW = 10_000

DETAIL = {"detail_3mm": (4, 3), "detail_2mm": (3, 2)}
"""Bands of half-pitch in mm in which an enhanced image is compared with the true one."""


def benchmark_table(task: str, blocks: Sequence[Block]) -> Table:
    """Return Table 1 of synthesis methods, or Table 2 of enhancers, from `row_values`."""
    enhances = task == ENHANCE
    name, values = "table2" if enhances else "table1", columns_of("benchmark")
    return Table(
        tuple(blocks),
        name=name,
        title="Low-field enhancement: with and without synthetic pairs, on the same folds"
        if enhances
        else "Low-field synthesis: every method on the same pairs and folds",
        values=values | columns_of("benchmark_arms") if enhances else values,
        shown=(*_ARMS, *_COSTS) if enhances else _SHOWN,
        printed=paper_figures(name),
        notes=("Research use only: an enhanced image is not for diagnosis.",) * enhances,
        citation=CITATION_2 if enhances else CITATION,
        task=task,
    )


@cache
def paper_figures(table: str = "table1") -> Printed:
    """Return a printed table: mean and deviation, or NaN, by contrast, method and metric."""
    text = (files("h2lo_bids") / f"data/paper/{table}.tsv").read_text(encoding="utf-8")
    return {
        (row["contrast"], row["method"], key.removesuffix("_mean")): (
            float(value),
            float(row.get(key.replace("_mean", "_std"), "nan")),
        )
        for row in csv.DictReader(text.splitlines(), delimiter="\t")
        for key, value in row.items()
        if key.endswith("_mean")
    }


def row_values(
    name: str, scores: Sequence[Score], records: Records, planned: int, every: Records = ()
) -> dict[str, Any]:
    """Sum up a method's scores and its folds' records; `every` are the records of all methods."""
    scored = [s for s in scores if s.method == name]
    options = [record.get("options") or {} for record in records]
    _, steps, planned_steps = _progress(records)
    limits = [limit for each in options if (limit := _budget(each))]
    size = max(_numbers(records, "parameters"), default=None)
    entry = CATALOGUE.get(name)
    return {
        "folds": len({s.fold for s in scored}),
        "folds_planned": planned,
        "participants": len({s.subject.partition("_")[0] for s in scored}),
        "parameters": size,
        "parameters_trained": entry.trained or size if entry and entry.parameters == size else None,
        "training_seconds": _mean(_numbers(records, "seconds")),
        "seconds_per_volume": _mean([s for r in records for s in r.get("synthesis_seconds") or ()]),
        "peak_memory_gb": max(_numbers(records, "peak_memory_gb"), default=None),
        "steps": steps,
        "steps_planned": planned_steps,
        "stopped_early": None if steps is None else sum(bool(r.get("timed_out")) for r in records),
        "time_budget_minutes": max(limits) / 60 if limits else None,
        **arms_of(records),
        **_detail(name, records or every),
    }


def _detail(name: str, records: Records) -> dict[str, float | None]:
    """Average a row's correlations; None where a fold, such as of a damaged record, has none."""
    lists: list[Any] = [record.get("detail") for record in records]
    if not all(isinstance(images, list) for images in lists):
        return dict.fromkeys(DETAIL)
    found = [image.get(name) for images in lists for image in images if isinstance(image, dict)]
    figures = [each for each in found if isinstance(each, dict)]
    return {key: _mean(_numbers(figures, key)) for key in DETAIL}


def _numbers(records: Records, key: str) -> list[Any]:
    return [v for r in records if isinstance(v := r.get(key), int | float)]


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 3) if values else None


def arms_of(records: Records) -> dict[str, Any]:
    """Return whom an arm was trained on, and for how long; empty for what is no arm."""
    options = records[0].get("options") or {} if records else {}
    schedule = options.get("schedule")
    if not schedule:
        return {}
    factor, cohort = schedule["factor"], options.get("cohort")
    turned = bool(options.get("flip_rotate"))
    real = "finetune" if cohort else "augmented" if turned else "real"
    return {
        "subjects_real": max(len(record["fold"]["train"]) for record in records),
        "subjects_cohort": cohort["subjects"] if cohort else None,
        "epochs_pretrain": _epochs(
            factor * schedule["pretrain"], _progress(records, "pretrain_steps", "pretrain")
        ),
        "epochs_real": _epochs(factor * schedule[real], _progress(records)),
        "flip_rotate": turned,
    }


def _progress(records: Records, key: str = "steps", stage: str = "") -> tuple[float, Any, Any]:
    """Return share of the schedule, steps done and planned of the fold that did the least part."""
    found = []
    for record in records:
        options = record.get("options") or {}
        done = record.get(key)
        planned = ((options.get(stage) if stage else options) or {}).get("steps")
        if isinstance(done, int | float):
            found.append((done / planned if planned else 1.0, done, planned))
    return min(found, key=lambda one: one[:2], default=(0.0, None, None))


def _epochs(planned: float, progress: tuple[float, Any, Any]) -> float | None:
    """Return the epochs of a stage that were done; None where it has no steps."""
    return None if progress[1] is None else round(planned * progress[0], 1)


def _budget(options: Mapping[str, Any]) -> float | None:
    """Return the seconds that a fit may take, with an arm's both stages; None for no limit."""
    stages = (options, options.get("pretrain") or {})
    return sum(stage["max_seconds"] for stage in stages if stage.get("max_seconds")) or None


def budget_notes(methods: Mapping[str, Records]) -> tuple[str, ...]:
    """Name the methods, by title, whose fits the time budget ended, one sentence each."""
    lines = []
    for title, records in methods.items():
        early = [r for r in records if r.get("timed_out")]
        if early:
            steps = sorted({int(r["steps"]) for r in early})
            span = " to ".join(map(str, dict.fromkeys((steps[0], steps[-1]))))
            options = early[0].get("options") or {}
            limit, first = _budget(options), early[0].get("pretrain_steps")
            before = f", and {first} of {options['pretrain']['steps']} before" if first else ""
            lines.append(
                f"{title}: the time budget{f' of {limit / 60:g} min' if limit else ''} ended "
                f"{len(early)} of {counted(len(records), 'fit')} after {span} of "
                f"{options.get('steps', '?')} steps{before}."
            )
    return tuple(lines)


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return "" if value is None else f"{value:.4g}"


def subjects(values: Mapping[str, Any]) -> str:
    """Write the subjects as the paper does: 13, 13+147 with a cohort, 13 (*8) if augmented."""
    real, cohort = _text(values, "subjects_real"), _text(values, "subjects_cohort")
    if cohort:
        return f"{real}+{cohort}"
    return f"{real} (*8)" if values.get("flip_rotate") else real


def epochs(values: Mapping[str, Any]) -> str:
    """Write the epochs as the paper does: 50, or 150+50 after pretraining."""
    real, first = _text(values, "epochs_real"), _text(values, "epochs_pretrain")
    return f"{first}+{real}" if first else real


def parameters(values: Mapping[str, Any]) -> str:
    """Write numbers of parameters as the paper does: ``4``, ``0.58M``."""
    size, trained = (
        f"{number:,}" if number < _FEW else f"{number / 1e6:.2f}M"
        for number in (values.get(key) or 0 for key in ("parameters", "parameters_trained"))
    )
    if not values.get("parameters"):
        return ""
    return size if trained in ("0", size) else f"{size} ({trained} trained)"


def _folds(values: Mapping[str, Any]) -> str:
    done = values.get("folds")
    return "" if done is None else f"{done} of {values['folds_planned']}"


def _steps(values: Mapping[str, Any]) -> str:
    done, planned = values.get("steps"), values.get("steps_planned")
    if not done:
        return ""
    return f"{done:,}" if planned in (None, done) else f"{done:,} of {planned:,}"


def _seconds(key: str, values: Mapping[str, Any]) -> str:
    value = values.get(key)
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


_SHOWN = (
    Column("Param.", "Number of parameters of the model that makes the images", parameters),
    Column("Training (s)", "Mean over folds", partial(_seconds, "training_seconds")),
    Column("s / volume", "Mean over test subjects", partial(_seconds, "seconds_per_volume")),
    Column(
        "Memory (GB)",
        "Peak resident memory, maximum over folds",
        partial(_seconds, "peak_memory_gb"),
    ),
    Column("Steps", "Optimiser steps in the fold with the least of its schedule done", _steps),
    Column("Folds", "Scored folds, of those planned", _folds),
)
_COSTS = tuple(column for column in _SHOWN if column.heading in ("Training (s)", "Steps", "Folds"))
_ARMS = (
    Column(
        "Detail",
        "Correlation with the true high-field image, half-pitch 4 to 3 and 3 to 2 mm",
        lambda values: " / ".join(f"{v:.2f}" for k in DETAIL if (v := values.get(k)) is not None),
    ),
    Column("Subjects", "With real pairs, and in the cohort for pretraining", subjects),
    Column("Epochs", "Completed epochs of pretraining, and with real pairs", epochs),
)
