"""The noise of a low-field scanner, measured on pairs that the models have not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy import fft
from scipy.ndimage import binary_fill_holes
from scipy.special import ndtr

from h2lo_bids.errors import BadDataError
from h2lo_bids.evaluation.realism import tapered
from h2lo_bids.imaging.masks import bounding_box
from h2lo_bids.imaging.resample import weigh_by_axis
from h2lo_bids.models.bundle import load_bundle, load_model
from h2lo_bids.synthesis.noise import PROBES, NoiseModel, hat_weights
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.training.experiments.crossvalidation import BUNDLE, FoldJob
from h2lo_bids.training.experiments.heldout import predict_pair
from h2lo_bids.training.pairs import Pair, common_shape, read_prepared

RECIPE = 5
"""Raised when the measurement changes, so that a final model is made with the new one."""
_BINS = 32
"""Bins of predicted intensity on [0, 1]."""
_FEWEST = 1e-3
"""Share of the brain's voxels below which a bin is too small to measure."""
_KNOTS = (0.0, 0.04, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)
"""Frequencies at which power is kept, of the grid's largest."""
_RINGS = 24
"""Bins of frequency at which the power of scans and predictions is compared."""
_PLAIN = 0.2
"""Share of the residual's power that predictions must lack for noise to stand out."""
_MARGIN = 6.0
"""Width in mm over which the brain's border is faded out."""
_LEVELS = np.linspace(-12.0, 12.0, 24001)
"""Values at which the residual's distribution is counted, in standard deviations."""


def calibrate_noise(
    pairs: Sequence[Pair],
    predictions: Sequence[np.ndarray],
    *,
    spacing: Sequence[float],
    scans: Sequence[ScanNoises] = (),
) -> NoiseModel:
    """Measure the noise that a scan has and a prediction lacks.

    Of the residual that power is noise which the predictions lack in comparison with the scans
    at high frequencies, and that line drawn on to lower ones, where the model's errors bury it.

    `pairs`, one per subject, are on one grid with axes right, anterior, superior and voxels of
    `spacing` mm; `predictions` are of models that were not fitted to them. `scans` are for each
    pair those that were fused, as by `h2lo_bids.evaluation.realism.scan_noise`; the median of
    their noise becomes `NoiseModel.scan`. Raises `BadDataError` if the pairs have no common grid,
    or there is no residual at all.
    """
    shape = common_shape(pairs)
    steps = np.array(spacing, dtype=np.float64)
    found = [_residual(*both) for both in zip(pairs, predictions, strict=True)]
    if not any(residual.any() for residual, _, _ in found):
        raise BadDataError("no noise to measure: every prediction equals its low-field image")
    found = _without_error(found, steps)
    intensities, deviations = _deviations(found)
    whitened = [
        (np.divide(r, d, out=np.zeros_like(r), where=d > 0), m)
        for r, p, m in found
        for d in [np.interp(p, intensities, deviations).astype(np.float32)]
    ]
    quantiles = _quantiles(whitened)
    frequencies = _frequencies([m.shape for _, m in whitened], steps)
    power = np.mean(
        [
            _levels(np.where(m, np.interp(w, quantiles, PROBES), 0), m, steps, frequencies)
            for w, m in whitened
        ],
        axis=0,
    )
    known = [d * np.sqrt(np.prod(v)) for one in scans for d, v in one if np.isfinite(d)]
    return NoiseModel(
        intensities=_short(intensities),
        deviations=_short(deviations),
        quantiles=_short(quantiles),
        frequencies=tuple(_short(axis) for axis in frequencies),
        power=tuple(round(float(level), 2) for level in (power - power.max()).ravel()),
        spacing=tuple(float(step) for step in steps),
        shape=shape,
        kept="missing",
        subjects=len(pairs),
        scan=float(f"{np.median(known):.4g}") if known else 0.0,
    )


ScanNoises = Sequence[tuple[float, Sequence[float]]]
Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Residual, prediction and mask in the brain's bounding box."""


