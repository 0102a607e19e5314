"""Whether a model's input and output are like those that it was trained on.

A profile is a handful of numbers that a model's input is described by, on the model's frame
and scale. A bundle holds the lowest and the highest of each over its training inputs; a new
input beyond them, by more than the margin of `MEASURES`, is not what the model has seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.imaging.normalise import NEGATIVE_SHARE, Blocks, Scaled, blocks


@dataclass(frozen=True)
class Measure:
    """One number of a profile, and how far an input may lie beyond the training inputs."""

    title: str  # in a message
    margin: float  # a quarter of the training inputs' spread is allowed in any case
    both: bool = False  # whether too little counts, too
    factor: float = 1.0  # of measures that scale: their ends divided and multiplied by it

    def limits(self, lowest: float, highest: float) -> tuple[float, float]:
        """Return what is still taken for the same as inputs between two values."""
        margin = max(self.margin, 0.25 * (highest - lowest))
        low = min(lowest / self.factor, lowest - margin) if self.both else -np.inf
        return low, max(highest * self.factor, highest + margin)


QUANTILES = (1, 5, 25, 50, 75, 95, 99)
TISSUES = ("dark", "middle", "bright")
MEASURES = {
    "cut_low": Measure("share of the brain cut to 0", 0.01),
    "cut_high": Measure("share of the brain cut at 1", 0.01),
    "noise": Measure("noise", 0.01),
    "smoothness": Measure("smoothness along its coarsest axis in mm", 0.0, factor=1.1),
    **{f"{name}_level": Measure(f"level of the {name} tissue", 0.15, True) for name in TISSUES},
    **{f"{name}_share": Measure(f"share of the {name} tissue", 0.25, True) for name in TISSUES},
    **{f"q{part:02d}": Measure(f"{part} % quantile", 0.2, True) for part in QUANTILES},
    "volume_ml": Measure("volume of the brain in ml", 0.0, True, 1.4),
    "field_ratio": Measure("receive field, its brightest by its darkest end", 0.0, factor=1.3),
}
"""In the order in which they are reported."""

OUTPUTS = {
    "q50": Measure("median", 0.2, True),
    "q95": Measure("95 % quantile", 0.2, True),
    "cut_low": Measure("share of the brain cut to 0", 0.05),
    "correlation": Measure("correlation with the input", 0.2, True),
}
"""What is measured of an output; the levels of the input's tissues come on top."""

NAMES = {
    "T1w": ("cerebrospinal fluid", "grey matter", "white matter"),
    "T2w": ("white matter", "grey matter", "cerebrospinal fluid"),
}
"""Of the three tissues, from dark to bright."""
LEAST_ORDER = -2.0
"""White matter lies deeper than grey matter: by -0.6 to 8 mm in real heads, with lesions in
slices of 5 mm the least; by -3 mm or less where the contrast is another."""
_LISTED = 3
_REMEDIES = {
    "noise": "give a scan with less noise",
    "smoothness": "give a scan with thinner slices",
    "volume_ml": "check its brain mask",
    "field_ratio": "correct its bias field first",
}

Beyond = Mapping[str, tuple[float, float, float]]
"""Measures beyond what the training pairs had: value, and lowest and highest of the training."""


def measure(
    scaled: Scaled, mask: np.ndarray, spacing: Sequence[float], *, contrast: str
) -> dict[str, float]:
    """Return the profile of a model's input.

    Parameters
    ----------
    scaled
        The input as the model takes it; its volume (X, Y, Z) in [0, 1].
    mask
        True in the brain, same shape.
    spacing
        Voxel size in mm along each axis.
    contrast
        ``"T1w"`` or ``"T2w"``: whether white matter is bright or dark.

    Returns
    -------
    dict
        ``name: value`` for names of `MEASURES`, without ``field_ratio`` where it was not
        measured, the share of ``negative`` voxels, and ``order``: by how
        many mm what should be white matter by its brightness lies deeper in the brain than
        what should be grey matter, in the median. ``smoothness`` is the width at half maximum
        of the Gaussian that would make white noise as alike from voxel to voxel (Forman and
        others 1995, doi:10.1002/mrm.1910330508), once the image's noise is subtracted.
    """
    box = bounding_box(mask)
    volume, mask = np.asarray(scaled.volume[box], np.float32), np.asarray(mask[box], dtype=bool)
    brain, cells = volume[mask], blocks(volume, mask, spacing)
    levels, classes = three_classes(cells.median)
    depth = _depth(cells)
    white, grey = (2, 1) if contrast == "T1w" else (0, 1)
    noise, smooth = zip(*(_along(volume, mask, spacing, axis) for axis in range(3)), strict=True)
    profile = {
        "cut_low": np.mean(brain <= 0),
        "cut_high": np.mean(brain >= 1),
        "order": _median(depth[classes == white]) - _median(depth[classes == grey]),
        "noise": max(noise),
        "smoothness": max(smooth),
        **{f"{name}_level": levels[k] for k, name in enumerate(TISSUES)},
        **{f"{name}_share": np.mean(classes == k) for k, name in enumerate(TISSUES)},
        **{f"q{q:02d}": v for q, v in zip(QUANTILES, np.percentile(brain, QUANTILES), strict=True)},
        "volume_ml": brain.size * np.prod(spacing) / 1000,
        "field_ratio": scaled.field_ratio,
        "negative": scaled.negative,
    }
    return {name: float(value) for name, value in profile.items() if value is not None}


