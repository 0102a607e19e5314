"""Noise of a low-field scanner, drawn again and again on any grid.

A prediction is smoother than a scan. What a scan has beside it is described by
three measured things (`h2lo_bids.training.experiments.noise`): its standard deviation at
each predicted intensity, the distribution of the residual divided by that
deviation, and the power spectrum of the residual after a map of this
distribution to a normal one. A realisation goes the way back.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np

from h2lo_bids.errors import BadDataError
from h2lo_bids.imaging.resample import along_axes, spline_weights, weigh_by_axis
from h2lo_bids.models.frame import MAX_VOXELS

PROBES = np.linspace(-4.0, 4.0, 17)
"""Standard normal values at which a model's quantiles are given."""

_SNAP = 1e-3
"""Distance in lattice steps below which a position counts as a lattice point."""
_MOST_DB = 200.0
_ORDER = 5
"""Of the splines between lattice points: lower ones smooth the noise."""


@dataclass(frozen=True)
class NoiseModel:
    """What a scanner's noise is like; `ValueError` if the values do not fit."""

    # Predicted intensities, increasing, and the noise's standard deviation there, in units of
    # the image, linear between them, constant beyond.
    intensities: tuple[float, ...]
    deviations: tuple[float, ...]
    quantiles: tuple[float, ...]  # of the noise over its deviation, at `PROBES`
    # Of right, anterior and superior: cycles per mm from 0, increasing; and the power at their
    # product in dB of any reference, C order; linear between, none beyond.
    frequencies: tuple[tuple[float, ...], ...]
    power: tuple[float, ...]
    # Lattice on which noise is drawn, after whose length it repeats: mm and steps.
    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    kept: str = "all"  # of the residual, or "missing"
    subjects: int = 0  # on which it was measured
    # Standard deviation of the white noise of one scan before it is interpolated and fused,
    # over the brain's median and in voxels of 1 mm³: it falls with the root of the voxel's
    # volume. 0 where it was not measured.
    scan: float = 0.0

    def __post_init__(self) -> None:
        rising = (self.intensities, *self.frequencies)
        others = (self.deviations, self.quantiles, self.power, self.spacing, self.shape, self.scan)
        sizes = [len(axis) for axis in self.frequencies]
        for sound, what in (
            (np.isfinite(np.hstack([*rising, *others])).all(), "values are finite"),
            (0 < len(self.intensities) == len(self.deviations), "intensities have deviations"),
            (len(sizes) == len(self.spacing) == len(self.shape) == 3, "axes are three"),
            (len(self.quantiles) == len(PROBES), f"quantiles are {len(PROBES)}"),
            (0 < len(self.power) == np.prod(sizes), "power is that at every frequency"),
            (all((np.diff(v) > 0).all() for v in rising), "intensities and frequencies increase"),
            ((np.diff(self.quantiles) >= 0).all(), "quantiles do not decrease"),
            (min((*self.deviations, self.scan)) >= 0, "deviations are not negative"),
            (np.ptp(self.power or 0) <= _MOST_DB, "powers are in range"),
            (min(*self.spacing, *self.shape) > 0, "lattice has sides"),
            (np.prod(self.shape) <= MAX_VOXELS, f"lattice has at most {MAX_VOXELS} points"),
        ):
            if not sound:
                raise ValueError(f"a noise model's {what}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NoiseModel:
        """Read a model back from its `dataclasses.asdict`."""
        try:
            known = {item.name for item in fields(cls)} & values.keys()
            given: dict[str, Any] = {
                k: tuple(v) if isinstance(v := values[k], list) else v for k in known
            }
            given["frequencies"] = tuple(tuple(axis) for axis in given["frequencies"])
            return cls(**given)
        except (AttributeError, KeyError, TypeError, ValueError) as err:
            raise BadDataError(f"not a noise model ({err}); fit the model again") from err

    def deviation(self, intensity: np.ndarray) -> np.ndarray:
        """Return the noise's standard deviation at predicted intensities, any shape."""
        return np.interp(intensity, self.intensities, self.deviations)

    def of_one_scan(self, brain: np.ndarray, voxel: np.ndarray) -> NoiseModel:
        """Return the white noise of one scan, if it is known.

        `brain` holds the brain's intensities, `voxel` (3, 3) the sides of a voxel in mm. Where
        they are shorter than the lattice's the noise is smooth, but of the same deviation.
        """
        if not self.scan:
            return self
        white = replace(
            self, intensities=(0.5,), deviations=(1.0,), quantiles=tuple(PROBES),
            power=(0.0,) * len(self.power),
        )  # fmt: skip
        deviation = self.scan * float(np.median(brain)) / math.sqrt(abs(np.linalg.det(voxel)))
        return replace(white, deviations=(deviation / math.sqrt(share_in_band(white, voxel)),))


def add_noise(
    prediction: np.ndarray,
    mask: np.ndarray,
    affine: np.ndarray,
    model: NoiseModel,
    *,
    seed: int | Sequence[int],
    realisation: int,
    to_frame: Callable[[np.ndarray], np.ndarray] | None = None,
    scale: float = 1.0,
    acquired: bool = False,
    drawn: tuple[float, np.ndarray] | None = None,
) -> np.ndarray:
    """Draw one noisy image of a prediction: float32 in [0, 1], exactly 0 outside the mask.

    The noise belongs to places in the head, not to voxels: the same seed and
    realisation on another grid is the same noise there.

    Parameters
    ----------
    prediction
        (X, Y, Z), in [0, 1].
    mask
        (X, Y, Z), the brain.
    affine
        (4, 4), voxels to mm along right, anterior and superior, from any origin.
    model
        The noise.
    seed
        Non-negative, one or several numbers, for example the run's and the scan's.
    realisation
        Non-negative; each gives independent noise.
    to_frame
        Maps (N, 3) positions in mm from where `affine` leads to the axes in which
        the noise was measured; None where they are the same.
    scale
        Factor of the noise.
    acquired
        Whether the voxels stand for those of a scan, without `to_frame`. Its noise is bounded
        by the band of its own voxels, 1 / (2 side), so that larger ones are less noisy: of
        its power only that in the band is drawn, see `share_in_band`; it is the noise of
        one scan where that is known, see `NoiseModel.of_one_scan`. On any other grid the
        noise of the pairs' own voxels is shown.
    drawn
        `unit_noise` of the same mask, affine, seed and realisation, where it is at hand.
    """
    prediction, mask = np.asarray(prediction, np.float32), np.asarray(mask, bool)
    out = np.zeros(prediction.shape, dtype=np.float32)
    if not mask.any():
        return out
    affine, inside = np.asarray(affine, np.float64), prediction[mask]
    if acquired:
        model = model.of_one_scan(inside, affine[:3, :3])
    level, shape = drawn or unit_noise(
        mask, affine, model, seed=seed, realisation=realisation, to_frame=to_frame,
        acquired=acquired,
    )  # fmt: skip
    out[mask] = np.clip(inside + scale * level * model.deviation(inside) * shape, 0, 1)
    return out


def unit_noise(
    mask: np.ndarray,
    affine: np.ndarray,
    model: NoiseModel,
    *,
    seed: int | Sequence[int],
    realisation: int,
    to_frame: Callable[[np.ndarray], np.ndarray] | None = None,
    acquired: bool = False,
) -> tuple[float, np.ndarray]:
    """Return the level and the unit noise (N,) of the mask's voxels; see `add_noise`."""
    from scipy import fft
    from scipy.ndimage import map_coordinates

    amplitude, share = _amplitude(model, _key(affine[:3, :3]) if acquired else None)
    words = [seed] if isinstance(seed, int) else list(seed)
    white = np.random.default_rng([*words, realisation]).standard_normal(
        model.shape, dtype=np.float32
    )
    waves = fft.rfftn(white)
    waves *= amplitude
    # Periodic, of mean 0, variance 1 and the model's spectrum.
    field = fft.irfftn(waves, s=model.shape, overwrite_x=True)
    to_lattice = np.diag([*(1 / side for side in model.spacing), 1.0]) @ affine
    size = np.abs(to_lattice[:3, :3])
    if to_frame is None and np.count_nonzero(size > _SNAP * size.max()) == 3:
        normal = _read_along_axes(field, mask.shape, to_lattice)[mask]
    else:
        points = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
        points = points if to_frame is None else np.asarray(to_frame(points), np.float64)
        points = points / np.array(model.spacing)
        nearest = np.rint(points)
        if np.abs(points - nearest).max() < _SNAP:
            normal = field[tuple((nearest.astype(np.int64) % np.array(field.shape)).T)]
        else:
            normal = map_coordinates(field, points.T, order=_ORDER, mode="grid-wrap")
    return float(np.sqrt(share)), np.interp(normal, PROBES, model.quantiles)


def _read_along_axes(field: np.ndarray, shape: Sequence[int], to_lattice: np.ndarray) -> np.ndarray:
    """Read a field at a grid whose axes are the lattice's: as point by point, far faster."""
    axes, at = along_axes(to_lattice, shape)
    out = field.transpose(axes)
    if all(np.abs(line - np.rint(line)).max() < _SNAP for line in at):
        whole = (np.rint(v).astype(int) % n for v, n in zip(at, out.shape, strict=True))
        return out[np.ix_(*whole)]
    pairs = zip(out.shape, at, strict=True)
    weights = [spline_weights(n, line, order=_ORDER, mode="grid-wrap") for n, line in pairs]
    return weigh_by_axis(out, weights)


def share_in_band(model: NoiseModel, band: np.ndarray) -> float:
    """Return how much of the noise's variance lies in the band of other voxels.

    Noise of a scanner is white up to the band of the voxels that it acquires, whatever
    the profile of its slices: the power in a band is kept, what lies beyond is not
    acquired. White noise keeps 1 / n of its variance in voxels n times as large.
    """
    return _amplitude(model, _key(band))[1]


def _key(band: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, np.asarray(band, np.float64).tolist()))