def _residual(pair: Pair, prediction: np.ndarray) -> Found:
    """Return what is left of a scan without its prediction, in the brain's box."""
    # A low-field image that has a brain mask of its own may be empty at the rim of the pair's.
    box = bounding_box(pair.mask)
    mask = pair.mask[box] & binary_fill_holes(pair.lf[box] != 0)
    predicted = np.where(mask, np.clip(prediction[box].astype(np.float32), 0, 1), np.float32(0))
    return (
        np.where(mask, pair.lf[box].astype(np.float32) - predicted, np.float32(0)),
        predicted,
        mask,
    )


def _without_error(found: Sequence[Found], spacing: np.ndarray) -> list[Found]:
    """Filter the residuals down to the power that the predictions lack."""
    largest = 0.5 / float(spacing.min())
    edges = np.linspace(0.0, largest * (1 + 1e-9), _RINGS + 1)
    # Means, not sums: a ring has the more frequencies the wider it is, which bends the line.
    sums, counts = np.zeros((3, _RINGS)), np.zeros(_RINGS)
    for residual, predicted, mask in found:
        window = _window(mask, spacing)
        ring = np.minimum(np.digitize(_radius(mask.shape, spacing), edges) - 1, _RINGS).ravel()
        counts += np.bincount(ring, minlength=_RINGS + 1)[:_RINGS]
        for row, image in enumerate((residual, predicted, predicted + residual)):
            mean = float((image * window).sum() / window.sum()) if row else 0.0
            waves = fft.rfftn((image - mean) * window)
            power = (waves.real**2 + waves.imag**2) / float((window**2).sum())
            sums[row] += np.bincount(ring, power.ravel(), _RINGS + 1)[:_RINGS]
    centres = (edges[1:] + edges[:-1]) / 2
    gain = _gain(centres, *(sums / np.maximum(counts, 1) + 1e-30))
    filtered = []
    for residual, predicted, mask in found:
        gains = np.interp(_radius(mask.shape, spacing), centres, gain).astype(np.float32)
        image = fft.irfftn(fft.rfftn(residual) * gains, s=mask.shape)
        filtered.append((np.where(mask, image, np.float32(0)), predicted, mask))
    return filtered


def _gain(
    centres: np.ndarray, residual: np.ndarray, predicted: np.ndarray, scan: np.ndarray
) -> np.ndarray:
    """Return the filter that leaves of the residual what is noise, ring by ring."""
    # Where fine detail is scarce, noise is what predictions lack. At lower frequencies errors bury
    # it, and the line of its decibels over the frequency is drawn on.
    share = np.clip((scan - predicted) / residual, 0.0, 1.0)
    buried = np.flatnonzero(share < _PLAIN)
    first = int(buried[-1]) + 1 if buried.size else 0
    share[:first] = 0.0
    # A line through too few of them leads anywhere.
    if first and len(share) - first >= len(share) // 3:
        decibels = 10 * np.log10(share * residual + 1e-30)
        slope, level = np.polyfit(centres[first:], decibels[first:], 1)
        if slope > 0:
            slope, level = 0.0, decibels[first:].mean()
        line = 10 ** ((level + slope * centres) / 10)
        share[:first] = np.minimum(line / residual, 1.0)[:first]
    gain: np.ndarray = np.sqrt(share)
    return gain


def _radius(shape: tuple[int, ...], spacing: np.ndarray) -> np.ndarray:
    """Return the radius of the frequencies of a half spectrum."""
    x, y = (np.fft.fftfreq(n, step) for n, step in zip(shape[:2], spacing[:2], strict=True))
    z = np.fft.rfftfreq(shape[2], spacing[2])
    radius: np.ndarray = np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)
    return radius.astype(np.float32)


def _deviations(found: Sequence[Found]) -> tuple[list[float], list[float]]:
    """Return intensities, and the residual's standard deviation around 0 there."""
    sums = np.zeros((3, _BINS))
    for residual, predicted, mask in found:
        inside, values = predicted[mask].astype(np.float64), residual[mask].astype(np.float64)
        at = np.minimum((inside * _BINS).astype(int), _BINS - 1)
        for row, weights in enumerate((np.ones_like(inside), inside, values**2)):
            sums[row] += np.bincount(at, weights, _BINS)
    many = sums[0] >= _FEWEST * sums[0].sum()
    count, first, second = sums[:, many]
    return list(first / count), list(np.sqrt(second / count))


