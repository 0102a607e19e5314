"""The page of a trial, pictures of labels for a participant's page, and a set for readers."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from markupsafe import Markup

from h2lo_bids.bids.derivatives import result_files, sidecar_path, software_versions
from h2lo_bids.bids.names import parse_name
from h2lo_bids.bids.scan import Scan
from h2lo_bids.evaluation.catalogue import columns, write_table
from h2lo_bids.imaging.resample import spacing_of
from h2lo_bids.io import atomic_path, atomic_write_text, read_json, save_nifti
from h2lo_bids.reports import charts, mosaic
from h2lo_bids.reports.figures import save_figure
from h2lo_bids.reports.methods import works
from h2lo_bids.reports.mosaic import grey_levels, picture_uri, volume_of
from h2lo_bids.reports.page import render
from h2lo_bids.reports.records import Figure
from h2lo_bids.trial.condition import HIGH
from h2lo_bids.trial.scan import Examination
from h2lo_bids.trial.study import OBSERVERS, TABLES, Study
from h2lo_bids.wording import summarise

_CITED = ("arnold", "badano", "gallas", "delong", "bland", "shrout")
_TITLES = {"hotelling": "Channelized Hotelling observer", "cnr": "CNR observer"}
_MOST_ROWS = 20
_HIDDEN = ("contrast", "label", "observer", "intercept", "slope")
_HEADS = {
    name: {column: what for column, what in described.items() if column not in _HIDDEN}
    for name, described in TABLES.items()
}

FOLDER, KEY = "reader_set", "reader_set_key.tsv"
_SLICES = 3
_KEY_COLUMNS = columns(
    image="Name in reader_set",
    participant_id="Participant",
    condition="Condition of the trial",
    source="File in this dataset",
)


def write_trial_report(out_dir: Path, study: Study, words: Sequence[str]) -> Path:
    """Write ``trial.html``, which loads nothing; return its path."""
    path = Path(out_dir) / "trial.html"
    views = [_view(out_dir, study, *key) for key in study.lesions]
    page = render(
        "trial.html.jinja",
        views=views,
        conditions=study.conditions,
        simulated="simulated" in study.training,
        training=sorted(study.training),
        notes=study.notes,
        references=[Markup(works()[key].html) for key in _CITED],  # noqa: S704 - escaped there
        command=shlex.join(["h2lo", *words]),
        software=software_versions(),
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
        rated = [
            (colours[row["condition"]], row["condition"], row)
            for row in rows["detectability"] if "auc" in row
        ]  # fmt: skip
        curves = [
            (css, name, _curve(row["intercept"], row["slope"]))
            for css, name, row in rated if math.isfinite(row.get("intercept", math.nan))
        ]  # fmt: skip
        points = [(css, name, (row["auc"], *_bounds(row))) for css, name, row in rated]
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


def _bounds(row: dict[str, Any]) -> tuple[float, float]:
    """Return the interval of an area over participants, or, of few, that over lesions."""
    way = "boot" if "boot_low" in row else "delong"
    return row.get(f"{way}_low", math.nan), row.get(f"{way}_high", math.nan)


def _examples(out_dir: Path, lesions: Any, label: str) -> Iterator[dict[str, Any]]:
    """Yield of each condition the smallest lesion seen and the largest missed, as pictures."""
    rated = lesions[lesions["observer"] == OBSERVERS[0]]
    for condition, part in rated.groupby("condition", sort=False):
        seen = part[part["seen"] >= 0.5].sort_values("diameter").head(1)
        missed = part[part["seen"] < 0.5].sort_values("diameter", ascending=False).head(1)
        for kind, rows in (("smallest seen", seen), ("largest missed", missed)):
            for _, row in rows.iterrows():
                stem = Path(row["scan"]).name.split(".")[0]
                try:
                    *_, pictures = result_files(out_dir, "trial_ratings", scan=f"{stem}_{label}")
                    with np.load(pictures) as kept:
                        planes = [kept[f"{n}_{row['lesion']:.0f}"] for n in (HIGH, str(condition))]
                except Exception:  # noqa: S112 - zipfile, zlib and numpy raise a dozen types
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
    return picture_uri(grey_levels((plane - low) / max(high - low, 1)))


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
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def region_rows(rows: Sequence[Sequence[Any]]) -> tuple[tuple[str, ...], ...]:
    """Return the rows of whole regions and the largest lesions as the report lists them."""
    head = ("Image", "Label", "Lesion", "Volume, mm³", "Diameter, mm", "Contrast, high field",
            "CNR, high field", "Contrast", "CNR")  # fmt: skip
    picked = [0, 3, 4, 5, 6, 12, 13, 16, 17]
    table = [tuple("whole" if i == 4 and row[i] is None else _cell(row[i]) for i in picked)
             for row in rows]  # fmt: skip
    return (head, *table[:_MOST_ROWS])


def draw_lesions(out_dir: Path, scan: Scan, examined: Examination) -> tuple[Figure, ...]:
    """Draw the outline of the labels on the high-field image and on the last other one."""
    figures = []
    mask = volume_of(examined.outline)
    layout = mosaic.layout_of(volume_of(examined.pictures["lesionshigh"]))
    layout = replace(layout, cuts=_cuts(layout, mask))
    for kind, image in examined.pictures.items():
        volume = volume_of(image, like=examined.outline)
        shown = volume.data[volume.data > 0]
        bright = float(np.percentile(shown, 99.5)) if shown.size else 1.0
        title = f"{kind} of {scan.stem} with its labels"
        drawing = mosaic.mosaic(volume, layout, (0.0, bright), title=title, mask=mask)
        figures.append(save_figure(out_dir, scan.stem, kind, drawing))
    return tuple(figures)


def _cuts(layout: Any, mask: Any) -> tuple[tuple[float, ...], ...]:
    """Cut where the labels are largest, well apart along each axis, and evenly where are none."""
    cuts = []
    for axis in range(3):
        share = mask.data.sum(axis=tuple({0, 1, 2} - {axis}))
        at = mask.origin[axis] + np.arange(len(share)) * mask.spacing[axis]
        chosen: list[float] = []
        labelled = at[np.argsort(-share, kind="stable")[: np.count_nonzero(share)]]
        for place in (*labelled, *(even := layout.cuts[axis])):
            if len(chosen) < len(even) and all(abs(place - cut) > 6 for cut in chosen):
                chosen.append(float(place))
        cuts.append(tuple(sorted(chosen)))
    return tuple(cuts)


def write_reader_set(out_dir: Path, study: Study, count: int, seed: int) -> list[str]:
    """Write blinded images, as many of each condition, and their key; return what is missing."""
    # Names, headers and origins say nothing of participant and condition; voxel sizes do.
    rng, (candidates, lines) = np.random.default_rng(seed), _candidates(out_dir, study)
    for paths in candidates.values():
        rng.shuffle(paths)
    chosen: list[tuple[str, Path]] = []
    while len(chosen) < count and any(candidates.values()):
        names = [name for name in candidates if candidates[name]]
        rng.shuffle(names)
        chosen += [(name, candidates[name].pop()) for name in names[: count - len(chosen)]]
    rng.shuffle(chosen)  # type: ignore[arg-type]
    folder, rows = out_dir / "trial" / FOLDER, []
    (out_dir / "trial" / KEY).unlink(missing_ok=True)  # it is of the images that go
    for old in folder.glob("image-*"):
        old.unlink()
    for number, (name, path) in enumerate(chosen, start=1):
        word = f"image-{number:03d}"
        # What is left of the affine has no orientation.
        image: Any = nib.as_closest_canonical(nib.load(path))
        data, sides = np.asarray(image.dataobj, dtype=np.float32), spacing_of(image.affine)
        save_nifti(nib.Nifti1Image(data, np.diag([*sides, 1.0])), folder / f"{word}.nii.gz")
        _write_png(data, sides, folder / f"{word}.png")
        subject = path.relative_to(out_dir).parts[0]
        rows.append([word, subject, name, path.relative_to(out_dir).as_posix()])
    write_table(out_dir / "trial" / KEY, rows, _KEY_COLUMNS)
    if len(chosen) < count:
        lines.append(f"--reader-set {count}: there are {len(chosen)} images only")
    return lines


def _candidates(out_dir: Path, study: Study) -> tuple[dict[str, list[Path]], list[str]]:
    """Return a study's noisy and high-field images by condition, and lines on unfit ones."""
    scans = {f"bids:raw:{scan}" for table in study.lesions.values() for scan in table["scan"]}
    found: dict[str, list[Path]] = {}
    unfit: list[tuple[Path, str]] = []
    for path in sorted(out_dir.glob("sub-*/**/anat/*_desc-*_T[12]w.nii.gz")):
        name = parse_name(path.name)
        drawn = re.fullmatch("(.+)noise01|preproc", name.get("desc") or "") if name else None
        if name is None or drawn is None:
            continue
        condition = drawn[1] or HIGH
        moved = condition == HIGH and (name.get("space") or name.get("res"))
        if moved or condition not in study.conditions:  # which is of an earlier run
            continue
        try:
            said = read_json(sidecar_path(path))
            model = study.models.get((name.suffix, condition))
            if said["Sources"][0] not in scans:
                continue
            wanted = {**study.conditions[condition], "model": model}
            if condition != HIGH and said.get("Condition") != wanted:
                raise ValueError("it is of another condition of this name, or of another model")
        except (OSError, ValueError, LookupError, TypeError) as err:
            why = getattr(err, "strerror", None) or err
            text = (
                f"{path}: not in the reader set, by its sidecar: {why}; run its participant again, "
                "or delete it if it is of an earlier run"
            )
            unfit.append((path, text))
        else:
            found.setdefault(condition, []).append(path)
    return (found if found.keys() != {HIGH} else {}), summarise(unfit)


def _write_png(data: np.ndarray, sides: np.ndarray, path: Path) -> None:
    """Write slices across the longest side, one above the other at their true proportions."""
    from PIL import Image

    axis = int(np.argmax(np.round(sides, 3) * (1, 1, 1.0001)))
    inside = np.flatnonzero(data.any(axis=tuple({0, 1, 2} - {axis})))
    rows, bright = [], float(np.percentile(data[data > 0], 99.5)) if data.any() else 1.0
    across = [side for a, side in enumerate(sides) if a != axis]
    for part in np.linspace(0.35, 0.65, _SLICES):
        plane = np.take(data, inside[int(part * (len(inside) - 1))], axis=axis)
        size = [round(n * side) * 2 for n, side in zip(plane.shape, across, strict=True)]
        picture = Image.fromarray(grey_levels(plane / bright))
        rows.append(np.asarray(picture.resize(tuple(size), Image.Resampling.NEAREST)))
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, "PNG")
