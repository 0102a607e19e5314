"""The identity as a method: nothing is fitted, and all that follows a fit can follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from h2lo_bids.models.identity import Identity, IdentityArchitecture
from h2lo_bids.training.augment import NONE
from h2lo_bids.training.fit import FitResult, check_fit, identity_psnr, start_fit
from h2lo_bids.training.history import History
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.pairs import Pair


def adapt_identity(options: FitOptions) -> FitOptions:
    """Return options of a fit without anything to fit: one step, of which none is done."""
    return dataclasses.replace(
        options, family="identity", architecture=IdentityArchitecture(), steps=1, warmup=0,
        lambda_grad=0.0, average=0.0, augmentation=NONE, scaling="max", patience=0,
    )  # fmt: skip


def fit_identity(
    pairs_train: Sequence[Pair],
    pairs_validation: Sequence[Pair],
    options: FitOptions,
    folder: Path,
    progress: Callable[[str], None] | None = None,
    *,
    stop_at: int | None = None,
) -> FitResult:
    """Return the identity, and its validation figure.

    Parameters
    ----------
    pairs_train, pairs_validation, options, folder, progress, stop_at
        As for `h2lo_bids.training.fit.fit`; there is nothing to stop or to resume.

    Returns
    -------
    FitResult
        Of no step.

    Raises
    ------
    H2loError
        As `h2lo_bids.training.fit.fit`.
    """
    start_fit(folder, check_fit(pairs_train, pairs_validation, options))
    History(folder / "history.csv", 0)
    baseline = identity_psnr(pairs_validation, options)
    if progress:
        progress(f"nothing to fit: validation PSNR {baseline:.2f} dB")
    model = Identity(IdentityArchitecture()).eval()
    return FitResult(model, 0, 0, baseline, baseline, 0.0)
