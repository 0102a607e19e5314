"""The tables of the group report: Table 1 of the paper, tests between methods, the splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from h2lo_bids.evaluation.catalogue import Metric
from h2lo_bids.evaluation.columns import REALISM
from h2lo_bids.evaluation.layout import number
from h2lo_bids.evaluation.places import places
from h2lo_bids.reports.group_data import Contrast, number_of, read_table
from h2lo_bids.reports.group_scores import Results

_SHOWN = {
    "level_low": ("Low", 2),
    "level_mid": ("Middle", 2),
    "noise": ("Noise", 4),
    "snr_low": ("SNR low", 1),
    "snr_mid": ("SNR middle", 1),
    "snr_high": ("SNR high", 1),
    "cnr_low_mid": ("CNR low, middle", 1),
    "cnr_mid_high": ("CNR middle, high", 1),
    "spectrum_db": ("Spectrum (dB)", 1),
    "reference_spectrum_db": ("Spectrum, reference (dB)", 1),
    "reference_histogram": ("Histogram, reference", 3),
}
REALISM_COLUMNS = tuple((head, REALISM[key][0]) for key, (head, _) in _SHOWN.items())
"""Heads of the measures that the page shows as numbers, and what they mean."""


def write_value(metric: Metric, value: float) -> str:
    """Write a figure with the decimals of the paper."""
    return number(metric.key, value)


def table_rows(results: Results, titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Lay out Table 1: a row per method, its cells with their place in the column."""
    places = {metric.key: _places(results, metric) for metric in results.metrics}
    rows = []
    for method in results.methods:
        cells = []
        for metric in results.metrics:
            row = results.summary[method, metric.key]
            low, high = (write_value(metric, bound) for bound in (row.low, row.high))
            cells.append(
                {
                    "mean": write_value(metric, row.mean),
                    "std": "" if math.isnan(row.std) else write_value(metric, row.std),
                    "interval": "" if math.isnan(row.low) else f"{low} to {high}",
                    "n": row.n,
                    "place": places[metric.key].get(method),
                }
            )
        rows.append({"method": method, "title": titles.get(method, method), "cells": cells})
    return rows


def _places(results: Results, metric: Metric) -> dict[str, int]:
    means = {m: row.mean for (m, key), row in results.summary.items() if key == metric.key}
    return places(means, higher=metric.higher)


def comparison_rows(results: Results, titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Lay out the paired tests: a row per two methods, a cell per metric."""
    found = {(row.method, row.versus, row.metric): row for row in results.comparisons}
    pairs = dict.fromkeys((row.method, row.versus) for row in results.comparisons)
    rows = []
    for first, second in pairs:
        cells = []
        for metric in results.metrics:
            row = found[first, second, metric.key]
            sign = "+" if row.difference > 0 else ""
            cells.append(
                {
                    "difference": sign + write_value(metric, row.difference),
                    "p": probability(row.p_holm),
                    "raw": probability(row.p),
                    "better": row.better == first,
                    "n": row.n,
                    "significant": row.p_holm < 0.05,
                }
            )
        names = (titles.get(name, name) for name in (first, second))
        rows.append({"pair": " against ".join(names), "cells": cells})
    return rows


def realism_rows(
    contrast: Contrast, titles: Mapping[str, str], problems: list[str]
) -> list[dict[str, Any]]:
    """Average the realism of each image over its participants: a row per image.

    Each row has its ``kind``, ``image`` and ``title``, ``n`` images, ``values``, the means by
    measure, NaN where there is none, and ``cells``, those of `REALISM_COLUMNS` as text.
    """
    found: dict[tuple[str, str], dict[Any, dict[str, str]]] = {}
    for run in contrast.runs:
        for row in read_table(run.folder / "realism.tsv", problems):
            kind, image = row.get("kind") or "", row.get("image") or ""
            fold = run.fold if kind == "synthesized" else None  # a target is the same in all folds
            key = (row.get("participant_id"), row.get("session_id"), fold)
            found.setdefault((kind, image), {})[key] = row
    order = ["target", "reference", "synthesized"]
    kept = [key for key in found if key[0] in order]
    rows = []
    for kind, image in sorted(kept, key=lambda key: order.index(key[0])):
        own = list(found[kind, image].values())
        means = {}
        for measure in REALISM:
            numbers = [v for row in own if math.isfinite(v := number_of(row.get(measure)))]
            means[measure] = sum(numbers) / len(numbers) if numbers else math.nan
        title = "Real low field" if kind == "target" else titles.get(image, image)
        cells = [
            "\N{EN DASH}" if math.isnan(means[key]) else f"{means[key]:.{digits}f}"
            for key, (_, digits) in _SHOWN.items()
        ]
        told = {"kind": kind, "image": image, "title": title, "n": len(own)}
        rows.append({**told, "values": means, "cells": cells})
    return rows


def split_rows(contrast: Contrast) -> list[tuple[str, list[str]]]:
    """Lay out the splits: a row per participant, its part in every planned fold."""
    folds = sorted({split.fold for split in contrast.splits})
    parts = {(split.participant, split.fold): split.part for split in contrast.splits}
    names = sorted({split.participant for split in contrast.splits})
    return [(name, [parts.get((name, fold), "") for fold in folds]) for name in names]


def median_subject(results: Results, method: str, names: Sequence[str]) -> str | None:
    """Name the picture in the middle of a method's PSNR; the lower one of two."""
    values = results.participants.get("psnr", {})
    psnr = {name: values.get(name.partition("_")[0], {}).get(method) for name in names}
    ordered = sorted((value, name) for name, value in psnr.items() if value is not None)
    if not ordered:
        return names[0] if names else None
    return ordered[(len(ordered) - 1) // 2][1]


def probability(p: float) -> str:
    """Write a p value."""
    if math.isnan(p):
        return "\N{EN DASH}"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
