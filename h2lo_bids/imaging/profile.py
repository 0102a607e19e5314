"""Whether a model's input and output are like those that it was trained on.

A profile is a handful of numbers that a model's input is described by, on the model's frame
and scale. A bundle holds the lowest and the highest of each over its training inputs; a new
input beyond them, by more than the margin of `MEASURES`, is not what the model has seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.normalise import BLOCK_MM, blocks


@dataclass(frozen=True)
class Measure:
    """One number of a profile.

    Parameters
    ----------
    title
        In a message.
    margin
        How far an input may lie beyond the training inputs; a quarter of their spread is
        allowed in any case.
    both
        Whether too little counts, too.
    factor
        What the margin is for measures that scale: their ends divided and multiplied by it.
    """

    title: str
    margin: float
    both: bool = False
    factor: float = 1.0

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


@dataclass(frozen=True)
class InputRange:
    """The lowest and highest of each measure over a model's training pairs.

    Parameters
    ----------
    inputs, targets
        ``name: (lowest, highest)``, of `MEASURES` and of `OUTPUTS`.
    pairs
        How many there were.
    """

    inputs: Mapping[str, tuple[float, float]] = field(hash=False)
    targets: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)
    pairs: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in a bundle's metadata."""

        def listed(ranges: Mapping[str, tuple[float, float]]) -> dict[str, list[float]]:
            return {name: [float(f"{v:.4g}") for v in ends] for name, ends in ranges.items()}

        return {
            "pairs": self.pairs,
            "inputs": listed(self.inputs),
            "targets": listed(self.targets),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputRange:
        """Read it back from `to_dict`'s output; what is unknown here is skipped.

        Raises
        ------
        BadDataError
            If a value is no pair of numbers.
        """

        def read(part: str, known: Mapping[str, Measure]) -> dict[str, tuple[float, float]]:
            given = values.get(part) or {}
            return {n: (float(given[n][0]), float(given[n][1])) for n in known if n in given}

        try:
            inputs, targets = read("inputs", MEASURES), read("targets", OUTPUTS)
            return cls(inputs, targets, int(values.get("pairs", 0)))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as err:
            raise BadDataError(
                f"the model's input_range is damaged ({err}); get the model again"
            ) from err


@dataclass(frozen=True)
class Outlier:
    """A measure beyond what the training pairs had: its value and their ends."""

    name: str
    value: float
    lowest: float
    highest: float


def measure(
    volume: np.ndarray,
    mask: np.ndarray,
    spacing: Sequence[float],
    *,
    contrast: str,
    field_ratio: float | None = None,
    negative: float | None = None,
) -> dict[str, float]:
    """Return the profile of a model's input.

    Parameters
    ----------
    volume
        (X, Y, Z) in [0, 1], as the model takes it.
    mask
        True in the brain, same shape.
    spacing
        Voxel size in mm along each axis.
    contrast
        ``"T1w"`` or ``"T2w"``: whether white matter is bright or dark.
    field_ratio, negative
        As `h2lo_bids.imaging.normalise.Scaled` has it; absent if None.

    Returns
    -------
    dict
        ``name: value`` for names of `MEASURES`, ``negative`` as given, and ``order``: by how
        many mm what should be white matter by its brightness lies deeper in the brain than
        what should be grey matter, in the median. ``smoothness`` is the width at half maximum
        of the Gaussian that would make white noise as alike from voxel to voxel (Forman and
        others 1995, doi:10.1002/mrm.1910330508), once the image's noise is subtracted.
    """
    box = tuple(slice(int(a.min()), int(a.max()) + 1) for a in np.nonzero(mask))
    volume, mask = np.asarray(volume[box], np.float32), np.asarray(mask[box], dtype=bool)
    brain = volume[mask]
    median, _, places = blocks(volume, mask, spacing, BLOCK_MM)
    levels, classes = three_classes(median)
    depth = _depth(places)
    white, grey = (2, 1) if contrast == "T1w" else (0, 1)
    noise, smooth = zip(*(_along(volume, mask, spacing, axis) for axis in range(3)), strict=True)
    found = {
        "cut_low": np.mean(brain <= 0),
        "cut_high": np.mean(brain >= 1),
        "order": _median(depth[classes == white]) - _median(depth[classes == grey]),
        "noise": max(noise),
        "smoothness": max(smooth),
        **{f"{name}_level": levels[k] for k, name in enumerate(TISSUES)},
        **{f"{name}_share": np.mean(classes == k) for k, name in enumerate(TISSUES)},
        **{f"q{q:02d}": v for q, v in zip(QUANTILES, np.percentile(brain, QUANTILES), strict=True)},
        "volume_ml": brain.size * np.prod(spacing) / 1000,
        "field_ratio": field_ratio,
        "negative": negative,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


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
    levels, _ = three_classes(blocks(volume, mask, spacing, BLOCK_MM)[0])
    where = _nearest(inside, levels)
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
    profiles: Iterable[Mapping[str, float]], outputs: Iterable[Mapping[str, float]] = ()
) -> InputRange:
    """Return the range of some training inputs, and of their targets.

    Parameters
    ----------
    profiles, outputs
        From `measure` and `measure_output`.
    """
    given = list(profiles)

    def ends(
        rows: Sequence[Mapping[str, float]], known: Mapping[str, Measure]
    ) -> dict[str, tuple[float, float]]:
        found = {name: [row[name] for row in rows if name in row] for name in known}
        return {name: (min(values), max(values)) for name, values in found.items() if values}

    return InputRange(ends(given, MEASURES), ends(list(outputs), OUTPUTS), len(given))


def outside(
    profile: Mapping[str, float],
    ranges: Mapping[str, tuple[float, float]],
    known: Mapping[str, Measure] = MEASURES,
) -> tuple[Outlier, ...]:
    """Return the measures by which an image is not like those of the training."""
    found = []
    for name, one in known.items():
        if name in profile and name in ranges:
            low, high = one.limits(*ranges[name])
            if not low <= profile[name] <= high:
                found.append(Outlier(name, profile[name], *ranges[name]))
    return tuple(found)


def three_classes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide values among three medians, from dark to bright; return both, classes from 0."""
    centres = np.quantile(values, [0.1, 0.5, 0.9])
    for _ in range(40):
        classes = _nearest(values, centres)
        moved = np.array(
            [np.median(values[classes == k]) if (classes == k).any() else c
             for k, c in enumerate(centres)]
        )  # fmt: skip
        if np.allclose(moved, centres, atol=1e-4):
            break
        centres = moved
    return centres, _nearest(values, centres)


def _nearest(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, values)


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else 0.0


def _depth(places: np.ndarray) -> np.ndarray:
    """Return the distance in mm of each block to the nearest place without one."""
    from scipy.ndimage import distance_transform_edt

    steps = [np.diff(np.unique(column)).min(initial=np.inf) for column in places.T]
    steps = [step if np.isfinite(step) else 1.0 for step in steps]
    at = np.rint(places / steps).astype(int) + 1
    inside = np.zeros(at.max(0) + 2, dtype=bool)
    inside[tuple(at.T)] = True
    return distance_transform_edt(inside, sampling=steps)[tuple(at.T)]


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
