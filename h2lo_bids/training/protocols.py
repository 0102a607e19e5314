"""The two ways to fit: the paper's, and the default for modest machines."""

from __future__ import annotations

from h2lo_bids.synthesis.options import native_precision, resolve_device
from h2lo_bids.training.augment import Augmentation
from h2lo_bids.training.options import FitOptions
from h2lo_bids.training.sampling import epoch_steps

PAPER_EPOCHS = 500
DEFAULT_STEPS = 5000
PATIENCE = 800
"""Steps in which the validation must rise, or the default ends."""
RATE, ADAPTING_RATE = 3e-4, 1e-4
"""The default's first learning rate, from random weights and from those of a model."""


def paper_options(n_train: int, *, device: str = "auto", epochs: int = PAPER_EPOCHS) -> FitOptions:
    """Return the paper's protocol, after the authors' release (arXiv 2603.24968).

    One whole volume per step, 8000 voxels of the whole grid, a sub-volume of 32
    voxels a side; 500 epochs, in each of which every pair is taken once; cosine
    per epoch; whole-volume validation after the first epoch and every fifth.
    Needs about 28 GB on a grid of 208 x 256 x 256.

    Parameters
    ----------
    n_train
        Number of training pairs: they decide the steps of an epoch.
    device
        As in `FitOptions`; on CUDA the paper computes in float16.
    epochs
        Length of the schedule.
    """
    epoch = epoch_steps(n_train, 1)
    return FitOptions(
        steps=epochs * epoch,
        learning_rate=1e-4,
        floor=1e-6,
        rate_steps=epoch,
        sampling="volume",
        crop=32,
        batch=1,
        points=8000,
        lambda_grad=10.0,
        seed=42,
        precision="fp16" if resolve_device(device).type == "cuda" else "fp32",
        validate_first=epoch,
        validate_every=5 * epoch,
        checkpoint_every=max(100, epoch),
        validation="volume",
        device=device,
    )


def default_options(
    n_train: int,
    *,
    device: str = "auto",
    steps: int = DEFAULT_STEPS,
    starts_from: str | None = None,
) -> FitOptions:
    """Return the default: crops with exact halos, centred on the brain.

    Fits in 4 GB and on a laptop. Two crops of 24 voxels at one place of the
    frame share a pass of the trunk, which costs more than the branch there.

    Parameters
    ----------
    n_train
        Number of training pairs; a step takes crops of as many as there are, up to 2.
    device
        As in `FitOptions`.
    steps
        Length of the schedule.
    starts_from
        As in `FitOptions`.
    """
    return FitOptions(
        steps=steps,
        learning_rate=RATE if starts_from is None else ADAPTING_RATE,
        floor=1e-6,
        warmup=min(50, steps // 10),
        crop=24,
        batch=min(2, n_train),
        seed=42,
        precision=native_precision(device),
        average=0.99,
        validate_every=min(100, steps),
        checkpoint_every=50,
        patience=PATIENCE,
        validation_crops=48,
        augmentation=Augmentation(flip=0.5, shift=4, scale=0.05, bias=0.05, noise=0.01),
        scaling="robust",
        starts_from=starts_from,
        device=device,
    )
