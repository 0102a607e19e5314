"""Arnold's simulator: a coarse grid, then a simplex, over four numbers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from h2lo_bids.errors import BadDataError
from h2lo_bids.models.baselines import PARAMETERS, Arnold, NoSizes
from h2lo_bids.synthesis.arnold import Source, finish, predict_arnold, scaled
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair
from h2lo_bids.training.trainer import Trainer, Validation

Values = tuple[float, float, float, float]
"""sigma, c1, c2, c3: see `h2lo_bids.models.baselines.Arnold`."""
BOUNDS = ((0.1, 5.0), (0.0, 20.0), (0.0, 20.0), (0.1, 8.0))
"""Where the four are looked for: blurs in voxels, noises in standard deviations."""
GRID: tuple[Values, ...] = tuple(
    (sigma, c1, c2, c3)
    for sigma in (0.2, 0.6, 1.0, 1.4, 1.8, 2.2)
    for c1, c2, c3 in itertools.product((1.0, 2.0, 3.0, 4.0, 5.0), repeat=3)
)
"""The authors' starting points, (sigma, c1, c2, c3): 750 in all."""
LOCAL = 250
"""Evaluations that the simplex may take; it needs about 150."""


def adapt_arnold(options: FitOptions) -> FitOptions:
    """Return the options of Arnold's simulator: a step is one evaluation of the objective."""
    # The objective, not the PSNR, chooses the parameters, so it is validated once.
    steps = min(options.steps, len(GRID) + LOCAL)
    return dataclasses.replace(
        options,
        family="arnold",
        architecture=NoSizes(),
        scaling="max",
        steps=steps,
        validate_first=steps,
        validate_every=steps,
        checkpoint_every=10,
        patience=0,
        precision="fp32",
        lambda_grad=0.0,
        device="cpu",
    )


class _NextPoint(Exception):  # noqa: N818  (no error: it carries a point out of the search)
    """The search asks for a point that has no value yet."""


