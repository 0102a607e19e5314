"""Pictures of the group report: of the test subjects, Fig. 2 (a) of the paper, and of the pairs.

Of a subject a column per image, three planes; below each image its absolute difference from
the real low-field image, all on one colour scale. Of a pair the edges of one image upon the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from h2lo_bids.bids.derivatives import find_records, paths_of_record, record_end
from h2lo_bids.evaluation.scores import IDENTITY, IDENTITY_TITLES
from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.reports import mosaic as drawing
from h2lo_bids.reports.group_data import Contrast, Run, read_json
from h2lo_bids.vocabulary import ENHANCE

_PLANES = ("Axial", "Coronal", "Sagittal")
_GAP, _HEAD, _SIDE = 4.0, 34.0, 20.0
_CELL = 130.0
_STYLE = (
    "text{font:600 11px 'Helvetica Neue',Arial,sans-serif;fill:#e8edf2}"
    ".side{font-size:9px;stroke:#000;stroke-width:2px;paint-order:stroke}"
    ".scale{font-weight:400;fill:#c6d2de}"
)
_EDGES = "path{fill:none;stroke:#ffa02e;stroke-width:.9;stroke-linejoin:round}"
_SHORTEST = 14
_CHECKS = 40
_CUTS = (0.4, 0.5, 0.5)
Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """Slices and histograms of one test subject."""

    name: str
    hf: Image
    lf: Image
    predicted: dict[str, Image] = field(hash=False)
    histograms: dict[str, npt.NDArray[np.float64]] = field(hash=False)


def read_subjects(contrast: Contrast) -> dict[str, Subject]:
    """Gather the pictures of the folds; of a subject tested in several, those of the first."""
    subjects: dict[str, Subject] = {}
    for run in sorted(contrast.runs, key=lambda run: (run.fold or 0, run.method)):
        try:
            for name, (hf, lf, predicted), shares in _entries(run):
                new = Subject(name, hf, lf, {}, {"hf": shares[0], "lf": shares[1]})
                subject = subjects.setdefault(name, new)
                if subject.hf.shape == hf.shape and run.method not in subject.predicted:
                    subject.predicted[run.method] = predicted
                    subject.histograms[run.method] = shares[2]
        except FileNotFoundError:
            if run.record:
                contrast.problems.append(f"{contrast.name}, {run.name}: no pictures.npz")
        except Exception as error:
            # zipfile, zlib and numpy raise a dozen types between them.
            what = f"pictures.npz is damaged ({_reason(error)})"
            contrast.problems.append(f"{contrast.name}, {run.name}: {what}")
    return subjects


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _entries(run: Run) -> Iterator[tuple[str, Image, npt.NDArray[np.float64]]]:
    """Yield names, slices (3, 3, n, n) of input, target and prediction, and histograms (3, n)."""
    with np.load(run.folder / "pictures.npz", allow_pickle=False) as stored:
        for name in dict.fromkeys(key.rpartition("/")[0] for key in stored.files):
            slices = [stored[f"{name}/{kind}"] for kind in ("hf", "lf", "predicted")]
            images = np.nan_to_num(np.stack(slices).astype(np.float32))
            shares = np.nan_to_num(stored[f"{name}/histograms"].astype(np.float64))
            if images.ndim != 4 or images.shape[1] != 3:
                raise ValueError(f"the slices of {name} have not one shape")
            yield name, images, shares


def bright(subjects: Sequence[Subject]) -> float:
    """Choose the intensity shown white: the common bright end, rounded up."""
    inside = [image[image > 0] for s in subjects for image in (s.hf, s.lf)]
    tops = [float(np.percentile(values, 99.8)) for values in inside if values.size]
    return float(np.clip(np.ceil(max(tops, default=1.0) * 50) / 50, 0.02, 1.0))


def error_scale(subjects: Sequence[Subject]) -> float:
    """Choose the end of the colour scale: a round number that 1 % of the errors exceed."""
    errors = [
        np.abs(image - s.lf)[(s.hf > 0) | (s.lf > 0)]
        for s in subjects
        for image in s.predicted.values()
    ]
    values = np.concatenate([*errors, []])
    high = float(np.percentile(values, 99)) if values.size else 0.1
    steps = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
    return next((step for step in steps if step >= high), 1.0)


def fields_of(titles: Mapping[str, str]) -> tuple[str, str]:
    """Return the fields of target and input, "low" or "high", by what the input is called."""
    enhanced = titles.get(IDENTITY) == IDENTITY_TITLES[ENHANCE]
    return ("high", "low") if enhanced else ("low", "high")


def draw_subject(
    subject: Subject, contrast: Contrast, psnr: Mapping[str, float], white: float, scale: float
) -> str:
    """Draw Fig. 2 (a) of one subject as a standalone SVG, PSNR in dB by method below the names."""
    titles = contrast.titles
    methods = [name for name in titles if name != IDENTITY and name in subject.predicted]
    fields = fields_of(titles)
    target, source = (f"{field[0].upper()}F" for field in fields)
    columns = [(source, subject.hf, psnr.get(IDENTITY)), (f"Real {target}", subject.lf, None)]
    columns += [(titles[name], subject.predicted[name], psnr.get(name)) for name in methods]
    boxes = [_box(subject.hf[k], subject.lf[k]) for k in range(3)]
    # Coarse grids are enlarged, so that the writing fits.
    widest = max(x.stop - x.start for x, _ in boxes)
    zoom = max(1.0, _CELL / widest)
    cell = zoom * widest + _GAP
    parts, y = [_heads([(name, value) for name, _, value in columns], cell)], _HEAD
    for plane, box in enumerate(boxes):
        wide, tall = (zoom * (side.stop - side.start) for side in box)
        label = drawing.text(13, y + tall, _PLANES[plane], anchor="middle")
        turn = f"rotate(-90 13 {drawing.number(y + tall)})"
        parts.append(drawing.element("g", label, transform=turn))
        left = _SIDE + (cell - _GAP - wide) / 2
        for column, (_, image, _) in enumerate(columns):
            x = left + column * cell
            shown = image[plane][box]
            parts.append(_embed(shown / white, x, y, zoom))
            if column != 1:
                error = np.abs(shown - subject.lf[plane][box]) / scale
                parts.append(_embed(error, x, y + tall + 2, zoom, coloured=True))
            elif plane == 0:
                parts.append(_colour_bar(x, y + tall + 2, wide, tall, scale, target))
        parts.append(drawing.sides(drawing.AXES[plane], left, y, wide, tall, css="side"))
        y += 2 * tall + 2 + _GAP
    ends = "{1} field, real {0} field and what each method made".format(*fields)
    title = f"{contrast.name} slices of {subject.name}: {ends}"
    width = _SIDE + cell * len(columns)
    return drawing.document(width, y, "".join(parts), title=title, style=_STYLE)


def _box(*planes: npt.NDArray[np.floating]) -> tuple[slice, ...]:
    """Bound what is bright in any of some slices on one grid, with three pixels around."""
    inside = np.logical_or.reduce([plane > 0.01 for plane in planes])
    return bounding_box(inside | ~inside.any(), 3)


def _heads(columns: Sequence[tuple[str, float | None]], cell: float) -> str:
    room = max(int(cell / 6.2), 4)
    parts = []
    for column, (name, value) in enumerate(columns):
        cut = name if len(name) <= room else name[: room - 1] + "\N{HORIZONTAL ELLIPSIS}"
        x = _SIDE + (column + 0.5) * cell - _GAP / 2
        parts.append(drawing.text(x, 14, cut, anchor="middle"))
        if value is not None:
            parts.append(drawing.text(x, 27, f"{value:.2f} dB", css="scale", anchor="middle"))
    return "".join(parts)


def _colour_bar(x: float, y: float, wide: float, tall: float, scale: float, target: str) -> str:
    """Draw the colour scale in the place of the real image's difference from itself."""
    stops = "".join(
        drawing.element("stop", offset=f"{level / 255:.2f}", stop_color=f"#{bytes(colour).hex()}")
        for level, colour in list(enumerate(_lut()))[::15]
    )
    left, long, top = x + wide * 0.08, wide * 0.84, y + tall / 2
    place = {"x": left, "y": top, "width": long, "height": 10.0}
    what = f"|image \N{MINUS SIGN} real {target}|"
    return (
        drawing.element("defs", drawing.element("linearGradient", stops, id="s"))
        + drawing.element("rect", **place, fill="url(#s)", stroke="#8a96a3", stroke_width=".6")
        + drawing.text(x + wide / 2, top - 8, what, anchor="middle")
        + drawing.text(left, top + 23, "0", css="scale")
        + drawing.text(left + long, top + 23, f"{scale:g} +", css="scale", anchor="end")
    )


