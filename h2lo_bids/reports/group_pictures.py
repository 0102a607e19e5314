"""The pictures of the test subjects: Fig. 2 (a) and the data of Fig. 2 (d) of the paper.

One column per image, three planes; below each image its absolute difference
from the real low-field image, all on one colour scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from h2lo_bids.evaluation.scores import IDENTITY, IDENTITY_TITLES
from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.reports import svg
from h2lo_bids.reports.group_data import Contrast, Participants, Run
from h2lo_bids.vocabulary import ENHANCE

PLANES = ("Axial", "Coronal", "Sagittal")
_SIDES = (("L", "R"), ("L", "R"), ("P", "A"))
_GAP, _HEAD, _SIDE = 4.0, 34.0, 20.0
_CELL = 130.0
_STYLE = (
    "text{font:600 11px 'Helvetica Neue',Arial,sans-serif;fill:#e8edf2}"
    ".side{font-size:9px;stroke:#000;stroke-width:2px;paint-order:stroke}"
    ".scale{font-weight:400;fill:#c6d2de}"
)
Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """Slices and histograms of one test subject."""

    name: str
    hf: Image
    lf: Image
    predicted: dict[str, Image] = field(hash=False)
    histograms: dict[str, npt.NDArray[np.float64]] = field(hash=False)


def read_subjects(contrast: Contrast, problems: list[str]) -> dict[str, Subject]:
    """Gather the pictures of the folds; of a subject tested in several, those of the first."""
    subjects: dict[str, Subject] = {}
    for run in sorted(contrast.runs, key=lambda run: (run.fold or 0, run.method)):
        if not run.pictures.is_file():
            if run.done:
                problems.append(f"{contrast.name}, {run.name}: no pictures.npz")
            continue
        try:
            for name, arrays in _entries(run):
                _add(subjects, name, run.method, arrays)
        except Exception as error:
            # zipfile, zlib and numpy raise a dozen types between them.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            problems.append(f"{contrast.name}, {run.name}: pictures.npz is damaged ({reason})")
    return subjects


def _entries(run: Run) -> Iterator[tuple[str, dict[str, Image]]]:
    with np.load(run.pictures, allow_pickle=False) as stored:
        names = dict.fromkeys(key.rpartition("/")[0] for key in stored.files)
        for name in names:
            kinds = ("hf", "lf", "predicted", "histograms")
            arrays = {kind: stored[f"{name}/{kind}"].astype(np.float32) for kind in kinds}
            shapes = {arrays[kind].shape for kind in kinds[:3]}
            if len(shapes) != 1 or len(next(iter(shapes))) != 3 or len(arrays["hf"]) != 3:
                raise ValueError(f"the slices of {name} have not one shape")
            yield name, {kind: np.nan_to_num(array) for kind, array in arrays.items()}


def _add(subjects: dict[str, Subject], name: str, method: str, arrays: Mapping[str, Image]) -> None:
    subject = subjects.get(name)
    hf, lf, predicted = (share.astype(np.float64) for share in arrays["histograms"])
    if subject is None:
        subject = Subject(name, arrays["hf"], arrays["lf"], {}, {"hf": hf, "lf": lf})
        subjects[name] = subject
    if subject.hf.shape == arrays["predicted"].shape and method not in subject.predicted:
        subject.predicted[method] = arrays["predicted"]
        subject.histograms[method] = predicted


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
    errors = [values for values in errors if values.size]
    if not errors:
        return 0.1
    high = float(np.percentile(np.concatenate(errors), 99))
    steps = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
    return next((step for step in steps if step >= high), 1.0)


def draw_subject(
    subject: Subject,
    contrast: str,
    titles: Mapping[str, str],
    participants: Participants,
    *,
    white: float,
    scale: float,
) -> str:
    """Draw Fig. 2 (a) of one subject as a standalone SVG, PSNR in dB below the names.

    `white` is the intensity shown white, `scale` the difference at the end of the colour scale.
    """
    psnr = participants.get("psnr", {}).get(subject.name.partition("_")[0], {})
    methods = [name for name in titles if name != IDENTITY and name in subject.predicted]
    source = titles.get(IDENTITY, "")[:2] or "HF"
    target = "HF" if source == "LF" else "LF"
    images = {source: subject.hf, f"Real {target}": subject.lf}
    images |= {titles[name]: subject.predicted[name] for name in methods}
    boxes = [box_of(subject.hf[k], subject.lf[k]) for k in range(3)]
    # Coarse grids are enlarged, so that the writing fits.
    zoom = max(1.0, _CELL / max(box[1] - box[0] for box in boxes))
    cell = zoom * max(box[1] - box[0] for box in boxes) + _GAP
    width = _SIDE + cell * len(images)
    decibels = [psnr.get(IDENTITY), None, *(psnr.get(name) for name in methods)]
    parts, y = [_heads(list(images), decibels, cell)], _HEAD
    for plane, (left, right, low, high) in enumerate(boxes):
        wide, tall = zoom * (right - left), zoom * (high - low)
        middle = y + tall
        parts.append(_turned(PLANES[plane], middle))
        for column, image in enumerate(images.values()):
            x = _SIDE + column * cell + (cell - _GAP - wide) / 2
            grey = np.clip(image[plane, left:right, low:high] / white, 0, 1)
            parts.append(_embed(grey, x, y, zoom))
            if column != 1:
                error = np.abs(image[plane] - subject.lf[plane])[left:right, low:high]
                parts.append(
                    _embed(np.clip(error / scale, 0, 1), x, y + tall + 2, zoom, coloured=True)
                )
            elif plane == 0:
                parts.append(_colour_bar(x, y + tall + 2, wide, tall, scale, target))
        parts.append(_side_letters(plane, wide, cell, y, tall))
        y += 2 * tall + 2 + _GAP
    ends = "high field, real low field, synthesized"
    if titles.get(IDENTITY) == IDENTITY_TITLES[ENHANCE]:
        ends = "low field, real high field, enhanced"
    title = f"{contrast} slices of {subject.name}: {ends}"
    return svg.document(width, y, "".join(parts), title=title, style=_STYLE)


def box_of(*planes: npt.NDArray[np.floating], margin: int = 3) -> tuple[int, int, int, int]:
    """Bound what is bright in any of some slices on one grid: first and last of both axes."""
    inside = np.logical_or.reduce([plane > 0.01 for plane in planes])
    whole = tuple(slice(0, side) for side in inside.shape)
    x, y = bounding_box(inside, margin) if inside.any() else whole
    return x.start, x.stop, y.start, y.stop


def _heads(names: Sequence[str], psnr: Sequence[float | None], cell: float) -> str:
    room = max(int(cell / 6.2), 4)
    parts = []
    for column, (name, value) in enumerate(zip(names, psnr, strict=True)):
        cut = name if len(name) <= room else name[: room - 1] + "\N{HORIZONTAL ELLIPSIS}"
        x = _SIDE + (column + 0.5) * cell - _GAP / 2
        parts.append(svg.text(x, 14, cut, anchor="middle"))
        if value is not None:
            parts.append(svg.text(x, 27, f"{value:.2f} dB", css="scale", anchor="middle"))
    return "".join(parts)


def _turned(label: str, middle: float) -> str:
    y = svg.number(middle)
    return f'<g transform="rotate(-90 13 {y})">{svg.text(13, middle, label, anchor="middle")}</g>'


def _side_letters(plane: int, wide: float, cell: float, y: float, tall: float) -> str:
    x = _SIDE + (cell - _GAP - wide) / 2
    first, second = _SIDES[plane]
    return svg.text(x + 1, y + tall / 2, first, css="side") + svg.text(
        x + wide - 1, y + tall / 2, second, css="side", anchor="end"
    )


def _colour_bar(x: float, y: float, wide: float, tall: float, scale: float, target: str) -> str:
    """Draw the colour scale in the place of the real image's difference from itself."""
    stops = "".join(
        f'<stop offset="{level / 255:.2f}" stop-color="#{bytes(colour).hex()}"/>'
        for level, colour in list(enumerate(_lut()))[::15]
    )
    left, long, top = x + wide * 0.08, wide * 0.84, y + tall / 2
    parts = [
        f'<defs><linearGradient id="s">{stops}</linearGradient></defs>',
        f'<rect x="{svg.number(left)}" y="{svg.number(top)}" width="{svg.number(long)}" '
        'height="10" fill="url(#s)" stroke="#8a96a3" stroke-width=".6"/>',
        svg.text(x + wide / 2, top - 8, f"|image \N{MINUS SIGN} real {target}|", anchor="middle"),
    ]
    for end, text, anchor in ((left, "0", "start"), (left + long, f"{scale:g} +", "end")):
        parts.append(svg.text(end, top + 23, text, css="scale", anchor=anchor))
    return "".join(parts)


def _embed(
    values: npt.NDArray[np.floating], x: float, y: float, zoom: float, *, coloured: bool = False
) -> str:
    levels = svg.grey_levels(values)
    tall, wide = levels.shape
    uri = svg.jpeg_uri(_lut()[levels] if coloured else levels)
    return svg.image(uri, x, y, wide * zoom, tall * zoom)


def _lut() -> npt.NDArray[np.uint8]:
    """Return the colours of differences, (256, 3): black to yellow through violet and red."""
    from matplotlib import colormaps

    return np.asarray(colormaps["inferno"](np.arange(256), bytes=True))[:, :3]
