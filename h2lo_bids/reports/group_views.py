"""One contrast of the group report or of a benchmark's table, ready for its template."""

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
from h2lo_bids.evaluation.scores import IDENTITY
from h2lo_bids.evaluation.splits import PARTS
from h2lo_bids.evaluation.statistics import floor_of
from h2lo_bids.evaluation.table import Block, Column, Printout, Table
from h2lo_bids.reports import charts
from h2lo_bids.reports import group_pictures as pictures
from h2lo_bids.reports.group_data import Contrast, read_table
from h2lo_bids.reports.mosaic import svg_uri
from h2lo_bids.wording import counted

PANELS = 24
"""Subjects with pictures at most; with those of the checks a page of both contrasts
stays below 15 MB."""

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


def common_view(block: Block, titles: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what a contrast shows on the page of a group and of a table."""
    target, source = pictures.fields_of(titles or block.titles)
    return {
        "name": block.contrast,
        "target": target,
        "source": source,
        "notes": block.notes,
        "id": re.sub(r"\W", "-", block.contrast),
        "tests": block.paired() if block.comparisons else None,
        "floor": floor_of(block.comparisons),
    }


def contrast_view(contrast: Contrast, out_dir: Path) -> dict[str, Any]:
    """Draw and lay out everything of one contrast."""
    block, titles = contrast.block, contrast.titles
    curves = {
        title: charts.training_curves(contrast.runs, titles, column)
        for column, title in charts.CURVES.items()
    }
    pairs = pictures.read_pairs(out_dir, contrast.name, contrast.problems)
    return {
        **common_view(block, titles),
        "contrast": contrast,
        "headline": _headline(block),
        "caption": f"{_caption(block)} {CONVENTIONS[block.convention]}",
        "printout": _printout(contrast),
        "partial": any(row.partial for row in block.rows),
        "strips": _strips(contrast),
        "curves": [{"title": title, "svg": svg} for title, svg in curves.items() if svg],
        "panels": draw_panels(contrast),
        "realism": _realism(contrast),
        "splits": _split_rows(contrast),
        "pairs": pairs,
        "flagged": [pair["name"] for pair in pairs if pair["flagged"]],
        "undrawn": sum(pair["picture"] is None for pair in pairs),
        "legend": [(charts.colour(name, tuple(titles)), titles[name]) for name in titles],
    }


def _printout(contrast: Contrast) -> Printout:
    """Lay out Table 1, with the number of parameters of each method that recorded it."""
    counts = ((run.method, run.record.get("parameters")) for run in contrast.runs)
    known = {method: f"{count:,}" for method, count in counts if count is not None}
    rows = (replace(r, values={"parameters": known.get(r.name)}) for r in contrast.block.rows)
    block = replace(contrast.block, rows=tuple(rows))
    table = Table(
        (block,),
        metrics=tuple(metric.key for metric in contrast.metrics),
        shown=(Column("Parameters", write=itemgetter("parameters")),) if known else (),
    )
    return table.lay_out(block)


def _headline(block: Block) -> str:
    """Sum up PSNR by method in one sentence."""
    figures = []
    for row in sorted(block.rows, key=lambda row: row.name == IDENTITY):
        psnr = row.summary["psnr"]
        if not math.isnan(psnr.mean):
            spread = "" if math.isnan(psnr.std) else f" \N{PLUS-MINUS SIGN} {psnr.std:.2f}"
            figures.append(f"{row.heading} {psnr.mean:.2f}{spread} dB")
    return "PSNR of " + ", ".join(figures) + "." if figures else ""


def _caption(block: Block) -> str:
    """Return over whom means and deviations are computed."""
    figures = [summary for row in block.rows for summary in row.summary.values()]
    people = max((summary.n for summary in figures), default=0)
    folds = max((len(summary.fold_means) for summary in figures), default=0)
    who = counted(people, "participant")
    spread = "Mean \N{PLUS-MINUS SIGN} population standard deviation"
    over = {summary.over for summary in figures}
    if "folds" in over:
        rest = ", or over participants if there are fewer than two folds" * (len(over) > 1)
        return f"{spread} of the means of {folds} folds ({who}){rest}."
    return f"{spread} over {who}." if people > 1 else f"Values of {who}."


def _strips(contrast: Contrast) -> list[dict[str, Any]]:
    """Draw each metric of every participant."""
    strips = []
    for metric in contrast.metrics:
        subjects = contrast.block.people(metric.key)
        scored = {method for values in subjects.values() for method in values}
        columns = {name: title for name, title in contrast.titles.items() if name in scored}
        better = "larger" if metric.higher else "smaller"
        what = f"{metric.title} of {len(subjects)} subjects by method, {contrast.name}"
        drawing = charts.strip_plot(subjects, columns, label=f"{what}: {better} is better")
        strips.append({"metric": metric, "svg": drawing})
    return strips


def _realism(contrast: Contrast) -> dict[str, Any] | None:
    """Lay out how real the images look, if measured: means over images, a row per method."""
    import pandas as pd

    measured = []
    for run in contrast.runs:
        for row in read_table(run.folder / "realism.tsv", contrast.problems):
            # A target is the same in all folds; a folder that was renamed is another method's.
            own = row.get("kind") == "synthesized"
            fold, image = (run.fold, run.method) if own else (None, row.get("image") or "")
            measured.append({**row, "fold": fold, "image": image})
    keys = ["kind", "image", "participant_id", "session_id", "fold"]
    table = pd.DataFrame(measured).reindex(columns=[*keys, *REALISM])
    table = table.drop_duplicates(keys, keep="last")
    numbers = table[[*REALISM]].apply(pd.to_numeric, errors="coerce").astype(float)
    table[[*REALISM]] = numbers.replace([np.inf, -np.inf], np.nan)
    rows: list[dict[str, Any]] = []
    lines: list[tuple[str, str, dict[str, float]]] = []
    for kind in ("target", "reference", "synthesized"):
        for image, images in table[table["kind"] == kind].groupby("image", sort=False):
            means = images[[*REALISM]].mean().to_dict()
            cells = [
                "\N{EN DASH}" if math.isnan(means[key]) else f"{means[key]:.{digits}f}"
                for key, (_, digits) in _SHOWN.items()
            ]
            title = "Real low field" if kind == "target" else contrast.titles.get(image, image)
            rows.append({"kind": kind, "title": title, "n": len(images), "cells": cells})
            if kind != "reference" and image != IDENTITY:
                css = "lf" if kind == "target" else charts.colour(image, tuple(contrast.titles))
                lines.append((css, title, means))
    if not rows:
        return None
    label = f"Correlation with high-field images by band, {contrast.name}"
    return {
        "rows": rows,
        "chart": charts.bands(lines, label=label),
        "legend": [(css, title) for css, title, _ in lines],
    }


def _split_rows(contrast: Contrast) -> list[tuple[str, list[str]]]:
    """Lay out the splits: a row per participant, its part in every planned fold."""
    parts = [
        {subject: part for part in PARTS for subject in getattr(fold, part)}
        for fold in contrast.splits
    ]
    names = sorted(set().union(*parts))
    return [(f"sub-{name}", [of_fold.get(name, "") for of_fold in parts]) for name in names]


def _median(psnr: Mapping[str, Mapping[str, float]], method: str, names: Sequence[str]) -> str:
    """Return the median one of some subjects by a method's PSNR, the lower one of two."""
    values = {name: psnr.get(name.partition("_")[0], {}).get(method) for name in names}
    ordered = sorted((value, name) for name, value in values.items() if value is not None)
    return ordered[(len(ordered) - 1) // 2][1] if ordered else names[0]


def draw_panels(
    contrast: Contrast, *, main: str = "", limit: int = PANELS
) -> dict[str, Any] | None:
    """Draw test subjects, by `main` the median one first, until the page is heavy enough."""
    subjects, titles = pictures.read_subjects(contrast), contrast.titles
    if not subjects:
        return None
    main = main or next((method for method in titles if method != IDENTITY), IDENTITY)
    most = max(len(subject.predicted) for subject in subjects.values())
    whole = sorted(name for name, s in subjects.items() if len(s.predicted) == most)
    psnr = contrast.block.people("psnr")
    median = _median(psnr, main, whole)
    ordered = sorted(subjects, key=lambda name: (name != median, name))[:limit]
    everyone = list(subjects.values())
    white = pictures.bright(everyone)
    scale = pictures.error_scale([subjects[name] for name in ordered])
    drawn: list[dict[str, Any]] = []
    weight = 0
    for name in ordered:
        if weight > _BYTES:
            break
        figures = psnr.get(name.partition("_")[0], {})
        drawing = pictures.draw_subject(subjects[name], contrast, figures, white, scale)
        weight += len(drawing)
        chart = _histogram([subjects[name]], titles, f"Histograms of {name}, {contrast.name}")
        drawn.append({"name": name, "uri": svg_uri(drawing), "chart": chart})
    label = f"Mean histograms of {len(everyone)} test subjects, {contrast.name}"
    return {
        "drawn": drawn,
        "left": len(subjects) - len(drawn),
        "median": median,
        "main": titles.get(main, main),
        "white": white,
        "scale": scale,
        "mean": _histogram(everyone, titles, label),
        "count": len(everyone),
        "lacking": [
            titles[key] for key in titles if key not in (IDENTITY, *subjects[median].predicted)
        ],
    }


def _histogram(
    subjects: Sequence[pictures.Subject], titles: Mapping[str, str], label: str
) -> Markup:
    """Draw the input, the real image of its target and every method, averaged over subjects."""
    target, source = pictures.fields_of(titles)
    keys = {"hf": f"{source.capitalize()} field", "lf": f"Real {target} field"}
    keys |= {name: title for name, title in titles.items() if name != IDENTITY}
    curves = []
    for key, title in keys.items():
        shares = [s.histograms[key] for s in subjects if key in s.histograms]
        if len({share.shape for share in shares}) == 1:
            css = key if key in ("hf", "lf") else charts.colour(key, tuple(titles))
            sums = [share / (share.sum() or 1.0) for share in shares]
            curves.append((css, title, np.mean(sums, axis=0)))
    return charts.histograms(curves, label=label)