def _embed(
    values: npt.NDArray[np.floating], x: float, y: float, zoom: float, *, coloured: bool = False
) -> str:
    """Place values from 0 to 1 as a picture."""
    levels = drawing.grey_levels(values)
    tall, wide = levels.shape
    uri = drawing.picture_uri(_lut()[levels] if coloured else levels, "jpeg")
    return drawing.element("image", x=x, y=y, width=wide * zoom, height=tall * zoom, href=uri)


def _lut() -> npt.NDArray[np.uint8]:
    """Return the colours of differences, (256, 3): black to yellow through violet and red."""
    from matplotlib import colormaps

    return np.asarray(colormaps["inferno"](np.arange(256), bytes=True))[:, :3]


def read_pairs(out_dir: Path, contrast: str, problems: list[str]) -> list[dict[str, Any]]:
    """Read the records of a contrast's pairs, flagged ones first, and draw the first ones."""
    views = []
    for path in find_records(out_dir, contrast):
        if content := read_json(path, problems):
            name = f"{path.name.removesuffix(record_end(contrast))}_{contrast}"
            views.append({**_pair_view(content), "path": path, "name": name, "picture": None})
    views.sort(key=lambda view: (not view["flagged"], view["name"]))
    for view in views[:_CHECKS]:
        view["picture"] = _pair_picture(view["path"], contrast, problems)
    return views


