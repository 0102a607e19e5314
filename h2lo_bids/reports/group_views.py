"""One contrast of the group report, ready for its template."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from h2lo_bids.evaluation.scores import CONVENTIONS, IDENTITY, IDENTITY_TITLES
from h2lo_bids.reports import charts
from h2lo_bids.reports import group_pictures as pictures
from h2lo_bids.reports import group_tables as tables
from h2lo_bids.reports.group_checks import read_pairs
from h2lo_bids.reports.group_data import Contrast
from h2lo_bids.reports.group_scores import Results, read_results
from h2lo_bids.reports.images import svg_uri
from h2lo_bids.wording import counted

PANELS = 24
"""Subjects with pictures at most; with those of the checks a page of both contrasts
stays below 15 MB."""

CHECKS = 40
_BYTES = 4_500_000


def contrast_view(
    contrast: Contrast, out_dir: Path, level: str, problems: list[str]
) -> dict[str, Any]:
    """Draw and lay out everything of one contrast.

    Parameters
    ----------
    contrast : Contrast
        What was found.
    out_dir : Path
        Root of the derivatives.
    level : str
        As in :func:`h2lo_bids.reports.group.write_group_report`.
    problems : list of str
        Extended by what could not be read.
    """
    results = read_results(contrast, out_dir, level, problems)
    titles = contrast.titles
    methods = tuple(dict.fromkeys([*results.methods, *titles]))
    shown = {name: titles.get(name, name) for name in methods}
    pairs = read_pairs(out_dir, contrast.name, problems, limit=CHECKS)
    return {
        "name": contrast.name,
        "id": re.sub(r"\W", "-", contrast.name),
        "contrast": contrast,
        "metrics": results.metrics,
        "headline": _headline(results, shown),
        "caption": f"{_caption(results)} {CONVENTIONS[results.convention]}",
        "rows": tables.table_rows(results, shown),
        "parameters": _parameters(contrast),
        "floor": floor_of(results),
        "comparisons": tables.comparison_rows(results, shown),
        "strips": _strips(results, shown, contrast.name),
        "curves": _curves(contrast, methods),
        "panels": _panels(contrast, results, shown, problems),
        "realism": _realism(contrast, shown, methods, problems),
        "splits": tables.split_rows(contrast),
        "split_folds": sorted({split.fold for split in contrast.splits}),
        "pairs": pairs,
        "flagged": [pair.name for pair in pairs if pair.flagged],
        "undrawn": sum(pair.picture is None for pair in pairs),
        "legend": [(charts.colour(name, methods), shown[name]) for name in methods],
    }


def _headline(results: Results, titles: Mapping[str, str]) -> str:
    """Say in one sentence what a reader wants to know first."""
    told = []
    for method in sorted(results.methods, key=lambda name: name == IDENTITY):
        row = results.summary[method, "psnr"]
        if not math.isnan(row.mean):
            spread = "" if math.isnan(row.std) else f" \N{PLUS-MINUS SIGN} {row.std:.2f}"
            told.append(f"{titles[method]} {row.mean:.2f}{spread} dB")
    return "PSNR of " + ", ".join(told) + "." if told else ""


def _caption(results: Results) -> str:
    """Say whose means and deviations the table gives."""
    rows = list(results.summary.values())
    people = max((row.n for row in rows), default=0)
    folds = max((len(row.fold_means) for row in rows), default=0)
    who = counted(people, "participant")
    if any(row.over == "folds" for row in rows):
        return (
            f"Mean \N{PLUS-MINUS SIGN} population standard deviation of the means of {folds} folds "
            f"({who})."
        )
    if people < 2:
        return f"Figures of {who}."
    return f"Mean \N{PLUS-MINUS SIGN} population standard deviation over {who}."


def floor_of(results: Results) -> str:
    """Say when there are too few participants for the test to find anything."""
    people = max((row.n for row in results.comparisons), default=0)
    families = Counter((row.versus, row.metric) for row in results.comparisons)
    lowest = min(families.values(), default=0) * 2.0 ** (1 - people)
    if lowest < 0.05:
        return ""
    return (
        f" With {people} participants no corrected p can be below {min(lowest, 1.0):.2g}: "
        "the test cannot tell these methods apart, whatever they do."
    )


def _parameters(contrast: Contrast) -> dict[str, str]:
    counts = {run.method: run.record.get("parameters") for run in contrast.runs if run.done}
    return {name: f"{n:,}" for name, n in counts.items() if isinstance(n, int)}


def _strips(results: Results, titles: Mapping[str, str], name: str) -> list[dict[str, Any]]:
    from markupsafe import Markup

    found = []
    for metric in results.metrics:
        subjects = results.participants.get(metric.key, {})
        scored = {method for values in subjects.values() for method in values}
        columns = {method: title for method, title in titles.items() if method in scored}
        if not columns:
            continue
        better = "larger" if metric.higher else "smaller"
        label = f"{metric.title} of {len(subjects)} subjects by method, {name}: {better} is better"
        drawing = charts.strip_plot(subjects, columns, label=label)
        found.append({"metric": metric, "svg": Markup(drawing)})  # noqa: S704 - escaped there
    return found


def _curves(contrast: Contrast, methods: Sequence[str]) -> list[dict[str, Any]]:
    from markupsafe import Markup

    found = []
    for curve in charts.CURVES:
        drawing = charts.training_curves(contrast.runs, methods, curve)
        if drawing:
            found.append({"title": curve.title, "svg": Markup(drawing)})  # noqa: S704 - as above
    return found


def _realism(
    contrast: Contrast, titles: Mapping[str, str], methods: Sequence[str], problems: list[str]
) -> dict[str, Any] | None:
    """Lay out how real the images look, or nothing where no run has measured it."""
    from markupsafe import Markup

    rows = tables.realism_rows(contrast, titles, problems)
    if not rows:
        return None
    lines = [
        ("lf" if row["kind"] == "target" else charts.colour(row["image"], methods),
         row["title"], row["values"])
        for row in rows
        if row["kind"] != "reference" and row["image"] != IDENTITY
    ]  # fmt: skip
    chart = charts.bands(
        lines, label=f"Correlation with high-field images by band, {contrast.name}"
    )
    return {
        "rows": rows,
        "chart": Markup(chart) if chart else None,  # noqa: S704 - escaped there
        "legend": [(css, title) for css, title, _ in lines],
    }


def _panels(
    contrast: Contrast, results: Results, titles: Mapping[str, str], problems: list[str]
) -> dict[str, Any]:
    """Draw the test subjects, the median one first, until the page is heavy enough."""
    from markupsafe import Markup

    subjects = pictures.read_subjects(contrast, problems)
    names = sorted(subjects)
    main = next((method for method in titles if method != IDENTITY), IDENTITY)
    median = tables.median_subject(results, main, names)
    ordered = sorted(names, key=lambda name: (name != median, name))[:PANELS]
    everyone = list(subjects.values())
    white, scale = pictures.bright(everyone), pictures.error_scale(everyone)
    drawn: list[dict[str, Any]] = []
    weight = 0
    for name in ordered:
        if weight > _BYTES:
            break
        drawing = draw_subject(
            contrast.name, subjects[name], titles, results, white=white, scale=scale
        )
        weight += len(drawing)
        chart = _histogram([subjects[name]], titles, f"Histograms of {name}, {contrast.name}")
        panel = {"name": name, "uri": svg_uri(drawing), "chart": Markup(chart)}  # noqa: S704 - ours
        drawn.append(panel)
    label = f"Mean histograms of {len(everyone)} test subjects, {contrast.name}"
    return {
        "drawn": drawn,
        "left": len(names) - len(drawn),
        "median": median,
        "main": titles.get(main, main),
        "white": white,
        "scale": scale,
        "mean": Markup(_histogram(everyone, titles, label)) if everyone else None,  # noqa: S704
        "count": len(everyone),
    }


def draw_subject(
    contrast: str,
    subject: pictures.Subject,
    titles: Mapping[str, str],
    results: Results,
    *,
    white: float,
    scale: float,
) -> str:
    """Draw Fig. 2 (a) of one subject as SVG, with the PSNR of every method."""
    psnr = results.participants.get("psnr", {}).get(subject.name.partition("_")[0], {})
    ends = "low field, real high field, enhanced"
    if titles.get(IDENTITY) != IDENTITY_TITLES["enhance"]:
        ends = "high field, real low field, synthesized"
    title = f"{contrast} slices of {subject.name}: {ends}"
    return pictures.mosaic(subject, titles, psnr, white=white, scale=scale, title=title)


def _histogram(subjects: Sequence[pictures.Subject], titles: Mapping[str, str], label: str) -> str:
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