@lru_cache(maxsize=2)
def _amplitude(
    model: NoiseModel, band: tuple[tuple[float, ...], ...] | None
) -> tuple[np.ndarray, float]:
    """Return what white waves are multiplied by, and the share of the variance in the band."""
    power = _power_of(model)
    whole = _mean_power(power, model.shape)
    if band is not None:
        power *= _in_band(model, np.array(band))
    kept = _mean_power(power, model.shape)
    return np.sqrt(power / np.float32(kept), dtype=np.float32), kept / whole


def _mean_power(power: np.ndarray, shape: tuple[int, ...]) -> float:
    """Average a half spectrum over all frequencies: those not stored are mirror images."""
    weight = np.full(power.shape[2], 2.0)
    weight[[0] if shape[2] % 2 else [0, -1]] = 1.0
    return float((power.sum(axis=(0, 1), dtype=np.float64) * weight).sum() / np.prod(shape))


def _frequencies(model: NoiseModel) -> list[np.ndarray]:
    """Return the cycles per mm along the axes of the lattice's half spectrum."""
    r, a, k = zip(model.shape, model.spacing, strict=True)
    return [np.fft.fftfreq(*r), np.fft.fftfreq(*a), np.fft.rfftfreq(*k)]


def _in_band(model: NoiseModel, band: np.ndarray) -> np.ndarray:
    """Return which share of each frequency's cell lies in the band of a voxel's sides."""
    kept = np.ones((1, 1, 1), dtype=np.float32)
    axes = np.meshgrid(*_frequencies(model), indexing="ij", sparse=True)
    steps = [1 / (n * d) for n, d in zip(model.shape, model.spacing, strict=True)]
    for side in np.asarray(band, dtype=np.float64).T:
        cycles = sum(n * axis for n, axis in zip(side, axes, strict=True) if abs(n) > 1e-9)
        share = (0.5 - np.abs(cycles)) / float(np.abs(side) @ steps) + 0.5
        kept = kept * np.clip(share, 0, 1).astype(np.float32)
    return kept


def _power_of(model: NoiseModel) -> np.ndarray:
    """Interpolate the power at the frequencies of the lattice's half spectrum."""
    sizes = [len(axis) for axis in model.frequencies]
    level = np.array(model.power, dtype=np.float64).reshape(sizes) - max(model.power)
    pairs = [*zip(map(np.abs, _frequencies(model)), model.frequencies, strict=True)]
    level = weigh_by_axis(level, [hat_weights(at, np.array(knots)) for at, knots in pairs])
    # The last frequency may lie beyond the model's by rounding alone.
    x, y, z = (at <= knots[-1] * (1 + 1e-5) for at, knots in pairs)
    kept = x[:, None, None] & y[:, None] & z
    return np.where(kept, (10 ** (level / 10)).astype(np.float32), np.float32(0))


def hat_weights(values: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Return the weights (N, K) of linear interpolation between knots."""
    return np.stack([np.interp(values, knots, row) for row in np.eye(len(knots))], axis=1)


def scan_seed(seed: int, name: str) -> int:
    """Return the seed of one scan: those of a run differ, and the same command draws the same."""
    return zlib.crc32(f"{seed} {name}".encode())
