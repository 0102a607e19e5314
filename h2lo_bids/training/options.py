"""What a fit depends on: its protocol, the paper's or one for modest machines, grid and start."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from h2lo_bids.errors import UsageError
from h2lo_bids.models.bundle import Bundle, default_bundle, load_bundle
from h2lo_bids.models.choice import choose_bundles, given_bundles, is_collection
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.h2lo import H2loArchitecture
from h2lo_bids.models.pfsr import PfsrArchitecture
from h2lo_bids.models.registry import Architecture, sizes_of
from h2lo_bids.settings import Settings
from h2lo_bids.settings.convert import NONE as RANDOM
from h2lo_bids.synthesis.options import native_precision, resolve_device
from h2lo_bids.training.crops import NONE, Augmentation
from h2lo_bids.training.pairs import training_frame
from h2lo_bids.vocabulary import CONTRASTS, ENHANCER

GAIN = 0.02
"""Rise of the validation PSNR in dB that counts as one."""
LATER = {
    "family": "h2lo", "max_seconds": None, "flip_rotate": False, "warmup_from": 0.0,
    "starts_from": None, "scaling": "max", "patience": 0,
}  # fmt: skip
"""Options that an identity names only where they are others, and what they are else."""


@dataclass(frozen=True)
class FitOptions:
    """Everything that decides the weights, besides the pairs and the thread count."""

    # The defaults are the paper's, but for its epochs and whole volumes: see `paper_options`.
    steps: int = 6500  # of the whole schedule
    learning_rate: float = 1e-4  # Adam's, at the start of the cosine
    floor: float = 1e-6  # at its end
    warmup: int = 0  # steps of linear rise before
    warmup_from: float = 0.0  # the part of the rate from which it rises
    rate_steps: int = 1  # for which the rate stays the same; of an epoch in the paper
    sampling: str = "patch"  # crops with an exact halo, or "volume": a whole one per step
    crop: int = 32  # side in voxels; with "volume" of the gradient's sub-volume
    batch: int = 1  # crops per step at one place of the frame, each of another pair; or volumes
    points: int = 8000  # voxels of the L1 term with "volume"; a crop takes all of its own
    lambda_grad: float = 10.0  # weight of the gradient term; not computed with 0
    seed: int = 42  # of the weights and every draw
    precision: str = "fp32"  # or "bf16", by autocast, or on CUDA "fp16"
    average: float = 0.0  # decay of the running average of the weights; 0 takes themselves
    validate_first: int = 1  # in steps, as the next two; the last step is validated, too
    validate_every: int = 250
    checkpoint_every: int = 100
    patience: int = 0  # steps without a rise above `GAIN` after which the fit ends; 0: never
    validation: str = "crops"  # PSNR in the brain in some crops; "volume": of whole pairs, the mean
    validation_crops: int = 24
    augmentation: Augmentation = NONE
    flip_rotate: bool = False  # axial mirror images and quarter turns of patches
    starts_from: str | None = None  # SHA-256 of the weights that a fit starts from
    family: str = "h2lo"  # a key of `h2lo_bids.models.registry.FAMILIES`
    architecture: Architecture = field(default_factory=H2loArchitecture)
    scaling: str = "max"  # of a model's input
    max_seconds: float | None = None  # ends schedule and fit, at the first step after
    device: str = "cpu"  # "auto", "cpu", "cuda" or "cuda:N"

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights: not the device, nor options that are as in `LATER`."""
        return {
            k: v
            for k, v in asdict(self).items()
            if k != "device" and not (k in LATER and v == LATER[k])
        }


def paper_options(n_train: int, *, device: str = "auto") -> FitOptions:
    """Return the paper's protocol for so many pairs, after the authors' release (2603.24968)."""
    # Needs about 28 GB on a grid of 208 x 256 x 256.
    epoch = n_train  # steps
    return FitOptions(  # else the defaults
        steps=500 * epoch,
        rate_steps=epoch,
        sampling="volume",
        precision="fp16" if resolve_device(device).type == "cuda" else "fp32",
        validate_first=epoch,
        validate_every=5 * epoch,
        checkpoint_every=max(100, epoch),
        validation="volume",
        device=device,
    )


