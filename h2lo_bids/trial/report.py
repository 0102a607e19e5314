"""The page of a trial, and the pictures of labels on a participant's page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.bids.derivatives import software_versions
from h2lo_bids.bids.scan import Scan
from h2lo_bids.io import atomic_write_text
from h2lo_bids.reports import charts, mosaic
from h2lo_bids.reports.figures import save_figure
from h2lo_bids.reports.methods import works
from h2lo_bids.reports.mosaic import picture_uri, volume_of
from h2lo_bids.reports.page import asset, render
from h2lo_bids.reports.records import Figure
from h2lo_bids.trial.condition import HIGH, ratings_path
from h2lo_bids.trial.scan import Examined
from h2lo_bids.trial.study import OBSERVERS, TABLES, Study

_CITED = ("arnold", "badano", "gallas", "delong", "bland", "shrout")
_TITLES = {"hotelling": "Channelized Hotelling observer", "cnr": "CNR observer"}
_HIDDEN = ("contrast", "label", "observer", "intercept", "slope")
_HEADS = {
    name: {column: what for column, what in described.items() if column not in _HIDDEN}
    for name, described in TABLES.items()
}


def write_trial_report(out_dir: Path, study: Study, words: Sequence[str]) -> Path:
    """Write ``trial.html``, which loads nothing; return its path."""
    path = Path(out_dir) / "trial.html"
    views = [_view(out_dir, study, *key) for key in study.lesions]
    page = render(
        "trial.html.jinja",
        style=asset("style.css") + asset("group.css"),
        views=views,
        conditions=study.conditions,
        simulated="simulated" in study.training,
        training=sorted(study.training),
        notes=study.notes,
        references=[works()[key] for key in _CITED if key in works()],
        command=shlex.join(["h2lo", *words]),
        software=tuple(software_versions().items()),
    )
    atomic_write_text(path, page)
    return path


def _view(out_dir: Path, study: Study, contrast: str, label: str) -> dict[str, Any]:
    """Return what the page shows of a contrast and label."""
    names = list(study.conditions)
    colours = {n: charts.colour(n, names) if n != HIGH else "hf" for n in names}
    parts = []
    for observer in OBSERVERS:
        rows = {
            table: [
                row for row in study.rows[table]
                if (row["contrast"], row["label"]) == (contrast, label)
                and row.get("observer", OBSERVERS[0]) == observer
            ]
            for table in _HEADS
        }  # fmt: skip
        rated = [row for row in rows["detectability"] if "auc" in row]
        curves = [
            (colours[row["condition"]], row["condition"], _curve(row["intercept"], row["slope"]))
            for row in rated if math.isfinite(row["intercept"])
        ]  # fmt: skip
        points = [
            (colours[row["condition"]], row["condition"],
             (row["auc"], row["delong_low"], row["delong_high"]))
            for row in rated
        ]  # fmt: skip
        parts.append(
            {
                "title": _TITLES[observer],
                "curves": charts.probabilities(curves, label=f"{contrast} {observer} seen"),
                "areas": charts.intervals(points, label=f"{contrast} {observer} AUC"),
                "tables": {
                    t: (heads, [[_cell(row.get(head)) for head in heads] for row in rows[t]])
                    for t, heads in _HEADS.items() if rows[t]
                },
            }
        )  # fmt: skip
    return {
        "id": f"{contrast}-{label}",
        "name": f"{contrast}, {label}",
        "parts": parts,
        "legend": [(colours[n], n) for n in names],
        "subjects": study.lesions[contrast, label]["subject"].nunique(),
        "examples": list(_examples(out_dir, study.lesions[contrast, label], label)),
    }


def _examples(out_dir: Path, lesions: Any, label: str) -> Iterator[dict[str, Any]]:
    """Yield of each condition the smallest lesion seen and the largest missed, as pictures."""
    own = lesions[lesions["observer"] == OBSERVERS[0]]
    for condition, part in own.groupby("condition", sort=False):
        seen = part[part["seen"] >= 0.5].sort_values("diameter").head(1)
        missed = part[part["seen"] < 0.5].sort_values("diameter", ascending=False).head(1)
        for kind, rows in (("smallest seen", seen), ("largest missed", missed)):
            for _, row in rows.iterrows():
                stem = Path(row["scan"]).name.split(".")[0]
                try:
                    with np.load(ratings_path(out_dir, stem, label).with_suffix(".npz")) as kept:
                        planes = [kept[f"{n}_{row['lesion']:.0f}"] for n in (HIGH, str(condition))]
                except (OSError, KeyError, ValueError):
                    continue
                yield {
                    "condition": condition,
                    "kind": kind,
                    "text": f"sub-{row['subject']}, {row['diameter']:.1f} mm, seen in "
                    f"{100 * row['seen']:.0f} % of realisations",
                    "uris": [_png(plane) for plane in planes],
                }


def _png(plane: np.ndarray) -> str:
    """Embed a plane as it is seen from the feet, stretched to its own range."""
    low, high = (float(v) for v in np.percentile(plane, (1, 99.5)))
    grey = np.clip((plane - low) / max(high - low, 1), 0, 1) * 255
    return picture_uri(np.rint(np.rot90(grey)).astype(np.uint8))


def _curve(intercept: float, slope: float) -> np.ndarray:
    diameters = np.linspace(2, 20, 73)
    shares = 1 / (1 + np.exp(-np.clip(intercept + slope * np.log(diameters), -60, 60)))
    return np.column_stack([diameters, shares])


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "n/a"
    if not isinstance(value, float):
        return str(value)
    if math.isinf(value):
        return "no limit"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def region_rows(rows: Sequence[Sequence[Any]], most: int) -> tuple[tuple[str, ...], ...]:
    """Return the rows of whole regions and the largest lesions as the report lists them."""
    head = ("Image", "Label", "Lesion", "Volume, mm³", "Diameter, mm", "Contrast, high field",
            "CNR, high field", "Contrast", "CNR")  # fmt: skip
    picked = [0, 3, 4, 5, 6, 12, 13, 16, 17]
    table = [tuple("whole" if i == 4 and row[i] is None else _cell(row[i]) for i in picked)
             for row in rows]  # fmt: skip
    return (head, *table[:most])


def draw_lesions(out_dir: Path, scan: Scan, found: Examined) -> tuple[Figure, ...]:
    """Draw the outline of the labels on the high-field image and on the first other one."""
    figures = []
    mask = volume_of(found.outline)
    layout = mosaic.layout_of(volume_of(_filled(found.pictures["lesionshigh"])))
    layout = replace(layout, cuts=_cuts(layout, mask))
    for kind, image in found.pictures.items():
        volume = volume_of(image, like=found.outline)
        bright = float(np.percentile(volume.data[volume.data > 0], 99.5))
        title = f"{kind} of {scan.stem} with its labels"
        drawing = mosaic.mosaic(volume, layout, (0.0, bright), title=title, mask=mask)
        figures.append(save_figure(out_dir, scan.stem, kind, drawing))
    return tuple(figures)


def _filled(image: Any) -> Any:
    data = (np.asarray(image.dataobj) > 0).astype(np.uint8)
    return nib.Nifti1Image(data, image.affine)


def _cuts(layout: Any, mask: Any) -> tuple[tuple[float, ...], ...]:
    """Cut where the labels are largest: along each axis the most of them, well apart."""
    cuts = []
    for axis in range(3):
        share = mask.data.sum(axis=tuple({0, 1, 2} - {axis}))
        at = mask.origin[axis] + np.arange(len(share)) * mask.spacing[axis]
        chosen: list[float] = []
        for index in np.argsort(-share, kind="stable"):
            if len(chosen) < len(layout.cuts[axis]) and all(abs(at[index] - c) > 6 for c in chosen):
                chosen.append(float(at[index]))
        cuts.append(tuple(sorted(chosen)))
    return tuple(cuts)
