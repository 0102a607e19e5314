"""Fitting Arnold's simulator: a coarse grid, then a simplex, over four numbers."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from h2lo_bids.io import atomic_write_text
from h2lo_bids.models.arnold import PARAMETERS, Arnold, ArnoldArchitecture
from h2lo_bids.synthesis.arnold import predict_arnold
from h2lo_bids.training.arnold_objective import BOUNDS, Objective, Values
from h2lo_bids.training.fit import FitResult, Progress, identity_psnr
from h2lo_bids.training.loop import run_loop
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair

PAIRS = 3
"""Pairs that the authors fitted to."""
GRID: tuple[Values, ...] = tuple(
    (sigma, c1, c2, c3)
    for sigma in (0.2, 0.6, 1.0, 1.4, 1.8, 2.2)
    for c1, c2, c3 in itertools.product((1.0, 2.0, 3.0, 4.0, 5.0), repeat=3)
)
"""The authors' starting points, (sigma, c1, c2, c3): 750 in all."""
LOCAL = 250
"""Evaluations that the simplex may take; it needs about 150."""
CHOSEN = "pairs.json"
"""File of the work folder that names the pairs."""


def adapt_arnold(options: FitOptions) -> FitOptions:
    """Turn the options that the user gave into those of Arnold's simulator.

    A step is one evaluation of the objective. There are at most 1000, of which three
    quarters visit the grid: all of its points, or every n-th where fewer steps are
    given. Validated once, at the end, in the way of the options: the objective, not
    the PSNR, chooses the parameters. Learning rate, batch, precision, device and the
    like mean nothing here.

    Parameters
    ----------
    options
        As given.
    """
    steps = min(options.steps, len(GRID) + LOCAL)
    return dataclasses.replace(
        options,
        family="arnold",
        architecture=ArnoldArchitecture(),
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


def fit_arnold(
    pairs_train: Sequence[Pair],
    pairs_validation: Sequence[Pair],
    options: FitOptions,
    folder: Path,
    progress: Progress | None = None,
    *,
    stop_at: int | None = None,
) -> FitResult:
    """Fit the four parameters, or go on with the fit that `folder` holds.

    The best point of the grid is where a Nelder-Mead search starts, in place of the
    authors' fminunc (our choice: the objective has kinks). At most three training
    pairs are used, as there, drawn from the seed; ``pairs.json`` names them.

    Parameters
    ----------
    pairs_train, pairs_validation, options, folder, progress, stop_at
        As for `h2lo_bids.training.loop.run_loop`, which is what runs it: a step is
        one evaluation of the objective, and the history's ``loss`` is its value.

    Returns
    -------
    FitResult
        ``steps`` counts evaluations.
    """
    chosen = choose_pairs(pairs_train, options.seed)

    def build() -> ArnoldTask:
        names = [pair.name for pair in chosen]
        atomic_write_text(folder / CHOSEN, json.dumps({"pairs": names}) + "\n")
        return ArnoldTask(chosen, pairs_validation, options)

    return run_loop(
        build, pairs_train, pairs_validation, options, folder, progress, stop_at=stop_at
    )


def choose_pairs(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Draw the pairs that the parameters are fitted to, in the order of the training pairs."""
    order = np.random.default_rng(seed).permutation(len(pairs))[:PAIRS]
    return [pairs[i] for i in sorted(order)]


class _NextPoint(Exception):  # noqa: N818  (no error: it carries a point out of the search)
    """The search asks for a point that has no value yet."""

    def __init__(self, point: Values) -> None:
        self.point = point


class ArnoldTask:
    """The search, one evaluation per step; all that it remembers are the values so far.

    Grid and simplex are deterministic, so the values say which point comes next: the
    search is run anew over the known values, which costs next to nothing, until it
    asks for an unknown one. A resumed search is then the undisturbed one.
    """

    losses: Sequence[str] = ("loss", *PARAMETERS)

    def __init__(
        self, pairs: Sequence[Pair], pairs_validation: Sequence[Pair], options: FitOptions
    ) -> None:
        self._objective = Objective(pairs, options.seed)
        self._validation, self._options = pairs_validation, options
        n = min(len(GRID), max(1, options.steps * len(GRID) // (len(GRID) + LOCAL)))
        self._grid = [GRID[i] for i in np.linspace(0, len(GRID) - 1, n).round().astype(int)]
        self._points: list[Values] = []
        self._found: list[float] = []

    def step(self, step: int) -> Mapping[str, float]:
        """Evaluate the next point; once the search has ended, nothing."""
        point = self._next()
        if point is None:
            return self._report(int(np.argmin(self._found)))
        self._points.append(point)
        self._found.append(self._objective(point))
        return self._report(-1)

    def _report(self, index: int) -> dict[str, float]:
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
            return asked.point
        return None

    def state(self) -> dict[str, Any]:
        """Return the points and their values."""
        return {"points": self._points, "values": self._found}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self._points = [tuple(p) for p in state["points"]]
        self._found = list(state["values"])

    def validate(self) -> float | None:
        """Return the validation PSNR of the simulated images, in dB."""
        if not self._validation:
            return None
        model = Arnold()
        model.load_state_dict(dict(self.weights()))
        made = [
            dataclasses.replace(p, hf=predict_arnold(model, p.hf, p.mask, seed=self._options.seed))
            for p in self._validation
        ]
        return identity_psnr(made, self._options)

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return the best parameters so far."""
        return {"values": torch.tensor(self._points[int(np.argmin(self._found))])}


def _simplex(start: np.ndarray) -> np.ndarray:
    """Return the first simplex: half a step of the grid along each axis, inwards."""
    steps = np.array([0.2, 0.5, 0.5, 0.5])
    high = np.array([b for _, b in BOUNDS])
    return np.vstack([start, start + np.diag(np.where(start + steps > high, -steps, steps))])