def default_options(
    n_train: int, *, device: str = "auto", steps: int = 5000, starts_from: str | None = None
) -> FitOptions:
    """Return the default for so many pairs: crops with exact halos, centred on the brain."""
    # It takes 4 GB. Two crops at one place share a pass of the trunk, the dearer part there.
    return FitOptions(
        steps=steps,
        learning_rate=3e-4 if starts_from is None else 1e-4,
        warmup=min(50, steps // 10),
        crop=24,
        batch=min(2, n_train),
        precision=native_precision(device),
        average=0.99,
        validate_every=min(100, steps),
        checkpoint_every=50,
        patience=800,
        validation_crops=48,
        augmentation=Augmentation(flip=0.5, shift=4, scale=0.05, bias=0.05, noise=0.01),
        scaling="robust",
        starts_from=starts_from,
        device=device,
    )


def has_stalled(validations: Sequence[tuple[int, float]], patience: int) -> bool:
    """Return whether no validation of the last `patience` steps brought a rise above `GAIN`."""
    # From the validations so far alone, so that a resumed fit ends where an undisturbed one does.
    if not patience or not validations:
        return False
    start = validations[-1][0] - patience
    before = [psnr for step, psnr in validations if step <= start]
    since = [psnr for step, psnr in validations if step > start]
    return bool(before) and max(since) <= max(before) + GAIN


def rate_of(step: int, options: FitOptions) -> float:
    """Return the rate of a step of the schedule, from 0: cosine annealing, as in the paper.

    It first rises linearly over the warm-up, from ``warmup_from`` times the first rate on; with 0
    from a ``warmup``-th of it. Where the rate changes only every epoch, the cosine counts epochs
    after the warm-up as `torch.optim.lr_scheduler.CosineAnnealingLR` does: it would reach the
    floor one epoch after the last.
    """
    o, first = options, options.warmup_from
    if step < o.warmup and first:
        return o.learning_rate * (first + (1 - first) * step / o.warmup)
    if step < o.warmup:
        return o.learning_rate * (step + 1) / o.warmup
    done = (step - o.warmup) / max(1, o.steps - 1 - o.warmup)
    if o.rate_steps > 1:
        done = (step - o.warmup) // o.rate_steps / max(1, -(-(o.steps - o.warmup) // o.rate_steps))
    return cosine_part(done, o.learning_rate, o.floor)


def cosine_part(done: float, start: float, floor: float) -> float:
    """Return the rate when a part `done` of a cosine, 0 to 1, lies behind."""
    return floor + (start - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def linear_rate(step: int, steps: int, start: float) -> float:
    """Return the rate of a step as of Pix2Pix: constant for half the steps, then linear to 0."""
    return start * min(1.0, (steps - step) / (steps - steps // 2))


def fit_options(settings: Settings, n_train: int, start: Bundle | None = None) -> FitOptions:
    """Return the options of a fit: the protocol's, where the user says nothing else."""
    digest = None if start is None else start.sha256
    if settings.protocol == "paper" and not settings.fits_enhancer:
        options = paper_options(n_train, device=settings.device)
    else:  # warm-up and validation follow from the number of steps
        length = {} if settings.steps is None else {"steps": settings.steps}
        options = default_options(n_train, device=settings.device, starts_from=digest, **length)
    if settings.protocol == "paper":  # varied, images would be cut by the high-field mask
        options = dataclasses.replace(options, augmentation=NONE)
    names = ("steps", "sampling", "crop", "batch", "lambda_grad", "learning_rate")
    given: dict[str, Any] = {
        **{name: getattr(settings, name) for name in (*names, "validate_every", "precision")},
        "floor": settings.learning_rate and min(settings.learning_rate, options.floor),
        "max_seconds": None if settings.max_time is None else 60 * settings.max_time,
    }
    if settings.features is not None:
        reduction = math.gcd(PfsrArchitecture().reduction, settings.features)
        sizes = PfsrArchitecture(features=settings.features, reduction=reduction)
        given |= {"family": ENHANCER, "architecture": sizes}
    changed = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(options, seed=settings.random_seed, starts_from=digest, **changed)


def find_start(settings: Settings, contrast: str, method: str) -> tuple[Bundle | None, str]:
    """Return the model that a method's fits start from, and words that name it."""
    given = dict(settings.init)
    chosen = given.get(contrast, given.get("", RANDOM))
    if method != "h2lo":
        return None, ""
    if chosen == RANDOM:
        return None, "starts from random weights"
    if isinstance(chosen, str):
        bundle = default_bundle(contrast)
    elif is_collection(chosen):
        found, *_ = choose_bundles(chosen, contrasts=(contrast,), methods=(method,))
        bundle = load_bundle(found.path)
    else:
        bundle = load_bundle(chosen)
    fault = _fault(bundle, contrast, fit_options(settings, 1), frame_of(settings))
    if fault is None:
        name = bundle.metadata.get("name", bundle.path.name)
        return bundle, f"starts from the weights of {name} (SHA-256 {bundle.sha256})"
    raise UsageError(f"--init {chosen}: the {contrast} fits cannot start from it, as it {fault}")


def _fault(bundle: Bundle, contrast: str, options: FitOptions, frame: Frame) -> str | None:
    """Return why an operator's fit cannot start from a model; None if it can."""
    own, sizes = bundle.architecture, sizes_of(options.architecture)
    other = ", ".join(f"{k} {own.get(k)}, not {v}" for k, v in sizes.items() if own.get(k) != v)
    if bundle.contrast != contrast:
        return f"is a model of {bundle.contrast}"
    if bundle.method != options.family:
        return f"is a model of {bundle.method}"
    if other:
        return f"has other sizes ({other})"
    if bundle.scaling != options.scaling:
        return f"takes an input of {bundle.scaling} scaling, not {options.scaling}"
    if bundle.frame != frame:
        return f"sees positions on another grid, of {bundle.frame.spacing[0]:g} mm voxels"
    return None


def frame_of(settings: Settings) -> Frame:
    """Return the grid of pairs: as --resolution says, as evaluated models have it, or 1 mm."""
    if settings.resolution is not None:
        return training_frame(settings.resolution)
    given = given_bundles(settings, CONTRASTS) if settings.level == "evaluate" else ()
    sizes = {side for b in given if b.frame.anchor == "brain" for side in b.frame.spacing}
    return training_frame(sizes.pop()) if len(sizes) == 1 else training_frame()