def _quantiles(whitened: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """Return the residual's values at the standard normal probes, strictly increasing."""
    counts = np.zeros(len(_LEVELS) - 1)
    for values, mask in whitened:
        counts += np.histogram(np.clip(values[mask], _LEVELS[0], _LEVELS[-1]), _LEVELS)[0]
    share = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    # Half a voxel each side, so that the outermost probes lie at seen values.
    half = 0.5 / counts.sum()
    seen = np.flatnonzero(np.diff(share, prepend=-1) > 0)
    wanted = np.clip(ndtr(PROBES), half, 1 - half)
    quantiles = np.interp(wanted, share[seen], _LEVELS[seen])
    # A map back needs no two alike.
    return list(quantiles + 1e-6 * PROBES)


def _frequencies(shapes: Sequence[tuple[int, ...]], spacing: np.ndarray) -> list[list[float]]:
    """Return the knots along each axis that the smallest brain still resolves."""
    chosen = []
    for axis, step in enumerate(spacing):
        apart = 2 / min(shape[axis] for shape in shapes)
        kept = [0.0]
        for knot in _KNOTS[1:]:
            if knot - kept[-1] >= apart and (knot == 1.0 or 1.0 - knot >= apart):
                kept.append(knot)
        chosen.append([knot / (2 * float(step)) for knot in dict.fromkeys([*kept, 1.0])])
    return chosen


def _levels(
    values: np.ndarray,
    mask: np.ndarray,
    spacing: np.ndarray,
    frequencies: Sequence[Sequence[float]],
) -> np.ndarray:
    """Return the power (K, K, K) in dB of a field known inside a mask."""
    # Hats fitted to decibels are all too low by the same 2.5 dB.
    window = _window(mask, spacing)
    energy = float((window.astype(np.float64) ** 2).sum())
    shape = [fft.next_fast_len(n, real=True) for n in values.shape]
    waves = fft.rfftn((values * window).astype(np.float32), s=shape)
    power = (waves.real.astype(np.float64) ** 2 + waves.imag**2) / energy
    weights = []
    for axis, (n, step) in enumerate(zip(shape, spacing, strict=True)):
        wanted = np.abs(fft.rfftfreq(n, step) if axis == 2 else fft.fftfreq(n, step))
        hats = hat_weights(wanted, np.array(frequencies[axis]))
        # Fitted to the values; a bend costs as much as one value off.
        bends = np.diff(np.eye(hats.shape[1]), 2, axis=0)
        weights.append(np.linalg.solve(hats.T @ hats + bends.T @ bends, hats.T))
    # Predictions that lack no power leave nothing, which is as white as anything.
    levels = 10 * np.log10(np.maximum(power, 1e-12 * power.max() or 1.0))
    return weigh_by_axis(levels, weights)


def _window(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Fade a mask out over its outer millimetres."""
    return tapered(mask, spacing, max(_MARGIN, float(spacing.max()))).astype(np.float32)


def _short(values: Sequence[float]) -> tuple[float, ...]:
    """Round to what a measurement is worth, so that the model stays small."""
    return tuple(float(f"{value:.6g}") for value in values)


MOST_PAIRS = 5
"""Pairs that are in memory together, half a gigabyte each at 1 mm; all have the same noise."""


def measure_noise(jobs: Sequence[FoldJob], device: str) -> dict[str, Any]:
    """Return the noise model of a cross-validation: of test subjects of each fold in turn."""
    made: dict[str, tuple[Pair, np.ndarray, ScanNoises]] = {}  # by subject
    share = -(-MOST_PAIRS // len(jobs))
    for job in jobs:
        bundle = load_bundle(job.folder / BUNDLE)
        model = load_model(bundle)
        # Of several sessions one, as it is people who differ.
        fresh = {p.subject: p for p in job.pairs_in("test") if p.subject not in made}
        for prepared in [*fresh.values()][: min(share, MOST_PAIRS - len(made))]:
            pair = read_prepared(prepared)
            given = pair.scaled(bundle.scaling, prepared.contrast, prepared.frame.spacing)
            predicted = predict_pair(model, given, EngineOptions(device=device))
            made[prepared.subject] = pair, predicted, prepared.noise
    pairs, predictions, scans = zip(*made.values(), strict=True)
    spacing = jobs[0].pairs[0].frame.spacing
    return asdict(calibrate_noise(pairs, predictions, spacing=spacing, scans=scans))