def _pair_view(content: dict[str, Any]) -> dict[str, Any]:
    def of(source: Any, key: str, kind: type) -> Any:
        value = source.get(key)
        return value if isinstance(value, kind) else kind()

    check = of(content, "RegistrationCheck", dict)
    figures = of(check, "Figures", dict).items()
    return {
        "flagged": bool(check.get("Flagged")),
        "reasons": of(check, "Reasons", list),
        "notes": of(content, "Warnings", list),
        "figures": [_named(key, value) for key, value in figures if isinstance(value, int | float)],
        "fusion": content.get("Fusion", "none"),
        "simulated": content.get("Simulated") is True,
    }


def _named(key: str, value: float) -> tuple[str, str]:
    """Write a figure with its unit, which the key ends with."""
    name, _, unit = key.rpartition("_")
    text = f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
    if unit not in ("mm", "deg") or not name:
        return key.replace("_", " "), text
    return name.replace("_", " "), text + (" mm" if unit == "mm" else "\N{DEGREE SIGN}")


def _pair_picture(record: Path, contrast: str, problems: list[str]) -> str | None:
    """Cut through the middle of the grid, sagittally a little off the cleft between the halves."""
    import nibabel as nib

    stem = record.name.removesuffix(".json")
    try:
        paths = paths_of_record(record, contrast)
        planes = []
        for kind in ("hf", "lf"):
            image = nib.as_closest_canonical(nib.load(paths[kind]))  # type: ignore[attr-defined]
            volume = np.asarray(image.dataobj, np.float32)
            x, y, z = (round(n * share) for n, share in zip(volume.shape, _CUTS, strict=True))
            planes.append((volume[:, :, z], volume[:, y, :], volume[x, :, :]))
        shown = overlay(*planes, title=f"High-field edges on the low-field image of {stem}")
    except Exception as error:
        # gzip, zlib, nibabel and the system each raise their own.
        problems.append(
            f"{stem}: the prepared pair cannot be drawn ({_reason(error)}); prepare it again"
        )
        return None
    return drawing.svg_uri(shown)


def overlay(hf: Sequence[Image], lf: Sequence[Image], *, title: str) -> str:
    """Draw the edges of one image upon the other: axial, coronal and sagittal slices."""
    # Grids of 2 mm and more are enlarged, so that lines keep their weight.
    zoom = max(1.0, 110.0 / max(max(plane.shape) for plane in lf))
    top = max(float(np.percentile(plane[plane > 0], 99.5)) for plane in lf if (plane > 0).any())
    x, tallest, parts = 0.0, 0.0, []
    for axis, high, low in zip(drawing.AXES, hf, lf, strict=True):
        box = _box(high, low)
        wide, tall = (zoom * (side.stop - side.start) for side in box)
        parts.append(_embed(low[box] / top, x, 0, zoom))
        for across, up in ((line.T + 0.5) * zoom for line in _edges(high[box])):
            placed = np.column_stack([x + across, tall - up])
            parts.append(drawing.element("path", d=drawing.path_of([placed])))
        parts.append(drawing.sides(axis, x, 0, wide, tall, css="side"))
        x, tallest = x + wide + _GAP, max(tallest, tall)
    return drawing.document(x - _GAP, tallest, "".join(parts), title=title, style=_STYLE + _EDGES)


def _edges(plane: Image) -> list[npt.NDArray[np.float64]]:
    """Trace the brain's border and, between two clusters of values, that of its tissues."""
    from contourpy import contour_generator
    from scipy.cluster.vq import kmeans2
    from scipy.ndimage import gaussian_filter

    values = plane[plane > 0.01].astype(np.float64)
    if not values.size:
        return []
    generator = contour_generator(z=gaussian_filter(np.pad(plane.astype(np.float64), 1), 0.8).T)
    levels = [float(np.median(values)) * 0.4]
    ends = np.percentile(values, (1, 99))
    if ends[0] < ends[1]:
        levels.append(float(kmeans2(values, ends, minit="matrix")[0].mean()))
    lines = (np.asarray(line) - 1 for level in levels for line in generator.lines(level))
    # No small islands; every third point is enough for the eye, and a third of the page.
    return [np.vstack([line[:-1:3], line[-1:]]) for line in lines if len(line) >= _SHORTEST]