def measure_output(
    output: np.ndarray, volume: np.ndarray, mask: np.ndarray, spacing: Sequence[float]
) -> dict[str, float]:
    """Return the measures of a model's output, or of a training target.

    Parameters
    ----------
    output, volume
        The output and the input that it was made from, on one grid.
    mask, spacing
        As for `measure`.

    Returns
    -------
    dict
        ``name: value`` for names of `OUTPUTS`, and ``dark``, ``middle`` and ``bright``: the
        output's median where the input has its darkest, middle and brightest tissue.
    """
    values, inside = output[mask].astype(np.float32), volume[mask].astype(np.float32)
    where = _nearest(inside, three_classes(blocks(volume, mask, spacing).median)[0])
    spread = float(inside.std()) * float(values.std())
    alike = np.mean((inside - inside.mean()) * (values - values.mean())) / spread if spread else 0
    return {
        "q50": float(np.median(values)),
        "q95": float(np.percentile(values, 95)),
        "cut_low": float(np.mean(values <= 0)),
        "correlation": float(alike),
        **{name: _median(values[where == k]) for k, name in enumerate(TISSUES)},
    }


def ranges_of(
    profiles: Sequence[Mapping[str, float]], outputs: Sequence[Mapping[str, float]] = ()
) -> dict[str, Any]:
    """Return a bundle's ``input_range``: lowest and highest over training inputs and targets.

    Parameters
    ----------
    profiles, outputs
        From `measure` and `measure_output`.

    Returns
    -------
    dict
        ``inputs`` and ``targets``, ``name: [lowest, highest]`` of `MEASURES` and of `OUTPUTS`,
        rounded to four digits, and the number of ``pairs``.
    """

    def ends(rows: Sequence[Mapping[str, float]], known: Iterable[str]) -> dict[str, list[float]]:
        found = {name: [row[name] for row in rows if name in row] for name in known}
        return {
            name: [float(f"{end(values):.4g}") for end in (min, max)]
            for name, values in found.items()
            if values
        }

    inputs, targets = ends(profiles, MEASURES), ends(outputs, OUTPUTS)
    return {"pairs": len(profiles), "inputs": inputs, "targets": targets}


def outside(
    profile: Mapping[str, float], ranges: Mapping[str, Any], known: Mapping[str, Measure] = MEASURES
) -> Beyond:
    """Return the measures beyond the inputs or targets of a bundle's ``input_range``."""
    found = {}
    try:
        for name in (name for name in known if name in profile and name in ranges):
            lowest, highest = map(float, ranges[name][:2])
            low, high = known[name].limits(lowest, highest)
            if not low <= profile[name] <= high:
                found[name] = (profile[name], lowest, highest)
    except (KeyError, TypeError, ValueError) as err:
        raise BadDataError(
            f"the model's input_range is damaged ({err}); get the model again"
        ) from err
    return found


