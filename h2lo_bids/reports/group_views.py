"""One contrast of the group report, ready for its template."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from h2lo_bids.evaluation.catalogue import CONVENTIONS, REALISM
from h2lo_bids.evaluation.printout import floor_of, tests_html
from h2lo_bids.evaluation.scores import IDENTITY, IDENTITY_TITLES
from h2lo_bids.evaluation.splits import PARTS
from h2lo_bids.evaluation.table import Block, Shown, Table
from h2lo_bids.reports import charts
from h2lo_bids.reports import group_pictures as pictures
from h2lo_bids.reports.group_checks import read_pairs
from h2lo_bids.reports.group_data import (
    Contrast,
    Participants,
    Results,
    number_of,
    read_results,
    read_table,
)
from h2lo_bids.reports.svg import svg_uri
from h2lo_bids.wording import counted

PANELS = 24
"""Subjects with pictures at most; with those of the checks a page of both contrasts
stays below 15 MB."""

CHECKS = 40
_BYTES = 4_500_000
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


def contrast_view(
    contrast: Contrast, out_dir: Path, level: str, problems: list[str]
) -> dict[str, Any]:
    """Draw and lay out everything of one contrast; `problems` is extended."""
    results = read_results(contrast, out_dir, level, problems)
    block = results.block
    shown = {**block.titles, **contrast.titles}
    methods = tuple(shown)
    table = _table(results, contrast)
    pairs = read_pairs(out_dir, contrast.name, problems, limit=CHECKS)
    return {
        "name": contrast.name,
        "id": re.sub(r"\W", "-", contrast.name),
        "contrast": contrast,
        "metrics": results.metrics,
        "headline": _headline(block),
        "caption": f"{_caption(block)} {CONVENTIONS[results.convention]}",
        "printout": table.lay_out(table.blocks[0]),
        "partial": any(row.partial for row in block.rows),
        "tests": tests_html(block.comparisons, shown) if block.comparisons else "",
        "floor": floor_of(block.comparisons),
        "strips": _strips(results, shown, contrast.name),
        "curves": _curves(contrast, methods),
        "panels": _panels(contrast, results, shown, problems),
        "realism": _realism(contrast, shown, methods, problems),
        "splits": _split_rows(contrast),
        "split_folds": [fold.index for fold in contrast.splits],
        "pairs": pairs,
        "flagged": [pair.name for pair in pairs if pair.flagged],
        "undrawn": sum(pair.picture is None for pair in pairs),
        "legend": [(charts.colour(name, methods), shown[name]) for name in methods],
    }


def _table(results: Results, contrast: Contrast) -> Table:
    """Lay out Table 1, with the number of parameters of each method that recorded it."""
    counts = {run.method: run.record.get("parameters") for run in contrast.runs if run.done}
    known = {name: f"{n:,}" for name, n in counts.items() if isinstance(n, int)}
    rows = (replace(r, values={"parameters": known.get(r.name, "")}) for r in results.block.rows)
    return Table(
        (replace(results.block, rows=tuple(rows)),),
        metrics=tuple(metric.key for metric in results.metrics),
        shown=(Shown("Parameters", itemgetter("parameters")),) if known else (),
    )


def _headline(block: Block) -> str:
    """Sum up PSNR by method in one sentence."""
    figures = []
    for row in sorted(block.rows, key=lambda row: row.name == IDENTITY):
        psnr = row.summary["psnr"]
        if not math.isnan(psnr.mean):
            spread = "" if math.isnan(psnr.std) else f" \N{PLUS-MINUS SIGN} {psnr.std:.2f}"
            figures.append(f"{row.title} {psnr.mean:.2f}{spread} dB")
    return "PSNR of " + ", ".join(figures) + "." if figures else ""


def _caption(block: Block) -> str:
    """Say over whom means and deviations are."""
    figures = [summary for row in block.rows for summary in row.summary.values()]
    people = max((summary.n for summary in figures), default=0)
    folds = max((len(summary.fold_means) for summary in figures), default=0)
    who = counted(people, "participant")
    if any(summary.over == "folds" for summary in figures):
        return (
            f"Mean \N{PLUS-MINUS SIGN} population standard deviation of the means of {folds} folds "
            f"({who})."
        )
    if people < 2:
        return f"Figures of {who}."
    return f"Mean \N{PLUS-MINUS SIGN} population standard deviation over {who}."


def _strips(results: Results, titles: Mapping[str, str], name: str) -> list[dict[str, Any]]:
    strips = []
    for metric in results.metrics:
        subjects = results.participants.get(metric.key, {})
        scored = {method for values in subjects.values() for method in values}
        columns = {method: title for method, title in titles.items() if method in scored}
        if not columns:
            continue
        better = "larger" if metric.higher else "smaller"
        label = f"{metric.title} of {len(subjects)} subjects by method, {name}: {better} is better"
        strips.append({"metric": metric, "svg": charts.strip_plot(subjects, columns, label=label)})
    return strips


def _curves(contrast: Contrast, methods: Sequence[str]) -> list[dict[str, Any]]:
    drawings = {c.title: charts.training_curves(contrast.runs, methods, c) for c in charts.CURVES}
    return [{"title": title, "svg": svg} for title, svg in drawings.items() if svg]


def _realism(
    contrast: Contrast, titles: Mapping[str, str], methods: Sequence[str], problems: list[str]
) -> dict[str, Any] | None:
    """Lay out how real the images look, or nothing where no run has measured it."""
    rows = _realism_rows(contrast, titles, problems)
    if not rows:
        return None
    lines = [
        ("lf" if row["kind"] == "target" else charts.colour(row["image"], methods),
         row["title"], row["values"])
        for row in rows
        if row["kind"] != "reference" and row["image"] != IDENTITY
    ]  # fmt: skip
    label = f"Correlation with high-field images by band, {contrast.name}"
    return {
        "rows": rows,
        "chart": charts.bands(lines, label=label),
        "legend": [(css, title) for css, title, _ in lines],
    }


def _realism_rows(
    contrast: Contrast, titles: Mapping[str, str], problems: list[str]
) -> list[dict[str, Any]]:
    """Average the realism of each image over its participants: a row per image.

    Each row has its ``kind``, ``image`` and ``title``, ``n`` images, ``values``, the means by
    measure, NaN where there is none, and ``cells``, those of `REALISM_COLUMNS` as text.
    """
    measured: dict[tuple[str, str], dict[Any, dict[str, str]]] = {}
    for run in contrast.runs:
        for row in read_table(run.folder / "realism.tsv", problems):
            kind, image = row.get("kind") or "", row.get("image") or ""
            fold = run.fold if kind == "synthesized" else None  # a target is the same in all folds
            key = (row.get("participant_id"), row.get("session_id"), fold)
            measured.setdefault((kind, image), {})[key] = row
    order = ["target", "reference", "synthesized"]
    kept = [key for key in measured if key[0] in order]
    rows = []
    for kind, image in sorted(kept, key=lambda key: order.index(key[0])):
        images = list(measured[kind, image].values())
        means = {}
        for measure in REALISM:
            numbers = [v for row in images if math.isfinite(v := number_of(row.get(measure)))]
            means[measure] = sum(numbers) / len(numbers) if numbers else math.nan
        title = "Real low field" if kind == "target" else titles.get(image, image)
        cells = [
            "\N{EN DASH}" if math.isnan(means[key]) else f"{means[key]:.{digits}f}"
            for key, (_, digits) in _SHOWN.items()
        ]
        facts = {"kind": kind, "image": image, "title": title, "n": len(images)}
        rows.append({**facts, "values": means, "cells": cells})
    return rows


def _split_rows(contrast: Contrast) -> list[tuple[str, list[str]]]:
    """Lay out the splits: a row per participant, its part in every planned fold."""
    parts = {
        (subject, fold.index): part
        for fold in contrast.splits
        for part in PARTS
        for subject in getattr(fold, part)
    }
    names = sorted({subject for subject, _ in parts})
    folds = [fold.index for fold in contrast.splits]
    return [(f"sub-{name}", [parts.get((name, fold), "") for fold in folds]) for name in names]


def median_subject(participants: Participants, method: str, names: Sequence[str]) -> str | None:
    """Return the name of the median subject by a method's PSNR, the lower one of two."""
    values = participants.get("psnr", {})
    psnr = {name: values.get(name.partition("_")[0], {}).get(method) for name in names}
    ordered = sorted((value, name) for name, value in psnr.items() if value is not None)
    if not ordered:
        return names[0] if names else None
    return ordered[(len(ordered) - 1) // 2][1]


def _panels(
    contrast: Contrast, results: Results, titles: Mapping[str, str], problems: list[str]
) -> dict[str, Any]:
    """Draw the test subjects, the median one first, until the page is heavy enough."""
    subjects = pictures.read_subjects(contrast, problems)
    names = sorted(subjects)
    main = next((method for method in titles if method != IDENTITY), IDENTITY)
    median = median_subject(results.participants, main, names)
    ordered = sorted(names, key=lambda name: (name != median, name))[:PANELS]
    everyone = list(subjects.values())
    white, scale = pictures.bright(everyone), pictures.error_scale(everyone)
    drawn: list[dict[str, Any]] = []
    weight = 0
    for name in ordered:
        if weight > _BYTES:
            break
        drawing = pictures.draw_subject(
            subjects[name], contrast.name, titles, results.participants, white=white, scale=scale
        )
        weight += len(drawing)
        chart = _histogram([subjects[name]], titles, f"Histograms of {name}, {contrast.name}")
        drawn.append({"name": name, "uri": svg_uri(drawing), "chart": chart})
    label = f"Mean histograms of {len(everyone)} test subjects, {contrast.name}"
    return {
        "drawn": drawn,
        "left": len(names) - len(drawn),
        "median": median,
        "main": titles.get(main, main),
        "white": white,
        "scale": scale,
        "mean": _histogram(everyone, titles, label) if everyone else None,
        "count": len(everyone),
    }


def _histogram(
    subjects: Sequence[pictures.Subject], titles: Mapping[str, str], label: str
) -> Markup:
    """Draw the high field, the real low field and every method, averaged over subjects."""
    keys = {"hf": "High field", "lf": "Real low field"}
    if titles.get(IDENTITY) == IDENTITY_TITLES["enhance"]:
        keys = {"hf": "Low field", "lf": "Real high field"}
    keys |= {name: title for name, title in titles.items() if name != IDENTITY}
    curves = []
    for key, title in keys.items():
        shares = [s.histograms[key] for s in subjects if key in s.histograms]
        sizes = {share.shape for share in shares}
        if len(sizes) == 1:
            css = key if key in ("hf", "lf") else charts.colour(key, tuple(titles))
            sums = [share / (share.sum() or 1.0) for share in shares]
            curves.append((css, title, np.mean(sums, axis=0)))
    return charts.histograms(curves, label=label)