class ArnoldTrainer(Trainer):
    """The search, one evaluation per step; its state is the values so far.

    The best point of the grid is where a Nelder-Mead search starts, in place of the authors'
    fminunc (our choice: the objective has kinks). Grid and simplex are deterministic, so the
    values say which point comes next: the search is run anew over the known values, which costs
    next to nothing, until it asks for an unknown one.
    """

    losses = ("loss", *PARAMETERS)

    def build(self, initial: Mapping[str, torch.Tensor] | None) -> None:
        """Choose the pairs and the points of the grid."""
        o, pairs = self.options, self.pairs
        order = np.random.default_rng(o.seed).permutation(len(pairs))
        chosen = [pairs[i] for i in sorted(order[:3])]  # as many as the authors fitted to
        self._objective = objective_of(chosen, o.seed)
        n = min(len(GRID), max(1, o.steps * len(GRID) // (len(GRID) + LOCAL)))
        self._grid = [GRID[i] for i in np.linspace(0, len(GRID) - 1, n).round().astype(int)]
        self._points: list[Values] = []
        self._found: list[float] = []

    def step(self, step: int, place: int) -> Mapping[str, float]:
        """Evaluate the next point; once the search has ended, nothing."""
        index = -1
        if (point := self._next()) is not None:
            self._points.append(point)
            self._found.append(self._objective(point))
        else:
            index = int(np.argmin(self._found))
        values = dict(zip(PARAMETERS, self._points[index], strict=True))
        return {"rate": 0.0, "loss": self._found[index], **values}

    def _next(self) -> Values | None:
        """Return the point that comes after the known ones; None after the last."""
        from scipy.optimize import minimize

        known = len(self._found)
        if known < len(self._grid):
            return self._grid[known]
        replay = iter(self._found[len(self._grid) :])

        def value(at: np.ndarray) -> float:
            found = next(replay, None)
            if found is None:
                sigma, c1, c2, c3 = at.tolist()
                raise _NextPoint((sigma, c1, c2, c3))
            return found

        start = np.array(self._grid[int(np.argmin(self._found[: len(self._grid)]))])
        try:
            minimize(
                value, start, method="Nelder-Mead", bounds=BOUNDS,
                options={"initial_simplex": _simplex(start), "xatol": 5e-3, "fatol": 1e-5},
            )  # fmt: skip
        except _NextPoint as asked:
            unknown: Values = asked.args[0]
            return unknown
        return None

    def state(self) -> dict[str, Any]:
        """Return the points and their values."""
        return {"points": self._points, "values": self._found}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self._points = [tuple(p) for p in state["points"]]
        self._found = list(state["values"])

    def validate(self) -> float:
        """Return the validation PSNR of the simulated images, in dB."""
        model, seed = self.fitted(), self.options.seed
        made = [
            dataclasses.replace(p, hf=predict_arnold(model, p.hf, p.mask, seed=seed))
            for p in self.validation.pairs
        ]
        return Validation(made, self.options).baseline()

    def fitted(self) -> Arnold:
        """Return a simulator of the best parameters so far."""
        model = Arnold()
        best = self._points[int(np.argmin(self._found))]
        model.load_state_dict({"values": torch.tensor(best)})
        return model


def _simplex(start: np.ndarray) -> np.ndarray:
    """Return the first simplex: half a step of the grid along each axis, inwards."""
    steps = np.array([0.2, 0.5, 0.5, 0.5])
    high = np.array([b for _, b in BOUNDS])
    return np.vstack([start, start + np.diag(np.where(start + steps > high, -steps, steps))])


def objective_of(pairs: Sequence[Pair], seed: int) -> Callable[[Values], float]:
    """Return how unlike simulated images are to the low-field ones, averaged over some pairs.

    The lower at sigma, c1, c2, c3 the better; at best it is below 0. Both noises of each pair
    are drawn once from the seed. Blurring is linear, so an image and its noise are blurred apart,
    once for each width. A point of the grid then costs sums over brain voxels, no filter: the
    750 points need 18 filters per pair.
    """
    parts = [_part_of(pair, [seed, n]) for n, pair in enumerate(pairs)]
    return lambda values: float(np.mean([part(values) for part in parts]))


def _part_of(pair: Pair, seed: Sequence[int]) -> Callable[[Values], float]:
    """Return a pair's part: voxels where HF x LF is above 0, each image over its maximum there."""
    hf, lf = (np.asarray(v, np.float32) for v in (pair.hf, pair.lf))
    mask = hf * lf > 0
    if not mask.any():
        raise BadDataError(
            f"pair {pair.name}: no voxel is above 0 in both images; prepare the pair again"
        )
    source = Source(hf, mask, seed, max(BOUNDS[0][1], BOUNDS[3][1]))
    target = scaled(lf, mask)[mask]
    wanted, likeness = _moments(target), _correlation(scaled(hf, mask)[mask], target)
    first = functools.lru_cache(1)(
        lambda sigma: (source.inside(source.image, sigma), source.inside(source.grain, sigma))
    )
    # As many blurs of the second noise are kept as the grid has.
    second = functools.lru_cache(5)(lambda sigma: source.inside(source.second, sigma))

    def part(values: Values) -> float:
        sigma, c1, c2, c3 = values
        image, grain = first(sigma)
        simulated = finish(image + np.float32(c1) * grain, second(c3), c2)
        mean, spread, skew = (abs(a - b) for a, b in zip(_moments(simulated), wanted, strict=True))
        return mean / 2 + spread / 2 + skew / 10 + (likeness - _correlation(simulated, target))

    return part


def _moments(values: np.ndarray) -> tuple[float, float, float]:
    """Return mean, sample standard deviation and skewness (biased) of (N,) values."""
    mean = float(values.mean(dtype=np.float64))
    apart = values - np.float32(mean)
    square = apart * apart
    second = float(square.mean(dtype=np.float64))
    third = float((square * apart).mean(dtype=np.float64))
    n = len(values)
    skew = third / second**1.5 if second > 0 else 0.0
    return mean, (second * n / max(n - 1, 1)) ** 0.5, skew


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation of two (N,) arrays; 0 where one does not vary."""
    x, y = (v - np.float32(v.mean(dtype=np.float64)) for v in (a, b))
    scale = float(np.dot(x, x)) * float(np.dot(y, y))
    return float(np.dot(x, y)) / scale**0.5 if scale > 0 else 0.0
