"""A fit to prepared pairs, on one device or several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from h2lo_bids.models.bundle import Bundle, load_model
from h2lo_bids.models.registry import sizes_of
from h2lo_bids.training.fit import FitResult, fit
from h2lo_bids.training.methods import Method
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.prepared import PreparedPair, open_prepared
from h2lo_bids.vocabulary import Say, Step

if TYPE_CHECKING:
    from h2lo_bids.models.frame import Frame
    from h2lo_bids.models.registry import Model


START_RATIO = 1.0
"""By which voxel sizes may differ where a fit starts from a model."""


def pairs_cache(work_dir: Path) -> Path:
    """Name the folder in which all fits of a run share their pairs."""
    return Path(work_dir) / "training" / "pairs"


def fit_prepared(
    method: Method,
    train: Sequence[PreparedPair],
    validation: Sequence[PreparedPair],
    options: FitOptions,
    folder: Path,
    *,
    cache: Path,
    devices: int = 1,
    stop_at: int | None = None,
    progress: Say | None = None,
    initial: Bundle | None = None,
) -> FitResult:
    """Fit a method to prepared pairs, or continue the fit that `folder` holds."""
    opened, held = (open_prepared(part, cache, options.scaling) for part in (train, validation))
    if devices > 1 and not method.shares:
        (progress or (lambda line: None))(f"{method.name} is fitted by one process, not {devices}")
    elif devices > 1:
        import torch

        from h2lo_bids.training.launch import FitSpec, launch

        spec = FitSpec(
            opened, held, options, folder, stop_at,
            threads=torch.get_num_threads(),  # they decide the last bits
            initial=None if initial is None else initial.path,
        )  # fmt: skip
        launch(spec, processes=devices, progress=progress)
        # What follows finds the finished fit and only reads its weights.
    start = None if initial is None else load_model(initial).state_dict()
    return fit(opened, held, options, folder, progress, stop_at=stop_at, initial=start)


def start_fault(bundle: Bundle, contrast: str, options: FitOptions, frame: Frame) -> str | None:
    """Return why an operator's fit cannot start from a model; None if it can."""
    # The trunk sees positions from -1 to 1 over the frame's extent in mm, so weights carry
    # over to another voxel size, although the branch then sees other voxels.
    own, sizes = bundle.architecture, sizes_of(options.architecture)
    other = ", ".join(f"{k} {own.get(k)}, not {v}" for k, v in sizes.items() if own.get(k) != v)
    theirs, ours = (np.multiply(f.shape, f.spacing) for f in (bundle.frame, frame))
    steps = [max(f.spacing) for f in (bundle.frame, frame)]
    if bundle.contrast != contrast:
        return f"is a model of {bundle.contrast}"
    if bundle.method != options.family:
        return f"is a model of {bundle.method}"
    if other:
        return f"has other sizes ({other})"
    if bundle.scaling != options.scaling:
        return f"takes an input of {bundle.scaling} scaling, not {options.scaling}"
    placed = (bundle.frame.orientation, bundle.frame.anchor) == (frame.orientation, frame.anchor)
    if not placed or not np.allclose(theirs, ours, atol=max(steps)):
        return "sees positions on another grid"
    if max(steps) > START_RATIO * min(steps):
        return f"is for voxels of {steps[0]:g} mm, not {steps[1]:g} mm"
    return None


def finite(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return float(value) if math.isfinite(value) else None


def prefixed(title: str, progress: Say | None) -> Say:
    """Return what passes on lines with a title in front, or nothing at all."""

    def say(line: str) -> None:
        if progress is not None:
            progress(line.titled(title) if isinstance(line, Step) else f"{title}: {line}")

    return say


def count_parameters(model: Model) -> int:
    """Return the number of a model's parameters."""
    return sum(p.numel() for p in model.parameters())