def three_classes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide values among three medians, from dark to bright; return both, classes from 0."""
    centres = np.quantile(values, [0.1, 0.5, 0.9])
    for _ in range(40):
        classes, moved = _nearest(values, centres), centres.copy()
        for k in np.unique(classes):
            moved[k] = np.median(values[classes == k])
        if np.allclose(moved, centres, atol=1e-4):
            break
        centres = moved
    return centres, _nearest(values, centres)


def _nearest(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, values)


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else 0.0


def _depth(cells: Blocks) -> np.ndarray:
    """Return the distance in mm of each block to the nearest place without one."""
    from scipy.ndimage import distance_transform_edt

    at = cells.index + 1
    inside = np.zeros(at.max(0) + 2, dtype=bool)
    inside[tuple(at.T)] = True
    return distance_transform_edt(inside, sampling=cells.sides)[tuple(at.T)]


def _along(
    volume: np.ndarray, mask: np.ndarray, spacing: Sequence[float], axis: int
) -> tuple[float, float]:
    """Return noise and smoothness along an axis."""
    values, inside = np.moveaxis(volume, axis, 0), np.moveaxis(mask, axis, 0)
    both = inside[1:] & inside[:-1]
    bends = (values[2:] - 2 * values[1:-1] + values[:-2])[both[1:] & both[:-1]]
    noise = 1.4826 * _median(np.abs(bends)) / np.sqrt(6)
    steps = (values[1:] - values[:-1])[both]
    if not steps.size:
        return noise, 0.0
    signal = max(float(volume[mask].var()) - noise**2, 1e-12)
    alike = 1 - (float(steps.var()) / 2 - noise**2) / signal
    if not 0 < alike < 1:
        return noise, 0.0
    return noise, float(spacing[axis] * np.sqrt(-2 * np.log(2) / np.log(alike)))


@dataclass(frozen=True)
class RangeCheck:
    """Whether an input and its output are like the training pairs."""

    facts: dict[str, Any]  # ``InputCheck`` and ``OutputCheck``, for a sidecar
    warnings: tuple[str, ...]  # one line each
    verdict: str  # "yes", "no", or "unknown" where the model does not give their range


def check_range(
    profile: Mapping[str, float],
    output: Mapping[str, float] | None,
    ranges: Mapping[str, Any] | None,
    *,
    contrast: str,
    scaling: str,
    name: str,
) -> RangeCheck:
    """Compare an input and its output with the pairs that the model was trained on.

    `profile` and `output` are from `measure` and `measure_output`; an output need not be given.
    Without the `ranges` of the model's bundle (``input_range``) only what needs none is looked
    at: the share of negative voxels, and the order of the tissues. Damaged ranges are refused.
    """
    ranges = ranges or {}
    if not isinstance(ranges.get("pairs", 0), int):
        raise BadDataError("the model's input_range is damaged (pairs); get the model again")
    given = outside(profile, ranges.get("inputs") or {})
    made = outside(output, ranges.get("targets") or {}, OUTPUTS) if output else {}
    tissues = [output[tissue] for tissue in TISSUES] if output else []
    kept, depth = all(low < high for low, high in pairwise(tissues)), profile["order"]
    unlike = given or made or not kept or depth < LEAST_ORDER
    lines = negative_lines(name, profile.get("negative", 0.0), scaling)
    if given or depth < LEAST_ORDER:
        lines.append(_input_line(name, given, depth, contrast))
    if made or not kept:
        crossed = [] if kept else [_crossed(tissues, contrast)]
        lines.append(
            f"{name}: its output is not like the images that the model was trained on: "
            f"{', '.join([*crossed, *_listed(made, OUTPUTS)])}; look at both in the report before "
            "you use it"
        )
    facts = {"InputCheck": {**_facts(given, ranges), "TissueOrderKept": depth >= LEAST_ORDER}}
    if output:
        levels = zip(map(_key, NAMES[contrast]), tissues, strict=True)
        facts["OutputCheck"] = {
            **_facts(made, ranges),
            "TissueLevels": {name: round(value, 4) for name, value in levels},
            "TissueOrderKept": kept,
        }
    return RangeCheck(facts, tuple(lines), "no" if unlike else "yes" if ranges else "unknown")


def negative_lines(name: str, share: float, scaling: str) -> list[str]:
    """Warn of an image of which a share of the brain is negative, as it comes."""
    if share < NEGATIVE_SHARE:
        return []
    what = "was removed" if scaling == "robust" else "is cut to 0: give the image without it"
    return [
        f"{name}: {share:.0%} of its brain is negative; the offset, as in MP2RAGE UNI and z-scored "
        f"images, {what}"
    ]


def _input_line(name: str, given: Beyond, depth: float, contrast: str) -> str:
    """Name what an input differs by from the training pairs, and what to do."""
    usual = f"check that it is a {contrast} image without contrast agent, and its brain mask"
    remedies = [_REMEDIES.get(key, usual) for key in list(given)[:_LISTED]]
    differences = _listed(given, MEASURES)
    if depth < LEAST_ORDER:
        shown = f"what is as bright as white matter lies {-depth:.0f} mm farther out than the grey"
        differences, remedies = [shown, *differences], [usual, *remedies]
    return (
        f"{name}: is not like the inputs that the model was trained on: {', '.join(differences)}; "
        f"{', '.join(dict.fromkeys(remedies))}, or fit a model to such scans"
    )


def _listed(found: Beyond, known: Mapping[str, Measure]) -> list[str]:
    parts = [
        f"{known[name].title} {value:.3g} ({lowest:.3g} to {highest:.3g})"
        for name, (value, lowest, highest) in found.items()
    ]
    more = len(found) - _LISTED
    return [*parts[:_LISTED], f"{more} more"] if more > 0 else parts


def _crossed(levels: Sequence[float], contrast: str) -> str:
    """Name the two tissues that changed places, the darker one of the input first."""
    pair = 0 if levels[0] >= levels[1] else 1
    dark, bright = NAMES[contrast][pair : pair + 2]
    return f"{dark} ({levels[pair]:.2f}) is not darker than {bright} ({levels[pair + 1]:.2f})"


def _facts(found: Beyond, ranges: Mapping[str, Any]) -> dict[str, Any]:
    if not ranges:
        return {}
    beyond = {
        _key(name.replace("_", " ")): {"Value": float(f"{value:.4g}"), "TrainingRange": ends}
        for name, (value, *ends) in found.items()
    }
    return {"InRange": not found, "OutOfRange": beyond, "TrainingPairs": ranges.get("pairs", 0)}


def _key(words: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in words.split())
