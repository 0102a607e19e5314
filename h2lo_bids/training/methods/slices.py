"""Axial slices of pairs: what a slice-wise method trains on and is validated on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from h2lo_bids.evaluation.metrics import psnr
from h2lo_bids.models.branch import HALO
from h2lo_bids.synthesis.diffi2i import brain_box
from h2lo_bids.training.augment import vary_intensity
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps a volume and its mask, both (X, Y, Z), to the product."""


@dataclass(frozen=True)
class SliceSampler:
    """Draws crops of axial slices, each slice as often as it has brain voxels.

    A crop is centred on a brain voxel of its slice and then moved into the box
    around all brains. Its sides are multiples of `multiple`; where the box is
    smaller than a crop, or ``options.sampling`` is ``"volume"``, it is the whole box.

    Parameters
    ----------
    pairs
        On one common grid.
    options
        `crop`, `batch`, `seed`, `sampling` and `augmentation` are read; a shift
        in the frame means nothing to a model that knows no positions.
    multiple
        What sides must divide by.
    """

    pairs: Sequence[Pair]
    options: FitOptions
    multiple: int
    box: tuple[slice, slice] = field(init=False)
    sides: tuple[int, int] = field(init=False)
    areas: Sequence[np.ndarray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        plane = np.zeros(self.pairs[0].shape[:2], bool)
        for pair in self.pairs:
            plane |= pair.mask.any(2)
        box = brain_box(plane)
        whole = self.options.sampling == "volume"
        lengths = [s.stop - s.start for s in box]
        rows, columns = (n if whole else min(n, self.options.crop) for n in lengths)
        m = self.multiple
        object.__setattr__(self, "box", box)
        object.__setattr__(self, "sides", (-(-rows // m) * m, -(-columns // m) * m))
        object.__setattr__(self, "areas", [pair.mask.sum((0, 1)) for pair in self.pairs])

    def draw(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw a step's source, target and mask, (batch, 1, H, W) each.

        A function of the seed and the step, counted from 0. Pairs are taken in
        random order, none twice before all were taken.
        """
        o = self.options
        rng = np.random.default_rng([o.seed, step])
        chosen = np.resize(rng.permutation(len(self.pairs)), o.batch)
        crops = [self._crop(int(index), rng) for index in chosen]
        source, target, mask = (
            torch.from_numpy(np.stack(part))[:, None] for part in zip(*crops, strict=True)
        )
        return source, target, mask

    def _crop(
        self, index: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pair, areas, a = self.pairs[index], self.areas[index], self.options.augmentation
        z = int(rng.choice(len(areas), p=areas / areas.sum()))
        inside = np.argwhere(pair.mask[:, :, z])
        centre = inside[rng.integers(len(inside))]
        x, y = (
            int(np.clip(c - side // 2, s.start, max(s.start, s.stop - side)))
            for c, side, s in zip(centre, self.sides, self.box, strict=True)
        )
        hf, lf, brain = (
            _read(volume[:, :, z], (x, y), self.sides) for volume in (pair.hf, pair.lf, pair.mask)
        )
        if rng.random() < a.flip:
            hf, lf, brain = hf[::-1], lf[::-1], brain[::-1]
        # Varied as a slab of one slice; the corner is that of a crop behind its halo.
        corner = (x + HALO, y + HALO, z + HALO)
        hf = vary_intensity(hf[..., None], brain[..., None], corner, pair.shape, a, rng)[..., 0]
        return hf, np.where(brain, lf.astype(np.float32), np.float32(0)), brain


@dataclass(frozen=True)
class SliceValidation:
    """PSNR in dB, data range 1, of the clipped product of a slice-wise method.

    Parameters
    ----------
    pairs
        The validation pairs.
    options
        With ``validation="crops"`` the figure is over the brain voxels of
        ``validation_crops`` slices, spread evenly over the brains; with
        ``"volume"`` it is the mean of the pairs' whole-volume PSNR.
    """

    pairs: Sequence[Pair]
    options: FitOptions
    parts: Sequence[Pair] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        whole = self.options.validation == "volume"
        parts = self.pairs if whole else thin(self.pairs, self.options.validation_crops)
        object.__setattr__(self, "parts", list(parts))

    def psnr(self, predict: Predict) -> float:
        """Return the figure of a method; NaN without validation pairs."""
        if not self.parts:
            return math.nan
        figures, errors = [], []
        for pair in self.parts:
            lf = np.asarray(pair.lf, np.float32)
            made = predict(np.asarray(pair.hf, np.float32), pair.mask).clip(0, 1)
            figures.append(psnr(made, lf))
            errors.append((made[pair.mask].astype(np.float64) - lf[pair.mask]) ** 2)
        if self.options.validation == "volume":
            return math.fsum(figures) / len(figures)
        mean = float(np.concatenate(errors).mean())
        return math.inf if mean == 0 else -10 * math.log10(mean)

    def identity(self) -> float:
        """Return the figure of the high-field images themselves."""
        return self.psnr(lambda volume, mask: volume)


def thin(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Keep `count` axial slices of some pairs, evenly spread over those with brain."""
    held = [
        (i, int(z)) for i, pair in enumerate(pairs) for z in np.flatnonzero(pair.mask.any((0, 1)))
    ]
    chosen = np.linspace(0, len(held) - 1, min(count, len(held))).round().astype(int)
    kept: dict[int, list[int]] = {}
    for place in chosen:
        index, z = held[place]
        kept.setdefault(index, []).append(z)
    return [
        Pair(p.name, p.hf[:, :, at], p.lf[:, :, at], p.mask[:, :, at])
        for p, at in ((pairs[i], at) for i, at in kept.items())
    ]


def _read(plane: np.ndarray, start: tuple[int, int], sides: tuple[int, int]) -> np.ndarray:
    """Copy a rectangle that starts inside a plane, with zeros behind the border."""
    out = np.zeros(sides, plane.dtype)
    found = plane[start[0] : start[0] + sides[0], start[1] : start[1] + sides[1]]
    out[: found.shape[0], : found.shape[1]] = found
    return out
